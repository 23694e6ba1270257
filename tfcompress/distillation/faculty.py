"""The teachers of a run: those that its recipe names, each read once, and what they give to every step."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tfcompress.distillation.features import problems_with
from tfcompress.distillation.lesson import Lesson
from tfcompress.distillation.teachers import Network, engaged, misfits, read_network
from tfcompress.recipe import Recipe
from tfcompress.training_data import TrainingData
from tfcompress.vocabulary.distillation import FLOAT, Distillation, Teacher
from tfcompress.vocabulary.errors import TfcompressError


@dataclass(frozen=True, eq=False)
class Faculty:
    """All teachers of a recipe but the float model that the run starts from, which it has anyway.

    Args:
        networks: by what tells them in the recipe.
        unreadable: why others could not be read, likewise.
    """

    networks: Mapping[Hashable, Network]
    unreadable: Mapping[Hashable, str]

    def lesson(self, settings: Distillation, data: TrainingData, float_model: Any, seed: int) -> Lesson:
        """What a step with these `settings` learns; raises as `engaged`.

        Args:
            settings: of the step's training.
            data: what it trains on.
            float_model: the Keras model that the run started from.
            seed: of the run.
        """
        teachers = tuple(
            engaged(one, self._network(one, float_model), data, is_student=one.is_float, seed=seed)
            for one in settings.teacher
        )
        return Lesson(settings, teachers, data)

    def problems(self, recipe: Recipe, student: Any, float_model: Any) -> list[str]:
        """What forbids the distillation that `recipe` wants, each with its place and remedy; empty when nothing does.

        Args:
            recipe: whose teachers these are.
            student: the model that its steps begin with.
            float_model: the Keras model that the run starts from.
        """
        return [
            f"{place}.{problem}"
            for place, settings in distillations(recipe).items()
            for problem in self._problems(settings, student, float_model)
        ]

    def identified(self, recipe: Recipe) -> dict[str, Any]:
        """The recipe as plain values, its teachers told by what they are instead of where they lie."""
        plain = recipe.plain()
        fits = [(plain["train"], recipe.train)]
        fits += [(tree["fit"], step.fit) for tree, step in zip(plain["steps"], recipe.steps, strict=True)]
        for tree, fit in fits:
            if fit.distillation is None:
                continue
            for written, teacher in zip(tree["distillation"]["teacher"], fit.distillation.teacher, strict=True):
                network = self.networks.get(_key(teacher))
                if network is not None:
                    written["model"] = network.fingerprint
        return plain

    def _network(self, teacher: Teacher, float_model: Any) -> Network:
        return Network(FLOAT, model=float_model) if teacher.is_float else self.networks[_key(teacher)]

    def _problems(self, settings: Distillation, student: Any, float_model: Any) -> Iterator[str]:
        for teacher in settings.teacher:
            if _key(teacher) in self.unreadable:
                yield f"teacher: {self.unreadable[_key(teacher)]}"
            else:
                for misfit in misfits(self._network(teacher, float_model), student):
                    yield f"teacher: {misfit}"
        first = settings.teacher[0]
        if settings.needs_layers and first.is_tflite:
            yield (
                "teacher: features and gradients are those of the first teacher, whose layers are looked at. "
                f"{first.where} has none. Remedy: put a Keras model first, or learn from its outputs alone"
            )
        elif _key(first) not in self.unreadable:
            model = self._network(first, float_model).model
            for pair in settings.features:
                for problem in problems_with(pair, student, model, settings):
                    yield f"features: {problem}"
            if settings.gradient_weight and (student.inputs[0].dtype.is_integer or model.inputs[0].dtype.is_integer):
                yield (
                    "gradient_weight: gradients with respect to the inputs need inputs of real numbers, not integers "
                    "such as token ids. Remedy: gradient_weight: 0"
                )


def gathered(recipe: Recipe, custom_objects: Mapping[str, Any] | None, unsafe: bool) -> Faculty:
    """The teachers of `recipe`; of those that cannot be read the reason.

    Args:
        recipe: as it will run.
        custom_objects: classes and functions that a teacher's file names.
        unsafe: execute byte code that a teacher's file holds.
    """
    networks, unreadable = {}, {}
    for settings in distillations(recipe).values():
        for teacher in settings.teacher:
            if teacher.is_float or _key(teacher) in networks or _key(teacher) in unreadable:
                continue
            try:
                networks[_key(teacher)] = read_network(teacher, custom_objects, unsafe)
            except TfcompressError as error:
                unreadable[_key(teacher)] = str(error)
    return Faculty(networks, unreadable)


def distillations(recipe: Recipe) -> dict[str, Distillation]:
    """What the training of a run learns from teachers, by the place in the recipe."""
    fits = {"train.distillation": recipe.train}
    fits |= {f"{step.name}.fit.distillation": step.fit for step in recipe.steps if step.trains}
    return {place: fit.distillation for place, fit in fits.items() if fit.distillation is not None and fit.epochs}


def _key(teacher: Teacher) -> Hashable:
    return teacher.model if isinstance(teacher.model, str) else id(teacher.model)
