"""Every oracle proposes what can be run, and after a kill what it would have proposed without."""

import math

import pytest
from fixtures.spaces import measured, nested_space, optional_space, range_space, steps_space

from tfcompress.tuning.measures import Goal
from tfcompress.tuning.oracles import ORACLES, Proposal, ask, make_oracle, tell, tell_again
from tfcompress.vocabulary.errors import SearchError

GOAL = Goal(("deflated_bytes", "drop_points"), {"drop_points": 4.0})
SPACES = {"steps": steps_space, "optional": optional_space, "nested": nested_space, "range": range_space}


def oracle(name, space, *, max_trials=12, seed=0, goal=GOAL):
    return make_oracle(
        name, space, goal, max_trials=max_trials, seed=seed, max_epochs=9 if name == "hyperband" else None
    )


def outcome(proposal):
    """What each trial brings: some fail."""
    return None if proposal.number % 5 == 3 else measured(proposal.values)


def run(of, workers=1, count=None):
    """Run a search with several workers, the youngest trial ending first: proposals as made, and trials as ended."""
    made, running, ended = [], [], []
    while count is None or len(made) < count:
        proposal = ask(of)
        if proposal is not None:
            made.append(proposal)
            running.append(proposal)
        if not running:
            break
        if proposal is None or len(running) == workers:
            last = running.pop()
            ended.append((last, outcome(last)))
            tell(of, last.number, ended[-1][1])
    return made, ended, running


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", ORACLES)
def test_proposals_fill_recipes_with_the_active_holes_alone(name, space):
    space = SPACES[space]()
    made, _, _ = run(oracle(name, space), workers=2)
    assert [proposal.number for proposal in made] == list(range(len(made)))
    assert len(made) == 12
    for proposal in made:
        assert set(proposal.values) == {hole.name for hole in space.active(proposal.values)}
        space.fill(proposal.values)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("name", ORACLES)
def test_after_a_kill_a_search_goes_on_as_if_nothing_had_been(name, workers):
    space = optional_space()
    undisturbed, _, _ = run(oracle(name, space), workers)
    made, ended, running = run(oracle(name, space), workers, count=7)
    again = oracle(name, space)
    tell_again(again, ended, running)
    assert ask(again) == undisturbed[7]
    assert made == undisturbed[:7]


@pytest.mark.parametrize("name", ["random", "pareto"])
def test_records_win_over_what_an_oracle_would_have_said(name):
    space = steps_space()
    values = [dict(space.canonical(values)) for values in space.grid()]
    records = [(Proposal(number, values[20 + number], number), measured(values[20 + number])) for number in range(4)]
    again = oracle(name, space)
    tell_again(again, records)
    told = [again.holes_of(trial) for trial in again.trials.values()]
    assert told == values[20:24]
    assert ask(again).values not in told


@pytest.mark.parametrize("name", ORACLES)
def test_more_trials_later_go_on_after_the_earlier_ones(name):
    space = steps_space()
    _, ended, _ = run(oracle(name, space, max_trials=9))
    more = oracle(name, space, max_trials=120)
    tell_again(more, ended)
    proposal = ask(more)
    assert proposal.number == 9
    assert proposal.continues is None or proposal.continues < 9


def test_the_grid_keeps_every_worker_busy_and_tries_everything_once():
    space = steps_space()
    of = oracle("grid", space, max_trials=100)
    at_once = [ask(of) for _ in range(4)]
    assert None not in at_once
    tell(of, 2, measured(at_once[2].values))
    rest, _, _ = run(of, workers=2)
    values = [space.canonical(proposal.values) for proposal in [*at_once, *rest]]
    assert len(values) == len(set(values)) == space.size


@pytest.mark.parametrize("name", ["pareto", "random"])
def test_seeds_differ_and_repeat(name):
    space = steps_space()
    first, again, other = ([tuple(p.values.items()) for p in run(oracle(name, space, seed=s))[0]] for s in (0, 0, 1))
    assert first == again != other


def test_the_pareto_oracle_tries_everything_once_and_stops():
    space = steps_space()
    made, _, _ = run(oracle("pareto", space, max_trials=99), workers=4)
    assert len({space.canonical(proposal.values) for proposal in made}) == len(made) == space.size == 27


@pytest.mark.parametrize("name", ORACLES)
def test_a_search_in_which_all_fails_goes_on(name):
    of = oracle(name, steps_space(), max_trials=8)
    for _ in range(8):
        tell(of, ask(of).number, None)
    assert ask(of) is None


def test_a_measure_that_is_not_finite_is_a_failure():
    of = oracle("pareto", steps_space())
    for _ in range(8):
        proposal = ask(of)
        tell(of, proposal.number, {"deflated_bytes": math.nan if proposal.number % 2 else 5000.0, "drop_points": 1.0})
    assert [trial.status for trial in of.trials.values()] == ["COMPLETED", "FAILED"] * 4


def test_hyperband_gives_more_epochs_to_trials_it_continues():
    of = oracle("hyperband", steps_space(), max_trials=14)
    made, _, _ = run(of)
    assert all(proposal.epochs for proposal in made)
    continued = [proposal for proposal in made if proposal.continues is not None]
    assert continued
    for proposal in continued:
        before = made[proposal.continues]
        assert proposal.values == before.values
        assert proposal.epochs > before.epochs == proposal.initial_epoch


def test_keras_tuner_writes_no_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run(oracle("random", steps_space(), max_trials=3))
    assert not list(tmp_path.iterdir())
    assert not capsys.readouterr().out


def test_everything_wrong_with_an_oracle_is_told_at_once():
    with pytest.raises(SearchError) as caught:
        make_oracle("paretto", steps_space(), GOAL, max_trials=0, seed=-1, sensitivity={}, max_epochs=3)
    told = str(caught.value)
    for part in (
        "Did you mean pareto?",
        "max_trials must be",
        "seed must be",
        "only the oracle pareto",
        "hyperband needs",
    ):
        assert part in told
    with pytest.raises(SearchError, match="hyperband needs max_epochs"):
        make_oracle("hyperband", steps_space(), GOAL, max_trials=3, seed=0)


def test_what_is_missing_or_not_running_is_refused():
    of = oracle("pareto", steps_space())
    ask(of)
    with pytest.raises(SearchError, match="Missing or not finite: drop_points"):
        tell(of, 0, {"deflated_bytes": 1})
    with pytest.raises(SearchError, match="Received: 7; running: 0"):
        tell(of, 7, None)


def test_records_with_gaps_or_too_many_are_refused():
    space = steps_space()
    _, ended, _ = run(oracle("pareto", space), count=4)
    with pytest.raises(SearchError, match="Received the numbers: 0, 2, 3"):
        tell_again(oracle("pareto", space), [ended[0], *ended[2:]])
    with pytest.raises(SearchError, match="raise the number of trials"):
        tell_again(oracle("pareto", space, max_trials=2), ended)
