"""Channels cut by recipe: how many, which, promised, and refused where that cannot be."""

import dataclasses

import numpy as np
import pytest
from fixtures import models
from pydantic import ValidationError

from tfcompress import keras_door as kd
from tfcompress.evaluate.latency import LatencyReport
from tfcompress.models.channels import channel_groups, macs, narrowed, parameters
from tfcompress.models.loading import fingerprint
from tfcompress.techniques import _timed
from tfcompress.techniques.channels import Channels
from tfcompress.vocabulary.errors import ModelError, RecipeError
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import State


def sizes(model):
    return {group.name: group.size for group in channel_groups(model) if not group.frozen}


def cut(model, **values):
    """The model that the step prepares."""
    step = Channels(**{"multiple_of": 1, **values})
    return step.prepare(State(model), models.plan_for(models.inputs_for(model))).model


def test_a_share_of_every_group_goes_and_the_callers_model_stays():
    model = models.conv_bn()
    before = fingerprint(model)
    smaller = cut(model, remove=0.5, per_layer={"c1_*": 0.25})
    assert sizes(smaller) == {"c1": 4, "c1_1": 6}
    assert fingerprint(model) == before
    assert sizes(cut(model)) == {"c1": 6, "c1_1": 6}
    assert isinstance(smaller, kd.keras.Model)
    assert fingerprint(cut(model)) == fingerprint(cut(model))


def test_the_channels_of_smallest_norm_go():
    model = models.residual()
    stem, branch = (models.kernel_of(model, name).reshape(-1, 8) for name in ("stem", "branch"))
    norms = [np.abs(kernel).sum(0) for kernel in (stem, branch)]
    score = sum(norm / norm.mean() for norm in norms)
    kept = np.sort(np.argsort(-score)[:5])
    smaller = cut(model, remove=3 / 8, importance="l1")
    np.testing.assert_array_equal(models.kernel_of(smaller, "stem"), models.kernel_of(model, "stem")[..., kept])
    np.testing.assert_array_equal(
        models.kernel_of(smaller, "branch"), models.kernel_of(model, "branch")[:, :, kept][..., kept]
    )


def test_over_all_groups_the_weaker_one_loses_more():
    model = models.conv_bn()
    kernel = model.get_layer("c1_1").kernel
    values = kernel.numpy()
    values[..., 2:] *= 0.01
    kernel.assign(values)
    whole = sizes(cut(model, remove=0.25, scope="global"))
    assert whole == {"c1": 8, "c1_1": 4}
    assert sizes(cut(model, remove=0.25, scope="global", per_layer={"c1_1": 0})) == {"c1": 6, "c1_1": 8}


@pytest.mark.parametrize("scope", ["uniform", "global"])
@pytest.mark.parametrize(("figure", "count"), [("macs", macs), ("parameters", parameters)])
def test_a_target_is_met_with_as_few_as_possible(figure, count, scope):
    model = models.conv_bn()
    smaller = cut(model, target={figure: 0.6}, scope=scope, importance="l1")
    left = count(smaller, {}) / count(model, {})
    assert left <= 0.6
    # One channel more of either group would be too many, or nearly so: shares are tried to a thousandth.
    groups = channel_groups(model)
    more = {name: range(size + (size < 8)) for name, size in sizes(smaller).items()}
    assert count(narrowed(model, groups, more), {}) / count(model, {}) > 0.6


def test_a_target_out_of_reach_is_refused_with_the_nearest():
    model = models.conv_bn()
    step = Channels(target={"macs": 0.1}, multiple_of=4)
    with pytest.raises(
        RecipeError, match=r"channels: target\.macs .*Received: 0\.1; the nearest that can be met is 0\."
    ) as e:
        step.check(State(model))
    nearest = float(str(e.value).split("met is ")[1].split(",")[0])
    assert nearest == pytest.approx(macs(cut(model, remove=0.5, multiple_of=4), {}) / macs(model, {}), rel=1e-3)
    Channels(target={"macs": nearest + 1e-3}, multiple_of=4).check(State(model))


@pytest.mark.parametrize(("costs", "fixed"), [((1, 3), {}), ((3, 1), {}), ((0, 1), {}), ((1, 1), {"c1": 0.5})])
def test_what_is_least_important_for_its_time_goes_first(costs, fixed, monkeypatch):
    """Against the same choice made channel by channel, with files whose time is so much for each channel."""
    cost = dict(zip(("c1", "c1_1"), costs, strict=True))
    asked, kept_back = [], []

    def once(find):
        kept_back[:] = kept_back or [find()]
        return kept_back[0]

    def timed(files, **_):
        asked.append(files)
        return LatencyReport({name: (float(time),) for name, time in files.items()})

    def time(sizes):
        return 1 + sum(cost[name] * size for name, size in sizes.items())

    monkeypatch.setattr(_timed, "quantized_tflite", lambda model, *_: time(sizes(model)))
    monkeypatch.setattr(_timed, "measure_latency", timed)
    model = models.conv_bn()
    step = Channels(target={"latency": 0.6}, scope="timed", multiple_of=1, per_layer=fixed)
    plan = dataclasses.replace(models.plan_for(models.inputs_for(model)), once=once)
    smaller = step.prepare(State(model), plan).model

    left = {name: 8 - round(8 * fixed.get(name, 0)) for name in cost}
    scores = {name: np.linalg.norm(models.kernel_of(model, name).reshape(-1, 8), axis=0) for name in cost}
    order = sorted(
        (score / cost[name] / scores[name].mean() if cost[name] else np.inf, name)
        for name in cost
        if name not in fixed
        for score in scores[name]
    )
    for _, name in order:
        if time(left) <= 0.6 * time({"c1": 8, "c1_1": 8}):
            break
        left[name] -= 1
    assert sizes(smaller) == left
    count = len(asked)
    assert fingerprint(step.prepare(State(model), plan).model) == fingerprint(smaller)
    assert len(asked) == count


