import numpy as np
import pytest
from fixtures.models import dense, inputs_for

from tfcompress import keras_door as kd
from tfcompress.convert.converter import float_tflite, quantized_tflite
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.proof import Finding, prove_integer, require_integer
from tfcompress.convert.settings import ConversionSettings
from tfcompress.vocabulary.errors import ConversionError


def test_an_integer_file_is_proven(int8_file):
    proof = prove_integer(Flatbuffer(int8_file))
    assert (proof.full_integer, proof.findings, proof.operators) == (True, (), 4)
    require_integer(proof)


def test_a_float_island_is_listed_operator_by_operator_with_its_layer(island_file):
    proof = prove_integer(Flatbuffer(island_file))
    assert not proof.full_integer
    assert [(f.operator, f.layer) for f in proof.findings] == [
        ("DEQUANTIZE", "first"),
        ("ELU", "middle"),
        ("QUANTIZE", "middle"),
        ("DEQUANTIZE", "second"),
        ("ELU", "the layer of the model's output"),
        ("QUANTIZE", "the layer of the model's output"),
    ]
    assert proof.findings[1].reason == "the converter has no integer form of it"
    assert proof.findings[0].reason == "it carries values to or from operators left in float"


def test_a_file_with_an_island_is_refused_with_the_remedy(island_file):
    with pytest.raises(ConversionError) as failure:
        require_integer(prove_integer(Flatbuffer(island_file)))
    message = str(failure.value)
    assert "6 of 8 operators are not" in message
    assert "\n  ELU from middle: the converter has no integer form of it\n" in message
    assert "Remedy: replace these layers" in message
    assert "conversion.allow_float=true" in message


def test_a_float_file_has_no_integer_operator(network):
    proof = prove_integer(Flatbuffer(float_tflite(network[0])))
    assert len(proof.findings) == proof.operators == 4
    assert [finding.layer for finding in proof.findings[:2]] == ["relu_c1", "relu_c1_1"]


@pytest.mark.parametrize("ends", [("float32", "float32"), ("float32", "int8"), ("uint8", "uint8")])
def test_quantizers_at_the_ends_are_what_the_caller_asked_for(ends):
    model = dense()
    settings = ConversionSettings(input_type=ends[0], output_type=ends[1])
    flat = Flatbuffer(quantized_tflite(model, "int8", settings, inputs_for(model)))
    assert prove_integer(flat).full_integer
    assert [flat.inputs[0].dtype.lower(), flat.outputs[0].dtype.lower()] == list(ends)
    assert flat.operators[0].name == "QUANTIZE"


def test_a_float_operator_on_the_graphs_own_ends_is_still_found():
    # No quantizers here: the operator itself reads the float input and writes the float output.
    inputs = kd.keras.Input((4,))
    flat = Flatbuffer(float_tflite(kd.keras.Model(inputs, kd.keras.layers.ReLU(name="relu")(inputs))))
    assert [finding.operator for finding in prove_integer(flat).findings] == ["RELU"]


def test_float_inside_a_loop_is_found():
    tf = kd.tf

    def body(step, value):
        return step + 1, value + tf.cast(tf.nn.elu(tf.cast(value, tf.float32)), tf.int32)

    @tf.function
    def function(value):
        return tf.while_loop(lambda step, _: step < 3, body, [tf.constant(0), value])[1]

    concrete = function.get_concrete_function(tf.TensorSpec((2,), tf.int32))
    flat = Flatbuffer(tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert())
    assert not any(t.is_float for t in flat.tensors)
    assert len(flat.graphs) > 1
    assert "ELU" in {finding.operator for finding in prove_integer(flat).findings}


def test_a_custom_operator_is_found():
    tf = kd.tf

    @tf.function
    def function(value):
        return tf.linalg.svd(value)[0]

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [function.get_concrete_function(tf.TensorSpec((1, 3, 3), tf.float32))]
    )
    converter.allow_custom_ops = True
    (finding,) = prove_integer(Flatbuffer(converter.convert())).findings
    assert finding.operator == "Svd"
    assert "custom" in finding.reason


def test_a_finding_reads_as_a_line():
    assert str(Finding("ELU", "act", "no integer form")) == "ELU from act: no integer form"


def test_a_model_behind_preprocessing_names_its_own_layers(island):
    from tfcompress.convert.converter import with_preprocessing

    model, inputs = island
    nested = with_preprocessing(model, np.float32(0.5), np.float32(0.1))
    content = quantized_tflite(nested, "int8", ConversionSettings(allow_float=True), inputs)
    layers = {f.layer for f in prove_integer(Flatbuffer(content)).findings}
    assert layers == {"first", "middle", "second", "the layer of the model's output"}
