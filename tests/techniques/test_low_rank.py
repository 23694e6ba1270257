"""Layers of low rank by recipe: the same function at full rank, fewer numbers, promised, and refused where not."""

import numpy as np
import pytest
from fixtures import models
from pydantic import ValidationError

from tfcompress import keras_door as kd
from tfcompress.models.channels import macs, parameters
from tfcompress.models.loading import fingerprint
from tfcompress.techniques._factorable import factorables
from tfcompress.techniques._factored_layers import factored
from tfcompress.techniques._responses import responses
from tfcompress.techniques.channels import Channels
from tfcompress.techniques.low_rank import LowRank
from tfcompress.vocabulary.errors import ModelError, PromiseError, RecipeError
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import Lineage, State


def network(**options):
    """A stem, a wide convolution behind it and a Dense, with weights of falling singular values."""
    layers = kd.keras.layers
    inputs = layers.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, padding="same", name="stem")(inputs)
    x = layers.Conv2D(24, 3, use_bias=False, name="wide", **options)(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.Conv2D(20, 1, activation="relu", name="point")(x)
    x = layers.Flatten(name="flatten")(x)
    return models._model(inputs, layers.Dense(10, activation="softmax", name="out")(x), 0)


def prepared(model, samples=None, **values):
    """The state that the step prepares."""
    samples = models.inputs_for(model) if samples is None else samples
    return LowRank(**{"multiple_of": 1, **values}).prepare(State(model), models.plan_for(samples))


def names(model):
    return [layer.name for layer in model.layers]


def variants():
    """Convolutions of every stride, padding, dilation and parity, side by side, and Dense layers."""
    layers = kd.keras.layers
    inputs = layers.Input((9, 10, 6))
    made = [
        layers.Conv2D(8, 3, name="plain", activation="relu"),
        layers.Conv2D(8, 3, strides=2, padding="same", name="strided"),
        layers.Conv2D(8, (3, 5), strides=(2, 1), padding="same", use_bias=False, name="odd"),
        layers.Conv2D(8, (4, 2), strides=(1, 2), padding="same", name="even"),
        layers.Conv2D(8, 2, strides=3, name="skipping"),
        layers.Conv2D(8, 3, dilation_rate=(2, 3), padding="same", name="dilated"),
        layers.Conv2D(8, (1, 3), padding="same", name="row"),
        layers.Conv2D(8, 1, strides=2, name="point"),
        layers.Dense(5, activation="tanh", name="dense"),
    ]
    model = kd.keras.Model(inputs, [layer(inputs) for layer in made])
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    return model, [layer.name for layer in made]


@pytest.mark.parametrize("method", ["svd", "spatial_svd", "tucker2"])
def test_at_full_rank_nothing_changes(method):
    model, layers = variants()
    state = State(model)
    chains = {}
    for layer in factorables(model, layers, method):
        (way,) = layer.ways.values()
        # A Tucker rank short of the number itself, so that its kernel is there.
        chains[layer.name] = way.factors(*way.full_ranks)
    chains = {name: factors for name, factors in chains.items() if len(factors.kernels) > 1}
    assert len(chains) == {"svd": 9, "spatial_svd": 9, "tucker2": 2}[method]
    smaller = factored(state, chains, made_by="low_rank").model
    x = np.random.default_rng(1).normal(size=(2, 9, 10, 6)).astype(np.float32)
    for before, after in zip(model(x), smaller(x), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())


def test_tucker_at_the_rank_of_a_kernel_changes_nothing():
    """Kernels of rank 4 in their inputs and outputs, factored at 4."""
    model, layers = variants()
    rng = np.random.default_rng(2)
    for name in layers[:-2]:
        kernel = model.get_layer(name).kernel
        spaces = (rng.normal(size=(size, 4)) @ rng.normal(size=(4, size)) for size in kernel.shape[2:])
        kernel.assign(np.einsum("hwio,ia,ob->hwab", kernel.numpy(), *spaces))
    found = factorables(model, layers[:-2], "tucker2")
    chains = {layer.name: layer.ways["tucker2"].factors(4, 4) for layer in found}
    assert all(len(factors.kernels) == 3 for factors in chains.values())
    smaller = factored(State(model), chains, made_by="low_rank").model
    x = np.random.default_rng(1).normal(size=(2, 9, 10, 6)).astype(np.float32)
    for before, after in zip(model(x), smaller(x), strict=True):
        np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())


