"""The main job: a model, data and a recipe in; one proven file and its evidence out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import yaml

from tfcompress import measure
from tfcompress.atomic import write_atomically
from tfcompress.callbacks.keep_promises import keep_promises
from tfcompress.card import card
from tfcompress.convert.c_array import micro_operators, write_c_array
from tfcompress.convert.converter import float_tflite, warm_up
from tfcompress.convert.proof import Proof
from tfcompress.enabling import enabled
from tfcompress.faster import read_found, with_kept
from tfcompress.models.loading import clone
from tfcompress.models.recurrent import unrolling
from tfcompress.preparation import Job, JobOptions, open_job
from tfcompress.recipe import Recipe
from tfcompress.reuse import take_over
from tfcompress.run_folder import RunFolder, measured_name
from tfcompress.run_state import write_state
from tfcompress.shipping import Shipment
from tfcompress.techniques.base import STAGES, Technique
from tfcompress.training import Training, own_random_numbers, seed_everything
from tfcompress.vocabulary.changes import Change
from tfcompress.vocabulary.errors import ModelError
from tfcompress.vocabulary.evidence import Evidence, PreprocessingEvidence, RewriteEvidence, StageEvidence
from tfcompress.vocabulary.state import State

FLOAT_FILE, ARTIFACT_FILE, EVIDENCE_FILE = "float.tflite", "model.tflite", "evidence.json"
FASTER_FILE = "faster.json"
TRAIN = "train"


@dataclass(frozen=True)
class Result:
    """What a run made.

    Args:
        model: the final Keras model; after quantization it still emulates integers.
        artifact: path of the shipped .tflite file.
        evidence: everything measured of it.
        state: the final state; another run can go on from it.
        folder: the run's folder.
    """

    model: Any
    artifact: Path
    evidence: Evidence
    state: State
    folder: Path


def compress(
    model: Any,
    data: Any,
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    out: str | Path | None = None,
    reuse: Sequence[str | Path] = (),
    **options: Unpack[JobOptions],
) -> Result:
    """Compress a Keras model by a recipe into one verified .tflite file.

    The caller's model is never changed, nor is the state of Python's and NumPy's random numbers; TensorFlow's
    global seed is set. A run that was interrupted goes on where it stopped when it is called
    again with the same arguments and `out`; a finished one is only measured again.

    Args:
        model: a tf_keras model, a path to one, the name of a network of the zoo (trained first, as the recipe's
            `train` says), or an earlier run, whose promises are kept: its folder, which holds its state before the
            file's arithmetic was chosen, or its `Result` or `State` itself.
        data: see `tfcompress.data.load_data`.
        recipe: a recipe, its tree, a YAML file, or the name of one that ships.
        out: the run's folder. Defaults to `tflite_models/<model>-<data>-<recipe>`.
        reuse: folders of earlier runs. Leading steps that are the same there are not trained again; the file is the
            same as without. Defaults to none.
        **options: see `JobOptions`: `overrides`, `data_dir`, `seed`, `custom_objects`, `unsafe`, `reporter`.

    Raises:
        TfcompressError: with the rule, what came and the remedy; what was finished stays in `out`.

    Example:
        >>> result = compress("lenet300", "digits", "ptq_int8", overrides=["train.epochs=1"])  # doctest: +SKIP
        >>> result.evidence.artifact.full_integer  # doctest: +SKIP
        True
    """
    warm_up()
    job = open_job(model, data, recipe, **options)
    job.rehearse()
    with own_random_numbers(), RunFolder(out or Path("tflite_models") / job.default_name, job.identity) as folder:
        for earlier in reuse:
            for name in take_over(folder, Path(earlier), job.identity):
                job.reporter.message(f"{name}: taken over from {earlier}")
        return _Run(job, folder).execute()


def train(
    model: Any,
    data: Any,
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    out: str | Path | None = None,
    **options: Unpack[JobOptions],
) -> Path:
    """Train a model as the recipe's `task`, `data` and `train` say; its steps are not run.

    Takes the arguments of `compress`, and goes on where it stopped like it.

    Returns:
        The path of the trained model, `model.keras` in the run's folder, beside what it expects to be fed.
    """
    job = open_job(model, data, recipe, **options)
    if job.state.promises:
        raise ModelError(
            "Training alone would break the promises of the earlier run. Remedy: compress it further, with a recipe."
        )
    place = out or Path("tflite_models") / f"{job.default_name}-train"
    with own_random_numbers(), RunFolder(place, {**job.identity, "command": "train"}) as folder:
        run = _Run(job, folder)
        trained = clone(job.state.model)
        run.train(run.training(), TRAIN, trained)
        folder.write_json("history.json", run.history)
        for name, text in job.data.dataset.files.items():
            folder.write(name, text)
        return write_state(folder, job.state.evolve(model=trained), job.data.preprocessing)


def convert(model: Any, data: Any, recipe: Recipe, *, out: Path, **options: Unpack[JobOptions]) -> Proof:
    """Run a recipe without training and write only the file, proven, to `out`; nothing is evaluated.

    Takes the arguments of `compress`.

    Returns:
        The proof of what the file is.
    """
    warm_up()
    job = open_job(model, data, recipe, **options)
    if job.from_zoo:
        job.reporter.message(
            f"{job.model_name} is a network of the zoo with random weights, and nothing trains it here: "
            "tfcompress train does, or tfcompress compress."
        )
    state = job.state
    for index, step in enumerate(job.recipe.steps, start=1):
        if step.stage == STAGES[-1] and job.recipe.conversion.faster:
            state, _ = job.faster(index, step, state)
        state = step.finish(step.prepare(state, job.plan_for(index, step)))
    shipment = job.ship(state)
    if job.recipe.conversion.c_array:
        micro_operators(shipment.content)
    write_atomically(out, shipment.content)
    if job.data.dataset.encoding:
        for name, text in job.data.dataset.encoding.files.items():
            write_atomically(out.with_name(name), text.encode())
    if job.recipe.conversion.c_array:
        write_c_array(out, out.parent, re.sub(r"\W", "_", f"m{out.stem}" if out.stem[0].isdigit() else out.stem))
    return shipment.proof


class _Run:
    """One execution of a job in its folder."""

    def __init__(self, job: Job, folder: RunFolder) -> None:
        self.job = job
        self.folder = folder
        self.stages: list[StageEvidence] = []
        self.changes: tuple[Change, ...] = ()
        self.rewrites: tuple[RewriteEvidence, ...] = ()
        self.history: dict[str, list[dict[str, float]]] = {}

    def execute(self) -> Result:
        """Run every step, ship, measure, record."""
        job, folder = self.job, self.folder
        folder.write("recipe.yaml", yaml.safe_dump(job.recipe.plain(), sort_keys=False))
        state = job.state
        if job.from_zoo:
            self.train(self.training(), TRAIN, state.model)
        float_path = folder.write(FLOAT_FILE, float_tflite(state.model, job.recipe.conversion))
        # What a rewrite computes from weights has to be computed from trained ones.
        enabling = enabled(job.recipe, state) if job.from_zoo else job.enabled
        self.changes = (*job.changes, *enabling.changes, *unrolling(enabling.state.model).changes)
        for change in self.changes:
            folder.log(str(change))
        state = enabling.state
        for index, step in enumerate(job.recipe.steps, start=1):
            if step.stage == STAGES[-1]:
                self._keep(state)
                state = self._faster(index, step, state)
            state = self._step(index, step, state)
        folder.write_json("history.json", self.history)
        self._say("converting and proving")
        shipment = job.ship(state)
        artifact = folder.write(ARTIFACT_FILE, shipment.content)
        self._say("measuring the file")
        evidence = self._evidence(state, float_path, artifact, shipment)
        dataset = job.data.dataset
        for name, text in dataset.files.items():
            folder.write(name, text)
        folder.write("card.md", card(evidence, job.model_name, dataset.name, dataset.class_names))
        if job.recipe.conversion.c_array:
            write_c_array(artifact, folder.path, artifact.stem)
        folder.write(EVIDENCE_FILE, evidence.model_dump_json(indent=2) + "\n")
        return Result(state.model, artifact, evidence, state, folder.path)

    def _keep(self, state: State) -> None:
        """Write what another run can go on from; a model that only Python can hold is no reason to stop this one."""
        try:
            write_state(self.folder, state, self.job.data.preprocessing)
        except ModelError as error:
            self._say(f"No other run can go on from this folder: {error}")

    def _faster(self, index: int, step: Technique, state: State) -> State:
        """`state` rewritten for speed where the recipe asks for it; what was measured once decides for good."""
        job, folder = self.job, self.folder
        if not job.recipe.conversion.faster:
            return state
        if folder.file(FASTER_FILE).exists():
            self.rewrites = read_found(folder.file(FASTER_FILE))
            return with_kept(state, self.rewrites)
        self._say("trying rewrites for speed")
        state, self.rewrites = job.faster(index, step, state)
        for found in self.rewrites:
            folder.log(str(found))
        folder.write_json(FASTER_FILE, [found.model_dump() for found in self.rewrites])
        return state

    def _step(self, index: int, step: Technique, state: State) -> State:
        job = self.job
        plan = replace(
            job.plan_for(index, step), once=lambda measure: self._once(measured_name(index, step.name), measure)
        )
        seed_everything(job.seed, index, 0)
        prepared = step.prepare(state, plan)
        if step.trains:
            training = Training(
                step.name,
                index,
                step.fit,
                job.data,
                job.seed,
                callbacks=[*step.callbacks(prepared), *keep_promises(prepared)],
                objective=step.objective,
                lesson=job.lesson(step.fit),
                first_selectable_epoch=step.first_selectable_epoch(plan),
            )
            self.train(training, step.technique, prepared.model)
        return step.finish(prepared)

    def training(self) -> Training:
        """The training that the recipe's `train` says."""
        fit, job = self.job.recipe.train, self.job
        return Training(TRAIN, 0, fit, job.data, job.seed, lesson=job.lesson(fit))

    def _once(self, place: str, measure: Callable[[], Any]) -> Any:
        """What `measure` gave the first time, kept at `place` in the folder."""
        known = self.folder.read_json(place)
        if known is None:
            self.folder.write_json(place, known := measure())
        return known

    def train(self, training: Training, technique: str, model: Any) -> None:
        """Train `model` and record how it went."""
        job = self.job
        records = replace(training, folder=self.folder, reporter=job.reporter).run(model)
        self.history[training.name] = records
        validation = job.data.validation_score(model)
        self.stages.append(
            StageEvidence(
                name=training.name,
                technique=technique,
                epochs=len(records),
                seconds=sum(record["seconds"] for record in records),
                metric=None if validation is None else validation.value,
            )
        )
        figures = f", validation {validation.name} {validation.value:.4f} (simulated)" if validation else ""
        self._say(f"{training.name}: {len(records)} epochs{figures}")

    def _evidence(self, state: State, float_path: Path, artifact: Path, shipment: Shipment) -> Evidence:
        job = self.job
        split, preprocessing = job.data.dataset.splits[job.recipe.evaluation.split], job.data.preprocessing
        in_graph = job.recipe.conversion.preprocessing_in_graph
        inputs = preprocessing.apply(split.inputs)
        raw = split.inputs.astype(np.float32) if in_graph else inputs
        outputs = measure.predictions(float_path, artifact, state.model, inputs, raw, split.targets, job.reporter)
        self.folder.write_arrays("predictions.npz", outputs.arrays())
        latency = measure.latency_evidence(float_path, artifact, job.recipe.evaluation, job.reporter)
        agreed = measure.agreement_evidence(artifact, outputs)
        of_float = measure.float_evidence(float_path, latency)
        of_artifact = measure.artifact_evidence(artifact, shipment, latency)
        return Evidence(
            metric=measure.metric_evidence(job.recipe, outputs, from_logits=job.data.from_logits),
            agreement=measure.explained(agreed, shipment, state.model, inputs, raw, job.reporter),
            float=of_float,
            artifact=of_artifact,
            speedup=latency.speedup,
            compression=of_float.bytes / of_artifact.bytes,
            promises=measure.promise_evidence(shipment),
            stages=tuple(self.stages),
            rewrites=self.changes,
            faster=self.rewrites,
            preprocessing=PreprocessingEvidence(
                description=preprocessing.describe(),
                scale=preprocessing.scale,
                offset=preprocessing.offset,
                in_graph=in_graph,
                encoding=job.data.dataset.encoding.description if job.data.dataset.encoding else (),
                chosen_by=job.preprocessing_chosen_by,
            ),
            recipe=job.recipe.plain(),
            seed=job.seed,
            versions=measure.versions(),
            hardware=measure.hardware(),
        )

    def _say(self, text: str) -> None:
        self.folder.log(text)
        self.job.reporter.message(text)
