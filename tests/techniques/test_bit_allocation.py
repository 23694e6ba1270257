"""Bits by sensitivity: the programme against all choices there are, the measurement against one by hand."""

from itertools import product

import numpy as np
import pytest
from fixtures.models import CLASSES, dense, inputs_for, plan_for
from pydantic import ValidationError

from tfcompress import keras_door as kd
from tfcompress.models.loading import fingerprint
from tfcompress.techniques._bit_allocation import (
    Budget,
    Option,
    allocated,
    loss_increases,
    options,
    require_within_reach,
)
from tfcompress.techniques.base import StepPlan
from tfcompress.techniques.quantization import Quantization
from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import State


def drawn(seed, layers=5):
    """Choices of random layers, and what they lose: less with more bits."""
    rng = np.random.default_rng(seed)
    parts = rng.dirichlet(np.ones(layers))
    choices = {f"l{i}": [Option(bits, part * bits / 8) for bits in (2, 4, 8)] for i, part in enumerate(parts)}
    increases = {name: sorted(rng.exponential(size=3), reverse=True) for name in choices}
    return choices, increases


def every_choice(choices, increases):
    """Size, loss and bits of each way to choose."""
    for picked in product(range(3), repeat=len(choices)):
        size = sum(widths[place].size for widths, place in zip(choices.values(), picked, strict=True))
        loss = sum(increases[name][place] for name, place in zip(choices, picked, strict=True))
        yield size, loss, {name: choices[name][place].bits for name, place in zip(choices, picked, strict=True)}


@pytest.mark.parametrize("seed", range(4))
def test_the_programme_finds_the_best_of_all_choices(seed):
    choices, increases = drawn(seed)
    known = list(every_choice(choices, increases))
    _, _, best = min((loss, size, bits) for size, loss, bits in known if size <= 0.5 + 1e-9)
    assert allocated(Budget(bits_share=0.5), choices, increases, "q") == best
    bound = 1.5 * sum(losses[-1] for losses in increases.values())
    smallest = min(size for size, loss, _ in known if loss <= bound)
    found = allocated(Budget(loss_increase=bound), choices, increases, "q")
    assert next(size for size, _, bits in known if bits == found) == pytest.approx(smallest)


def test_equally_good_choices_go_by_the_other_respect():
    choices = {name: [Option(bits, bits / 16) for bits in (2, 4, 8)] for name in ("a", "b")}
    increases = {"a": [0.0, 0.0, 0.0], "b": [0.4, 0.4, 0.0]}
    assert allocated(Budget(bits_share=0.9), choices, increases, "q") == {"a": 2, "b": 8}
    assert allocated(Budget(loss_increase=0.5), choices, increases, "q") == {"a": 2, "b": 2}


def test_noise_does_not_say_that_fewer_bits_are_better():
    choices = {name: [Option(bits, bits / 16) for bits in (2, 4, 8)] for name in ("a", "b")}
    # What 4 bits seem to lose of b, 2 bits lose at least; a gain is none.
    increases = {"a": [-0.3, 0.0, 0.0], "b": [0.1, 0.2, 0.0]}
    assert allocated(Budget(bits_share=0.625), choices, increases, "q") == {"a": 2, "b": 8}
    with pytest.raises(RecipeError, match=r"nearest that can be met is 0\.1,"):
        allocated(Budget(loss_increase=0.05), choices, {"a": [9, 9, -5], "b": [9, 9, 0.1]}, "q")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "one of bytes_share, bits_share, loss_increase must be given. Received: none"),
        ({"bits_share": 0.5, "loss_increase": 1.0}, "Received: bits_share, loss_increase"),
        ({"bits_share": 0.0}, "greater than 0"),
        ({"bits_share": 0.5, "choices": [4]}, "at least 2 items"),
        ({"bits_share": 0.5, "choices": [4, 9]}, "less than or equal to 8"),
    ],
)
def test_budgets_that_say_nothing_clear_are_refused(wrong, message):
    with pytest.raises(ValidationError, match=message):
        Budget(**wrong)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"budget": {"bits_share": 0.5}, "weight_bits": 4}, "weight_bits and budget exclude one another"),
        ({"budget": {"bits_share": 0.5, "choices": [5, 8]}, "levels": "power_of_two"}, "Received: .* only 5, 8"),
        ({"weight_bits": 1}, "1 bit is for levels=binary"),
        ({"levels": "ternary"}, "Remedy: weight_bits=2"),
    ],
)
def test_widths_that_contradict_one_another_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        Quantization(**values)


