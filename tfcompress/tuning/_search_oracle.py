"""What all oracles of a search share: KerasTuner's Oracle as its own decision, without its files and its sums."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import ThreadpoolController

from tfcompress import keras_door as kd
from tfcompress.tuning._hyperparameters import from_values, to_hyperparameters, to_values
from tfcompress.tuning.measures import MEASURES, Goal
from tfcompress.tuning.scalarization import chebyshev
from tfcompress.tuning.space import Space
from tfcompress.vocabulary.errors import SearchError

_NEVER = 10**9
"""Failures in a row after which KerasTuner would raise: a search goes on, whatever fails."""

status_of = kd.keras_tuner.engine.trial.TrialStatus


class SearchOracle:
    """Comes before an `Oracle` of KerasTuner among the bases of a class.

    KerasTuner adds objectives up; here the score of every trial is set anew before each proposal, by augmented
    Chebyshev with weights drawn for that proposal (ParEGO: Knowles 2006). It also writes files that a kill can break,
    and seeds itself by chance when the seed is 0; neither happens here.

    Args:
        space: what can be tried.
        goal: what for.
        seed: any whole number, not negative.
        max_trials: how many trials at most.
        arguments: of the oracle behind this class.
    """

    def __init__(self, space: Space, goal: Goal, *, seed: int, max_trials: int, **arguments: Any) -> None:
        objectives = [kd.keras_tuner.Objective(name, MEASURES[name].direction) for name in goal.objectives]
        super().__init__(
            objective=objectives,
            hyperparameters=to_hyperparameters(space),
            allow_new_entries=False,
            tune_new_entries=False,
            seed=seed + 1,
            max_consecutive_failed_trials=_NEVER,
            **arguments,
        )
        # Not every oracle of KerasTuner takes it as an argument.
        self.max_trials = max_trials
        self.verbose = 0
        self.space, self.goal, self.search_seed = space, goal, seed
        self.measured: dict[str, dict[str, float]] = {}
        self.recorded: dict[str, Any] | None = None
        self._threads = ThreadpoolController()

    def propose(self, trial_id: str) -> dict[str, Any]:
        """KerasTuner's answer to `populate_space`."""
        return super().populate_space(trial_id)

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The next proposal; what `recorded` holds wins, after the oracle went through the same motions."""
        self._score_all(len(self.trials))
        # On matrices of the size of a search, threads only wait for one another, and take the cores from the trials.
        with self._threads.limit(limits=1, user_api="blas"):
            response = self.propose(trial_id)
        if self.recorded is None:
            return response
        return {"status": status_of.RUNNING, "values": {**(response.get("values") or {}), **self.recorded}}

    def update_trial(self, trial_id: str, metrics: Mapping[str, float], step: int = 0) -> Any:
        """Take what was measured of a trial.

        Raises:
            SearchError: a measure that the goal needs is missing or no finite number.
        """
        wrong = sorted(name for name in self.goal.needed if not math.isfinite(metrics.get(name, math.nan)))
        if wrong:
            raise SearchError(
                f"Every trial must be measured by what the goal names. Received for trial {trial_id}: {dict(metrics)}. "
                f"Missing or not finite: {', '.join(wrong)}."
            )
        self.measured[trial_id] = dict(metrics)
        return super().update_trial(trial_id, {name: metrics[name] for name in self.goal.needed}, step)

    def score_trial(self, trial: Any) -> None:
        """Called when a trial is completed, for which nothing is decided: scores are set before each proposal."""
        trial.score = 0.0

    def holes_of(self, trial: Any) -> dict[str, Any]:
        """The values of a trial's active holes."""
        return from_values(self.space, trial.hyperparameters.values)

    def as_values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of holes as the oracle holds them."""
        return to_values(self.space, values)

    def save(self) -> None:
        """Keep nothing: the search has its own records, and tells them again."""

    def _save_trial(self, trial: Any) -> None:
        """As `save`."""

    def _score_all(self, proposal: int) -> None:
        completed = [trial for trial in self.trials.values() if trial.status == status_of.COMPLETED]
        if not completed:
            return
        measured = [self.measured[trial.trial_id] for trial in completed]
        vectors = np.array([self.goal.vector(each) for each in measured])
        violations = np.array([self.goal.violation(each) for each in measured])
        weights = np.random.default_rng([self.search_seed, proposal]).dirichlet(np.ones(vectors.shape[1]))
        for trial, score in zip(completed, chebyshev(vectors, violations, weights), strict=True):
            trial.score = float(score)


class RandomOracle(SearchOracle, kd.keras_tuner.oracles.RandomSearchOracle):
    """KerasTuner's random search."""


class BayesianOracle(SearchOracle, kd.keras_tuner.oracles.BayesianOptimizationOracle):
    """KerasTuner's Gaussian process with an upper confidence bound, on the scores."""

    def propose(self, trial_id: str) -> dict[str, Any]:
        """As KerasTuner does, without the warnings of a fit that ends at the edge of its range."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return super().propose(trial_id)


class GridOracle(SearchOracle, kd.keras_tuner.oracles.GridSearchOracle):
    """KerasTuner's grid: the defaults first, then every combination; ten values of a continuous range."""

    def propose(self, trial_id: str) -> dict[str, Any]:
        """The combination after that of the trial that began last.

        KerasTuner goes on from trials that ended, so that of several workers all but one would wait.
        """
        self._populate_next = self.start_order[-1:]
        return super().propose(trial_id)


class HyperbandOracle(SearchOracle, kd.keras_tuner.oracles.HyperbandOracle):
    """KerasTuner's Hyperband, repeated until `max_trials`."""
