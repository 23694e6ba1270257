"""Blocks removed by recipe: named, counted or for a target, by what they cost, and refused where that cannot be."""

import dataclasses

import numpy as np
import pytest
from fixtures import models
from pydantic import ValidationError

from tfcompress import keras_door as kd
from tfcompress.evaluate.latency import LatencyReport
from tfcompress.models.blocks import ResidualBlocks
from tfcompress.models.loading import fingerprint
from tfcompress.techniques import _timed
from tfcompress.techniques.blocks import Blocks
from tfcompress.techniques.channels import Channels
from tfcompress.vocabulary.errors import ModelError, RecipeError
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import Lineage, State

WIDTHS = (4, 8, 2)


@pytest.fixture(scope="module")
def model():
    """Three blocks, of different widths and of an influence that grows with them."""
    layers = kd.keras.layers
    x = inputs = layers.Input((6, 6, 4))
    for index, width in enumerate(WIDTHS):
        y = layers.Conv2D(width, 1, activation="relu", name=f"in{index}")(x)
        x = layers.Add(name=f"add{index}")([x, layers.Conv2D(4, 1, name=f"out{index}")(y)])
    return models._model(inputs, layers.Dense(3, name="head")(layers.Flatten(name="flat")(x)), 0)


def plan(model, **changes):
    inputs = models.inputs_for(model, 40)
    targets = np.random.default_rng(1).integers(0, 3, len(inputs))
    loss = kd.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return dataclasses.replace(models.plan_for(inputs), targets=targets, loss=loss, **changes)


def left(model, **values):
    """The names of the blocks in what the step prepares."""
    return list(ResidualBlocks(Blocks(**values).prepare(State(model), plan(model)).model).sums)


def alone(model, name):
    """Outputs of the model without one block, on the plan's samples."""
    return ResidualBlocks(model).without([name])(plan(model).calibration).numpy()


def test_named_blocks_go_as_foreseen_without_a_measurement(model):
    before = fingerprint(model)
    step = Blocks(remove=["add1"])
    assert fingerprint(step.prepare(State(model), plan(model, once=None)).model) == fingerprint(
        step.foreseen(State(model)).model
    )
    assert left(model, remove=["add1"]) == ["add0", "add2"]
    assert left(model, remove=["*[02]"]) == ["add1"]
    assert left(model, remove=0) == ["add0", "add1", "add2"]
    assert fingerprint(model) == before


def test_the_block_that_changes_the_outputs_least_goes_first(model):
    whole = model(plan(model).calibration).numpy()
    changes = {name: np.linalg.norm(alone(model, name) - whole) for name in ResidualBlocks(model).sums}
    assert left(model) == [name for name in changes if name != min(changes, key=changes.get)]


def test_the_block_whose_absence_costs_the_least_loss_goes_first(model):
    targets = plan(model).targets

    def loss(logits):
        shifted = logits - logits.max(axis=1, keepdims=True)
        return -(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))[np.arange(len(targets)), targets].mean()

    losses = {name: loss(alone(model, name)) for name in ResidualBlocks(model).sums}
    assert left(model, importance="loss") == [name for name in losses if name != min(losses, key=losses.get)]
    with pytest.raises(RecipeError, match=r"importance loss needs labelled data.*output_change"):
        Blocks(importance="loss").prepare(State(model), models.plan_for(models.inputs_for(model)))


def test_a_random_choice_follows_the_seed(model):
    step = Blocks(importance="random")
    chosen = [
        list(ResidualBlocks(step.prepare(State(model), plan(model, seed=seed)).model).sums) for seed in [*range(8), 0]
    ]
    assert chosen[0] == chosen[-1]
    assert len({tuple(names) for names in chosen}) > 1


@pytest.mark.parametrize("figure", ["macs", "parameters"])
def test_a_target_is_met_and_no_block_goes_in_vain(model, figure):
    count = getattr(ResidualBlocks(model), figure)
    bound = count(["add0"]) / count(())
    names = left(model, target={figure: bound})
    removed = [name for name in ResidualBlocks(model).sums if name not in names]
    assert count(removed) / count(()) <= bound
    assert all(count([o for o in removed if o != name]) / count(()) > bound for name in removed)
    with pytest.raises(RecipeError, match=rf"target\.{figure} .*Received: 0\.01; .*nearest [^\n]*\n  add0: 3") as e:
        Blocks(target={figure: 0.01}).check(State(model))
    nearest = float(str(e.value).split("met is ")[1].split(". ")[0])
    assert nearest == pytest.approx(count(["add0", "add1", "add2"]) / count(()), rel=1e-3)


