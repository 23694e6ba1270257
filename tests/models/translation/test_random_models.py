"""Random small graphs of supported layers: their translations compute the same."""

import numpy as np
from fixtures.keras_3 import randomised
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfcompress import keras_door as kd
from tfcompress.models.translation import translate

layers, ops = kd.keras_3.layers, kd.keras_3.ops

UNARY = (
    lambda x: layers.Conv2D(3, 3, padding="same", activation="relu")(x),
    lambda x: layers.Conv2D(2, 1, use_bias=False)(x),
    lambda x: layers.DepthwiseConv2D(3, padding="same", activation="hard_silu")(x),
    lambda x: layers.SeparableConv2D(3, 3, padding="same")(x),
    lambda x: layers.BatchNormalization()(x),
    lambda x: layers.LayerNormalization()(x),
    lambda x: layers.Dense(4, activation="hard_sigmoid")(x),
    lambda x: layers.PReLU(shared_axes=[1, 2])(x),
    lambda x: layers.Dropout(0.5)(x),
    lambda x: layers.MaxPooling2D(3, 1, "same")(x),
    lambda x: layers.AveragePooling2D(2, 1, "same")(x),
    lambda x: layers.UpSampling2D(2)(layers.MaxPooling2D(2)(x)),
    lambda x: layers.Cropping2D(1)(layers.ZeroPadding2D(1)(x)),
    lambda x: layers.Reshape((4, 4, -1))(layers.Flatten()(x)),
    lambda x: x * 0.5 - 1.0,
    lambda x: 1.0 / (1.0 + ops.abs(x)),
    lambda x: ops.gelu(x),
    lambda x: x - ops.mean(x, axis=(1, 2), keepdims=True),
    lambda x: ops.transpose(x, (0, 2, 1, 3)),
)
"""What may follow an image [batch, 4, 4, channels]; it stays one of that size."""

BINARY = (
    lambda x, y: layers.Concatenate()([x, y]),
    lambda x, y: layers.Add()([_like(x, 3), _like(y, 3)]),
    lambda x, y: _like(x, 2) * _like(y, 2),
    lambda x, y: ops.maximum(_like(x, 2), _like(y, 2)),
    lambda x, y: _like(x, 2) - _like(y, 2),
)


def _like(x, channels):
    return x if x.shape[-1] == channels else layers.Conv2D(channels, 1)(x)


choices = st.tuples(st.booleans(), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99))


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(choices, min_size=1, max_size=6), st.booleans())
def test_a_random_graph_is_translated(drawn, nest):
    inputs = kd.keras_3.Input((4, 4, 3))
    images = [inputs]
    for binary, kind, one, other in drawn:
        x, y = images[one % len(images)], images[other % len(images)]
        images.append(BINARY[kind % len(BINARY)](x, y) if binary else UNARY[kind % len(UNARY)](x))
    model = kd.keras_3.Model(inputs, [images[-1], layers.GlobalAveragePooling2D()(images[len(images) // 2])])
    if nest:
        outer = kd.keras_3.Input((4, 4, 3))
        model = kd.keras_3.Model(outer, model(model(outer)[0][..., :1] + outer))
    randomised(model)
    x = np.random.default_rng(3).normal(size=(3, 4, 4, 3)).astype(np.float32)
    for ours, theirs in zip(model(x), translate(model)(x), strict=True):
        ours = kd.keras_3.ops.convert_to_numpy(ours)
        np.testing.assert_allclose(theirs, ours, atol=1e-4 * np.abs(ours).max() + 1e-12)
