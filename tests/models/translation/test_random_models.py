"""Random small graphs of supported layers: translated, and then rewritten, they compute the same."""

import numpy as np
import pytest
from fixtures.keras_3 import randomised
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfcompress import keras_door as kd
from tfcompress.models.rewrites import ENABLING, OPENING, rewrite
from tfcompress.models.rewrites._graph import attribute_of
from tfcompress.models.translation import translate

layers, ops = kd.keras_3.layers, kd.keras_3.ops

ACTIVATIONS = ("linear", "relu", "relu6", "hard_sigmoid", "hard_silu", "silu", "gelu", "leaky_relu", "elu", "tanh")


def _of_rank(name, x):
    """The class of this name for rows [batch, steps, channels] or images [batch, height, width, channels]."""
    return getattr(layers, name.replace("ND", f"{len(x.shape) - 2}D"))


def _convolution(name, *settings, **more):
    return lambda x, activation: _of_rank(name, x)(*settings, padding="same", activation=activation, **more)(x)


def _normalized(name, *settings, **more):
    """A layer, the BatchNormalization right behind it, and an activation."""

    def build(x, activation):
        linear = _of_rank(name, x)(*settings, use_bias=False, **more)(x)
        return layers.Activation(activation)(layers.BatchNormalization()(linear))

    return build


def _nested(x, activation):
    """A model of its own, called twice; its layers have the names of other such models' layers."""
    inputs = layers.Input(x.shape[1:])
    y = layers.BatchNormalization(name="bn")(layers.Dense(x.shape[-1], use_bias=False, name="fc")(inputs))
    inner = kd.keras_3.Model(inputs, layers.Activation(activation, name="act")(y))
    return inner(inner(x))


def _reshaped(x, _):
    return layers.Reshape((*x.shape[1:-1], -1))(layers.Flatten()(x))


def _across(x):
    return tuple(range(1, len(x.shape) - 1))


UNARY = {
    "ConvND": _convolution("ConvND", 3, 3),
    "ConvND, dilated": _convolution("ConvND", 2, 3, dilation_rate=2),
    "DepthwiseConvND": _convolution("DepthwiseConvND", 3),
    "SeparableConvND": _convolution("SeparableConvND", 3, 3),
    "ConvNDTranspose": _convolution("ConvNDTranspose", 3, 3),
    "ConvND, BN": _normalized("ConvND", 4, 3, padding="same"),
    "DepthwiseConvND, BN": _normalized("DepthwiseConvND", 3, padding="same", depth_multiplier=2),
    "ConvNDTranspose, BN": _normalized("ConvNDTranspose", 3, 3, padding="same"),
    "SeparableConvND, BN": _normalized("SeparableConvND", 3, 3, padding="same"),
    "Dense, BN": _normalized("Dense", 4),
    "Dense": lambda x, activation: layers.Dense(4, activation=activation)(x),
    "BatchNormalization": lambda x, _: layers.BatchNormalization()(x),
    "LayerNormalization": lambda x, _: layers.LayerNormalization()(x),
    "Activation": lambda x, activation: layers.Activation(activation)(x),
    "PReLU": lambda x, _: layers.PReLU(shared_axes=_across(x))(x),
    "Rescaling": lambda x, _: layers.Rescaling(0.5, 0.25)(x),
    "Dropout": lambda x, _: layers.Dropout(0.5)(x),
    "GaussianNoise": lambda x, _: layers.GaussianNoise(0.5)(x),
    "MaxPoolingND": lambda x, _: _of_rank("MaxPoolingND", x)(3, 1, "same")(x),
    "AveragePoolingND": lambda x, _: _of_rank("AveragePoolingND", x)(2, 1, "same")(x),
    "UpSamplingND": lambda x, _: _of_rank("UpSamplingND", x)(2)(_of_rank("MaxPoolingND", x)(2)(x)),
    "CroppingND": lambda x, _: _of_rank("CroppingND", x)(1)(_of_rank("ZeroPaddingND", x)(1)(x)),
    "Reshape": _reshaped,
    "nested": _nested,
    "affine": lambda x, _: 1.0 - (x * 0.5 - 1.0),
    "division": lambda x, _: 1.0 / (1.0 + ops.abs(x)),
    "hard swish": lambda x, _: x * ops.relu6(x + 3.0) / 6.0,
    "gelu": lambda x, _: ops.gelu(x),
    "mean": lambda x, _: x - ops.mean(x, axis=_across(x), keepdims=True),
    "transpose": lambda x, _: ops.transpose(x, (0, *reversed(_across(x)), len(x.shape) - 1)),
}
"""What may follow rows [batch, 4, channels] or images [batch, 4, 4, channels]; they stay ones of that size."""

BINARY = {
    "Concatenate": lambda x, y: layers.Concatenate()([x, y]),
    "Add": lambda x, y: layers.Add()([_like(x, 3), _like(y, 3)]),
    "Subtract": lambda x, y: layers.Subtract()([_like(x, 3), _like(y, 3)]),
    "Multiply": lambda x, y: layers.Multiply()([_like(x, 3), _like(y, 3)]),
    "Average": lambda x, y: layers.Average()([_like(x, 3), _like(y, 3)]),
    "sum": lambda x, y: _like(x, 2) + _like(y, 2),
    "difference": lambda x, y: _like(x, 2) - _like(y, 2),
    "product": lambda x, y: _like(x, 2) * _like(y, 2),
    "maximum": lambda x, y: ops.maximum(_like(x, 2), _like(y, 2)),
}


def _like(x, channels):
    return x if x.shape[-1] == channels else layers.Dense(channels)(x)


def _drawn(shape, steps, nest):
    """The Keras 3 model in which each step follows two of the values before it."""
    values = [inputs := layers.Input(shape)]
    for kind, activation, one, other in steps:
        x, y = values[one % len(values)], values[other % len(values)]
        values.append(BINARY[kind](x, y) if kind in BINARY else UNARY[kind](x, activation))
    ends = [values[-1], _of_rank("GlobalMaxPoolingND", inputs)()(values[len(values) // 2])]
    model = kd.keras_3.Model(inputs, ends)
    if nest:
        outer = layers.Input(shape)
        model = kd.keras_3.Model(outer, model(model(outer)[0][..., :1] + outer))
    return model


steps = st.tuples(
    st.sampled_from([*UNARY, *BINARY]), st.sampled_from(ACTIVATIONS), st.integers(0, 99), st.integers(0, 99)
)


@pytest.mark.parametrize("shape", [(4, 3), (4, 4, 3)], ids=["rows", "images"])
@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(steps, min_size=1, max_size=6), st.booleans())
def test_a_random_graph_is_translated_and_rewritten(shape, drawn, nest):
    model = randomised(_drawn(shape, drawn, nest))
    translated = translate(model)
    rewritten = rewrite(translated, (*OPENING, *ENABLING))
    x = np.random.default_rng(3).normal(size=(3, *shape)).astype(np.float32)
    assert not any(isinstance(layer, kd.keras.Model) for layer in rewritten.model.layers)
    places = {f"{layer.name}/{attribute_of(weight)}" for layer in rewritten.model.layers for weight in layer.weights}
    assert set(rewritten.lineage.places.values()) <= places
    expected = [ops.convert_to_numpy(output) for output in model(x)]
    for made in (translated, rewritten.model):
        for ours, theirs in zip(expected, made(x), strict=True):
            np.testing.assert_allclose(theirs, ours, atol=1e-4 * np.abs(ours).max() + 1e-12)