@pytest.mark.parametrize("method", ["svd", "spatial_svd", "tucker2"])
def test_what_a_choice_costs_is_what_the_new_layers_have(method):
    model = network(strides=2, padding="same")
    for layer in factorables(model, ["wide", "out"], method):
        for name, way in layer.ways.items():
            ranks = tuple(max(1, full // 3) for full in way.full_ranks)
            smaller = factored(State(model), {layer.name: way.factors(*ranks)}, made_by="low_rank").model
            for count, counted in (("macs", macs), ("parameters", parameters)):
                gained = layer.whole(count) - layer.cost(count, name, ranks)
                assert counted(model, {}) - counted(smaller, {}) == gained
            limit = layer.pays_below(name)
            at = [layer.pays(name, tuple(min(rank, full) for full in way.full_ranks)) for rank in (limit - 1, limit)]
            assert at == [True, False]


def test_the_last_layer_keeps_the_name_and_what_it_was():
    model = network()
    before = fingerprint(model)
    smaller = prepared(model, rank=4, method="spatial_svd", exclude=["stem"]).model
    assert fingerprint(model) == before
    assert [name for name in names(smaller) if name not in names(model)] == ["wide_rank", "point_rank", "out_rank"]
    wide, inner = smaller.get_layer("wide"), smaller.get_layer("wide_rank")
    assert (inner.kernel_size, inner.filters, inner.use_bias) == ((3, 1), 4, False)
    assert (wide.kernel_size, wide.filters, wide.use_bias) == ((1, 3), 24, False)
    point = smaller.get_layer("point")
    assert point.activation is kd.keras.activations.relu
    np.testing.assert_array_equal(point.bias, model.get_layer("point").bias)
    assert smaller.get_layer("point_rank").activation is kd.keras.activations.linear
    np.testing.assert_array_equal(smaller.get_layer("stem").kernel, model.get_layer("stem").kernel)


def test_a_tucker_chain_has_three_layers():
    smaller = prepared(network(), rank=5, method="tucker2", layers=["wide"]).model
    kernels = [smaller.get_layer(name).kernel.shape for name in ("wide_rank_in", "wide_rank", "wide")]
    assert kernels == [(1, 1, 16, 5), (3, 3, 5, 5), (1, 1, 5, 24)]


def test_ranks_follow_the_energy_and_are_rounded_up():
    model = network()
    values = np.linalg.svd(models.kernel_of(model, "out"), compute_uv=False) ** 2
    needed = int(np.argmax(np.cumsum(values) / values.sum() >= 0.5)) + 1
    for multiple, rank in ((1, needed), (3, -(-needed // 3) * 3)):
        smaller = prepared(model, energy=0.5, layers=["out"], multiple_of=multiple).model
        assert smaller.get_layer("out_rank").units == rank
    assert prepared(model, rank_share=0.42, layers=["out"], multiple_of=4).model.get_layer("out_rank").units == 8
    by_layer = prepared(model, energy=0.5, per_layer={"out": 3}, layers=["out", "point"]).model
    assert by_layer.get_layer("out_rank").units == 3


@pytest.mark.parametrize(("figure", "count"), [("macs", macs), ("parameters", parameters)])
@pytest.mark.parametrize("method", ["auto", "tucker2"])
def test_a_target_is_met_at_one_energy_as_high_as_can_be(figure, count, method):
    model = network()
    smaller = prepared(model, target={figure: 0.6}, method=method).model
    assert 0.55 < count(smaller, {}) / count(model, {}) <= 0.6


def test_auto_takes_what_has_fewer_macs_at_the_same_energy():
    model = network()
    (wide,) = factorables(model, ["wide"], "auto")
    choices = {method: factorables(model, ["wide"], method)[0].at_energy(0.6, 1, "macs") for method in wide.ways}
    costs = {method: wide.cost("macs", *choice) for method, choice in choices.items()}
    assert wide.at_energy(0.6, 1, "macs") == choices[min(costs, key=costs.get)]
    # A kernel of one input direction and one output direction, but of full spatial rank.
    kernel = np.random.default_rng(0).normal(size=(3, 3, 1, 1)) * np.ones((1, 1, 16, 24))
    model.get_layer("wide").kernel.assign(kernel)
    (wide,) = factorables(model, ["wide"], "auto")
    assert wide.at_energy(0.999, 1, "macs") == ("tucker2", (1, 1))
    assert wide.at_ranks(lambda way: tuple(min(2, full) for full in way.full_ranks), 1).method == "tucker2"


def test_layers_that_would_grow_stay_whole():
    smaller = prepared(network(), rank=8, method="spatial_svd").model
    # 8 (3 * 3 + 3 * 16) > 3 * 3 * 3 * 16 of the stem.
    assert "stem_rank" not in names(smaller)
    assert "wide_rank" in names(smaller)


def test_what_would_make_no_layer_smaller_is_refused():
    model = network()
    step = LowRank(rank=200, layers=["wide", "out"])
    with pytest.raises(
        RecipeError, match=r"low_rank: .*Ranks must be below: wide \d+ \(spatial_svd\) or \d+ \(tucker"
    ) as e:
        step.check(State(model))
    bounds = dict(part.rsplit(" (", 1)[0].rsplit(" ", 2)[-2:] for part in str(e.value).split("below: ")[1].split("; "))
    rank = int(bounds["out"])
    with pytest.raises(RecipeError, match="Ranks must be below"):
        LowRank(rank=rank, layers=["out"]).check(State(model))
    LowRank(rank=rank - 1, layers=["out"]).check(State(model))
    with pytest.raises(RecipeError, match=r"low_rank\.per_layer: .*below: out"):
        LowRank(per_layer={"out": rank}).check(State(model))
    # How much eight directions keep is not known before the step begins.
    all_of_it = LowRank(energy=1.0, layers=["out"])
    all_of_it.check(State(model))
    with pytest.raises(RecipeError, match="Ranks must be below: out"):
        all_of_it.prepare(State(model), models.plan_for(models.inputs_for(model)))


def test_a_target_out_of_reach_is_refused_with_the_nearest():
    model = network()
    with pytest.raises(RecipeError, match=r"target\.macs .*Received: 0\.01; the nearest that can be met is 0\.") as e:
        LowRank(target={"macs": 0.01}).check(State(model))
    nearest = float(str(e.value).split("met is ")[1].split(",")[0])
    smaller = prepared(model, target={"macs": nearest + 1e-4}, multiple_of=8).model
    assert macs(smaller, {}) / macs(model, {}) == pytest.approx(nearest, rel=1e-3)


def test_all_patterns_that_match_nothing_are_told_at_once():
    with pytest.raises(RecipeError) as e:
        LowRank(exclude=["absent"], per_layer={"missing": 4}).check(State(network()))
    assert "low_rank: every layer pattern" in str(e.value)
    assert "No match for: absent" in str(e.value)
    assert "low_rank.per_layer" in str(e.value)
    assert "No match for: missing" in str(e.value)


def test_models_without_such_layers_are_refused():
    layers = kd.keras.layers
    with pytest.raises(RecipeError, match="no Dense or Conv2D of this model can be factored"):
        LowRank().check(State(kd.keras.Sequential([layers.DepthwiseConv2D(3, input_shape=(5, 5, 2))])))
    inside = kd.keras.Sequential([layers.Dense(4, input_shape=(4,))], name="nested")
    with pytest.raises(ModelError, match="nested"):
        LowRank().check(State(kd.keras.Sequential([inside, layers.Dense(2)])))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"rank": 8, "energy": 0.5}, "energy and rank exclude one another"),
        ({"target": {}}, "one of macs, parameters"),
        ({"target": {"macs": 0.5, "parameters": 0.5}}, "one of macs, parameters"),
        ({"energy": 0.0}, "greater than 0"),
        ({"rank": 0}, "greater than or equal to 1"),
        ({"rank_share": 1.5}, "less than or equal to 1"),
        ({"data_aware": True, "method": "tucker2"}, "data_aware .*tucker2 .*method: svd"),
    ],
)
def test_values_that_make_no_sense_are_refused(values, said):
    with pytest.raises(ValidationError, match=said):
        LowRank(**values)


def test_ranks_are_promised_and_foreseen_and_earlier_channels_stay_promised():
    model = network()
    earlier = Promise("wide/kernel", "channels", 24, made_by="channels")
    state = State(model, (earlier,))
    step = LowRank(rank=4, method="tucker2", layers=["wide", "out"])
    promises = tuple(
        Promise(f"{name}/kernel", "channels", 4, made_by="low_rank")
        for name in ("wide_rank_in", "wide_rank", "out_rank")
    )
    assert step.promised(state) == promises
    foreseen = step.foreseen(state)
    assert foreseen.promises == (earlier, *promises)
    assert step.layers_with_values(model) == ("wide", "out")
    done = models.run(step, state, models.inputs_for(model), epochs=0)
    assert done.promises == foreseen.promises
    assert names(done.model) == names(foreseen.model)
    for promise in done.promises:
        assert done.model.get_layer(promise.weight.partition("/")[0]).kernel.shape[-1] == promise.bound


def test_promises_of_values_forbid_factoring_and_lineage_goes_on():
    model = network()
    zeros = Promise("first/kernel", "zeros", 0.5, made_by="pruning")
    lineage = Lineage().moved({"first/kernel": "wide/kernel"})
    with pytest.raises(PromiseError, match=r"wide/kernel \(zeros, promised by pruning\): .*product of smaller ones"):
        LowRank(rank=4, layers=["wide"]).foreseen(State(model, (zeros,), lineage))
    LowRank(rank=4, layers=["out"]).foreseen(State(model, (zeros,), lineage))
    kept = Promise("first/kernel", "channels", 24)
    state = LowRank(rank=4, layers=["wide"]).foreseen(State(model, (kept,), lineage))
    assert state.promises[0] == kept
    assert state.lineage.place("first/kernel") == "wide/kernel"


def test_answers_to_data_are_kept_better_than_kernels():
    """Inputs of few directions, far from zero: with as many ranks, the outputs are nearly the same."""
    model = network()
    rng = np.random.default_rng(5)
    samples = (rng.normal(size=(64, 3)) @ rng.normal(size=(3, 192)) + 1).reshape(64, 8, 8, 3).astype(np.float32)
    values = {"rank": 6, "method": "svd", "layers": ["wide", "point"], "samples": samples}
    probe = kd.keras.Model(model.input, model.get_layer("point").output)

    def error(**more):
        smaller = prepared(model, **values, **more).model
        found = kd.keras.Model(smaller.input, smaller.get_layer("point").output)(samples)
        return float(np.square(found - probe(samples)).mean())

    assert 2 * error(data_aware=True) < error()
    aware = prepared(model, **values, data_aware=True).model
    assert aware.get_layer("wide").use_bias
    # At full rank nothing is lost, whatever the data.
    layers = ("wide", "point")

    answers = responses(model, layers, samples)
    chains = {
        f.name: f.ways["svd"].factors(*f.ways["svd"].full_ranks) for f in factorables(model, layers, "svd", answers)
    }
    full = factored(State(model), chains, made_by="low_rank").model
    other = models.inputs_for(model, 4)
    np.testing.assert_allclose(full(other), model(other), atol=1e-5)


def test_a_prepared_model_goes_on_from_the_variables_of_another():
    model = network()
    inputs = models.inputs_for(model)
    values = {"energy": 0.5, "data_aware": True}
    trained, again = (prepared(model, **values).model for _ in range(2))
    rng = np.random.default_rng(0)
    trained.set_weights([rng.uniform(0.5, 1, weight.shape) for weight in trained.get_weights()])
    assert [w.name for w in again.weights] == [w.name for w in trained.weights]
    again.set_weights(trained.get_weights())
    np.testing.assert_array_equal(again(inputs), trained(inputs))


def test_graph_steps_follow_one_another():
    """Ranks are channels that can be cut, and what is left after a cut or a factoring can be factored."""
    model = network()
    inputs = models.inputs_for(model)
    steps = (
        Channels(remove=0.25, multiple_of=4, fit={"epochs": 0}),
        LowRank(rank=8, method="spatial_svd", layers=["wide"], fit={"epochs": 0}),
        Channels(name="ranks", remove=0, per_layer={"wide_rank": 0.5}, multiple_of=4, fit={"epochs": 0}),
        LowRank(name="again", rank=2, layers=["wide_rank"], fit={"epochs": 0}),
    )
    state = State(model)
    for step in steps:
        step.check(state)
        state = models.run(step, state, inputs, epochs=0)
    found = {name: state.model.get_layer(name).filters for name in ("wide_rank_rank", "wide_rank", "wide")}
    assert found == {"wide_rank_rank": 2, "wide_rank": 4, "wide": 20}
    for promise in state.promises:
        layer = state.model.get_layer(state.lineage.place(promise.weight).partition("/")[0])
        assert layer.kernel.shape[-1] <= promise.bound
    assert {p.weight for p in state.promises if p.made_by in ("low_rank", "again")} == {
        "wide_rank/kernel",
        "wide_rank_rank/kernel",
    }


def test_a_shared_layer_is_factored_once_and_not_promised():
    layers = kd.keras.layers
    inputs = layers.Input((6, 6, 8))
    shared = layers.Conv2D(8, 3, padding="same", name="shared")
    model = kd.keras.Model(inputs, layers.Dense(3, name="out")(layers.Flatten()(shared(shared(inputs)))))
    state = prepared(model, rank=3, method="svd", layers=["shared"])
    assert state.promises == ()
    assert [name for name in names(state.model) if "rank" in name] == ["shared_rank"]
    assert macs(state.model, {}) - macs(model, {}) == 2 * 36 * (3 * (9 * 8 + 8) - 9 * 8 * 8)


def test_every_layer_has_a_verdict():
    layers = kd.keras.layers
    inputs = layers.Input((6, 6, 4), name="in")
    x = layers.Conv2D(4, 3, name="conv")(inputs)
    x = layers.Conv2D(4, 3, groups=2, name="grouped")(x)
    x = layers.DepthwiseConv2D(2, name="depthwise")(x)
    x = layers.Flatten(name="flat")(layers.BatchNormalization(name="bn")(x))
    x = layers.Dense(8, kernel_constraint="max_norm", name="bound")(x)
    x = layers.Dense(6, name="large")(x)
    model = kd.keras.Model(inputs, layers.Dense(1, name="out")(x))
    verdicts = {verdict.layer: verdict for verdict in LowRank().verdicts(model)}
    assert {name: verdict.outcome for name, verdict in verdicts.items()} == {
        "in": "-",
        "conv": "yes",
        "grouped": "no",
        "depthwise": "no",
        "flat": "-",
        "bn": "-",
        "bound": "no",
        "large": "yes",
        "out": "no",
    }
    assert all(bool(v.reason) == bool(v.remedy) == (v.outcome == "no") for v in verdicts.values())
