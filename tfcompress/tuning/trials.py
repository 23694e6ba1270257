"""The trials of a search, and the folder that keeps them: each is on disk from its proposal to its end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from tfcompress.run_folder import RunFolder
from tfcompress.tuning.oracles import Proposal
from tfcompress.vocabulary.errors import RunFolderError
from tfcompress.vocabulary.schema import Schema

RECORD_FILE = "trial.json"
_FOLDER = "trials"


class Trial(Schema):
    """One filled recipe of a search, and what its artifact was measured to be."""

    number: int
    """Its place in the order of proposals, from 0."""
    values: dict[str, Any]
    """What fills the holes, by name."""
    status: Literal["running", "completed", "infeasible", "failed"] = "running"
    """Running until it ends; completed within the bounds; infeasible where a bound is exceeded; failed without an
    artifact."""
    reason: str = ""
    """Why it failed, or which bounds it exceeds by how much."""
    measured: dict[str, float] = Field(default={})
    """By measure, of the artifact, the metric on the validation split."""
    tested: dict[str, float] = Field(default={})
    """Likewise with the metric on the test split, for those of the front; it decides nothing."""
    epochs: int | None = None
    """Of the last step that trains, where the oracle decides; None where the recipe does."""
    initial_epoch: int = 0
    """Of these, how many the trial that it continues has trained."""
    continues: int | None = None
    """The number of that trial."""
    asked_after: int
    """How many trials had ended when it was proposed."""
    ended_as: int | None = None
    """Its place in the order in which trials ended, from 0; None while it runs."""
    seconds: float | None = None
    """Wall time of the trial."""

    @property
    def proposal(self) -> Proposal:
        """What the oracle proposed."""
        return Proposal(self.number, self.values, self.asked_after, self.epochs, self.initial_epoch, self.continues)

    @property
    def ended(self) -> bool:
        """Whether nothing more is to come of it."""
        return self.ended_as is not None

    @property
    def has_artifact(self) -> bool:
        """Whether there is a file."""
        return self.status in ("completed", "infeasible")


class Trials:
    """All trials of the search in `folder`, by number, kept there as they change."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._trials = {trial.number: trial for trial in _read(folder.file(_FOLDER))}
        _check(folder.path, self._trials)

    def __iter__(self) -> Iterator[Trial]:
        return iter(sorted(self._trials.values(), key=lambda trial: trial.number))

    def __len__(self) -> int:
        return len(self._trials)

    def __getitem__(self, number: int) -> Trial:
        return self._trials[number]

    @property
    def ended(self) -> tuple[Trial, ...]:
        """Those that ended, in that order."""
        return tuple(sorted((trial for trial in self if trial.ended), key=lambda trial: trial.ended_as))

    @property
    def running(self) -> tuple[Trial, ...]:
        """Those that were proposed and have not ended."""
        return tuple(trial for trial in self if not trial.ended)

    def begin(self, proposal: Proposal) -> Trial:
        """The trial of a proposal."""
        return self.keep(
            Trial(
                number=proposal.number,
                values=dict(proposal.values),
                asked_after=proposal.known,
                epochs=proposal.epochs,
                initial_epoch=proposal.initial_epoch,
                continues=proposal.continues,
            )
        )

    def end(self, trial: Trial, **how: Any) -> Trial:
        """`trial` with what came of it, as the last that ended."""
        return self.keep(trial.model_copy(update={**how, "ended_as": len(self.ended)}))

    def keep(self, trial: Trial) -> Trial:
        """Write `trial` whole, in place of what was known of it."""
        self._folder.write(f"{_FOLDER}/{self.name(trial)}/{RECORD_FILE}", trial.model_dump_json(indent=2) + "\n")
        self._trials[trial.number] = trial
        return trial

    def run_folder(self, trial: Trial) -> Path:
        """Where its run lies: recipe, artifact, evidence, checkpoints."""
        return self._folder.file(f"{_FOLDER}/{self.name(trial)}/run")

    @staticmethod
    def name(trial: Trial) -> str:
        """Of its folder."""
        return f"{trial.number:04d}"


def count_recorded(folder: Path) -> int:
    """How many trials the search in `folder` has, ended or not; none where there is no such folder."""
    return len(list((folder / _FOLDER).glob(f"*/{RECORD_FILE}")))


def _read(folder: Path) -> Iterator[Trial]:
    """Raises RunFolderError for a damaged record."""
    for path in sorted(folder.glob(f"*/{RECORD_FILE}")):
        try:
            yield Trial.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise RunFolderError(
                f"{path} is damaged: {error.errors()[0]['msg']}. Remedy: another --out, or a copy of the file."
            ) from error


def _check(folder: Path, trials: Mapping[int, Trial]) -> None:
    """Refuse records of which some are missing: what a search does next depends on all of them."""
    places = [trial.ended_as for trial in trials.values() if trial.ended]
    if sorted(trials) != list(range(len(trials))) or sorted(places) != list(range(len(places))):
        raise RunFolderError(f"{folder} lacks some of its trials. Remedy: another --out, or a copy of them.")
