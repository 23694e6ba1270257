"""The proof of a translation finds every difference, and says where it begins."""

import numpy as np
import pytest
from fixtures.keras_3 import randomised, sequential

from tfcompress import keras_door as kd
from tfcompress.models.translation.comparison import compare, random_inputs, relative_difference
from tfcompress.models.translation.graph import build
from tfcompress.vocabulary.errors import ModelError

layers = kd.keras_3.layers


def model():
    return sequential(
        layers.Conv2D(4, 3, name="conv"),
        layers.BatchNormalization(name="bn"),
        kd.keras_3.Sequential([kd.keras_3.Input((4, 4, 4)), layers.Conv2D(4, 1, name="inside")], name="inner"),
        layers.Flatten(name="flat"),
        layers.Dense(3, name="out"),
        shape=(6, 6, 1),
    )


def weight_of(translated, path):
    *models, layer, name = path.split("/")
    for part in models:
        translated = translated.get_layer(part)
    return next(weight for weight in translated.get_layer(layer).weights if name in weight.name)


@pytest.mark.parametrize(
    "path", ["conv/kernel", "conv/bias", "bn/gamma", "bn/beta", "bn/moving_mean", "inner/inside/kernel", "out/bias"]
)
def test_one_changed_weight_is_found_and_its_layer_named(path):
    translated, pairs = build(model())
    assert max(compare(pairs).values()) < 1e-5
    weight = weight_of(translated, path)
    value = weight.numpy()
    value.flat[0] += 0.05 * np.abs(value).max()
    weight.assign(value)
    with pytest.raises(ModelError, match=f"first that does not is '{path.rpartition('/')[0]}'"):
        compare(pairs)


def test_two_swapped_weights_are_found():
    translated, pairs = build(model())
    norm = translated.get_layer("bn")
    norm.set_weights([norm.get_weights()[place] for place in (0, 2, 1, 3)])
    with pytest.raises(ModelError, match="'bn'"):
        compare(pairs)


def test_the_difference_is_relative_to_the_largest_of_its_sample():
    ours = np.array([[1.0, -4.0], [1000.0, 0.0]])
    assert relative_difference(ours, ours) == 0
    assert relative_difference(ours, ours + np.array([[0.2, 0], [0, 0]])) == pytest.approx(0.05)
    assert relative_difference(ours, ours + np.array([[0, 0], [0, 1]])) == pytest.approx(0.001)
    assert relative_difference(np.zeros((1, 2)), np.full((1, 2), 1e-9)) == np.inf
    assert relative_difference(ours, ours[:1]) == np.inf
    assert relative_difference(np.array([[np.nan, np.inf]]), np.array([[np.nan, np.inf]])) == 0
    assert relative_difference(np.array([[np.nan, 1.0]]), np.array([[1.0, 1.0]])) == np.inf
    assert relative_difference(np.array([[np.inf, 1.0]]), np.array([[1.0, 1.0]])) == np.inf


def test_random_inputs_fit_what_the_model_takes():
    tokens, image = kd.keras_3.Input((8,), name="tokens"), kd.keras_3.Input((None, None, 3), name="image")
    table = layers.Embedding(7, 2)(layers.Reshape((2, 4))(tokens))
    graph = kd.keras_3.Model([tokens, image], [table, layers.GlobalAveragePooling2D()(image)])
    drawn, pixels = random_inputs(graph)
    assert drawn.shape == (2, 8)
    assert pixels.shape == (2, 96, 96, 3)
    assert set(np.unique(drawn)) <= set(range(7))
    assert not drawn[:, -2:].any()
    assert np.abs(pixels[0]).max() < 10 < 200 < pixels[1].max() <= 255
    np.testing.assert_array_equal(random_inputs(graph)[1], pixels)


def test_a_model_that_cannot_run_on_its_own_input_shape_is_refused():
    inputs = kd.keras_3.Input((None, 4))
    outputs = layers.Lambda(lambda x: kd.tf.reshape(x, (2, 7, 4)), output_shape=(7, 4))(inputs)
    _, pairs = build(randomised(kd.keras_3.Model(inputs, outputs)))
    with pytest.raises(ModelError, match=r"must run on random input.*\(2, 16, 4\)"):
        compare(pairs)
