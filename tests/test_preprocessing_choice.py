"""What a model expects to be fed: right for models trained under each preprocessing, refused in doubt."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tfcompress import keras_door as kd
from tfcompress.data import Split, load_data
from tfcompress.preprocessing_choice import choose_preprocessing
from tfcompress.recipe import load_recipe
from tfcompress.vocabulary.errors import DataError, RecipeError
from tfcompress.vocabulary.preprocessing import NAMED

SHARED = Path(__file__).parents[2] / "shared"
DIGITS = load_digits()
IMAGES = (DIGITS.images[..., None] * 15.9375).round().astype(np.uint8)
BITS = ((DIGITS.target[:, None] >> np.arange(4)) & 1).astype(np.float32)


def recipe(**task):
    return load_recipe({"steps": [{"technique": "post_training"}], "task": task}, [])


def choose(model, data, seed=0, **task):
    return choose_preprocessing(recipe(**task), data, model, from_zoo=False, seed=seed)


def perceptron(columns=10, activation="softmax", use_bias=True, between=()):
    layers = kd.keras.layers
    kd.keras.utils.set_random_seed(1)
    return kd.keras.Sequential(
        [
            layers.Flatten(input_shape=(8, 8, 1)),
            layers.Dense(48, use_bias=use_bias),
            *between,
            layers.ReLU(),
            layers.Dense(columns, activation, use_bias=use_bias),
        ]
    )


def convolution(momentum=0.9):
    layers = kd.keras.layers
    kd.keras.utils.set_random_seed(1)
    return kd.keras.Sequential(
        [
            layers.Conv2D(8, 3, use_bias=False, input_shape=(8, 8, 1)),
            layers.BatchNormalization(momentum=momentum, name="bn"),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )


def trained(model, data, way, epochs=30, loss="sparse_categorical_crossentropy"):
    inputs = way(data.train.inputs)
    model.compile(kd.keras.optimizers.Adam(3e-3), loss)
    model.fit(inputs, data.train.targets, batch_size=64, epochs=epochs, verbose=0)
    return model


def logits_loss():
    return kd.keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@pytest.fixture(scope="module")
def digits():
    return load_data((IMAGES, DIGITS.target))


@pytest.mark.parametrize("name", NAMED)
def test_a_network_with_biases_and_probabilities(digits, name):
    found, by = choose(trained(perceptron(), digits, NAMED[name].apply), digits)
    assert found == NAMED[name]
    assert by.startswith("accuracy and confidence on 512 training samples: raw ")


@pytest.mark.parametrize("name", NAMED)
def test_a_network_whose_answers_do_not_depend_on_the_scale_and_that_gives_logits(digits, name):
    model = trained(perceptron(activation=None, use_bias=False), digits, NAMED[name].apply, loss=logits_loss())
    raw, unit = (model.predict(NAMED[way].apply(IMAGES), verbose=0).argmax(1) for way in ("raw", "unit"))
    assert np.array_equal(raw, unit), "the metric is a tie"
    assert choose(model, digits)[0] == NAMED[name]


@pytest.mark.parametrize("name", NAMED)
def test_batch_normalization_tells_it_by_its_statistics(digits, name):
    model = trained(convolution(), digits, NAMED[name].apply, epochs=8)
    found, by = choose(model, digits)
    assert found == NAMED[name]
    assert by.startswith("the distance from the statistics of bn on 512 training samples: raw ")
    # They need no accuracy: random labels change nothing.
    shuffled = replace(
        digits, train=Split(digits.train.inputs, np.random.default_rng(0).permutation(digits.train.targets))
    )
    assert choose(model, shuffled) == (found, by)


def test_batch_normalization_needs_no_labels(digits):
    model = trained(convolution(), digits, NAMED["signed"].apply, epochs=8)
    unlabelled = load_data(IMAGES)
    found, by = choose(model, unlabelled)
    assert found == NAMED["signed"]
    assert by.startswith("the distance from the statistics of bn")


def test_batch_normalization_in_a_nested_model_counts(digits):
    layers = kd.keras.layers
    flat = trained(convolution(), digits, NAMED["unit"].apply, epochs=8)
    backbone = kd.keras.Sequential(flat.layers[:3], name="backbone")
    inputs = kd.keras.Input((8, 8, 1))
    inner = kd.keras.Model(inputs, backbone(layers.Rescaling(1.0)(inputs)))
    nested = kd.keras.Sequential([layers.Reshape((8, 8, 1), input_shape=(8, 8, 1)), inner, *flat.layers[3:]])
    assert choose(nested, digits) == choose(flat, digits)
    assert choose(nested, digits)[1].startswith("the distance from the statistics of bn")


def test_no_mistakes_are_not_mistaken_for_the_larger_scale(digits):
    model = trained(perceptron(use_bias=False), digits, NAMED["unit"].apply, epochs=120)
    inputs, targets = digits.train.inputs, digits.train.targets
    losses = {
        name: float(
            kd.tf.reduce_mean(kd.keras.losses.sparse_categorical_crossentropy(targets, model(way.apply(inputs))))
        )
        for name, way in NAMED.items()
    }
    assert losses["raw"] < losses["unit"], "the loss prefers the wrong one"
    assert choose(model, digits)[0] == NAMED["unit"]


def test_sorted_classes_and_the_other_splits_do_not_matter(digits):
    model = trained(perceptron(), digits, NAMED["unit"].apply)
    order = np.argsort(digits.train.targets, kind="stable")
    nothing = Split(IMAGES[:0], DIGITS.target[:0])
    sorted_alone = replace(digits, train=digits.train.at(order), validation=nothing, test=nothing)
    assert choose(model, sorted_alone)[0] == NAMED["unit"]
    assert choose(model, digits, seed=1) == choose(model, digits, seed=1)
    assert choose(model, digits, seed=1)[1] != choose(model, digits, seed=2)[1], "the samples are drawn by the seed"


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize(("columns", "loss"), [(1, "binary_crossentropy"), (4, "object")])
def test_yes_and_no_answers(name, columns, loss):
    data = load_data((IMAGES, BITS if columns == 4 else (DIGITS.target > 4).astype(int)))
    loss = kd.keras.losses.BinaryCrossentropy() if loss == "object" else loss
    model = trained(perceptron(columns, "sigmoid"), data, NAMED[name].apply, epochs=40, loss=loss)
    assert choose(model, data, loss=loss)[0] == NAMED[name]


@pytest.mark.parametrize("name", ["unit", "signed"])
def test_regression_by_its_loss(name):
    data = load_data((IMAGES, DIGITS.target.astype(np.float32)))
    model = trained(perceptron(1, None), data, NAMED[name].apply, loss="mse")
    found, by = choose(model, data, loss="mse", metric="mae")
    assert found == NAMED[name]
    inputs, targets = found.apply(data.train.inputs), data.train.targets
    error = np.mean((model.predict(inputs, verbose=0)[:, 0] - targets) ** 2)
    shown = float(by.split(f"{name} ")[1].split(",")[0])
    assert shown == pytest.approx(error, rel=0.3), "512 of the samples"


def test_regression_worse_than_a_constant_is_refused():
    data = load_data((IMAGES, (IMAGES.mean((1, 2, 3)) / 255).astype(np.float32)))
    model = trained(perceptron(1, None), data, NAMED["raw"].apply, epochs=2, loss="mse")
    with pytest.raises(RecipeError, match="mean target as the answer"):
        choose(model, data, loss="mse", metric="mae")


def test_a_loss_that_does_not_take_the_outputs_is_named():
    data = load_data((IMAGES, BITS))
    with pytest.raises(RecipeError, match=r"task.loss must take targets of shape \(512, 4\) and .* \(512, 3\)"):
        choose(perceptron(3, None), data, loss="mse", metric="mae")


def level():
    """A layer that takes the scale of its inputs away, and their mean."""
    return kd.keras.layers.LayerNormalization(center=False, scale=False)


@pytest.mark.parametrize(
    ("build", "way", "epochs"),
    [
        pytest.param(perceptron, NAMED["unit"].apply, 0, id="not trained"),
        pytest.param(perceptron, NAMED["raw"].apply, 1, id="hardly trained"),
        pytest.param(lambda: perceptron(between=[level()]), NAMED["unit"].apply, 30, id="the same under two"),
        pytest.param(lambda: convolution(momentum=0.999), NAMED["unit"].apply, 3, id="unsettled statistics"),
        pytest.param(convolution, lambda x: (x - np.float32(77)) / np.float32(48), 8, id="another preprocessing"),
    ],
)
def test_doubt_is_refused_with_figures_and_the_remedy(digits, build, way, epochs):
    model = trained(build(), digits, way, epochs) if epochs else build()
    remedy = re.escape("--set data.preprocessing=raw | unit | signed")
    with pytest.raises(RecipeError, match=rf"raw \d.*unit \d.*signed \d.*{remedy}"):
        choose(model, digits)


def test_what_needs_no_measurement(digits):
    said = load_recipe({"steps": [{"technique": "post_training"}], "data": {"preprocessing": "signed"}}, [])
    assert choose_preprocessing(said, digits, None, from_zoo=True, seed=0) == (NAMED["signed"], "the recipe")
    assert choose_preprocessing(recipe(), digits, None, from_zoo=True, seed=0) == (NAMED["unit"], "the zoo")
    floats = load_data((IMAGES / np.float32(3), DIGITS.target))
    found, by = choose_preprocessing(recipe(), floats, None, from_zoo=True, seed=0)
    assert found == NAMED["raw"]
    assert by.startswith("the data")


def test_labels_are_needed():
    with pytest.raises(DataError, match=re.escape("--set data.preprocessing=raw")):
        choose(perceptron(), load_data(IMAGES))


@pytest.mark.skipif(
    not (SHARED / "models" / "mlperf_tiny_ic").exists(), reason="needs the model and a prepared cifar10"
)
def test_the_mlperf_tiny_image_classifier_takes_bytes():
    model = kd.keras.models.load_model(SHARED / "models" / "mlperf_tiny_ic" / "pretrainedResnet.h5", compile=False)
    data = load_data("cifar10", data_dir=SHARED / "tfds", input_shape=(32, 32, 3))
    assert choose(model, data)[0] == NAMED["raw"]
