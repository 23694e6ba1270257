import numpy as np
import pytest

from tfcompress import keras_door as kd
from tfcompress.models import fingerprint
from tfcompress.models.rewrites import CALIBRATING, CAPACITY, ENABLING, EXPORT, FASTER, OPENING, rewrite
from tfcompress.models.rewrites import normalizations_as_convolutions as under_test
from tfcompress.models.rewrites._proof import OPEN_SIZE, SAMPLES, random_inputs
from tfcompress.vocabulary.errors import ModelError


@pytest.fixture
def two_norms(layers, randomised):
    x = inputs = layers.Input((6, 6, 2))
    for name in "ab":
        x = layers.ReLU(name=f"relu_{name}")(layers.BatchNormalization(name=f"bn_{name}")(x))
    return randomised(kd.keras.Model(inputs, x, name="two_norms"))


def test_the_callers_model_is_not_touched(two_norms):
    before = fingerprint(two_norms)
    done = rewrite(two_norms, ENABLING)
    assert done.changes
    assert fingerprint(two_norms) == before
    assert not {id(layer) for layer in two_norms.layers} & {id(layer) for layer in done.model.layers}
    assert done.model.name == "two_norms"


def test_a_model_with_nothing_to_do_comes_back_as_a_copy(layers, randomised):
    model = randomised(kd.keras.Sequential([layers.Input((4,)), layers.Dense(2, name="fc")]))
    done = rewrite(model, ENABLING)
    assert done.model is not model
    assert fingerprint(done.model) == fingerprint(model)
    assert (done.changes, dict(done.lineage.places)) == ((), {})


def test_a_rewrite_that_changes_the_outputs_is_refused_with_its_name_and_the_layer(two_norms, monkeypatch):
    exact = under_test.factor_and_shift

    def broken(call):
        factor, shift = exact(call)
        return factor * (1.001 if call.layer.name == "bn_b" else 1.0), shift

    monkeypatch.setattr(under_test, "factor_and_shift", broken)
    with pytest.raises(ModelError, match=r"normalizations_as_convolutions changed them by 0\.000.* the layer 'bn_b'"):
        rewrite(two_norms, ENABLING)


def test_a_rewrite_that_changes_shapes_is_named(two_norms, monkeypatch):
    monkeypatch.setattr(under_test.Affine, "__call__", lambda self, x: kd.tf.concat([x, x], -1))
    with pytest.raises(ModelError, match=r"normalizations_as_convolutions .* the layer 'bn_a'"):
        rewrite(two_norms, ["normalizations_as_convolutions"])


def test_changes_are_told_in_the_callers_names(layers, randomised):
    inner = kd.keras.Sequential([layers.Input((4, 4, 2)), layers.BatchNormalization(name="bn")], name="inner")
    model = randomised(kd.keras.Sequential([layers.Input((4, 4, 2)), layers.ReLU(name="bn"), inner], name="outer"))
    changes = rewrite(model, ENABLING).changes
    assert [(change.layer, change.became) for change in changes] == [
        ("inner", ("inner_bn",)),
        ("inner/bn", ("inner_bn",)),
    ]
    assert [(change.kind, change.kinds) for change in changes] == [
        ("Sequential", ("BatchNormalization",)),
        ("BatchNormalization", ("DepthwiseConv2D",)),
    ]


def test_an_unknown_rewrite_is_refused(two_norms):
    with pytest.raises(ModelError, match=r"must be one of .*flatten_models.* Received: flaten_models\."):
        rewrite(two_norms, ["flaten_models"])


def test_every_pass_has_one_purpose_and_goes_after_those_it_builds_on():
    purposes = OPENING, ENABLING, CALIBRATING, FASTER, CAPACITY, EXPORT
    assert len({name for names in purposes for name in names}) == sum(map(len, purposes))
    assert ENABLING.index("flatten_models") < ENABLING.index("fold_normalizations")


def test_random_inputs_are_what_the_model_takes(layers):
    tokens, image, series = layers.Input((5,)), layers.Input((4, 4, 3)), layers.Input((None, 2))
    outputs = [layers.Embedding(7, 2)(tokens), layers.Rescaling(1 / 255)(image), layers.ReLU()(series)]
    fed = random_inputs(kd.keras.Model([tokens, image, series], outputs))
    assert set(np.unique(fed[0])) <= set(range(7))
    assert fed[1].max() > 200
    assert fed[2].shape == (SAMPLES, OPEN_SIZE, 2)
