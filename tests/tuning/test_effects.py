"""What a sensitivity analysis says about holes, against sums by hand."""

import pytest

from tfcompress.tuning.cells import Cell, Table
from tfcompress.tuning.effects import effects
from tfcompress.tuning.foresight import check_sensitivity
from tfcompress.tuning.measures import Goal
from tfcompress.tuning.proposer import Past, Proposer
from tfcompress.tuning.space import load_space

DROPS = {
    ("bits", "a"): {2: 10.0, 4: 1.0},
    ("bits", "b"): {2: 20.0, 4: 3.0},
    ("sparsity", "a"): {0.5: 2.0, 0.9: 10.0},
    ("sparsity", "b"): {0.5: 4.0, 0.9: 8.0},
}


def cell(axis, layer, value, drop):
    measured = {"drop_points": 0.5 + drop, "bytes": 1000.0 - drop}
    return Cell(axis=axis, layer=layer, value=value, measured=measured)


TABLE = Table(
    metric="accuracy",
    samples=10,
    standard_error=0.1,
    reference=cell("", "", 0, 0.0),
    cells=tuple(cell(*key, value, drop) for key, drops in DROPS.items() for value, drop in drops.items()),
)


def space_of(*steps):
    return load_space({"steps": list(steps)}, layers=lambda step: ("a", "b"))


def drops(space, name):
    found = effects(TABLE, space, lambda step: ("a", "b"))
    check_sensitivity(found, space.holes)
    return {value: effect["drop_points"] for value, effect in found[name].items()}


def test_a_hole_of_one_layer_has_the_cells_of_that_layer_against_its_default():
    space = space_of({"technique": "quantization", "per_layer": {"choice": [2, 3, 4, 8]}})
    default = next(hole.default for hole in space.holes if hole.name == "quantization.per_layer.a")
    alone = {2: 10.0, 3: 5.5, 4: 1.0, 8: 0.0}
    expected = {bits: drop - alone[default] for bits, drop in alone.items()}
    assert drops(space, "quantization.per_layer.a") == pytest.approx(expected)


def test_a_hole_of_all_layers_has_their_sum():
    space = space_of(
        {"technique": "pruning", "final_sparsity": {"float": [0.5, 0.95], "step": 0.45, "default": 0.5}},
        {"technique": "quantization"},
    )
    # 0.95 lies beyond what was analysed: on the line through 0.5 and 0.9.
    assert drops(space, "pruning.final_sparsity") == pytest.approx({0.5: 0.0, 0.95: 0.45 / 0.4 * (8.0 + 4.0)})


def test_an_optional_step_has_the_effect_of_its_defaults():
    space = space_of(
        {"maybe": {"technique": "pruning", "final_sparsity": {"choice": [0.5, 0.9], "default": 0.9}}},
        {"technique": "quantization"},
    )
    assert drops(space, "pruning?") == pytest.approx({False: -18.0, True: 0.0})
    assert drops(space, "pruning.final_sparsity") == pytest.approx({0.5: -12.0, 0.9: 0.0})


def test_a_range_without_steps_is_tried_from_end_to_end():
    space = space_of({"technique": "pruning", "final_sparsity": {"float": [0.5, 0.9]}}, {"technique": "post_training"})
    found = drops(space, "pruning.final_sparsity")
    assert (min(found), max(found)) == (0.5, 0.9)
    assert found[0.9] - found[0.5] == pytest.approx(12.0)
    assert found[0.7] == pytest.approx(0.0)


def test_holes_that_change_no_layer_are_left_out():
    space = space_of(
        {"technique": "pruning", "frequency": {"choice": [5, 10]}},
        {"technique": "quantization", "weight_bits": {"choice": [4, 8]}},
    )
    assert set(effects(TABLE, space, lambda step: ("a", "b"))) == {"quantization.weight_bits"}


def test_groups_of_zeros_count_as_their_share():
    groups = {"technique": "pruning", "name": "groups", "n_of_m": [2, 4]}
    space = space_of(
        {"one_of": [groups, {"technique": "pruning", "final_sparsity": 0.9}]}, {"technique": "quantization"}
    )
    (name,) = effects(TABLE, space, lambda step: ("a", "b"))
    found = drops(space, name)
    assert sorted(found.values()) == pytest.approx([0.0, 12.0])


def test_an_oracle_begins_where_least_is_foreseen_to_be_lost():
    space = space_of({"technique": "quantization", "per_layer": {"choice": [2, 8]}})
    proposer = Proposer(space, Goal(("drop_points",)), 0, effects(TABLE, space, lambda step: ("a", "b")))
    first = proposer.next([])
    second = proposer.next([Past(first)])
    best = {"quantization.per_layer.a": 8, "quantization.per_layer.b": 8}
    assert best in (first, second)
