"""The oracles of a search by name, and how a search speaks with one: ask, tell, and after a kill tell again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

from tfcompress.tuning.foresight import Sensitivity
from tfcompress.tuning.measures import Goal
from tfcompress.tuning.space import Space
from tfcompress.vocabulary.errors import SearchError

ORACLES: Mapping[str, str] = MappingProxyType(
    {
        "pareto": "tries what is expected to push the front of all objectives out most, within the bounds",
        "random": "draws every value at random",
        "bayesian": "KerasTuner's Bayesian search, of a sum of the objectives that is weighted anew for each trial",
        "hyperband": "gives the epochs of the search to those that do well with few",
        "grid": "the defaults, then one combination after the other",
    }
)
"""Every oracle by name, with one sentence for `--help`."""


@dataclass(frozen=True)
class Proposal:
    """A trial to run.

    Attributes:
        number: of the trial, from 0, in the order of the proposals.
        values: of its active holes.
        known: how many trials had ended when it was made.
        epochs: to train, all in all; None where the recipe decides.
        initial_epoch: of these, how many the trial that it continues has trained.
        continues: the number of that trial, None when it starts afresh.
    """

    number: int
    values: Mapping[str, Any]
    known: int
    epochs: int | None = None
    initial_epoch: int = 0
    continues: int | None = None


def refuse_unknown(name: str) -> None:
    """Refuse what is no oracle's name, before a model or data are loaded.

    Raises:
        SearchError: `name` is not in `ORACLES`.
    """
    if problems := _unknown(name):
        raise SearchError(f"The oracle cannot be made: {problems[0]}")


def make_oracle(
    name: str,
    space: Space,
    goal: Goal,
    *,
    max_trials: int,
    seed: int,
    sensitivity: Sensitivity | None = None,
    max_epochs: int | None = None,
) -> Any:
    """An oracle, a `keras_tuner.Oracle`.

    Args:
        name: of `ORACLES`.
        space: the recipes to choose among.
        goal: what they are chosen for.
        max_trials: how many trials it proposes at most.
        seed: whole number, not negative; with the same trials and seed an oracle proposes the same.
        sensitivity: what is known of every hole alone, for `pareto`, the only one that can use it.
        max_epochs: the most that `hyperband`, which must know it, trains a trial.

    Raises:
        SearchError: any of these cannot be; all problems at once.
    """
    problems = list(_problems(name, max_trials, seed, sensitivity, max_epochs))
    if problems:
        raise SearchError("The oracle cannot be made:\n  " + "\n  ".join(problems))
    from tfcompress.tuning import _search_oracle as of_keras_tuner
    from tfcompress.tuning._pareto_oracle import ParetoOracle

    common = {"seed": seed, "max_trials": max_trials}
    if name == "pareto":
        return ParetoOracle(space, goal, sensitivity=sensitivity, **common)
    if name == "hyperband":
        # Without an end of its own; the number of trials ends it.
        return of_keras_tuner.HyperbandOracle(space, goal, max_epochs=max_epochs, hyperband_iterations=None, **common)
    makers = {
        "random": of_keras_tuner.RandomOracle,
        "bayesian": of_keras_tuner.BayesianOracle,
        "grid": of_keras_tuner.GridOracle,
    }
    return makers[name](space, goal, **common)


def ask(oracle: Any) -> Proposal | None:
    """The next trial to run.

    None when there is none now: while others run, ask again when one of them has ended; while none runs, the search is
    at its end.
    """
    known = len(oracle.end_order)
    # A name of its own for each trial: KerasTuner gives a worker the same trial until it has ended it.
    trial = oracle.create_trial(f"worker of trial {len(oracle.trials)}")
    if trial.status != "RUNNING":
        return None
    values = trial.hyperparameters.values
    continued = values.get("tuner/trial_id")
    return Proposal(
        number=int(trial.trial_id),
        values=oracle.holes_of(trial),
        known=known,
        epochs=values.get("tuner/epochs"),
        initial_epoch=values.get("tuner/initial_epoch", 0),
        continues=None if continued is None else int(continued),
    )


def tell(oracle: Any, number: int, measured: Mapping[str, float] | None) -> None:
    """End a trial that was asked for.

    Args:
        oracle: that proposed it.
        number: of the trial.
        measured: all measures that the goal needs, by name; None when the trial failed. One that is not finite makes
            it a failure too.

    Raises:
        SearchError: no such trial is running, or a measure is missing.
    """
    running = {int(trial.trial_id): trial for trial in oracle.ongoing_trials.values()}
    if number not in running:
        raise SearchError(
            f"Only a running trial can end. Received: {number}; running: {', '.join(map(str, running)) or 'none'}."
        )
    trial = running[number]
    if measured is None or not all(math.isfinite(measured.get(name, 0.0)) for name in oracle.goal.needed):
        trial.status = "FAILED"
    else:
        oracle.update_trial(trial.trial_id, measured)
        trial.status = "COMPLETED"
    oracle.end_trial(trial)


def tell_again(
    oracle: Any,
    ended: Sequence[tuple[Proposal, Mapping[str, float] | None]],
    unfinished: Sequence[Proposal] = (),
) -> None:
    """Bring a new oracle to where an earlier one was, so that it goes on as that one would have.

    Args:
        oracle: new, of the same space, goal and seed.
        ended: the proposals and what was measured, None for a failure, in the order in which the trials ended.
        unfinished: proposals whose trials did not end; they are running for the oracle, and must be run.

    Raises:
        SearchError: a trial is missing among them, or stands there twice.
    """
    proposals = sorted([proposal for proposal, _ in ended] + list(unfinished), key=lambda proposal: proposal.number)
    numbers = [proposal.number for proposal in proposals]
    if numbers != list(range(len(numbers))):
        raise SearchError(
            f"The records of a search must hold every trial once, from 0 on. Received the numbers: "
            f"{', '.join(map(str, numbers))}."
        )
    left = list(ended)
    for proposal in proposals:
        while left and len(oracle.end_order) < proposal.known:
            tell(oracle, left[0][0].number, left.pop(0)[1])
        _begin(oracle, proposal)
    for proposal, measured in left:
        tell(oracle, proposal.number, measured)


def _begin(oracle: Any, proposal: Proposal) -> None:
    recorded = oracle.as_values(proposal.values)
    if proposal.epochs is not None:
        recorded |= {"tuner/epochs": proposal.epochs, "tuner/initial_epoch": proposal.initial_epoch}
    if proposal.continues is not None:
        recorded["tuner/trial_id"] = next(key for key in oracle.trials if int(key) == proposal.continues)
    oracle.recorded = recorded
    try:
        asked = ask(oracle)
    finally:
        oracle.recorded = None
    if asked is None:
        raise SearchError(
            f"The records hold more trials than the search may have. Received: trial {proposal.number}, with at most "
            f"{oracle.max_trials}. Remedy: raise the number of trials."
        )


def _unknown(name: str) -> list[str]:
    if name in ORACLES:
        return []
    near = get_close_matches(str(name), ORACLES, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return [f"an oracle must be one of {', '.join(ORACLES)}. Received: {name}.{hint}"]


def _problems(
    name: str, max_trials: int, seed: int, sensitivity: Sensitivity | None, max_epochs: int | None
) -> list[str]:
    problems = _unknown(name)
    if not isinstance(max_trials, int) or max_trials < 1:
        problems.append(f"max_trials must be a whole number of at least 1. Received: {max_trials!r}")
    if not isinstance(seed, int) or seed < 0:
        problems.append(f"seed must be a whole number, not negative. Received: {seed!r}")
    if sensitivity is not None and name != "pareto":
        problems.append(f"only the oracle pareto can use a sensitivity analysis. Received: {name}")
    if (max_epochs is not None) != (name == "hyperband"):
        problems.append(f"hyperband needs max_epochs, and no other oracle takes it. Received: {name}, {max_epochs!r}")
    elif max_epochs is not None and (not isinstance(max_epochs, int) or max_epochs < 1):
        problems.append(f"max_epochs must be a whole number of at least 1. Received: {max_epochs!r}")
    return problems
