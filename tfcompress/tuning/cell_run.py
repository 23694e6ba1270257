"""One cell of a sensitivity analysis: a recipe without training run to its file, which is measured."""

from __future__ import annotations

import functools
import gc
import hashlib
import pickle
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.convert.converter import float_tflite
from tfcompress.data.dataset import Dataset
from tfcompress.evaluate import drop_points, predict, score
from tfcompress.evaluate.metric import Score
from tfcompress.preparation import Job, open_job
from tfcompress.recipe import Recipe, load_recipe
from tfcompress.training import own_random_numbers, seed_everything
from tfcompress.tuning.trial_run import measured_of_file
from tfcompress.vocabulary.errors import TfcompressError
from tfcompress.vocabulary.state import State


@dataclass(frozen=True)
class SharedByCells:
    """What the child processes of an analysis open its job from; made once.

    Args:
        model: the folder of a run that holds the float model.
        dataset: decoded.
        opened_with: the tree of the recipe that decides on exact rewrites of the model.
        reference: the tree of the recipe in which every layer is neutral.
        samples: of the validation split.
        seed: of all randomness.
        custom_objects: classes and functions of the model that Keras does not know, by name.
        unsafe: see `tfcompress.compress`.
    """

    model: Path
    dataset: Dataset
    opened_with: Mapping[str, Any]
    reference: Mapping[str, Any]
    samples: int
    seed: int
    custom_objects: Mapping[str, Any] | None = None
    unsafe: bool = False


def run_cell(shared: Path, tree: Mapping[str, Any]) -> dict[str, Any]:
    """`CellRun.attempted` of the recipe `tree`, in a process that reads the file `shared` once."""
    with own_random_numbers():
        return _read(shared).attempted(load_recipe(tree))


@functools.lru_cache(maxsize=1)
def _read(path: Path) -> CellRun:
    shared: SharedByCells = pickle.loads(path.read_bytes())
    job = open_job(
        shared.model,
        shared.dataset,
        shared.opened_with,
        seed=shared.seed,
        custom_objects=shared.custom_objects,
        unsafe=shared.unsafe,
    )
    return CellRun(replace(job, recipe=load_recipe(shared.reference)), shared.samples)


class CellRun:
    """Runs recipes without training on one model, and measures their files on some validation samples.

    Args:
        job: whose recipe is the reference.
        samples: of the validation split, drawn by the seed.
    """

    def __init__(self, job: Job, samples: int) -> None:
        self.job = job
        split = job.data.dataset.validation
        chosen = np.sort(np.random.default_rng(job.seed).permutation(split.count)[:samples])
        self.split = split.at(chosen)

    def attempted(self, recipe: Recipe) -> dict[str, Any]:
        """`found` and the seconds, or what a cell says that failed.

        Whatever a layer does to native code or to tfmot: the other cells can be had.
        """
        began = time.perf_counter()
        try:
            cell = self.found(recipe)
        except Exception as error:
            known = isinstance(error, TfcompressError)
            cell = {"status": "failed", "reason": str(error) if known else f"{type(error).__name__}: {error}"}
        return {**cell, "seconds": round(time.perf_counter() - began, 3)}

    def found(self, recipe: Recipe) -> dict[str, Any]:
        """What a cell says of the file of `recipe`, see `Cell`.

        Raises:
            TfcompressError: there is none.
        """
        try:
            content = self._shipped(recipe)
            outputs = predict(content, self._inputs(in_graph=recipe.conversion.preprocessing_in_graph))
        finally:
            # Else the graphs of all cells would stay.
            kd.keras.backend.clear_session()
            gc.collect()
        measured = measured_of_file(content)
        if self.float_score is not None:
            of_file = self._score(outputs)
            measured |= {"accuracy": of_file.value, "drop_points": drop_points(self.float_score, of_file)}
        error = np.sqrt(np.mean((outputs - self._float_outputs) ** 2))
        scale = np.sqrt(np.mean(self._float_outputs**2))
        return {
            "measured": measured,
            "output_error": float(error / scale) if scale else None,
            "sha256": hashlib.sha256(content).hexdigest(),
        }

    @cached_property
    def float_score(self) -> Score | None:
        """The float file's metric; None without labels."""
        return None if self.split.targets is None else self._score(self._float_outputs)

    def _shipped(self, recipe: Recipe) -> bytes:
        """The file that `tfcompress.compress` would ship by a recipe without training."""
        job, state = replace(self.job, recipe=recipe), self._start
        for index, step in enumerate(recipe.steps, start=1):
            seed_everything(job.seed, index, 0)
            state = step.finish(step.prepare(state, job.plan_for(index, step)))
        return job.ship(state).content

    @property
    def _start(self) -> State:
        return self.job.enabled.state

    @cached_property
    def _float_outputs(self) -> np.ndarray:
        content = float_tflite(self._start.model, self.job.recipe.conversion)
        return predict(content, self._inputs(in_graph=False))

    def _score(self, outputs: np.ndarray) -> Score:
        return score(self.job.data.task, self.split.targets, outputs, from_logits=self.job.data.from_logits)

    def _inputs(self, *, in_graph: bool) -> np.ndarray:
        """What a file is fed: raw values where it does the preprocessing itself."""
        if in_graph:
            return self.split.inputs.astype(np.float32)
        return self.job.data.preprocessing.apply(self.split.inputs)