def labelled(inputs, **kwargs):
    targets = np.random.default_rng(1).integers(0, CLASSES, len(inputs))
    loss = kd.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return StepPlan(4, 1, inputs, 0, targets=targets, loss=loss, **kwargs)


def grids_of(step, model, widths):
    state = State(model)
    names = {"hidden": "kernel", "out": "kernel"}
    return {layer: {bits: step._grid(state, layer, names[layer], bits) for bits in widths} for layer in names}, names


def test_what_a_layer_loses_alone_is_measured():
    model = dense()
    before, inputs = fingerprint(model), inputs_for(model)
    grids, names = grids_of(Quantization(), model, (2, 8))
    plan = labelled(inputs)
    found = loss_increases(model, grids, names, plan)
    assert fingerprint(model) == before

    kernel, bias = model.get_layer("hidden").get_weights()
    rounded = np.round(kernel / np.abs(kernel).max()) * np.abs(kernel).max()
    last, last_bias = model.get_layer("out").get_weights()

    def loss(kernel):
        logits = np.maximum(inputs @ kernel + bias, 0) @ last + last_bias
        shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        return -np.log(shares[np.arange(len(inputs)), plan.targets]).mean()

    assert found["hidden"][0] == pytest.approx(loss(rounded) - loss(kernel), abs=1e-5)
    assert abs(found["hidden"][1]) < 0.05 * abs(found["hidden"][0])


@pytest.mark.parametrize("probabilities", [True, False])
def test_without_labels_it_is_the_distance_from_the_float_outputs(probabilities):
    model = dense()
    if probabilities:
        model = kd.keras.Sequential([*model.layers, kd.keras.layers.Softmax(name="shares")])
    inputs = inputs_for(model)
    grids, names = grids_of(Quantization(), model, (2, 4))
    found = loss_increases(model, grids, names, plan_for(inputs))["out"]
    kernel = model.get_layer("out").kernel
    reference, step = model.predict(inputs, verbose=0), np.abs(kernel).max()
    kernel.assign(np.round(kernel / step) * step)
    outputs = model.predict(inputs, verbose=0)
    if probabilities:
        expected = np.sum(reference * np.log(reference / outputs), 1).mean()
    else:
        expected = np.mean((outputs - reference) ** 2) / reference.var()
    assert found[0] == pytest.approx(expected, rel=1e-3)
    assert 0 < found[1] < found[0]


def test_bytes_are_those_of_the_containers_and_bits_those_of_the_grids():
    model = dense()
    sizes = {"hidden": 96, "out": 36}
    grids, _ = grids_of(Quantization(low_bit_storage="size"), model, (2, 8))
    by_bytes = options(Budget(bytes_share=0.5), grids, sizes)
    by_bits = options(Budget(bits_share=0.5), grids, sizes)
    assert [o.size for o in by_bytes["hidden"]] == pytest.approx([96 / 132 / 2, 96 / 132])
    assert [o.size for o in by_bits["out"]] == pytest.approx([36 / 132 / 4, 36 / 132])
    require_within_reach(Budget(bytes_share=0.5), by_bytes, "q")
    with pytest.raises(
        RecipeError, match=r"budget\.bytes_share .*Received: 0\.4; the nearest that can be met is 0\.5,"
    ):
        require_within_reach(Budget(bytes_share=0.4), by_bytes, "q")


def test_a_step_gives_the_bits_it_measured_once():
    model, kept = dense(), []
    inputs = inputs_for(model)

    def once(measure):
        if not kept:
            kept.append(measure())
        return kept[0]

    step = Quantization(budget={"bits_share": 0.5, "choices": [2, 4, 8]}, per_layer={"out": 8}, fit={"epochs": 0})
    state = State(model)
    step.check(state)
    finished = [step.finish(step.prepare(state, labelled(inputs, once=once))) for _ in range(2)]
    # 36 values of 8 bits leave the 96 others 2.6 bits or fewer.
    assert kept[0]["bits"] == {"hidden": 2, "out": 8}
    assert list(kept[0]["loss_increases"]["hidden"]) == ["2", "4", "8"]
    for each in finished:
        assert {name: weight.bits for name, weight in each.quantization.items()} == {
            "hidden/kernel": 2,
            "out/kernel": 8,
        }
        assert each.promises == (Promise("hidden/kernel", "levels", 3, "channel", made_by="quantization"),)
    small = Quantization(budget={"bits_share": 0.3}, per_layer={"out": 8})
    with pytest.raises(
        RecipeError, match=r"budget\.bits_share must be within reach.*nearest that can be met is 0\.4545"
    ):
        small.check(state)
