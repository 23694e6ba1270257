"""The main job: a model, data and a recipe in; one proven file and its evidence out."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from tfcompress.distribution import Strategy, distribution
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
from tfcompress.vocabulary.errors import ModelError, RecipeError
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
    strategy: Strategy | None = None,
    **options: Unpack[JobOptions],
) -> Result | None:
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
        strategy: train on all devices of this machine (`mirrored`), or on those of all processes that TF_CONFIG names
            (`multi_worker`), which are all called with the same arguments. Defaults to one device.
        **options: see `JobOptions`: `overrides`, `data_dir`, `seed`, `custom_objects`, `unsafe`, `reporter`.

    Returns:
        What the run made. None in a process of `multi_worker` that is not the first: that one writes the folder,
        converts and measures, and the others end when it does.

    Raises:
        TfcompressError: with the rule, what came and the remedy; what was finished stays in `out`.

    Example:
        >>> result = compress("lenet300", "digits", "ptq_int8", overrides=["train.epochs=1"])  # doctest: +SKIP
        >>> result.evidence.artifact.full_integer  # doctest: +SKIP
        True
    """
    where = distribution(strategy)
    if where.is_chief:
        warm_up()
    with where.together(), own_random_numbers():
        job = open_job(model, data, recipe, distribution=where, **options)
        if where.is_chief:
            job.rehearse()
        with _folder_of(job, out or Path("tflite_models") / job.default_name, job.identity) as folder:
            for earlier in reuse if where.is_chief else ():
                for name in take_over(folder, Path(earlier), job.identity):
                    job.reporter.message(f"{name}: taken over from {earlier}")
            return _Run(job, folder).execute()


def train(
    model: Any,
    data: Any,
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    out: str | Path | None = None,
    strategy: Strategy | None = None,
    **options: Unpack[JobOptions],
) -> Path | None:
    """Train a model as the recipe's `task`, `data` and `train` say; its steps are not run.

    Takes the arguments of `compress`, and goes on where it stopped like it.

    Returns:
        The path of the trained model, `model.keras` in the run's folder, beside what it expects to be fed.
    """
    where = distribution(strategy)
    with where.together(), own_random_numbers():
        job = open_job(model, data, recipe, distribution=where, **options)
        if job.state.promises:
            raise ModelError(
                "Training alone would break the promises of the earlier run. "
                "Remedy: compress it further, with a recipe."
            )
        place = out or Path("tflite_models") / f"{job.default_name}-train"
        with _folder_of(job, place, {**job.identity, "command": "train"}) as folder:
            return _Run(job, folder).execute_train()


@contextlib.contextmanager
def _folder_of(job: Job, place: str | Path, identity: Mapping[str, Any]) -> Iterator[RunFolder]:
    """The run's folder; that of a process which only trains along is gone when the run ends.

    Raises:
        RunFolderError: the folder is not one for this run.
        RecipeError: the first process of the run was given something else.
    """
    mine = json.loads(json.dumps(identity))
    theirs = job.distribution.agreed(mine)
    if differing := [key for key in mine if mine[key] != theirs.get(key)]:
        raise RecipeError(
            "All processes of a run must be given the same command, model and data. This one differs from the first "
            f"in: {', '.join(differing)}. Remedy: the same everywhere."
        )
    with contextlib.ExitStack() as stack:
        if not job.distribution.is_chief:
            place = stack.enter_context(tempfile.TemporaryDirectory())
        yield stack.enter_context(RunFolder(place, identity))


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

    def execute(self) -> Result | None:
        """Run every step, ship, measure, record; where this process only trains along, train and wait for the end."""
        where = self.job.distribution
        state, float_path = self._trained()
        result = self._shipped(state, float_path) if where.is_chief else None
        where.agreed(None)
        return result

    def execute_train(self) -> Path | None:
        """Train the model, and write it with what it expects to be fed; None where this process only trains along."""
        job, folder = self.job, self.folder
        trained = clone(job.state.model)
        self._train_first(trained)
        path = None
        if job.distribution.is_chief:
            folder.write_json("history.json", self.history)
            for name, text in job.data.dataset.files.items():
                folder.write(name, text)
            path = write_state(folder, job.state.evolve(model=trained), job.data.preprocessing)
        job.distribution.agreed(None)
        return path

    def _trained(self) -> tuple[State, Path | None]:
        """The state after every step, and the float file, which the chief makes."""
        job, folder = self.job, self.folder
        folder.write("recipe.yaml", yaml.safe_dump(job.recipe.plain(), sort_keys=False))
        state, float_path = job.state, None
        if job.from_zoo:
            self._train_first(state.model)
        if job.distribution.is_chief:
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
        return state, float_path

    def _shipped(self, state: State, float_path: Path) -> Result:
        """The file of `state`, proven, measured and recorded."""
        job, folder = self.job, self.folder
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
            spread = job.distribution.twin(prepared, lambda: step.prepare(state, plan))
            training = Training(
                step.name,
                index,
                step.fit,
                job.data,
                job.seed,
                callbacks=[*step.callbacks(spread), *keep_promises(spread)],
                objective=step.objective,
                lesson=job.lesson(step.fit),
                first_selectable_epoch=step.first_selectable_epoch(plan),
            )
            self._train(training, step.technique, prepared.model, spread.model)
        return step.finish(prepared)

    def _train_first(self, model: Any) -> None:
        """Train `model` as the recipe's `train` says."""
        fit, job = self.job.recipe.train, self.job
        state = job.state.evolve(model=model)
        spread = job.distribution.twin(state, lambda: state.evolve(model=clone(model)))
        training = Training(TRAIN, 0, fit, job.data, job.seed, lesson=job.lesson(fit))
        self._train(training, TRAIN, model, spread.model)

    def _once(self, place: str, measure: Callable[[], Any]) -> Any:
        """What `measure` gave the first time, kept at `place` in the folder."""
        known = self.folder.read_json(place)
        if known is None and self.job.distribution.is_chief:
            self.folder.write_json(place, known := measure())
        return self.job.distribution.agreed(known)

    def _train(self, training: Training, technique: str, model: Any, spread: Any) -> None:
        """Train `model`, by its twin `spread` where training is distributed, and record how it went."""
        job = self.job
        training = replace(training, folder=self.folder, reporter=job.reporter, distribution=job.distribution)
        records = training.run(spread, model)
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
