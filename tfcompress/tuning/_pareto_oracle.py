"""The search's own oracle as one of KerasTuner's: it proposes what is expected to push the front out most."""

from __future__ import annotations

from typing import Any

from tfcompress import keras_door as kd
from tfcompress.tuning._search_oracle import SearchOracle, status_of
from tfcompress.tuning.foresight import Sensitivity
from tfcompress.tuning.measures import Goal
from tfcompress.tuning.proposer import Past, Proposer
from tfcompress.tuning.space import Space


class ParetoOracle(SearchOracle, kd.keras_tuner.Oracle):
    """Proposes by expected hypervolume improvement, never a recipe twice, and stops when a finite space is exhausted.

    Args:
        space: what can be tried.
        goal: what for.
        seed: any whole number, not negative.
        max_trials: how many trials at most.
        sensitivity: what is foreseen of the recipes; None when nothing is.
    """

    def __init__(
        self, space: Space, goal: Goal, *, seed: int, max_trials: int, sensitivity: Sensitivity | None
    ) -> None:
        super().__init__(space, goal, seed=seed, max_trials=max_trials)
        self._proposer = Proposer(space, goal, seed, sensitivity)

    def propose(self, trial_id: str) -> dict[str, Any]:
        """The next recipe, which depends on the trials and the seed alone."""
        del trial_id
        if self.recorded is not None:
            return {}
        values = self._proposer.next([self._past(self.trials[number]) for number in self.start_order])
        if values is None:
            return {"status": status_of.STOPPED, "values": None}
        return {"status": status_of.RUNNING, "values": self.as_values(values)}

    def _past(self, trial: Any) -> Past:
        measured = self.measured.get(trial.trial_id) if trial.status == status_of.COMPLETED else None
        return Past(self.holes_of(trial), measured, failed=trial.status == status_of.FAILED)
