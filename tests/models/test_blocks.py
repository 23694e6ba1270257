"""Residual blocks found in graphs of many kinds, and models in which they are their shortcuts."""

import numpy as np
import pytest
from fixtures import models

from tfcompress import keras_door as kd
from tfcompress.models import zoo
from tfcompress.models.blocks import ResidualBlocks
from tfcompress.models.channels import macs
from tfcompress.models.loading import fingerprint
from tfcompress.vocabulary.errors import ModelError


def randomised(inputs, outputs):
    return models._model(inputs, outputs, 0)


def names(model):
    return [block.name for block in ResidualBlocks(model)]


def layer_names(model):
    return [layer.name for layer in model.layers]


def test_an_identity_block_becomes_what_came_in():
    model = models.residual()
    before = fingerprint(model)
    (block,) = ResidualBlocks(model)
    assert (block.name, block.layers) == ("join", ("branch", "bn_branch", "join"))
    assert block.parameters == 8 * 8 * 9 + 4 * 8
    assert str(block) == "join: 3 layers from branch on, 608 parameters"
    smaller = ResidualBlocks(model).without(["join"])
    # The second ReLU does nothing to what the first gave.
    assert layer_names(smaller)[1:] == ["stem", "bn_stem", "relu_stem", "pool", "out"]
    x = models.inputs_for(model, 8)
    inside = kd.keras.Model(model.inputs, model.get_layer("relu_stem").output)(x)
    expected = model.get_layer("out")(np.maximum(inside, 0).mean(axis=(1, 2)))
    np.testing.assert_allclose(smaller(x), expected, rtol=1e-5, atol=1e-6)
    assert fingerprint(model) == before


def test_a_projecting_shortcut_stays_and_chains_of_blocks_go():
    model = zoo.build("resnet8", (8, 8, 3), 3, 0, None)
    blocks = ResidualBlocks(model)
    assert list(blocks.sums) == [f"stage{n}_block1_add" for n in (1, 2, 3)]
    left = blocks.without(["stage2_block1_add"])
    assert [name for name in layer_names(left) if name.startswith("stage2")] == [
        "stage2_block1_shortcut",
        "stage2_block1_relu",
    ]
    np.testing.assert_array_equal(
        models.kernel_of(left, "stage2_block1_shortcut"), models.kernel_of(model, "stage2_block1_shortcut")
    )
    assert names(left) == ["stage1_block1_add", "stage3_block1_add"]
    assert left.count_params() == blocks.parameters(["stage2_block1_add"])
    assert macs(left, {}) == blocks.macs(["stage2_block1_add"])
    none = blocks.without(list(blocks.sums))
    assert names(none) == []
    assert macs(none, {}) == blocks.macs(list(blocks.sums))


def test_blocks_without_an_activation_behind_and_with_one_before():
    inverted = zoo.build("mobilenet_v2:width=0.1", (32, 32, 3), 3, 0, None)
    assert [name for name in names(inverted) if name.startswith("stage3")] == ["stage3_block2_add", "stage3_block3_add"]
    layers = kd.keras.layers
    x = inputs = layers.Input((6, 6, 4))
    for index in range(2):
        y = layers.ReLU(name=f"relu{index}")(layers.BatchNormalization(name=f"bn{index}")(x))
        x = layers.Add(name=f"add{index}")([layers.Conv2D(4, 3, padding="same", name=f"conv{index}")(y), x])
    model = randomised(inputs, layers.Dense(2, name="out")(layers.GlobalMaxPooling2D(name="pool")(x)))
    blocks = ResidualBlocks(model)
    assert [block.layers for block in blocks] == [(f"bn{i}", f"relu{i}", f"conv{i}", f"add{i}") for i in range(2)]
    smaller = blocks.without(["add0", "add1"])
    samples = models.inputs_for(model, 8)
    np.testing.assert_allclose(smaller(samples), model.get_layer("out")(samples.max(axis=(1, 2))), rtol=1e-5)


