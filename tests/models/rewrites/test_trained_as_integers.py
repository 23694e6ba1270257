import numpy as np
from fixtures.models import plan_for

from tfcompress import keras_door as kd
from tfcompress.convert.converter import quantized_tflite
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.proof import prove_integer, require_integer
from tfcompress.convert.read_back import find_weight
from tfcompress.convert.settings import ConversionSettings
from tfcompress.evaluate.prediction import io_types, predict
from tfcompress.models.rewrites import ENABLING, rewrite
from tfcompress.techniques.quantization import Quantization
from tfcompress.vocabulary.state import State


def _model(layers):
    """A network with all that keeps tfmot from training it: operators, gates, noise, 1-D layers, a nested model."""
    x = inputs = layers.Input((32, 3))
    x = layers.Conv1D(6, 5, padding="causal", activation="hard_sigmoid", name="conv")((x - 0.5) * 2.0)
    x = layers.BatchNormalization(name="bn")(layers.MaxPooling1D(name="pool")(x))
    inner = layers.Input((16, 6))
    y = layers.SeparableConv1D(6, 3, padding="same", name="sep")(inner)
    x = kd.keras.Model(inner, layers.BatchNormalization(name="bn")(y), name="inner")(x)
    gate = layers.Dense(6, activation="sigmoid", name="gate")(layers.GlobalAveragePooling1D(keepdims=True)(x))
    x = layers.Subtract()([layers.Multiply()([x, gate]), x * x])
    x = layers.GaussianNoise(0.1)(layers.GlobalAveragePooling1D()(x))
    return kd.keras.Model(inputs, layers.Dense(4, name="fc")(x))


def test_a_model_with_all_that_stands_in_the_way_is_trained_and_ships_in_integers(layers, randomised):
    model = randomised(_model(layers))
    inputs = np.random.default_rng(0).normal(0, 1, (64, 32, 3)).astype("float32")
    done = rewrite(model, ENABLING)
    step = Quantization()
    state = State(done.model, lineage=done.lineage)
    step.check(state)
    state = step.prepare(state, plan_for(inputs))
    state = step.finish(state)
    content = quantized_tflite(state.model, "int8", ConversionSettings(), inputs)
    flat = Flatbuffer(content)
    require_integer(prove_integer(flat))
    assert [w.data.shape for w, _ in [find_weight(flat, state.lineage.place("conv/kernel"), state.model)]] == [
        (6, 1, 5, 3)
    ]
    pointwise, _ = find_weight(flat, state.lineage.place("inner/sep/pointwise_kernel"), state.model)
    assert pointwise.data.shape == (6, 1, 1, 6)
    steps_apart = (
        np.abs(predict(content, inputs) - state.model.predict(inputs, verbose=0)) / io_types(content).output.scale
    )
    assert steps_apart.mean() < 1
