"""Convolutions of INT4 weights as fully connected operators, beside the built-in kernels' convolutions."""

import numpy as np
import pytest
from fixtures.models import inputs_for, run

from tfcompress import keras_door as kd
from tfcompress.convert.compact import packed
from tfcompress.convert.converter import quantized_tflite
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.patches import int4_as_fully_connected
from tfcompress.convert.settings import ConversionSettings
from tfcompress.evaluate.delegation import delegation
from tfcompress.evaluate.prediction import predict
from tfcompress.shipping import ship
from tfcompress.techniques.post_training import PostTraining
from tfcompress.vocabulary.preprocessing import Preprocessing
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
    layers = kd.keras.layers
    inputs = layers.Input((11, 9, channels))
    x = layers.Conv2D(6, name="conv", **how)(inputs)
    model = kd.keras.Model(inputs, layers.ReLU(name="end")(x))
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    samples = inputs_for(model)
    state = run(PostTraining(weight_bits=4, low_bit_storage="size"), State(model), samples)
    return ship(state, settings, RAW, samples), samples


def dilated(content, high, wide):
    """The file with its convolutions dilated, which of 4-bit weights the converter cannot make."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    for operator in model.subgraphs[0].operators:
        if hasattr(operator.builtinOptions, "dilationHFactor"):
            operator.builtinOptions.dilationHFactor, operator.builtinOptions.dilationWFactor = high, wide
    return packed(model)


def in_int4(content):
    """The file with the low half of every weight's bytes, all of one tensor where they are equal."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    graph = model.subgraphs[0]
    convs = [operator for operator in graph.operators if hasattr(operator.builtinOptions, "dilationHFactor")]
    weight = graph.tensors[convs[0].inputs[1]]
    low = np.asarray(model.buffers[weight.buffer].data, np.uint8) & 15
    model.buffers[weight.buffer].data = low[::2] | low[1::2] << 4
    weight.type = schema.TensorType.INT4
    for operator in convs:
        operator.inputs[1] = convs[0].inputs[1]
    return packed(model)


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


def test_it_takes_batches_of_any_size(pair):
    _, after, samples = pair
    one_by_one = np.concatenate([predict(after, samples[i : i + 1], kernels="builtin") for i in range(3)])
    np.testing.assert_array_equal(predict(after, samples[:3], kernels="builtin"), one_by_one)


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
    assert int4_as_fully_connected(content) is content


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
