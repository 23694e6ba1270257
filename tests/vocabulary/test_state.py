from dataclasses import FrozenInstanceError

import pytest

from tfcompress.vocabulary.errors import PromiseError
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import Effect, Lineage, Move, State


def test_a_weight_nobody_moved_stands_at_its_own_name():
    assert Lineage().place("conv/kernel") == "conv/kernel"


def test_moves_add_up():
    once = Lineage().moved({"conv/kernel": "folded/kernel", "fc/kernel": "out/kernel"})
    twice = once.moved({"folded/kernel": "packed/kernel"})
    assert twice.place("conv/kernel") == "packed/kernel"
    assert twice.place("fc/kernel") == "out/kernel"
    assert once.place("conv/kernel") == "folded/kernel"


def test_a_move_of_todays_name_is_no_move_of_another_weight_that_once_had_it():
    # `b` now stands where `a` used to; what moves is the weight that is there today.
    lineage = Lineage().moved({"a/kernel": "c/kernel", "b/kernel": "a/kernel"}).moved({"a/kernel": "d/kernel"})
    assert [lineage.place(f"{name}/kernel") for name in "ab"] == ["c/kernel", "d/kernel"]


def test_two_weights_may_trade_places():
    lineage = Lineage().moved({"a/kernel": "b/kernel", "b/kernel": "a/kernel"})
    assert [lineage.place(f"{name}/kernel") for name in "ab"] == ["b/kernel", "a/kernel"]


def test_places_cannot_be_changed():
    with pytest.raises(TypeError):
        Lineage().moved({"a/kernel": "b/kernel"}).places["a/kernel"] = "c/kernel"


def test_evolving_leaves_the_earlier_state():
    promise = Promise("a/kernel", "zeros", 0.5)
    before = State(model="model")
    after = before.evolve(promises=(promise,), number_format="int8")
    assert (before.promises, before.number_format) == ((), None)
    assert (after.model, after.promises, after.number_format) == ("model", (promise,), "int8")
    with pytest.raises(FrozenInstanceError):
        before.model = "other"


def test_promises_are_found_by_weight_and_kind():
    zeros, distinct = Promise("a/kernel", "zeros", 0.5), Promise("a/kernel", "distinct", 16)
    state = State("model", (zeros, Promise("b/kernel", "zeros", 0.5), distinct))
    assert state.promises_of("a/kernel") == (zeros, distinct)
    assert state.promises_of("a/kernel", "distinct", "levels") == (distinct,)
    assert state.promises_of("c/kernel") == ()


FOLDED = Move("conv/kernel", {"distinct": Effect(scope="channel"), "group_zeros": Effect(refused="they are moved")})


def test_a_move_says_what_becomes_of_each_kind_of_promise():
    lineage = Lineage().moved({"conv/kernel": FOLDED})
    zeros, distinct = Promise("conv/kernel", "zeros", 0.5), Promise("conv/kernel", "distinct", 16)
    assert lineage.carried([zeros, distinct]) == (zeros, Promise("conv/kernel", "distinct", 16, "channel"))


def test_refused_promises_are_all_named():
    lineage = Lineage().moved({"conv/kernel": FOLDED, "fc/kernel": Move("fc/kernel", {"zeros": Effect(refused="no")})})
    promises = [Promise("conv/kernel", "group_zeros", 2, group=4), Promise("fc/kernel", "zeros", 0.5, made_by="prune")]
    with pytest.raises(PromiseError, match=r"(?s)conv/kernel .*they are moved.*fc/kernel .*by prune.*: no"):
        lineage.carried(promises)


def test_effects_add_up_along_the_way():
    more = Move("out/kernel", {"distinct": Effect(bound_raised_by=1)})
    lineage = Lineage().moved({"conv/kernel": FOLDED}).moved({"conv/kernel": more}).moved({"out/kernel": "last/kernel"})
    (promise,) = lineage.carried([Promise("conv/kernel", "distinct", 16)])
    assert (promise.bound, promise.scope, lineage.place("conv/kernel")) == (17, "channel", "last/kernel")
    assert lineage.effect("conv/kernel", "group_zeros").refused == "they are moved"


def test_a_bound_is_multiplied_before_it_is_raised_and_both_add_up():
    first, second = Effect(bound_times=2, bound_raised_by=1), Effect(bound_times=4, bound_raised_by=3)
    promise = Promise("conv/kernel", "channels", 8)
    assert second.on(first.on(promise)) == first.then(second).on(promise)
    assert first.then(second).on(promise).bound == (8 * 2 + 1) * 4 + 3


def test_two_weights_may_be_merged_into_one_and_go_on_together():
    merged = Lineage().moved({"bn/gamma": "conv/kernel", "conv/kernel": Move("conv/kernel", {})})
    lineage = merged.moved({"conv/kernel": "out/kernel"})
    assert [lineage.place(weight) for weight in ("bn/gamma", "conv/kernel")] == ["out/kernel", "out/kernel"]


def test_lineages_follow_one_another():
    first = Lineage().moved({"inner/conv/kernel": "conv/kernel"})
    second = Lineage().moved({"conv/kernel": FOLDED, "fc/kernel": "out/kernel"})
    both = first.then(second)
    assert both.place("inner/conv/kernel") == "conv/kernel"
    assert both.place("fc/kernel") == "out/kernel"
    assert both.effect("inner/conv/kernel", "distinct") == Effect(scope="channel")


def test_a_state_carries_its_promises_through_a_rewrite():
    state = State("model", (Promise("a/kernel", "distinct", 16),), lineage=Lineage().moved({"a/kernel": "conv/kernel"}))
    after = state.rewritten("flat", Lineage().moved({"conv/kernel": Move("flat/kernel", FOLDED.effects)}))
    assert after.promises == (Promise("a/kernel", "distinct", 16, "channel"),)
    assert (after.model, after.lineage.place("a/kernel")) == ("flat", "flat/kernel")
