"""What a run starts from: recipe, model and data brought together and checked before anything is written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.data import Dataset, load_data
from tfcompress.data.settings import DataSettings
from tfcompress.data.sources import check_fits
from tfcompress.distillation.faculty import Faculty, distillations, gathered
from tfcompress.distillation.lesson import Lesson
from tfcompress.distribution import Distribution
from tfcompress.enabling import Enabled, enabled, opened
from tfcompress.evaluate.metric import score, takes_logits
from tfcompress.faster import try_rewrites
from tfcompress.measure import versions
from tfcompress.models import zoo
from tfcompress.models.inputs import input_dtype, token_limit
from tfcompress.models.loading import check_one_input_and_output, classes_of, clone, fingerprint, load_model
from tfcompress.preprocessing_choice import choose_preprocessing
from tfcompress.recipe import Recipe, load_recipe
from tfcompress.run_state import MODEL_FILE, is_run_folder, read_state
from tfcompress.shipping import Shipment, rehearse, ship
from tfcompress.techniques.base import StepPlan, Technique, undoes
from tfcompress.trained_part import lacks
from tfcompress.training import make_loss
from tfcompress.training_data import TrainingData
from tfcompress.vocabulary.changes import Change, summary
from tfcompress.vocabulary.errors import DataError, ModelError, RecipeError
from tfcompress.vocabulary.evidence import RewriteEvidence
from tfcompress.vocabulary.preprocessing import NAMED
from tfcompress.vocabulary.reporter import Reporter
from tfcompress.vocabulary.state import State
from tfcompress.vocabulary.training import Fit

_TRIED_SAMPLES = 32
_STAGE_OF_PROMISE = {
    "channels": "graph",
    "zeros": "sparse",
    "group_zeros": "sparse",
    "distinct": "shared",
    "codewords": "shared",
    "levels": "quantized",
}


@dataclass(frozen=True)
class Job:
    """Everything a run needs to know before it begins.

    Args:
        recipe: as it will run.
        state: what the first step receives.
        model_name: how the caller named the model.
        from_zoo: whether the model is an untrained network of the zoo.
        data: the data and the way it is fed.
        preprocessing_chosen_by: who decided on the preprocessing, with the figures of a measurement.
        seed: of all randomness.
        reporter: told of progress.
        changes: the rewrites that made of the caller's model the one in `state`.
        enabled: `state` after the rewrites that let the recipe's steps do more with it; untrained, where it comes
            from the zoo.
        faculty: the teachers that the recipe names.
        distribution: where it trains.
    """

    recipe: Recipe
    state: State
    model_name: str
    from_zoo: bool
    data: TrainingData
    preprocessing_chosen_by: str
    seed: int
    reporter: Reporter
    changes: tuple[Change, ...]
    enabled: Enabled
    faculty: Faculty
    distribution: Distribution = field(default_factory=Distribution)

    @property
    def default_name(self) -> str:
        """A name for the run's folder."""
        return default_name(self.model_name, self.data.dataset.name, self.recipe.name)

    @property
    def identity(self) -> dict[str, Any]:
        """What makes this run another than others, as plain values: all that its weights depend on."""
        recipe = self.faculty.identified(self.recipe)
        for aside in ("name", "description", "evaluation"):
            del recipe[aside]
        state = self.state
        return {
            "model": self.model_name if self.from_zoo else fingerprint(state.model),
            "promises": [asdict(promise) for promise in state.promises],
            "lineage": state.lineage.plain(),
            "data": [split.fingerprint for split in self.data.dataset.splits.values()],
            "preprocessing": self.data.preprocessing.model_dump(mode="json"),
            "recipe": recipe,
            "seed": self.seed,
            "versions": versions(),
            **self.distribution.identity,
        }

    def calibration(self, *, raw: bool = False) -> np.ndarray:
        """Training inputs to take ranges from, preprocessed unless `raw`."""
        return self.data.dataset.calibration(
            preprocessing=NAMED["raw"] if raw else self.data.preprocessing,
            count=self.data.settings.calibration_samples,
            seed=self.seed,
        )

    def plan_for(self, index: int, step: Technique) -> StepPlan:
        """What the step at `index` is told of its training."""
        data = self.data
        return StepPlan(
            data.steps_per_epoch,
            step.fit.epochs,
            self.calibration(),
            self.seed + index,
            targets=data.dataset.calibration_targets(count=data.settings.calibration_samples, seed=self.seed),
            loss=make_loss(data.task, data.from_logits),
        )

    def lesson(self, fit: Fit) -> Lesson | None:
        """What the training of `fit` learns from teachers; None where it has none."""
        if fit.distillation is None or not fit.epochs:
            return None
        return self.faculty.lesson(fit.distillation, self.data, self.state.model, self.seed)

    def ship(self, state: State) -> Shipment:
        """The proven file of a finished `state`; raises as `tfcompress.shipping.ship`."""
        return ship(state, self.recipe.conversion, self.data.preprocessing, self.calibration(raw=True))

    def faster(self, index: int, step: Technique, state: State) -> tuple[State, tuple[RewriteEvidence, ...]]:
        """`state`, before the last `step`, at `index`, after the rewrites that make its file faster: `try_rewrites`."""
        plan = self.plan_for(index, step)

        def by_calibration(state: State) -> bytes:
            return self.ship(step.finish(step.prepare(state, plan))).content

        state, found = try_rewrites(state, step, by_calibration, self.recipe.evaluation.latency_seconds)
        for one in found:
            self.reporter.message(str(one))
        return state, found

    def rehearse(self) -> None:
        """Convert the model as it came, when training comes first, so that what cannot ship is known before it.

        Raises:
            ConversionError, PromiseError: as the finished model would, after its training.
        """
        steps = self.recipe.steps
        if not self.from_zoo and not any(step.trains and step.fit.epochs for step in steps):
            return
        for line in summary(self.enabled.changes):
            self.reporter.message(line)
        state = with_promises(self.recipe, self.enabled.state).evolve(number_format=self.recipe.number_format)
        rehearse(state, self.recipe.conversion, self.data.preprocessing, self.calibration(raw=True))


