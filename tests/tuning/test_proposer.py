"""The search's own choice of recipes: better than chance, never twice, and helped by what is foreseen."""

import itertools

import numpy as np
import pytest
from fixtures.spaces import measured, optional_space, range_space, steps_space
from threadpoolctl import threadpool_limits

from tfcompress.tuning.foresight import foreseen
from tfcompress.tuning.measures import Goal
from tfcompress.tuning.pareto import hypervolume
from tfcompress.tuning.proposer import Past, Proposer
from tfcompress.tuning.space import load_space
from tfcompress.vocabulary.errors import SearchError

GOAL = Goal(("deflated_bytes", "drop_points"))


@pytest.fixture(autouse=True)
def _one_thread():
    """As the oracle does: on such small matrices threads only wait for one another."""
    with threadpool_limits(limits=1, user_api="blas"):
        yield


LAYERS = ("a", "b", "c", "d")


def bits_space():
    per_layer = {layer: {"choice": [2, 3, 4, 8], "default": 8} for layer in LAYERS}
    return load_space({"steps": [{"technique": "quantization", "per_layer": per_layer}]})


def effect(values):
    """Like trained networks: bytes a sum, the drop a saturating sum with interactions."""
    sizes, cares = (900, 300, 1400, 2500), (1.5, 0.3, 1.0, 0.2)
    bits = [values[f"quantization.per_layer.{layer}"] for layer in LAYERS]
    harm = {2: 3.0, 3: 0.6, 4: 0.15, 8: 0.0}
    total = sum(care * harm[b] for care, b in zip(cares, bits, strict=True))
    drop = 80 * (1 - np.exp(-(total + 0.1 * total**2) / 30))
    size = sum(size * b / 8 for size, b in zip(sizes, bits, strict=True))
    return {"deflated_bytes": float(size), "drop_points": float(drop)}


def search(space, goal, trials, seed=0, measure=effect, sensitivity=None):
    proposer, past = Proposer(space, goal, seed, sensitivity), []
    for _ in range(trials):
        values = proposer.next(past)
        past.append(Past(values, measure(values)))
    return past


def volume(trials, reference=(5500.0, 10.0)):
    return hypervolume([GOAL.vector(each) for each in trials], reference)


def test_at_a_tenth_of_the_trials_nearly_the_whole_front_is_found():
    space = bits_space()
    everything = [effect(values) for values in space.grid()]
    best = volume(everything)
    goal = Goal(GOAL.objectives, {"deflated_bytes": 5500, "drop_points": 10})
    ours = 1 - volume([trial.measured for trial in search(space, goal, 25)]) / best
    chance = np.random.default_rng(0)
    by_chance = np.median([1 - volume(chance.choice(everything, 25, replace=False)) / best for _ in range(50)])
    assert ours < 0.2 * by_chance


def test_one_objective_within_a_bound_is_found():
    space = bits_space()
    goal = Goal(("deflated_bytes",), {"drop_points": 1.0})
    best = min(m["deflated_bytes"] for m in map(effect, space.grid()) if m["drop_points"] <= 1.0)
    found = [trial.measured for trial in search(space, goal, 25)]
    assert found[goal.best(found)]["deflated_bytes"] <= 1.05 * best


def test_the_nearest_is_found_where_nothing_is_within_the_bounds():
    space = bits_space()
    goal = Goal(("deflated_bytes",), {"drop_points": 0.5, "deflated_bytes": 800})
    least = min(map(goal.violation, map(effect, space.grid())))
    found = [goal.violation(trial.measured) for trial in search(space, goal, 20)]
    assert least > 0
    assert min(found) <= 1.1 * least


def test_measures_of_which_more_is_better_are_sought():
    space = steps_space()
    goal = Goal(("accuracy", "deflated_bytes"))

    def accurate(values):
        return {"accuracy": 1 - measured(values)["drop_points"] / 100, **measured(values)}

    reference = (-0.9, 9000.0)
    best = hypervolume([goal.vector(accurate(values)) for values in space.grid()], reference)
    found = hypervolume([goal.vector(t.measured) for t in search(space, goal, 12, measure=accurate)], reference)
    assert found > 0.97 * best


def test_three_objectives_and_an_unbounded_space_work():
    goal = Goal(("deflated_bytes", "drop_points", "macs"))

    def three(values):
        return {**measured(values), "macs": 1e6 * (1 - values["pruning.final_sparsity"])}

    found = search(range_space(), goal, 9, measure=three)
    assert len({tuple(trial.values.items()) for trial in found}) == 9


