"""Weights of every width from 2 to 8 bits, from training to the file."""

import numpy as np
import pytest
from fixtures.models import inputs_for, plan_for, run

from tfcompress import keras_door as kd
from tfcompress.convert.converter import quantized_tflite
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.proof import prove_integer
from tfcompress.convert.read_back import find_weight
from tfcompress.convert.settings import ConversionSettings
from tfcompress.shipping import ship
from tfcompress.techniques.quantization import Quantization
from tfcompress.vocabulary.preprocessing import Preprocessing
from tfcompress.vocabulary.state import State

BITS = range(2, 9)
HEADS = {"dense": "kernel", "conv": "kernel", "dw": "depthwise_kernel", "dw2": "depthwise_kernel", "up": "kernel"}
RAW = Preprocessing.model_validate("raw")


def heads():
    """Every layer with an integer weight, side by side behind one input; each output has a shape of its own."""
    layers = kd.keras.layers
    inputs = layers.Input((6, 6, 4))
    outputs = [
        layers.Dense(10, name="dense")(layers.Flatten()(inputs)),
        layers.Conv2D(7, 3, name="conv")(inputs),
        layers.DepthwiseConv2D(3, name="dw")(inputs),
        layers.DepthwiseConv2D(3, depth_multiplier=2, name="dw2")(inputs),
        layers.Conv2DTranspose(5, 3, name="up")(inputs),
    ]
    model = kd.keras.Model(inputs, outputs, name="net")
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.3, w.shape) for w in model.get_weights()])
    return model


def trained_heads(bits, storage):
    model = heads()
    inputs = inputs_for(model)
    step = Quantization(weight_bits=bits, low_bit_storage=storage)
    state = step.prepare(State(model), plan_for(inputs))
    rng = np.random.default_rng(2)
    state.model.compile(kd.keras.optimizers.Adam(1e-2), "mse")
    state.model.fit(inputs, [rng.normal(size=(64, *s[1:])) for s in state.model.output_shape], batch_size=16, verbose=0)
    state = step.finish(state)
    return state, inputs, quantized_tflite(state.model, "int8", ConversionSettings(), inputs)


def outputs_in_steps(content, inputs):
    """The integers of every output less their zero point, and its step, by the output's shape."""
    interpreter = kd.litert.Interpreter(model_content=content)
    fed = interpreter.get_input_details()[0]
    interpreter.resize_tensor_input(fed["index"], inputs.shape)
    interpreter.allocate_tensors()
    scale, zero = fed["quantization"]
    interpreter.set_tensor(fed["index"], np.clip(np.round(inputs / scale) + zero, -128, 127).astype(np.int8))
    interpreter.invoke()
    found = {}
    for output in interpreter.get_output_details():
        step, zero = output["quantization"]
        values = interpreter.get_tensor(output["index"]).astype(np.float32) - zero
        found[values.shape[1:]] = (values, step)
    return found


@pytest.mark.parametrize(("bits", "storage"), [*((b, "speed") for b in BITS), *((b, "size") for b in (2, 3, 4))])
def test_the_file_is_the_trained_model_at_every_width(bits, storage):
    state, inputs, content = trained_heads(bits, storage)
    flat, found = Flatbuffer(content), outputs_in_steps(content, inputs)
    assert prove_integer(flat).full_integer
    for layer, expected in zip(HEADS, state.model.predict(inputs, verbose=0), strict=True):
        values, step = found[expected.shape[1:]]
        assert (np.abs(values - expected / step) <= 1.01).mean() >= 0.999, layer

        weight = find_weight(flat, f"{layer}/{HEADS[layer]}", state.model)[0]
        assert len(np.unique(weight.data)) <= 2**bits - 1
        assert np.abs(weight.data).max() == 2 ** (bits - 1) - 1
        in_int4 = bits <= 4 and (layer == "dense" or (storage == "size" and layer != "up"))
        assert weight.dtype == ("INT4" if in_int4 else "INT8"), layer
        assert state.quantization[f"{layer}/{HEADS[layer]}"].container_bits == (4 if in_int4 else 8)
    promised = {p.weight: p.bound for p in state.promises}
    expected = {f"{layer}/{name}": 2**bits - 1 for layer, name in HEADS.items()}
    assert promised == (expected if bits < 8 else {})


def test_storage_by_size_takes_half_the_bytes():
    model = kd.keras.Sequential([kd.keras.layers.Conv2D(32, 3, input_shape=(4, 4, 32), name="conv")])
    inputs = inputs_for(model, 8)
    sizes = {}
    for storage in ("speed", "size"):
        step = Quantization(weight_bits=4, low_bit_storage=storage, fit={"epochs": 0})
        sizes[storage] = len(ship(run(step, State(model), inputs, 0), ConversionSettings(), RAW, inputs).content)
    saved = sizes["speed"] - sizes["size"]
    assert saved == pytest.approx(9 * 32 * 32 / 2, rel=0.02)