def default_name(model: str, data: str, recipe: str) -> str:
    """What a run is called after its model, data and recipe, each by name or path.

    Example:
        >>> default_name("nets/mine.keras", "digits", "ptq_int8")
        'mine-digits-ptq_int8'
    """
    names = (re.sub(r"\.(h5|hdf5|keras|npz)$", "", Path(part).name) for part in (model, data, recipe))
    return "-".join(re.sub(r"[^A-Za-z0-9_.]+", "_", name) for name in names)


class JobOptions(TypedDict, total=False):
    """What `compress`, `train` and `convert` take by keyword, beside a model, data and a recipe.

    `overrides`: ``"<step or section>.<key>=<value>"``, each. `data_dir`: where TFDS keeps its data sets; defaults to
    TFDS's own place. `seed`: of all randomness; defaults to 0. `custom_objects`: classes and functions that a model
    file names. `unsafe`: execute byte code that a model file holds; defaults to refusing it. `reporter`: told of
    progress; defaults to silence.
    """

    overrides: Sequence[str]
    data_dir: str | Path | None
    seed: int
    custom_objects: Mapping[str, Any] | None
    unsafe: bool
    reporter: Reporter | None


def open_job(
    model: Any,
    data: Any,
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    overrides: Sequence[str] = (),
    data_dir: str | Path | None = None,
    seed: int = 0,
    custom_objects: Mapping[str, Any] | None = None,
    unsafe: bool = False,
    reporter: Reporter | None = None,
    distribution: Distribution | None = None,
) -> Job:
    """Load and check recipe, model and data; see `tfcompress.compress` for the arguments.

    Raises:
        RecipeError, ModelError, DataError: something cannot be loaded, or does not fit the rest.
    """
    reporter = reporter or Reporter()
    if seed < 0:
        raise RecipeError(f"seed must be at least 0. Received: {seed}.")
    distribution = distribution or Distribution()
    checked = load_recipe(recipe, overrides)
    _refuse_what_cannot_be_spread(checked, distribution)
    from_zoo = isinstance(model, str) and zoo.is_zoo(model)
    state, changes = None, ()
    if not from_zoo:
        given = given_state(model, custom_objects, unsafe)
        check_one_input_and_output(given.model)
        refuse_broken_promises(given, checked)
        opening = opened(given)
        state, changes = opening.state, opening.changes
        for line in summary(changes):
            reporter.message(line)
    reporter.message("Loading data")
    dataset = load_for(model if state is None else state.model, data, checked.data, data_dir, seed)
    state = state or built(model, dataset, seed)
    enabling = enabled(checked, state)
    faculty = gathered(checked, custom_objects, unsafe)
    _refuse_what_cannot_be_done(checked, enabling.state, faculty, state.model)
    if any(step.trains and step.fit.epochs for step in checked.steps) and dataset.train.targets is None:
        raise DataError(
            f"Training needs labels, and {dataset.name} has none. "
            "Remedy: a recipe without training, such as ptq_int8, for which unlabelled data is enough."
        )
    check_feeds(dataset, state.model)
    preprocessing, chosen_by = choose_preprocessing(
        checked, dataset, state.model, from_zoo=from_zoo, seed=seed, path=None if from_zoo else _file_of(model)
    )
    name = model if isinstance(model, (str, Path)) else state.model.name
    training_data = _with_task(TrainingData(dataset, preprocessing, checked.data, checked.task), state.model, seed)
    if training_data.from_logits:
        reporter.message("The model gives logits: its cross-entropy takes them, metrics by name the probabilities")
    for settings in distillations(checked).values():
        # Teachers that cannot be asked are refused before anything is trained.
        faculty.lesson(settings, training_data, state.model, seed)
    return Job(
        checked,
        state,
        str(name),
        from_zoo,
        training_data,
        chosen_by,
        seed,
        reporter,
        changes,
        enabling,
        faculty,
        distribution,
    )