def test_large_spaces_are_searched_near_the_front_too():
    per_layer = {f"layer{index}": {"choice": [2, 3, 4, 8], "default": 8} for index in range(12)}
    space = load_space({"steps": [{"technique": "quantization", "per_layer": per_layer}]})
    goal = Goal(("bytes",), {"drop_points": 2.0})

    def many(values):
        bits = np.array(list(values.values()))
        return {"bytes": float(bits.sum()), "drop_points": float((np.arange(1, 13) / 12 * (8 / bits - 1)).sum())}

    random = np.random.default_rng(0)
    drawn = [many(space.sample(random)) for _ in range(200)]
    found = search(space, goal, 16, measure=many)
    assert [set(trial.values.values()) for trial in found[:3]] == [{8}, {2}, {3, 4, 8} & set(found[2].values.values())]
    ours = [trial.measured for trial in found]
    by_chance = min((m["bytes"] for m in drawn if m["drop_points"] <= 2.0), default=96.0)
    assert ours[goal.best(ours)]["drop_points"] <= 2.0
    assert ours[goal.best(ours)]["bytes"] < by_chance


def test_running_trials_are_not_proposed_again_and_draw_the_next_ones_elsewhere():
    space = bits_space()
    past = search(space, GOAL, 12)
    proposer = Proposer(space, GOAL, 0)
    running = []
    for _ in range(5):
        running.append(Past(proposer.next([*past, *running])))
    assert len({space.canonical(trial.values) for trial in [*past, *running]}) == 17


def test_failures_keep_the_search_away():
    """Recipes with 2 bits in one layer always fail, and would else be the smallest."""
    space, past = bits_space(), []
    proposer = Proposer(space, GOAL, 0)
    for _ in range(24):
        values = proposer.next(past)
        fails = values["quantization.per_layer.d"] == 2
        past.append(Past(values, None if fails else effect(values), failed=fails))
    late = [trial.failed for trial in past[10:]]
    assert sum(late) <= 4 < len([v for v in space.grid() if v["quantization.per_layer.d"] == 2])


def alone(space, measure):
    """The sensitivity analysis of a measured space: each hole alone, against the defaults."""
    base = space.default()
    return {
        hole.name: {
            value: {name: measure({**base, hole.name: value})[name] - found for name, found in measure(base).items()}
            for value in hole.grid()
        }
        for hole in space.holes
    }


def test_a_sensitivity_analysis_puts_the_first_trials_on_the_front():
    space = bits_space()
    sensitivity = alone(space, effect)
    informed = volume([trial.measured for trial in search(space, GOAL, 6, sensitivity=sensitivity)])
    blind = volume([trial.measured for trial in search(space, GOAL, 6)])
    assert informed > 1.2 * blind


def test_what_is_foreseen_is_the_sum_of_the_effects_of_active_holes():
    space = optional_space()
    sensitivity = {
        "pruning.final_sparsity": {0.3: {"bytes": -10.0}, 0.9: {"bytes": -40.0}},
        "quantization.weight_bits": {2: {"bytes": -100.0, "accuracy": -0.2}, 8: {"bytes": 5.0}},
    }
    pruned = {"pruning?": True, "pruning.final_sparsity": 0.5, "quantization.weight_bits": 2}
    plain = {"pruning?": False, "quantization.weight_bits": 8}
    assert foreseen(sensitivity, space.holes, [pruned, plain], "bytes").tolist() == pytest.approx([-120.0, 5.0])
    assert foreseen(sensitivity, space.holes, [pruned, plain], "accuracy").tolist() == pytest.approx([0.2, 0.2])
    assert foreseen(sensitivity, space.holes, [pruned], "macs").tolist() == [0.0]


def test_a_sensitivity_analysis_of_something_else_is_refused():
    sensitivity = {"quantisation.per_layer.a": {}, "quantization.per_layer.a": {5: {"bytes": 1}, 4: {"size": 1}}}
    with pytest.raises(SearchError) as caught:
        Proposer(bits_space(), GOAL, 0, sensitivity)
    for part in ("Did you mean quantization.per_layer.a?", "one of 2, 3, 4, 8. Received: 5", "no measure size"):
        assert part in str(caught.value)


def test_the_first_trials_are_the_defaults_and_the_corners():
    space = bits_space()
    first = [trial.values for trial in search(space, GOAL, 3)]
    assert [set(values.values()) for values in first] == [{8}, {2}, {3, 4, 8} & set(first[2].values())]
    assert all(a != b for a, b in itertools.combinations(first, 2))
