"""Exact rewrites as a step of a recipe."""

import numpy as np
import pytest
from fixtures import models

from tfcompress import keras_door as kd
from tfcompress.pipeline import compress
from tfcompress.recipe import load_recipe
from tfcompress.techniques.channels import Channels
from tfcompress.techniques.rewriting import Rewriting
from tfcompress.vocabulary.errors import ModelError, RecipeError
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import State

STEP = Rewriting(rewrites=["space_to_depth"])


@pytest.fixture
def network():
    layers = kd.keras.layers
    kd.keras.utils.set_random_seed(0)
    inputs = layers.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(inputs)
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="down")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return kd.keras.Model(inputs, layers.Dense(3, activation="softmax", name="out")(x))


def prepared(model, promises=()):
    samples = models.inputs_for(model, 8)
    state = State(model, promises)
    STEP.check(state)
    return STEP.finish(STEP.prepare(state, models.plan_for(samples))), samples


def test_the_model_is_the_same_function_in_other_layers(network):
    state, samples = prepared(network)
    np.testing.assert_allclose(state.model(samples), network(samples), rtol=1e-4, atol=1e-6)
    assert state.model.get_layer("stem").kernel.shape == (4, 4, 3, 32)
    assert state.model.get_layer("down").kernel.shape == (2, 2, 32, 8)
    assert network.get_layer("stem").kernel.shape == (3, 3, 3, 8)


def test_later_steps_are_checked_on_the_rewritten_model_and_work_on_it(network, tmp_path):
    assert STEP.foreseen(State(network)).model.get_layer("stem").filters == 32
    rng = np.random.default_rng(0)
    data = rng.normal(size=(64, 8, 8, 3)).astype(np.float32), np.arange(64) % 3
    recipe = {
        "steps": [
            STEP,
            Channels(remove=0, per_layer={"stem": 0.75}, multiple_of=4, fit={"epochs": 1}),
            {"technique": "post_training"},
        ],
        "evaluation": {"latency_seconds": 0.01, "threads": 1},
    }
    made = compress(network, data, recipe, out=tmp_path, overrides=["data.preprocessing=raw"])
    assert made.evidence.artifact.full_integer
    assert made.model.get_layer("stem").kernel.shape == (4, 4, 3, 8)
    assert all(promise.kept for promise in made.evidence.promises)


def test_channels_promised_before_become_four_times_as_many_within_the_stage(network):
    before = Promise("stem/kernel", "channels", 8), Promise("down/kernel", "channels", 8)
    state, _ = prepared(network, before)
    assert [promise.bound for promise in state.promises] == [32, 8]
    kernels = (state.model.get_layer(name).kernel for name in ("stem", "down"))
    assert [p.found_in(kernel.numpy()) for p, kernel in zip(before, kernels, strict=True)] == [32, 8]


def test_without_names_those_are_made_that_the_model_has_a_place_for(network):
    state = Rewriting().foreseen(State(network))
    assert state.model.get_layer("stem").filters == 32


def test_a_rewrite_without_work_is_refused(network):
    with pytest.raises(RecipeError, match=r"rewriting\.rewrites: .* Nothing for: space_to_depth\. Remedy"):
        STEP.check(State(models.dense()))
    with pytest.raises(RecipeError, match=r"Nothing for: mean_pooling, space_to_depth\. Remedy"):
        Rewriting().check(State(models.dense()))
    with pytest.raises(RecipeError, match=r"Nothing for: mean_pooling\. Remedy"):
        Rewriting(rewrites=["space_to_depth", "mean_pooling"]).check(State(network))


def test_nested_models_are_refused(network):
    inputs = kd.keras.Input((8, 8, 3))
    with pytest.raises(ModelError, match="rewriting: layers inside a nested model"):
        STEP.check(State(kd.keras.Model(inputs, network(inputs))))


def test_promises_that_it_would_break_are_refused(network):
    groups = Promise("down/kernel", "group_zeros", bound=2, group=4)
    with pytest.raises(RecipeError, match=r"(?s)rewriting: .*space to depth gives the kernel other input channels"):
        STEP.check(State(network, (groups,)))


def test_other_names_are_refused():
    with pytest.raises(
        RecipeError, match=r"must be of mean_pooling, space_to_depth, dense_over_pixels\. Received: swift"
    ):
        load_recipe({"steps": [{"technique": "rewriting", "rewrites": ["swift"]}, {"technique": "post_training"}]})
