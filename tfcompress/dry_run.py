"""What a run would do: the recipe with every value, expected bytes, and the time its training would take."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Unpack

import yaml

from tfcompress.convert.converter import quantized_tflite
from tfcompress.preparation import Job, JobOptions, open_job
from tfcompress.recipe import Recipe
from tfcompress.techniques.base import Technique
from tfcompress.training import Training
from tfcompress.vocabulary.training import Fit

_TIMED_BATCHES = 8


def dry_run(model: Any, data: Any, recipe: Recipe, **options: Unpack[JobOptions]) -> str:
    """The plan of a run, as text; nothing is written.

    Bytes are those of the model as it came, converted now by calibration: training changes values, not the
    size. Seconds come from a few batches of every step, timed now. Takes the arguments of `compress`.
    """
    job = open_job(model, data, recipe, **options)
    content = quantized_tflite(job.state.model, recipe.number_format, recipe.conversion, job.calibration())
    steps = [("train", None, recipe.train)] if job.from_zoo else []
    steps += [(step.name, step, step.fit) for step in recipe.steps if step.trains and step.fit.epochs]
    lines = [yaml.safe_dump(recipe.plain(), sort_keys=False), "Plan:"]
    total = 0.0
    for index, (name, step, fit) in enumerate(steps):
        seconds = _seconds_per_epoch(job, index, name, step, fit) * fit.epochs
        total += seconds
        lines.append(f"  {name}: {fit.epochs} epochs of {job.data.steps_per_epoch} steps, about {seconds:.0f} s")
    lines.append(f"Training: about {total:.0f} s on this machine; conversion and measurement come on top.")
    lines.append(f"File: about {len(content):,} bytes (low-bit storage not counted).")
    return "\n".join(lines)


def _seconds_per_epoch(job: Job, index: int, name: str, step: Technique | None, fit: Fit) -> float:
    """Time of one epoch, from a few batches behind a first one that compiles."""
    training, state = Training(name, index, fit, job.data, job.seed), job.state
    if step is not None:
        plan = job.plan_for(index, step)
        state = step.prepare(state, plan)
        training = replace(training, callbacks=step.callbacks(state), objective=step.objective)
    training.compile(state.model)
    batches = job.data.training_batches(job.seed, index, 0)
    state.model.fit(batches.take(1), callbacks=list(training.callbacks), verbose=0)
    timed = min(_TIMED_BATCHES, job.data.steps_per_epoch)
    started = time.perf_counter()
    state.model.fit(batches.take(timed), callbacks=list(training.callbacks), verbose=0)
    return (time.perf_counter() - started) / timed * job.data.steps_per_epoch
