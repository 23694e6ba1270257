import numpy as np
import pytest

from tfcompress import keras_door as kd
from tfcompress.convert.converter import quantized_tflite
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.read_back import read_promises
from tfcompress.convert.settings import ConversionSettings
from tfcompress.models.rewrites import FASTER, rewrite
from tfcompress.models.rewrites._phases import Axis, rearranged
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import State


@pytest.fixture
def stage(layers, randomised):
    """As the first stage of the MLPerf Tiny ResNet8: three convolutions, a sum, two ways out."""
    x = inputs = layers.Input((12, 10, 3))
    x = first = layers.ReLU()(layers.BatchNormalization(name="bn")(layers.Conv2D(4, 3, padding="same", name="a")(x)))
    x = layers.Dropout(0.2)(layers.Conv2D(4, 5, padding="same", activation="relu", name="b")(x))
    x = layers.Add()([first, layers.Conv2D(4, (3, 1), padding="same", use_bias=False, name="c")(x)])
    x = layers.Activation("relu")(x)
    left = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="left")(x)
    right = layers.Conv2D(6, 1, strides=2, name="right")(x)
    x = layers.Conv2D(6, 3, padding="same", name="behind")(left)
    return randomised(kd.keras.Model(inputs, layers.Add()([x, right])))


def test_the_stage_works_on_blocks(stage, same_outputs):
    done = rewrite(stage, FASTER)
    assert same_outputs(stage, done.model)
    kernels = {
        name: tuple(done.model.get_layer(name).kernel.shape) for name in ("a", "b", "c", "left", "right", "behind")
    }
    assert kernels == {
        "a": (4, 4, 3, 16),
        "b": (3, 3, 16, 16),
        "c": (3, 1, 16, 16),
        "left": (2, 2, 16, 6),
        "right": (1, 1, 16, 6),
        "behind": (3, 3, 6, 6),
    }
    assert [change.layer for change in done.changes] == ["a", "b", "c", "left", "right"]
    assert [layer.name for layer in done.model.layers] == [layer.name for layer in stage.layers]


def test_zeros_come_into_re_arranged_kernels(stage):
    shared, sparse = stage.get_layer("b").kernel, stage.get_layer("c").kernel
    shared.assign(np.random.default_rng(0).choice([-0.5, 0.25, 1.0], shared.shape))
    sparse.assign(np.where(sparse.numpy() < 0, 0, sparse.numpy()))
    share = float((sparse.numpy() == 0).mean())
    done = rewrite(stage, FASTER)
    new = {name: done.model.get_layer(name).kernel.numpy() for name in "bc"}
    distinct, zeros = done.lineage.carried([Promise("b/kernel", "distinct", 3), Promise("c/kernel", "zeros", share)])
    assert (distinct.bound, distinct.found_in(new["b"])) == (4, 4)
    assert zeros.bound == share < zeros.found_in(new["c"])
    assert done.lineage.effect("b/kernel", "group_zeros").refused


def test_promises_are_read_back_from_the_file(stage):
    kernel = stage.get_layer("b").kernel
    kernel.assign(np.where(kernel.numpy() < 0, 0, kernel.numpy()))
    zeros = Promise("b/kernel", "zeros", float((kernel.numpy() == 0).mean()))
    done = rewrite(stage, FASTER)
    state = State(stage, (zeros,)).rewritten(done.model, done.lineage)
    samples = np.random.default_rng(0).normal(0, 1, (4, 12, 10, 3)).astype("float32")
    flat = Flatbuffer(quantized_tflite(state.model, "int8", ConversionSettings(), samples))
    assert "SPACE_TO_DEPTH" not in {op.name for op in flat.operators}
    (found,) = read_promises(flat, state)
    assert found.kept
    assert found.found > zeros.bound


@pytest.mark.parametrize("size", range(1, 8))
@pytest.mark.parametrize(("strided", "split"), [(False, False), (False, True), (True, True)])
def test_kernels_of_every_size_against_tensorflow(size, strided, split):
    tf, rng = kd.tf, np.random.default_rng(size)
    image = rng.normal(0, 1, (2, 12, 8, 3)).astype("float32")
    kernel = rng.normal(0, 1, (size, 3, 3, 5)).astype("float32")
    expected = tf.nn.conv2d(image, kernel, 2 if strided else 1, "SAME")
    new = rearranged(kernel, Axis(size, strided, split), Axis(3, strided, split))
    given = tf.nn.space_to_depth(image, 2) if split else image
    found = tf.nn.conv2d(given, new, 1 if split else 2, "SAME")
    if not strided:
        found = tf.nn.depth_to_space(found, 2)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("why", ["odd", "output", "pooling", "wide", "softmax", "depthwise"])
def test_a_stage_that_cannot_be_left_or_entered_stays(layers, why):
    x = inputs = layers.Input((9, 8, 3) if why == "odd" else (8, 8, 3))
    x = layers.Conv2D(
        64 if why == "wide" else 4, 3, padding="same", activation="softmax" if why == "softmax" else None
    )(x)
    if why == "depthwise":
        x = layers.DepthwiseConv2D(3, padding="same")(x)
    outputs = [layers.MaxPooling2D()(x) if why == "pooling" else layers.Conv2D(4, 3, 2, padding="same")(x)]
    model = kd.keras.Model(inputs, [*outputs, x] if why == "output" else outputs)
    assert rewrite(model, ["space_to_depth"]).changes == ()


def test_a_part_of_the_image_stage_may_stay(layers, randomised, same_outputs):
    """What leads to a pooling keeps its pixels; the rest goes to blocks."""
    inputs = layers.Input((8, 8, 3))
    pooled = layers.MaxPooling2D()(layers.Conv2D(4, 3, padding="same", name="pixels")(inputs))
    blocks = layers.Conv2D(4, 2, 2, name="out")(layers.Conv2D(4, 3, padding="same", name="blocks")(inputs))
    model = randomised(kd.keras.Model(inputs, layers.Add()([pooled, blocks])))
    done = rewrite(model, ["space_to_depth"])
    assert [change.layer for change in done.changes] == ["blocks", "out"]
    assert same_outputs(model, done.model)
