"""Features against NumPy, found through wrappers, and refused where no projection brings them together."""

import numpy as np
import pytest
from fixtures import models

from tfcompress import keras_door as kd
from tfcompress.distillation.features import (
    attention_loss,
    hint_loss,
    layer_named,
    problems_with,
    projections,
    tapped,
)
from tfcompress.techniques.clustering import Clustering
from tfcompress.techniques.pruning import Pruning
from tfcompress.techniques.quantization import Quantization
from tfcompress.vocabulary.distillation import Distillation, FeaturePair
from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.state import State

HINT, ATTENTION = Distillation(), Distillation(feature_loss="attention")


def features(channels, seed):
    return np.random.default_rng(seed).normal(size=(3, 4, 5, channels)).astype(np.float32)


def test_hints_are_compared_by_element():
    student, teacher = features(2, 0), features(2, 1)
    assert float(hint_loss(student, teacher)) == pytest.approx(np.mean((student - teacher) ** 2), rel=1e-5)


def test_attention_maps_are_compared_whatever_the_channels():
    student, teacher = features(2, 0), features(7, 1)
    maps = []
    for values in (student, teacher):
        energy = np.sum(np.float64(values) ** 2, axis=-1).reshape(3, -1)
        maps.append(energy / np.sqrt(np.sum(energy**2, axis=-1, keepdims=True)))
    expected = np.mean(np.sum((maps[0] - maps[1]) ** 2, axis=-1))
    assert float(attention_loss(student, teacher)) == pytest.approx(expected, rel=1e-5)
    assert float(attention_loss(student, 3 * student)) == pytest.approx(0, abs=1e-6)


def test_equal_attention_has_a_gradient_of_zero():
    values = kd.tf.constant(features(2, 0))
    with kd.tf.GradientTape() as tape:
        tape.watch(values)
        loss = attention_loss(values, values)
    assert np.isfinite(tape.gradient(loss, values).numpy()).all()


def test_projections_stand_where_widths_differ_and_depend_on_the_seed():
    mine = [np.zeros((1, 4, 4, 2)), np.zeros((1, 8))]
    theirs = [np.zeros((1, 4, 4, 6)), np.zeros((1, 8))]
    first, none = projections(mine, theirs, HINT, seed=5)
    assert none is None
    assert tuple(first.kernel.shape) == (2, 6)
    assert np.array_equal(first.kernel, projections(mine, theirs, HINT, seed=5)[0].kernel)
    assert not np.array_equal(first.kernel, projections(mine, theirs, HINT, seed=6)[0].kernel)
    assert projections(mine, theirs, ATTENTION, seed=5) == [None, None]


@pytest.mark.parametrize("technique", [Pruning(), Clustering(), Quantization()])
def test_layers_are_found_through_the_wrappers_of_techniques(technique):
    net = models.conv_bn()
    inputs = models.inputs_for(net)
    wrapped = technique.prepare(State(net), models.plan_for(inputs)).model
    assert layer_named(wrapped, "c1_1") is not None
    outputs, relu = tapped(wrapped, ["relu_c1"])(inputs[:2])
    assert outputs.shape == (2, models.CLASSES)
    assert relu.shape == (2, *net.get_layer("relu_c1").output.shape[1:])
    assert layer_named(net, "c1") is net.get_layer("c1")


def test_a_layer_that_is_gone_is_named():
    with pytest.raises(RecipeError, match="Not there: gone"):
        tapped(models.dense(), ["hidden", "gone"])


@pytest.mark.parametrize(
    ("pair", "settings", "expected"),
    [
        (("relu_c2", "relu_c1"), HINT, "relu_c2 must be a layer of the student. Did you mean relu_c1"),
        (("relu_c1", "zzz"), HINT, "zzz must be a layer of the teacher. It has: "),
        (("relu_c1", "relu_c1_1"), HINT, "relu_c1 gives (4, 4, 8), relu_c1_1 of the teacher (2, 2, 8)"),
        (("relu_c1", "out"), HINT, "must have the same positions"),
        (("out", "out"), ATTENTION, "attention needs features with positions"),
    ],
)
def test_pairs_that_cannot_be_matched_are_refused(pair, settings, expected):
    net = models.conv_bn()
    found = list(problems_with(FeaturePair(student=pair[0], teacher=pair[1]), net, net, settings))
    assert len(found) == 1
    assert expected in found[0]


def test_pairs_that_a_projection_brings_together_are_taken():
    small, large = models.residual(), models.residual("concatenate")
    assert not list(problems_with(FeaturePair(student="join", teacher="join"), small, large, HINT))


def test_a_shared_layer_is_refused():
    layers = kd.keras.layers
    inputs = layers.Input((4,))
    shared = layers.Dense(4, name="shared")
    net = kd.keras.Model(inputs, shared(shared(inputs)))
    found = list(problems_with(FeaturePair(student="shared", teacher="shared"), net, net, HINT))
    assert "shared of the student must be called once" in found[0]
