"""Teachers: trained networks that are read once, asked whether they fit the student, and asked for their outputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.evaluate.interpreter import ModelFile, read
from tfcompress.evaluate.metric import cross_entropy_of, takes_logits
from tfcompress.evaluate.prediction import io_types, output_step, predict
from tfcompress.models.loading import check_one_input_and_output, fingerprint, load_model
from tfcompress.preprocessing_file import read_sidecar
from tfcompress.run_folder import RunFolder
from tfcompress.training_data import TrainingData
from tfcompress.vocabulary.distillation import Teacher
from tfcompress.vocabulary.preprocessing import Preprocessing
from tfcompress.vocabulary.training import Task

OUTPUTS_FOLDER = "teachers"
"""Where a run's folder keeps what teachers said of the training examples."""

_BATCH = 256


@dataclass(frozen=True, eq=False)
class Network:
    """A teacher's network: a Keras model or a .tflite file.

    Args:
        where: how messages name it.
        model: the Keras model, which is never trained; None of a file.
        file: the .tflite file; None of a Keras model.
        written: what it expects to be fed, as it is written beside its file; None where nothing is.
    """

    where: str
    model: Any = None
    file: ModelFile | None = None
    written: Preprocessing | None = None

    @cached_property
    def fingerprint(self) -> str:
        """Of all that its outputs depend on: SHA-256, in hexadecimal."""
        return fingerprint(self.model) if self.file is None else hashlib.sha256(self.file.content).hexdigest()

    @cached_property
    def shapes(self) -> tuple[tuple[int | None, ...], tuple[int | None, ...]]:
        """Of one input and one output, without the batch; None for a size that is left open."""
        if self.file is None:
            return tuple(self.model.input_shape[1:]), tuple(self.model.output_shape[1:])
        types = io_types(self.file)
        return tuple(tuple(None if n == -1 else n for n in end.shape[1:]) for end in (types.input, types.output))

    @cached_property
    def step(self) -> float:
        """One step of quantized outputs; 0 of float ones."""
        return 0.0 if self.file is None else output_step(self.file)

    def outputs(self, inputs: np.ndarray) -> np.ndarray:
        """float32 `[n, ...]` for preprocessed inputs `[n, ...]`."""
        if self.file is not None:
            return predict(self.file, inputs)
        return np.asarray(self.model.predict(inputs, batch_size=_BATCH, verbose=0), np.float32)

    def outputs_in_graph(self, inputs: Any) -> Any:
        """The same for a tensor `[batch, ...]`, in the graph of a training step; no gradient leads into a file."""
        if self.file is None:
            return self.model(inputs, training=False)
        # One thread: beside the training's, several wait for one another longer than they save.
        ask = partial(predict, self.file, batch_size=_BATCH, threads=1)
        outputs = kd.tf.numpy_function(ask, [inputs], kd.tf.float32)
        outputs.set_shape((None, *self.shapes[1]))
        return outputs


def read_network(teacher: Teacher, custom_objects: Mapping[str, Any] | None, unsafe: bool) -> Network:
    """The network of a teacher that is not the run's own float model.

    Raises:
        ModelError, EvaluationError, RecipeError: the file cannot be read, has several inputs or outputs, or what is
            written beside it is no preprocessing.
    """
    path = Path(teacher.model) if isinstance(teacher.model, str) else None
    written = None if path is None else read_sidecar(path)
    if teacher.is_tflite:
        file = read(path)
        io_types(file)
        return Network(teacher.where, file=file, written=written)
    model = load_model(teacher.model, custom_objects, unsafe)
    check_one_input_and_output(model)
    return Network(teacher.where, model=model, written=written)


