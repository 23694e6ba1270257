"""What every kind of layer does with channels, and what is left alone because nobody knows."""

import pytest
from fixtures import models

from tfcompress import keras_door as kd
from tfcompress.models.channels import OUTPUT, channel_groups
from tfcompress.models.loading import fingerprint


def lines(model):
    return [str(group) for group in channel_groups(model)]


def by_name(model):
    return {group.name: group for group in channel_groups(model)}


def ended(inputs, x):
    """A model that ends in a Dense `out`."""
    layers = kd.keras.layers
    return kd.keras.Model(inputs, layers.Dense(2, name="out")(layers.GlobalAveragePooling2D(name="mean")(x)))


def of_layer(make, before=3):
    """An image, a convolution `before`, what `make` makes of it, a convolution `after`, and a Dense."""
    layers = kd.keras.layers
    inputs = layers.Input((4, 4, 3), name="in")
    x = make(layers.Conv2D(before, 1, name="before")(inputs))
    return ended(inputs, layers.Conv2D(4, 1, name="after")(x))


def frozen_by(model, name="before"):
    return "; ".join(by_name(model)[name].frozen)


def test_a_residual_block_ties_what_it_adds():
    assert lines(models.residual()) == [
        "stem: 8 channels, made by stem, branch; carried by bn_stem, bn_branch; taken by branch, out",
        f"out: 3 channels, made by out. Never cut: {OUTPUT}",
    ]


def test_a_concatenate_sets_side_by_side():
    groups = by_name(models.residual("concatenate"))
    assert groups.keys() == {"stem", "branch", "out"}
    taken = {name: next(m for m in groups[name].members if m.layer == "out") for name in ("stem", "branch")}
    assert taken["stem"].channels.tolist() == [*range(8), *[-1] * 8]
    assert taken["branch"].channels.tolist() == [*[-1] * 8, *range(8)]


def test_a_depthwise_convolution_carries_each_channel_as_often_as_it_multiplies():
    layers = kd.keras.layers
    model = of_layer(lambda x: layers.DepthwiseConv2D(3, depth_multiplier=2, name="dw")(x))
    group = by_name(model)["before"]
    places = {member.place: member.channels.tolist() for member in group.members}
    assert places["dw", "depthwise_kernel", 2] == [0, 1, 2]
    assert places["dw", "bias", 0] == places["after", "kernel", 2] == [0, 0, 1, 1, 2, 2]
    assert group.layers("carries") == ("dw",)


def test_a_flatten_repeats_the_channels_for_every_pixel():
    layers = kd.keras.layers
    inputs = layers.Input((2, 3, 3))
    x = layers.Flatten()(layers.Conv2D(4, 1, name="conv")(inputs))
    group = by_name(kd.keras.Model(inputs, layers.Dense(2, name="out")(x)))["conv"]
    rows = next(m for m in group.members if m.layer == "out")
    assert (rows.weight, rows.axis, rows.role) == ("kernel", 0, "takes")
    assert rows.channels.tolist() == [*range(4)] * 6


def test_all_calls_of_a_shared_layer_are_in_one_group():
    layers = kd.keras.layers
    inputs = layers.Input((4, 4, 3))
    one, two = (layers.Conv2D(4, 1, name=name)(inputs) for name in ("one", "two"))
    shared, norm = layers.Conv2D(5, 1, name="shared"), layers.BatchNormalization(name="norm")
    joined = layers.Concatenate()([norm(shared(one)), norm(shared(two))])
    groups = by_name(ended(inputs, joined))
    assert sorted(next(g for g in groups.values() if g.layers("takes") == ("shared",)).layers("makes")) == [
        "one",
        "two",
    ]
    assert groups["shared"].size == 5
    assert groups["shared"].layers("carries") == ("norm",)
    taken = next(m for m in groups["shared"].members if m.layer == "out")
    assert taken.channels.tolist() == [*range(5)] * 2


def test_a_separable_and_a_transposed_convolution_take_and_make():
    layers = kd.keras.layers
    model = of_layer(
        lambda x: layers.Conv2DTranspose(6, 3, name="up")(layers.SeparableConv2D(5, 3, depth_multiplier=2, name="s")(x))
    )
    places = {g.name: {(m.place, m.role): m.channels.tolist() for m in g.members} for g in channel_groups(model)}
    assert places["before"][("s", "depthwise_kernel", 2), "takes"] == [0, 1, 2]
    assert places["before"][("s", "pointwise_kernel", 2), "takes"] == [0, 0, 1, 1, 2, 2]
    assert (
        places["s"][("s", "pointwise_kernel", 3), "makes"] == places["s"][("up", "kernel", 3), "takes"] == [*range(5)]
    )
    assert places["up"][("up", "kernel", 2), "makes"] == places["up"][("after", "kernel", 2), "takes"] == [*range(6)]


