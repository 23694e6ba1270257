"""What a run would do: the recipe with every value, expected bytes, and the time its training would take."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Unpack

import yaml

from tfcompress.preparation import Job, JobOptions, open_job
from tfcompress.recipe import Recipe
from tfcompress.shipping import rehearse
from tfcompress.techniques.base import Technique
from tfcompress.training import Training
from tfcompress.vocabulary.training import Fit

_TIMED_BATCHES = 8


def dry_run(model: Any, data: Any, recipe: Recipe, **options: Unpack[JobOptions]) -> str:
    """The plan of a run, as text; nothing is written.

    Every step is tried alone on the model as it came, for what a step receives is only known when the one before has
    trained. Bytes are those of the file that the last step would make of it, without the channels that earlier steps
    foresee to cut, low-bit storage included: training changes values, not the size; only the scales of channels that
    are to share their values become fewer. Seconds come from a few batches of every step, timed now. Takes the
    arguments of `compress`.
    """
    job = open_job(model, data, recipe, **options)
    file_bytes = _file_bytes(job)
    steps = [("train", None, recipe.train)] if job.from_zoo else []
    steps += [(step.name, step, step.fit) for step in recipe.steps if step.trains and step.fit.epochs]
    lines = [yaml.safe_dump(recipe.plain(), sort_keys=False), "Plan:"]
    total = 0.0
    for index, (name, step, fit) in enumerate(steps):
        seconds = _seconds_per_epoch(job, index, name, step, fit) * fit.epochs
        total += seconds
        lines.append(f"  {name}: {fit.epochs} epochs of {job.data.steps_per_epoch} steps, about {seconds:.0f} s")
    lines.append(f"Training: about {total:.0f} s on this machine; conversion and measurement come on top.")
    lines.append(f"File: about {file_bytes:,} bytes.")
    return "\n".join(lines)


def _file_bytes(job: Job) -> int:
    """Size of the file that the last step, which chooses the arithmetic and the storage, makes of the model."""
    steps, recipe = job.recipe.steps, job.recipe
    state = job.enabled.state
    for step in steps[:-1]:
        state = state.evolve(model=step.foreseen(state).model)
    state = steps[-1].finish(steps[-1].prepare(state, job.plan_for(len(steps), steps[-1])))
    return len(rehearse(state, recipe.conversion, job.data.preprocessing, job.calibration(raw=True)))


def _seconds_per_epoch(job: Job, index: int, name: str, step: Technique | None, fit: Fit) -> float:
    """Time of one epoch of a step on the model as it came, from a few batches behind a first one that compiles."""
    training, state = Training(name, index, fit, job.data, job.seed, lesson=job.lesson(fit)), job.enabled.state
    if step is not None:
        plan = job.plan_for(index, step)
        state = step.prepare(state, plan)
        training = replace(training, callbacks=step.callbacks(state), objective=step.objective)
    network = training.network(state.model)
    # Outputs of teachers that are computed beforehand cost a step nothing, whatever they are.
    rows = training.lesson.blank_rows() if training.lesson else None
    batches = job.data.training_batches(job.seed, index, 0, rows)
    network.fit(batches.take(1), callbacks=list(training.callbacks), verbose=0)
    timed = min(_TIMED_BATCHES, job.data.steps_per_epoch)
    started = time.perf_counter()
    network.fit(batches.take(timed), callbacks=list(training.callbacks), verbose=0)
    return (time.perf_counter() - started) / timed * job.data.steps_per_epoch