def misfits(network: Network, student: Any) -> Iterator[str]:
    """Why `network` cannot teach `student`; nothing when it can."""
    pairs = zip(network.shapes, (student.input_shape[1:], student.output_shape[1:]), strict=True)
    for (theirs, mine), what in zip(pairs, ("inputs", "outputs"), strict=True):
        if not _may_be_equal(theirs, mine):
            counted = what == "outputs" and len(theirs) == len(mine) == 1
            rule = "have as many classes as the student" if counted else f"have {what} of the student's shape"
            came = (
                f"{theirs[0]}, the student has {mine[0]}" if counted else f"{theirs}, the student's are {tuple(mine)}"
            )
            yield f"a teacher must {rule}. {network.where}: {came}"


def _may_be_equal(first: Sequence[int | None], second: Sequence[int | None]) -> bool:
    same = len(first) == len(second)
    return same and all(a is None or b is None or a == b for a, b in zip(first, second, strict=True))


@dataclass(frozen=True, eq=False)
class Engaged:
    """A teacher at work: its network, what it is fed and what its outputs are.

    Args:
        network: that gives the outputs.
        preprocessing: what the network is fed.
        from_logits: whether its outputs are logits.
        data: what the student learns from.
    """

    network: Network
    preprocessing: Preprocessing
    from_logits: bool
    data: TrainingData = field(repr=False)

    def stored_outputs(self, folder: RunFolder | None, seed: int, view: int) -> np.ndarray:
        """The outputs for every training example, float32 `[n, ...]`: computed once, and kept in the run's folder.

        Args:
            folder: whose file `teachers/<key>.npz` is told by the teacher, what it is fed and the examples, so that
                every step and every later run of the folder finds it; None keeps none.
            seed: of the run.
            view: which view of the examples; see `Augmentation.view`.
        """
        name = f"{OUTPUTS_FOLDER}/{self._key(seed, view)}.npz"
        stored = folder.read_arrays(name) if folder is not None else None
        if stored is not None:
            return stored["outputs"]
        seen = self.data.dataset.seen_inputs(
            preprocessing=self.preprocessing, settings=self.data.settings, seed=seed, view=view, batch_size=_BATCH
        )
        outputs = np.concatenate([self.network.outputs(inputs) for inputs in seen])
        if folder is not None:
            folder.write_arrays(name, {"outputs": outputs})
        return outputs

    def refed(self, inputs: Any) -> Any:
        """What the student is fed, tensor `[batch, ...]`, as this teacher is to be fed it."""
        mine, theirs = self.data.preprocessing, self.preprocessing
        if mine == theirs or inputs.dtype.is_integer:
            return inputs
        factor = np.float64(theirs.scale) / np.float64(mine.scale)
        shift = np.float64(theirs.offset) - np.float64(mine.offset) * factor
        return inputs * np.float32(factor) + np.float32(shift)

    def _key(self, seed: int, view: int) -> str:
        split, augment = self.data.dataset.train, self.data.settings.augment
        told = [self.network.fingerprint, self.preprocessing.model_dump(mode="json"), split.fingerprint]
        if not augment.is_off:
            told += [augment.model_dump(mode="json", exclude={"views", "cutmix"}), seed, view]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]


def engaged(teacher: Teacher, network: Network, data: TrainingData, *, is_student: bool, seed: int) -> Engaged:
    """`teacher` ready to teach what is in `data`; it is asked about a few training examples.

    Args:
        teacher: as the recipe has it.
        network: its own, or the float model that the run started from.
        data: what the student learns from.
        is_student: whether the network is the one that the student came from, and its outputs are what `data` says.
        seed: decides on the examples.

    Raises:
        DataError: what the teacher is to be fed does not fit the examples.
        EvaluationError: its file cannot be run.
    """
    preprocessing = teacher.preprocessing or network.written or data.preprocessing
    if is_student:
        return Engaged(network, preprocessing, data.from_logits, data)
    samples = data.dataset.calibration(preprocessing=preprocessing, count=data.settings.calibration_samples, seed=seed)
    # A loss object speaks of the student's outputs alone.
    loss = cross_entropy_of(data.task)
    from_logits = loss is not None and takes_logits(Task(loss=loss), network.outputs(samples), output_step=network.step)
    return Engaged(network, preprocessing, from_logits, data)