def test_branches_of_a_transformer():
    model = zoo.build("transformer_text:width=8,heads=2", (5,), 3, 0, 20)
    blocks = ResidualBlocks(model)
    assert [(block.name, block.layers[0]) for block in blocks] == [
        ("attention_add", "attention"),
        ("hidden_add", "hidden"),
    ]
    assert "attention" not in layer_names(blocks.without(["attention_add"]))


def test_a_plus_is_a_sum_and_goes_by_the_name_that_a_rewrite_gives_it():
    layers = kd.keras.layers
    inputs = layers.Input((4,))
    hidden = layers.Dense(4, name="hidden")(inputs)
    model = randomised(inputs, layers.Dense(2, name="out")(inputs + layers.Dense(4, name="branch")(hidden) + 1.0))
    (block,) = ResidualBlocks(model)
    assert block.layers[:2] == ("hidden", "branch")
    assert "tf" not in block.name
    assert "branch" not in layer_names(ResidualBlocks(model).without([block.name]))


def test_a_block_within_a_branch_goes_with_it_and_what_others_take_stays():
    layers = kd.keras.layers
    inputs = layers.Input((4,))
    shared = layers.Dense(4, name="shared")
    inner = layers.Add(name="inner")([inputs, layers.Dense(4, name="deep")(inputs)])
    outer = layers.Add(name="outer")([layers.Dense(4, name="top")(inner), inputs])
    late = layers.Add(name="late")([shared(outer), outer])
    model = randomised(inputs, layers.Dense(2, name="out")(shared(late)))
    blocks = ResidualBlocks(model)
    assert {block.name: set(block.layers) for block in blocks} == {
        "inner": {"deep", "inner"},
        "outer": {"deep", "inner", "top", "outer"},
        "late": {"late"},
    }
    assert blocks.left(["outer"]) == ("late",)
    assert blocks.left(["inner"]) == ("outer", "late")
    together = blocks.without(["inner", "outer", "late"])
    assert layer_names(together)[1:] == ["shared", "out"]


def test_an_activation_stays_where_it_still_does_something():
    layers = kd.keras.layers
    for first, second, stays in (("relu", "relu", False), ("relu6", "relu", False), ("relu", "relu6", True)):
        inputs = layers.Input((6, 6, 4))
        x = layers.Conv2D(4, 1, activation=first if first == "relu" else kd.tf.nn.relu6, name="stem")(inputs)
        x = layers.Add(name="add")([x, layers.Conv2D(4, 1, name="branch")(x)])
        behind = layers.ReLU(name="behind") if second == "relu" else layers.ReLU(6.0, name="behind")
        model = randomised(inputs, layers.Conv2D(2, 1, name="out")(behind(x)))
        assert ("behind" in layer_names(ResidualBlocks(model).without(["add"]))) is stays, (first, second)


def test_sums_without_a_shortcut_are_no_blocks():
    layers = kd.keras.layers
    inputs = layers.Input((6, 6, 4))
    twins = layers.Add(name="twins")([layers.Conv2D(4, 1, name=name)(inputs) for name in "ab"])
    spread = layers.Add(name="spread")([twins, layers.GlobalAveragePooling2D(keepdims=True, name="pool")(inputs)])
    adder = layers.Add(name="adder")
    once = adder([spread, layers.Conv2D(4, 1, name="c")(spread)])
    twice = adder([once, layers.Conv2D(4, 1, name="d")(once)])
    blocks = ResidualBlocks(randomised(inputs, twice))
    assert not blocks.sums
    assert blocks.refused == {
        "twins": "no term of it is a shortcut: the shortest have passed 1 kernels each",
        "spread": "its terms have different shapes",
        "adder": "it sums at several places",
    }


def test_something_with_weights_must_be_left():
    layers = kd.keras.layers
    inputs = layers.Input((4,))
    model = randomised(inputs, layers.Add(name="add")([inputs, layers.Dense(4, name="branch")(inputs)]))
    with pytest.raises(ModelError, match="Without the blocks add none would be left"):
        ResidualBlocks(model).without(["add"])