def test_an_embedding_makes_channels_and_ids_are_none():
    layers = kd.keras.layers
    ids = layers.Input((5,), dtype="int32")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(9, 4, name="words")(ids))
    assert lines(kd.keras.Model(ids, layers.Dense(2, name="out")(x)))[0] == (
        "words: 4 channels, made by words; taken by out"
    )


THROUGH = {
    "PReLU": lambda x: kd.keras.layers.PReLU(shared_axes=[1, 2])(x),
    "PReLU of one number": lambda x: kd.keras.layers.PReLU(shared_axes=[1, 2, 3])(x),
    "Rescaling": lambda x: kd.keras.layers.Rescaling(2.0)(x),
    "swish": lambda x: kd.keras.layers.Activation("swish")(x),
    "a layer as activation": lambda x: kd.keras.layers.Activation(kd.keras.layers.LeakyReLU())(x),
    "one's own function": lambda x: kd.keras.layers.Activation(lambda y: kd.tf.nn.relu(y) + 1.0)(x),
    "pooling and padding": lambda x: kd.keras.layers.MaxPooling2D(2)(kd.keras.layers.ZeroPadding2D(1)(x)),
    "rows and back": lambda x: kd.keras.layers.Reshape((4, 4, -1))(kd.keras.layers.Reshape((16, 3))(x)),
    "Permute of pixels": lambda x: kd.keras.layers.Permute((2, 1, 3))(x),
    "a Concatenate of rows": lambda x: kd.keras.layers.Concatenate(axis=1)([x, x]),
    "squeeze and excite": lambda x: kd.keras.layers.Multiply()(
        [x, kd.keras.layers.Dense(3, "sigmoid", name="gate")(kd.keras.layers.GlobalAveragePooling2D()(x))]
    ),
}


@pytest.mark.parametrize("kind", THROUGH)
def test_channels_are_followed_through(kind):
    group = by_name(of_layer(THROUGH[kind]))["before"]
    assert not group.frozen
    assert "after" in group.layers("takes")
    assert group.size == 3


STOPPED = {
    "(LayerNormalization): what it does": lambda x: kd.keras.layers.LayerNormalization()(x),
    "(Softmax): what it does": lambda x: kd.keras.layers.Softmax()(x),
    "activation of soft mixes": lambda x: kd.keras.layers.Activation("softmax", name="soft")(x),
    "in groups": lambda x: kd.keras.layers.Conv2D(6, 1, groups=3)(x),
    "parts or mixes": lambda x: kd.keras.layers.Reshape((4, 12, 1))(x),
    "to another axis": lambda x: kd.keras.layers.Permute((3, 1, 2))(x),
    "for each channel": lambda x: kd.keras.layers.Rescaling([1.0, 2.0, 3.0])(x),
    "along the axes": lambda x: kd.keras.layers.BatchNormalization(axis=1)(x),
    "(TFOpLambda)": lambda x: kd.tf.nn.relu(x),
    "the model's input": None,
}


@pytest.mark.parametrize("reason", STOPPED)
def test_what_is_not_known_is_left_alone_with_the_reason(reason):
    layers = kd.keras.layers
    inputs = layers.Input((4, 4, 3), name="in")
    x = layers.Conv2D(3, 1, name="before")(inputs)
    x = layers.Add()([x, inputs]) if reason == "the model's input" else STOPPED[reason](x)
    groups = by_name(ended(inputs, layers.Conv2D(4, 1, name="after")(x)))
    assert reason in "; ".join(groups["before"].frozen)
    # What comes behind is followed again.
    assert not groups["after"].frozen


def test_a_grouped_convolution_is_left_alone_on_both_sides():
    model = of_layer(lambda x: kd.keras.layers.Conv2D(6, 1, groups=3, name="grouped")(x))
    assert "grouped (Conv2D): a convolution in groups" in frozen_by(model)
    assert "grouped" not in by_name(model)


def test_a_single_channel_that_is_spread_over_others_stays():
    layers = kd.keras.layers
    model = of_layer(lambda x: layers.Multiply(name="gated")([x, layers.Conv2D(1, 1, name="map")(x)]))
    assert frozen_by(model, "map") == "gated spreads it over all channels"
    assert not by_name(model)["before"].frozen


def test_channels_first_and_masks_are_left_alone():
    layers = kd.keras.layers
    inputs = layers.Input((3, 4, 4))
    x = layers.Conv2D(3, 1, data_format="channels_first", name="first")(inputs)
    model = kd.keras.Model(inputs, layers.Dense(2, name="out")(layers.Flatten()(x)))
    assert [group.name for group in channel_groups(model) if not group.frozen] == []
    ids = layers.Input((5,), dtype="int32")
    x = layers.Conv1D(4, 1, name="conv")(layers.Embedding(9, 4, mask_zero=True, name="words")(ids))
    groups = by_name(kd.keras.Model(ids, layers.Dense(2, name="out")(layers.GlobalAveragePooling1D()(x))))
    assert "words" not in groups


def test_the_model_is_not_touched():
    model = models.residual()
    before = fingerprint(model)
    channel_groups(model)
    assert fingerprint(model) == before
