"""What each technique says of every layer of one model, held against what it then does."""

import pytest
from fixtures.models import inputs_for, plan_for

from tfcompress import keras_door as kd
from tfcompress.techniques.base import techniques
from tfcompress.techniques.clustering import Clustering
from tfcompress.techniques.pruning import Pruning
from tfcompress.techniques.quantization import Quantization
from tfcompress.vocabulary.errors import ModelError, RecipeError
from tfcompress.vocabulary.state import State


def mixed():
    layers = kd.keras.layers
    x = inputs = layers.Input((6, 6, 3), name="in")
    x = layers.Conv2D(8, 3, name="conv")(x)
    x = layers.BatchNormalization(name="norm")(x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Reshape((4, 8), name="rows")(x)
    x = layers.Conv1D(8, 3, name="conv1d")(x)
    x = layers.LSTM(4, name="lstm")(x)
    return kd.keras.Model(inputs, layers.Dense(6, name="out")(x))


def outcomes(step, model):
    verdicts = step.verdicts(model)
    assert [verdict.layer for verdict in verdicts] == [layer.name for layer in model.layers]
    assert all(bool(v.reason) == bool(v.remedy) == (v.outcome not in ("yes", "-")) for v in verdicts)
    return {verdict.layer: verdict.outcome for verdict in verdicts}


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (Pruning(), {"conv": "yes", "depthwise": "no", "conv1d": "yes", "lstm": "no", "out": "yes"}),
        (Pruning(depthwise=True), {"conv": "yes", "depthwise": "yes", "conv1d": "yes", "lstm": "no", "out": "yes"}),
        (Pruning(n_of_m=(2, 4)), {"conv": "no", "depthwise": "no", "conv1d": "yes", "lstm": "no", "out": "yes"}),
        (
            Pruning(block_size=(2, 2), layers=["out"]),
            {"conv": "no", "depthwise": "no", "conv1d": "no", "lstm": "no", "out": "yes"},
        ),
        (Clustering(), {"conv": "yes", "depthwise": "no", "conv1d": "yes", "lstm": "no", "out": "yes"}),
        (
            Clustering(layers=["depthwise"]),
            {"conv": "yes", "depthwise": "yes", "conv1d": "yes", "lstm": "no", "out": "yes"},
        ),
        (
            Quantization(),
            {
                "conv": "yes",
                "norm": "yes",
                "depthwise": "yes",
                "rows": "yes",
                "conv1d": "by calibration",
                "lstm": "by calibration",
                "out": "yes",
            },
        ),
    ],
)
def test_every_layer_has_a_verdict(step, expected):
    assert outcomes(step, mixed()) == {"in": "-", "norm": "-", "rows": "-", **expected}


@pytest.mark.parametrize("technique", [Pruning, Clustering, Quantization])
def test_what_is_prepared_is_what_was_said(technique):
    model = mixed()
    said = outcomes(technique(), model)
    prepared = technique().prepare(State(model), plan_for(inputs_for(model, 32))).model
    wrapped = {layer.layer.name for layer in prepared.layers if hasattr(layer, "layer")}
    assert wrapped == {name for name, outcome in said.items() if outcome == "yes"}


def test_a_nested_model_is_out_of_reach_and_a_technique_without_layers_says_nothing():
    inside = kd.keras.Sequential([kd.keras.layers.Dense(4, input_shape=(4,))], name="nested")
    model = kd.keras.Sequential([inside, kd.keras.layers.Dense(2, name="out")])
    for step in (Pruning(), Clustering()):
        assert outcomes(step, model) == {"nested": "no", "out": "yes"}
        with pytest.raises(ModelError, match="nested"):
            step.check(State(model))
    assert outcomes(Quantization(), model) == {"nested": "by calibration", "out": "yes"}
    assert techniques()["post_training"]().verdicts(model) == ()


@pytest.mark.parametrize(
    ("technique", "value"),
    [("pruning", 0.3), ("clustering", 4), ("quantization", 3), ("post_training", 3)],
)
def test_every_layer_with_values_takes_one_of_its_own_and_no_other_does(technique, value):
    model = mixed()
    step = techniques()[technique]()
    names = step.layers_with_values(model)
    assert set(names) >= {"conv", "out"}
    assert not set(names) & {"in", "norm", "rows", "lstm"}
    assert list(names) == [layer.name for layer in model.layers if layer.name in names]
    step.model_copy(update={"per_layer": dict.fromkeys(names, value)}).check(State(model))
    for other in {layer.name for layer in model.layers if layer.weights} - {*names}:
        with pytest.raises(RecipeError, match=other):
            step.model_copy(update={"per_layer": {other: value}}).check(State(model))


def test_only_the_chosen_layers_have_values():
    assert Pruning(exclude=["conv*"]).layers_with_values(mixed()) == ("out",)
    assert Clustering(layers=["depthwise"]).layers_with_values(mixed()) == ("depthwise",)
    assert techniques()["post_training"]().layers_with_values(mixed()) == ("conv", "depthwise", "out")
