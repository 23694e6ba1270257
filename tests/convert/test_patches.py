"""Convolutions of INT4 weights as fully connected operators, beside the built-in kernels' convolutions."""

import numpy as np
import pytest
from fixtures.models import inputs_for, run
from pydantic import ValidationError

from tfcompress import keras_door as kd
from tfcompress.convert.arena import arena_bytes
from tfcompress.convert.compact import packed
from tfcompress.convert.converter import quantized_tflite
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.patches import int4_as_fully_connected
from tfcompress.convert.read_back import read_promises
from tfcompress.convert.settings import ConversionSettings
from tfcompress.convert.strip import strip_names
from tfcompress.evaluate.delegation import delegation
from tfcompress.evaluate.prediction import io_types, predict
from tfcompress.shipping import ship
from tfcompress.techniques.post_training import PostTraining
from tfcompress.vocabulary.preprocessing import Preprocessing
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import State

RAW = Preprocessing.model_validate("raw")
SETTINGS = ConversionSettings(strip_names=False)
KINDS = {
    "same": {"kernel_size": 3, "padding": "same"},
    "unpadded": {"kernel_size": (2, 3)},
    "wide": {"kernel_size": (1, 5), "padding": "same"},
    "high": {"kernel_size": (3, 1), "padding": "same", "activation": "relu"},
    "point": {"kernel_size": 1},
    "strided": {"kernel_size": 3, "strides": 2, "padding": "same"},
    "sparse_point": {"kernel_size": 1, "strides": 2, "padding": "same"},
    "strided_one_way": {"kernel_size": (3, 2), "strides": (1, 3), "padding": "same"},
    "leaving_rows_over": {"kernel_size": 3, "strides": 3},
    "even": {"kernel_size": 4, "strides": 2, "padding": "same", "use_bias": False},
    "dilated": {"kernel_size": 3, "padding": "same", "dilation": (2, 3)},
}
ODD, GROUPED = {"kernel_size": 3}, {"kernel_size": 3, "groups": 2}


def shipped(how, channels=4, settings=SETTINGS):
    """A convolution of 4-bit weights on images of 11 by 9, and inputs."""
    state, samples = quantized(how, channels)
    return ship(state, settings, RAW, samples), samples


def quantized(how, channels=4):
    """The state that ships as that, and inputs."""
    layers = kd.keras.layers
    inputs = layers.Input((11, 9, channels))
    x = layers.Conv2D(6, name="conv", **how)(inputs)
    model = kd.keras.Model(inputs, layers.ReLU(name="end")(x))
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    samples = inputs_for(model)
    return run(PostTraining(weight_bits=4, low_bit_storage="size"), State(model), samples), samples


def edited(content, change):
    """The file after `change(model, graph, convolution)` of the schema's objects, for each of its convolutions."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    graph = model.subgraphs[0]
    for operator in graph.operators:
        if hasattr(operator.builtinOptions, "dilationHFactor"):
            change(model, graph, operator)
    return packed(model)


def dilated(content, high, wide):
    """The file with its convolutions dilated, which of 4-bit weights the converter cannot make."""

    def change(model, graph, conv):
        conv.builtinOptions.dilationHFactor, conv.builtinOptions.dilationWFactor = high, wide

    return edited(content, change)


def in_int4(content):
    """The file with the low half of every weight's bytes in INT4, its convolutions sharing one weight."""
    from ai_edge_litert import schema_py_generated as schema

    first = []

    def change(model, graph, conv):
        if not first:
            weight = graph.tensors[conv.inputs[1]]
            low = np.asarray(model.buffers[weight.buffer].data, np.uint8) & 15
            model.buffers[weight.buffer].data = low[::2] | low[1::2] << 4
            weight.type = schema.TensorType.INT4
            first.append(conv.inputs[1])
        conv.inputs[1] = first[0]

    return edited(content, change)