def _refuse_what_cannot_be_spread(recipe: Recipe, distribution: Distribution) -> None:
    """Refuse what of a recipe cannot be trained as one on several devices or machines.

    Raises:
        RecipeError: with all of it.
    """
    if distribution.replicas == 1:
        return
    problems = [problem for step in recipe.steps for problem in step.problems_on_replicas()]
    if recipe.data.batch_size < distribution.replicas:
        problems.append(
            f"data.batch_size must be at least the number of replicas that a batch is split over. Received: "
            f"{recipe.data.batch_size} for {distribution.replicas}. Remedy: a larger one"
        )
    if distribution.has_others and recipe.conversion.faster:
        problems.append(
            "conversion.faster times files on one machine, and the processes of multi_worker could find different "
            "ones. Remedy: strategy mirrored, or leave it out"
        )
    if problems:
        raise RecipeError("\n".join(problems))


def _refuse_what_cannot_be_done(recipe: Recipe, state: State, faculty: Faculty, float_model: Any) -> None:
    """Refuse steps, and teachers, that cannot do with the model of `state` what `recipe` wants; all problems at once.

    Raises:
        RecipeError: naming them.
    """
    problems = [*faculty.problems(recipe, state.model, float_model), *_empty_parts(recipe, float_model)]
    try:
        with_promises(recipe, state)
    except RecipeError as error:
        problems.append(str(error))
    if problems:
        raise RecipeError("\n".join(problems))


def _empty_parts(recipe: Recipe, model: Any) -> Iterator[str]:
    """Of every training of weights that `model` has not, which."""
    for step in recipe.steps:
        part = step.fit.train
        if step.trains and step.fit.epochs and part and not step.adds_weights and lacks(model, part):
            yield f"{step.name}.fit.train: the model has no {part.replace('_', ' ')}. Remedy: another part, or all"


def load_for(model: Any, data: Any, settings: DataSettings, data_dir: str | Path | None, seed: int) -> Dataset:
    """The data set for a model, or for a network of the zoo by its spec; raises as `load_data`."""
    in_zoo = isinstance(model, str)
    return load_data(
        data,
        data_dir=data_dir,
        settings=settings,
        input_shape=None if in_zoo else tuple(model.input_shape[1:]),
        input_dtype=zoo.input_dtype(model) if in_zoo else input_dtype(model),
        seed=seed,
    )


def built(spec: str, dataset: Dataset, seed: int) -> State:
    """The untrained network of the zoo for the classes of `dataset`.

    Raises:
        DataError: it has no classes.
        ModelError: as `zoo.build`.
    """
    if dataset.classes is None or dataset.train.targets is None:
        raise DataError(f"A network of the zoo is a classifier: {dataset.name} must have integer labels.")
    return State(zoo.build(spec, dataset.input_shape, dataset.classes, seed, dataset.vocabulary_size))


