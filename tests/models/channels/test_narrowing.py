"""Models with fewer channels compute the same where what was cut contributed nothing."""

import numpy as np
import pytest
from fixtures import models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfcompress import keras_door as kd
from tfcompress.models.channels import channel_groups, macs, narrowed, parameters, remaining
from tfcompress.models.loading import fingerprint
from tfcompress.vocabulary.errors import ModelError

SIZE = 4
ACTIVATIONS = ("linear", "relu", "tanh", "swish")
"""All of them leave zero zero."""


def keras():
    return kd.keras.layers


def _normalized(x, activation):
    x = keras().Conv2D(5, 3, padding="same", use_bias=False)(x)
    return keras().Activation(activation)(keras().BatchNormalization()(x))


def _shared(x, activation):
    """One convolution called twice, its second time on what it gave the first."""
    layer = keras().Conv2D(x.shape[-1], 1, activation=activation)
    return layer(layer(x))


def _squeezed(x, _):
    gate = keras().Dense(x.shape[-1])(keras().Dense(3, "relu")(keras().GlobalAveragePooling2D()(x)))
    return keras().Multiply()([x, gate])


def _as_rows(x, activation):
    channels = x.shape[-1]
    x = keras().Conv1D(6, 1, activation=activation)(keras().Reshape((SIZE * SIZE, channels))(x))
    return keras().Reshape((SIZE, SIZE, 6))(x)


UNARY = {
    "convolution": lambda x, activation: keras().Conv2D(4, 3, padding="same", activation=activation)(x),
    "normalized": _normalized,
    "depthwise": lambda x, _: keras().DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x),
    "separable": lambda x, a: keras().SeparableConv2D(5, 3, padding="same", depth_multiplier=2, activation=a)(x),
    "transposed": lambda x, activation: keras().Conv2DTranspose(3, 3, padding="same", activation=activation)(x),
    "dense": lambda x, activation: keras().Dense(5, activation=activation)(x),
    "prelu": lambda x, _: keras().PReLU(shared_axes=[1, 2])(x),
    "prelu of pixels": lambda x, _: keras().PReLU()(x),
    "pooling": lambda x, _: keras().UpSampling2D(2)(keras().MaxPooling2D(2)(x)),
    "cropping": lambda x, _: keras().Cropping2D(1)(keras().ZeroPadding2D(1)(x)),
    "dropout": lambda x, _: keras().Dropout(0.5)(x),
    "frozen": lambda x, _: keras().LayerNormalization()(x),
    "shared": _shared,
    "squeezed": _squeezed,
    "as rows": _as_rows,
}
BINARY = ("Concatenate", "Add", "Subtract", "Multiply", "Maximum", "Average")


def _drawn(steps):
    """The model in which each step follows two of the values before it, and a Dense behind a Flatten ends."""
    inputs = keras().Input((SIZE, SIZE, 3))
    values = [keras().Conv2D(4, 1, name="first")(inputs)]
    for kind, activation, one, other in steps:
        x, y = values[one % len(values)], values[other % len(values)]
        if kind in UNARY:
            values.append(UNARY[kind](x, activation))
        elif kind == "Concatenate" or x.shape[-1] == y.shape[-1]:
            values.append(getattr(keras(), kind)()([x, y]))
        else:
            values.append(getattr(keras(), kind)()([x, keras().Conv2D(x.shape[-1], 1)(y)]))
    flat = keras().Dense(2, name="flat")(keras().Flatten()(values[-1]))
    mean = keras().Dense(2, name="mean")(keras().GlobalAveragePooling2D()(values[len(values) // 2]))
    model = kd.keras.Model(inputs, [flat, mean])
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.2, 1.0, w.shape) * rng.choice([-1, 1], w.shape) for w in model.get_weights()])
    for layer in model.layers:
        if isinstance(layer, keras().BatchNormalization):
            layer.moving_variance.assign(abs(layer.moving_variance))
    return model


def _silence(model, groups, kept, roles):
    """Set to zero what the layers in `roles` have for channels that are not kept."""
    for group in groups:
        gone = ~np.isin(np.arange(group.size), kept.get(group.name, np.arange(group.size)))
        for member in group.members:
            if member.role in roles and member.weight != "target_shape":
                weight = getattr(model.get_layer(member.layer), member.weight)
                values = np.moveaxis(weight.numpy(), member.axis, 0)
                values[(member.channels >= 0) & gone[member.channels]] = 0
                weight.assign(np.moveaxis(values, 0, member.axis))