def test_what_would_cut_nothing_is_refused():
    model = models.conv_bn()
    with pytest.raises(RecipeError, match=r"multiples of 8, nothing would be cut.*c1 8, c1_1 8.*smaller multiple_of"):
        Channels().check(State(model))
    Channels(remove=0).check(State(model))
    Channels(remove=0, per_layer={"c1": 0.5}, multiple_of=4).check(State(model))
    with pytest.raises(RecipeError, match=r"channels\.per_layer.*No match for: out.*c1, c1_1"):
        Channels(per_layer={"out": 0.5}).check(State(model))
    with pytest.raises(RecipeError, match="no layer of this model makes channels that can be cut"):
        Channels().check(State(kd.keras.Sequential([kd.keras.layers.Dense(2, input_shape=(3,))])))
    inside = kd.keras.Sequential([kd.keras.layers.Dense(4, input_shape=(4,))], name="nested")
    with pytest.raises(ModelError, match="nested"):
        Channels().check(State(kd.keras.Sequential([inside, kd.keras.layers.Dense(2)])))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"remove": 0.5, "target": {"macs": 0.5}}, "exclude one another"),
        ({"target": {}}, "one of macs, parameters"),
        ({"target": {"macs": 0.5, "parameters": 0.5}}, "one of macs, parameters"),
        ({"target": {"macs": 0}}, "greater than 0"),
        ({"remove": 1.0}, "less than 1"),
        ({"multiple_of": 0}, "greater than or equal to 1"),
        ({"scope": "timed"}, "timed needs a target of latency"),
        ({"scope": "timed", "target": {"macs": 0.5}}, "timed needs a target of latency"),
    ],
)
def test_values_that_make_no_sense_are_refused(values, said):
    with pytest.raises(ValidationError, match=said):
        Channels(**values)


def test_the_numbers_of_channels_are_promised_and_foreseen():
    model = models.residual()
    step = Channels(remove=0.5, multiple_of=4, importance="random")
    state = State(model)
    promises = tuple(Promise(f"{name}/kernel", "channels", 4, made_by="channels") for name in ("stem", "branch"))
    assert set(step.promised(state)) == set(promises)
    foreseen = step.foreseen(state)
    assert foreseen.promises == step.promised(state)
    assert sizes(foreseen.model) == {"stem": 4}
    done = models.run(step, state, models.inputs_for(model))
    assert done.promises == step.promised(state)
    assert sizes(done.model) == {"stem": 4}
    assert not done.model.optimizer


def test_two_steps_cut_one_after_the_other():
    model = models.conv_bn()
    inputs = models.inputs_for(model)
    state = State(model)
    for name, left in (("first", 6), ("second", 3)):
        state = models.run(Channels(name=name, remove=[0.25, 0.5][left == 3], multiple_of=1), state, inputs)
        assert sizes(state.model) == {"c1": left, "c1_1": left}
    assert [(p.weight, p.bound, p.made_by) for p in state.promises] == [
        ("c1/kernel", 6, "first"),
        ("c1_1/kernel", 6, "first"),
        ("c1/kernel", 3, "second"),
        ("c1_1/kernel", 3, "second"),
    ]


def test_a_prepared_model_goes_on_from_the_variables_of_another():
    model = models.conv_bn()
    trained = models.train(cut(model, remove=0.5), models.inputs_for(model))
    again = cut(model, remove=0.5)
    assert [w.name for w in again.weights] == [w.name for w in trained.weights]
    again.set_weights(trained.get_weights())
    x = models.inputs_for(model)
    np.testing.assert_array_equal(again(x), trained(x))


def test_a_shared_layer_is_cut_and_not_promised():
    layers = kd.keras.layers
    inputs = layers.Input((6, 6, 4))
    shared = layers.Conv2D(8, 1, name="shared")
    x = layers.Add()([shared(layers.Conv2D(4, 1, name=name)(inputs)) for name in ("one", "two")])
    model = kd.keras.Model(inputs, layers.Dense(3, name="out")(layers.Flatten()(x)))
    step = Channels(remove=0.5, multiple_of=1)
    assert sorted(p.weight for p in step.promised(State(model))) == ["one/kernel", "two/kernel"]
    assert cut(model, remove=0.5).get_layer("shared").kernel.shape == (1, 1, 2, 4)


def test_every_layer_has_a_verdict():
    layers = kd.keras.layers
    inputs = layers.Input((6, 6, 3), name="in")
    x = layers.DepthwiseConv2D(3, name="first")(inputs)
    x = layers.Conv2D(4, 1, name="conv")(x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(layers.BatchNormalization(name="norm")(x))
    x = layers.Conv2D(4, 1, name="tied")(x)
    x = layers.LSTM(4, name="lstm")(layers.Reshape((4, 4), name="rows")(x))
    model = kd.keras.Model(inputs, layers.Dense(6, name="out")(x))
    verdicts = {verdict.layer: verdict for verdict in Channels().verdicts(model)}
    outcomes = {name: verdict.outcome for name, verdict in verdicts.items()}
    assert outcomes == {
        "in": "-",
        "first": "no",
        "conv": "yes",
        "norm": "-",
        "depthwise": "yes",
        "tied": "no",
        "rows": "-",
        "lstm": "no",
        "out": "-",
    }
    assert "lstm (LSTM): what it does with channels is not known" in verdicts["tied"].reason
    assert all(bool(v.reason) == bool(v.remedy) == (v.outcome == "no") for v in verdicts.values())
    assert Channels().layers_with_values(model) == ("conv",)
