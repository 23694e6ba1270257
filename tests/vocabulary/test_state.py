from dataclasses import FrozenInstanceError

import pytest

from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import Lineage, State


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