def test_a_latency_is_met_and_what_was_chosen_is_taken_again(model, monkeypatch):
    asked = []

    def timed(files, **_):
        asked.append(len(files))
        return LatencyReport({name: (float(content),) for name, content in files.items()})

    monkeypatch.setattr(_timed, "quantized_tflite", lambda model, *_: model.count_params())
    monkeypatch.setattr(_timed, "measure_latency", timed)
    known = []

    def once(measure):
        known[:] = known or [measure()]
        return known[0]

    step, state = Blocks(target={"latency": 0.9}), State(model)
    step.check(state)
    assert not asked
    first = step.prepare(state, plan(model, once=once))
    assert known[0]
    assert len(ResidualBlocks(first.model).sums) == 3 - len(known[0])
    count = len(asked)
    assert fingerprint(step.prepare(state, plan(model, once=once)).model) == fingerprint(first.model)
    assert len(asked) == count
    with pytest.raises(RecipeError, match=r"target\.latency must be within reach"):
        Blocks(target={"latency": 0.01}).prepare(state, plan(model))


def test_promises_about_weights_that_are_gone_are_moot(model):
    promises = tuple(Promise(f"{name}/kernel", "channels", 8, made_by="channels") for name in ("in0", "renamed", "in1"))
    state = State(model, promises, Lineage().moved({"renamed/kernel": "in2/kernel"}))
    step = Blocks(remove=["add0", "add2"])
    assert step.prepare(state, plan(model)).promises == promises[2:]
    assert step.foreseen(state).promises == promises[2:]


def test_blocks_go_and_come_after_channels(model):
    samples = models.inputs_for(model)
    state = models.run(Channels(remove=0.5, multiple_of=1), State(model), samples)
    done = models.run(Blocks(remove=["add1"]), state, samples)
    assert not done.model.optimizer
    assert {p.weight for p in state.promises} - {p.weight for p in done.promises} == {"in1/kernel"}
    again = models.run(Channels(name="again", remove=0.5, multiple_of=1), done, samples)
    assert again.model.get_layer("in0").filters == 1


def test_a_prepared_model_goes_on_from_the_variables_of_another(model):
    step, state = Blocks(remove=["add0"]), State(model)
    trained = models.train(step.prepare(state, plan(model)).model, models.inputs_for(model))
    again = step.prepare(state, plan(model)).model
    assert [w.name for w in again.weights] == [w.name for w in trained.weights]
    again.set_weights(trained.get_weights())
    x = models.inputs_for(model)
    np.testing.assert_array_equal(again(x), trained(x))


def test_what_cannot_be_removed_is_refused(model):
    with pytest.raises(RecipeError, match=r"blocks\.remove: .*No block is called nope, in0\. The blocks:\n  add0: 3"):
        Blocks(remove=["nope", "add0", "in0"]).check(State(model))
    with pytest.raises(RecipeError, match=r"Received: 4\. The blocks:\n  add0"):
        Blocks(remove=4).check(State(model))
    with pytest.raises(RecipeError, match="no residual block"):
        Blocks().check(State(models.conv_bn()))
    inside = kd.keras.Sequential([kd.keras.layers.Dense(4, input_shape=(4,))], name="nested")
    with pytest.raises(ModelError, match="nested"):
        Blocks().check(State(kd.keras.Sequential([inside, kd.keras.layers.Dense(2)])))
    layers = kd.keras.layers
    inputs = layers.Input((4,))
    only = kd.keras.Model(inputs, layers.Add(name="add")([inputs, layers.Dense(4)(inputs)]))
    with pytest.raises(ModelError, match="must keep a layer with weights"):
        Blocks().check(State(only))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"remove": 1, "target": {"macs": 0.5}}, "exclude one another"),
        ({"remove": -1}, "greater than or equal to 0"),
        ({"remove": []}, "at least 1 item"),
        ({"target": {}}, "one of macs, parameters"),
    ],
)
def test_values_that_make_no_sense_are_refused(values, said):
    with pytest.raises(ValidationError, match=said):
        Blocks(**values)


def test_every_layer_has_a_verdict(model):
    outcomes = {verdict.layer: verdict.outcome for verdict in Blocks().verdicts(model)}
    assert {name for name, outcome in outcomes.items() if outcome == "yes"} == {
        f"{part}{index}" for part in ("in", "out", "add") for index in range(3)
    }
    assert outcomes["head"] == "-"
    layers = kd.keras.layers
    inputs = layers.Input((4,))
    twins = layers.Add(name="twins")([layers.Dense(4)(inputs), layers.Dense(4)(inputs)])
    nested = kd.keras.Sequential([layers.Dense(4, input_shape=(4,))], name="nested")
    verdicts = {v.layer: v for v in Blocks().verdicts(kd.keras.Model(inputs, nested(twins)))}
    assert verdicts["twins"].outcome == verdicts["nested"].outcome == "no"
    assert "no term of it is a shortcut" in verdicts["twins"].reason