def _same_outputs(one, other):
    x = np.random.default_rng(1).normal(size=(3, *one.input_shape[1:])).astype(np.float32)
    for ours, theirs in zip(kd.tf.nest.flatten(one(x)), kd.tf.nest.flatten(other(x)), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5 * np.abs(ours).max() + 1e-12)


def _half(groups, rng):
    """Some channels of every group that can be cut, at least one of each layer that makes them."""
    kept = {}
    for group in groups:
        if not group.frozen:
            least = [np.flatnonzero(m.present(group.size))[0] for m in group.members if m.role == "makes"]
            kept[group.name] = np.union1d(least, np.flatnonzero(rng.random(group.size) < 0.5))
    return kept


steps = st.tuples(
    st.sampled_from([*UNARY, *BINARY]), st.sampled_from(ACTIVATIONS), st.integers(0, 99), st.integers(0, 99)
)


@pytest.mark.parametrize("roles", [("makes", "carries"), ("takes",)], ids=["silent makers", "deaf takers"])
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(steps, min_size=2, max_size=7), st.integers(0, 2**16))
def test_channels_that_do_nothing_can_be_cut_from_any_graph(roles, drawn, seed):
    model = _drawn(drawn)
    groups = channel_groups(model)
    kept = _half(groups, np.random.default_rng(seed))
    _silence(model, groups, kept, roles)
    before = fingerprint(model)
    smaller = narrowed(model, groups, kept)
    masks = remaining(groups, kept)
    assert smaller.count_params() == parameters(model, masks)
    assert macs(smaller, {}) == macs(model, masks)
    assert [layer.name for layer in smaller.layers] == [layer.name for layer in model.layers]
    assert fingerprint(model) == before
    _same_outputs(model, smaller)
    # The groups of what came out are the same, of fewer channels.
    after = {group.name: group.size for group in channel_groups(smaller)}
    assert after == {group.name: len(kept.get(group.name, range(group.size))) for group in groups}


def test_the_weights_that_stay_are_the_ones_of_the_channels_that_stay():
    model = models.conv_bn()
    smaller = narrowed(model, channel_groups(model), {"c1": [1, 6], "c1_1": [0, 2, 7]})
    one, other = ({w.name: w.numpy() for w in net.weights} for net in (model, smaller))
    np.testing.assert_array_equal(other["c1/kernel:0"], one["c1/kernel:0"][..., [1, 6]])
    np.testing.assert_array_equal(other["bn_c1/gamma:0"], one["bn_c1/gamma:0"][[1, 6]])
    np.testing.assert_array_equal(other["bn_c1/moving_variance:0"], one["bn_c1/moving_variance:0"][[1, 6]])
    np.testing.assert_array_equal(other["c1_1/kernel:0"], one["c1_1/kernel:0"][:, :, [1, 6]][..., [0, 2, 7]])
    rows = np.arange(2 * 2 * 8).reshape(4, 8)[:, [0, 2, 7]].ravel()
    np.testing.assert_array_equal(other["out/kernel:0"], one["out/kernel:0"][rows])
    np.testing.assert_array_equal(other["out/bias:0"], one["out/bias:0"])
    assert smaller.get_layer("c1_1").filters == 3


def test_a_sequential_and_an_embedding_can_be_narrowed():
    layers = keras()
    model = kd.keras.Sequential(
        [layers.Embedding(9, 4, name="words", input_length=5), layers.Flatten(), layers.Dense(2, name="out")]
    )
    groups = channel_groups(model)
    smaller = narrowed(model, groups, {"words": [3]})
    assert smaller.get_layer("words").output_dim == 1
    assert smaller.get_layer("out").kernel.shape == (5, 2)
    ids = np.array([[1, 2, 3, 0, 8]])
    words = model.get_layer("words").embeddings.numpy()[ids[0], 3]
    kernel, bias = model.get_layer("out").get_weights()
    np.testing.assert_allclose(smaller(ids)[0], words @ kernel[3::4] + bias, rtol=1e-5)


def test_cutting_nothing_gives_an_equal_model_and_the_impossible_is_refused():
    model = models.residual()
    groups = channel_groups(model)
    _same_outputs(model, narrowed(model, groups, {}))
    with pytest.raises(ModelError, match="out is never cut: they are the model's output"):
        narrowed(model, groups, {"out": [0]})