def check_feeds(dataset: Dataset, model: Any) -> None:
    """Refuse data whose inputs or labels do not fit `model`; raises as `check_fits`."""
    columns = classes_of(model) if dataset.classes else None
    # One column answers yes or no, or with a number: labels are no indices into it.
    known = None if columns == 1 else columns
    check_fits(dataset, tuple(model.input_shape[1:]), known, token_limit(model))


def _with_task(data: TrainingData, model: Any, seed: int) -> TrainingData:
    """`data` told whether the model gives logits, its loss and metric tried once on a few samples.

    Raises:
        RecipeError, EvaluationError: there is no such loss or metric, or it does not fit the outputs.
    """
    validation = data.dataset.validation
    count = data.settings.calibration_samples
    samples = data.dataset.calibration(preprocessing=data.preprocessing, count=count, seed=seed)
    from_logits = takes_logits(data.task, np.asarray(model.predict(samples, verbose=0)))
    if validation.targets is not None:
        few = data.preprocessing.apply(validation.inputs[:_TRIED_SAMPLES])
        outputs, targets = np.asarray(model.predict(few, verbose=0)), validation.targets[:_TRIED_SAMPLES]
        loss = make_loss(data.task, from_logits)
        try:
            # Of tensors, unlike arrays, Keras brings the shapes together, as it does in training.
            loss(kd.tf.constant(targets), kd.tf.constant(outputs))
        except (ValueError, TypeError, kd.tf.errors.InvalidArgumentError) as error:
            raise RecipeError(
                f"task.loss must take the targets {targets.shape} and the model's outputs {outputs.shape}. "
                f"{data.task.loss} does not: {str(error).splitlines()[0]}"
            ) from error
        score(data.task, targets, outputs, from_logits=from_logits)
    return replace(data, from_logits=from_logits)


def _file_of(model: Any) -> Path | None:
    """The file or folder that holds the model; None for an object."""
    if not isinstance(model, (str, Path)):
        return None
    return Path(model) / MODEL_FILE if is_run_folder(Path(model)) else Path(model)


def given_state(model: Any, custom_objects: Mapping[str, Any] | None, unsafe: bool) -> State:
    """What a caller names as a model, but for networks of the zoo, as a state; raises as `load_model`, `read_state`."""
    if isinstance(model, State):
        return model
    # A Result has the state that another run can go on from.
    if isinstance(getattr(model, "state", None), State):
        return model.state
    if isinstance(model, str) and not Path(model).exists():
        raise ModelError(
            "A model must be a path to a Keras file or to the folder of an earlier run, or the name of a network of "
            f"the zoo. Received: {model}. "
            f"The zoo has: {', '.join(zoo.names())}."
        )
    if isinstance(model, (str, Path)) and is_run_folder(Path(model)):
        return read_state(Path(model), custom_objects, unsafe)
    # A copy, because a layer of the caller's may be part of other graphs too, and is never to change.
    return State(clone(load_model(model, custom_objects, unsafe)))


def with_promises(recipe: Recipe, state: State) -> State:
    """`state` as the recipe's steps foresee it, with their promises, each step checked on what it will receive.

    Raises:
        RecipeError: with what every step refuses.
    """
    problems = []
    for step in recipe.steps:
        try:
            step.check(state)
            state = step.foreseen(state)
        except (RecipeError, ModelError) as error:
            problems.append(str(error))
    if problems:
        raise RecipeError("\n".join(problems))
    return state


def refuse_broken_promises(state: State, recipe: Recipe) -> None:
    """Refuse a recipe that would break what an earlier run promised.

    Raises:
        RecipeError: with every step that would.
    """
    if state.quantization is not None:
        raise RecipeError(
            "The model is already quantized by training; no step can follow. "
            "Remedy: go on from the folder of its run, which keeps the state before."
        )
    stages = {_STAGE_OF_PROMISE[promise.kind] for promise in state.promises}
    broken = [
        f"{step.name} would break promises of the earlier run ({stage})"
        for step in recipe.steps
        for stage in sorted(stages)
        if undoes(step.stage, stage)
    ]
    if broken:
        raise RecipeError("The recipe cannot go on from this state: " + "; ".join(broken) + ".")