def convolved(content):
    """Types of the weights of a file's convolutions."""
    flat = Flatbuffer(content)
    return {flat.tensors[operator.inputs[1]].dtype for operator in flat.operators if operator.name == "CONV_2D"}


def names(content):
    return [operator.name for operator in Flatbuffer(content).operators]


@pytest.fixture(scope="module", params=KINDS)
def pair(request):
    how = dict(KINDS[request.param])
    dilation = how.pop("dilation", (1, 1))
    shipment, samples = shipped(how)
    content = dilated(shipment.content, *dilation)
    assert "CONV_2D" in names(content)
    return content, int4_as_fully_connected(content), samples


def test_not_one_output_changes(pair):
    before, after, samples = pair
    outputs = predict(before, samples, kernels="builtin")
    assert len(np.unique(outputs)) > 10
    np.testing.assert_array_equal(predict(after, samples, kernels="builtin"), outputs)


def test_the_delegate_takes_all_of_it(pair):
    before, after, _ = pair
    assert "CONV_2D" in delegation(before).left
    assert "CONV_2D" not in names(after)
    assert delegation(after).left == ()


def test_xnnpack_comes_within_a_step(pair):
    before, after, samples = pair
    outputs = [predict(content, samples) for content in (before, after)]
    np.testing.assert_allclose(*outputs, atol=1.01 * io_types(after).output.scale)


def test_it_takes_batches_of_any_size(pair):
    before, after, samples = pair
    one_by_one = [predict(before, samples[i : i + 1], kernels="builtin") for i in range(3)]
    assert "CONV_2D" not in names(after)
    np.testing.assert_array_equal(predict(after, samples[:3], kernels="builtin"), np.concatenate(one_by_one))


def test_weights_scales_and_biases_stay(pair):
    before, after, _ = pair
    graphs = Flatbuffer(before), Flatbuffer(after)
    (conv,) = (operator for operator in graphs[0].operators if operator.name == "CONV_2D")
    (dense,) = (operator for operator in graphs[1].operators if operator.name == "FULLY_CONNECTED")
    assert conv.inputs[1:] == dense.inputs[1:]
    weights = [graph.tensors[conv.inputs[1]] for graph in graphs]
    np.testing.assert_array_equal(weights[0].data.reshape(weights[1].shape), weights[1].data)
    assert {weight.dtype for weight in weights} == {"INT4"}
    for index in conv.inputs[1:]:
        np.testing.assert_array_equal(*(graph.tensors[index].scales for graph in graphs))


def test_a_step_of_one_copies_no_more_than_it_must():
    patches = [name for name in names(int4_as_fully_connected(shipped(KINDS["same"])[0].content)) if name != "RELU"]
    along = ["PAD", "STRIDED_SLICE", "STRIDED_SLICE", "CONCATENATION"]
    assert patches[-9:] == [*along, *along, "FULLY_CONNECTED"]
    assert "PAD" not in names(int4_as_fully_connected(shipped(KINDS["point"])[0].content))


@pytest.mark.parametrize(
    ("kind", "scope", "group"),
    [
        ("channels", "tensor", None),
        ("zeros", "channel", None),
        ("group_zeros", "tensor", 2),
        ("distinct", "tensor", None),
        ("codewords", "tensor", 2),
        ("codewords", "subspace", 2),
        ("levels", "channel", None),
    ],
)
def test_promises_are_read_as_of_a_convolution(kind, scope, group):
    state, samples = quantized(KINDS["same"])
    before = ship(state, SETTINGS, RAW, samples).named
    promised = State(state.model, (Promise("conv/kernel", kind, 1, scope, group=group),))
    found = [
        read_promises(Flatbuffer(content), promised)[0].found for content in (before, int4_as_fully_connected(before))
    ]
    assert found[0] == found[1]


def test_one_file_is_for_one_runtime():
    with pytest.raises(ValidationError, match=r"LiteRT for Microcontrollers.* Remedy: int4_convolutions=convolution"):
        ConversionSettings(int4_convolutions="fully_connected", c_array=True)


def test_convolutions_of_one_weight_change_together():
    layers = kd.keras.layers
    inputs = layers.Input((6, 6, 4))
    conv = layers.Conv2D(4, 3, padding="same", use_bias=False)
    model = kd.keras.Model(inputs, conv(layers.ReLU()(conv(inputs))))
    samples = inputs_for(model)
    before = quantized_tflite(model, "int8", ConversionSettings(), samples)
    # No technique gives few bits to a layer that is called twice.
    before = in_int4(before)
    after = int4_as_fully_connected(before)
    assert names(before).count("CONV_2D") == names(after).count("FULLY_CONNECTED") == 2
    outputs = [predict(content, samples, kernels="builtin") for content in (before, after)]
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize(("how", "channels"), [(ODD, 3), (GROUPED, 4)])
def test_what_the_kernels_cannot_read_is_left_alone(how, channels):
    content = shipped(how, channels)[0].content
    assert convolved(content) == {"INT4"}
    assert int4_as_fully_connected(content) is content


@pytest.mark.parametrize("end", ["inputs", "outputs"])
def test_an_open_size_is_left_alone(end):
    def opened(model, graph, conv):
        tensor = graph.tensors[getattr(conv, end)[0]]
        tensor.shapeSignature = np.asarray([-1, -1, *tensor.shape[2:]], np.int32)

    content = edited(shipped(KINDS["same"])[0].content, opened)
    assert int4_as_fully_connected(content) is content


@pytest.mark.parametrize("end", ["inputs", "outputs"])
def test_activations_of_other_types_are_left_alone(end):
    def wide(model, graph, conv):
        from ai_edge_litert import schema_py_generated as schema

        graph.tensors[getattr(conv, end)[0]].type = schema.TensorType.INT16

    content = edited(shipped(KINDS["same"])[0].content, wide)
    assert int4_as_fully_connected(content) is content


def test_a_weight_with_another_use_is_left_alone():
    def given_back(model, graph, conv):
        graph.outputs = np.append(graph.outputs, conv.inputs[1])

    def read(model, graph, conv):
        from ai_edge_litert import schema_py_generated as schema

        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.DEQUANTIZE
        model.operatorCodes.append(code)
        operator.opcodeIndex = len(model.operatorCodes) - 1
        operator.inputs, operator.outputs = conv.inputs[1:2], conv.outputs
        graph.operators = [*graph.operators, operator]

    for change in (given_back, read):
        content = edited(shipped(KINDS["same"])[0].content, change)
        assert convolved(content) == {"INT4"}
        assert int4_as_fully_connected(content) is content


def test_what_it_costs_is_what_the_setting_says():
    before = strip_names(shipped(KINDS["same"])[0].content)
    shipment, _ = shipped(KINDS["same"], settings=ConversionSettings(int4_convolutions="fully_connected"))
    assert len(shipment.content) - len(before) == pytest.approx(1500, abs=250)
    patches = 11 * 9 * 9 * 4
    assert arena_bytes(shipment.content) == pytest.approx(2 * patches, rel=0.1)


def test_a_file_of_eight_bits_is_left_alone(int8_file):
    assert int4_as_fully_connected(int8_file) is int8_file


def test_it_ships_so_when_asked_and_its_promises_are_read_there():
    settings = ConversionSettings(int4_convolutions="fully_connected")
    shipment, samples = shipped(KINDS["strided"], settings=settings)
    plain, _ = shipped(KINDS["strided"])
    assert "FULLY_CONNECTED" in names(shipment.content)
    assert "CONV_2D" not in names(shipment.named)
    assert [(found.promise.weight, found.promise.kind) for found in shipment.promises] == [("conv/kernel", "levels")]
    assert all(found.kept for found in shipment.promises)
    assert [found.found for found in shipment.promises] == [found.found for found in plain.promises]
    outputs = [predict(one.content, samples, kernels="builtin") for one in (shipment, plain)]
    np.testing.assert_array_equal(*outputs)
