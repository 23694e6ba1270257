"""A data set in memory, and the tf.data pipelines that feed it to training, evaluation and calibration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.data.encoding import Encoding
from tfcompress.data.settings import DataSettings
from tfcompress.data.split import Split
from tfcompress.vocabulary.errors import DataError
from tfcompress.vocabulary.preprocessing import Preprocessing

TEST_FRACTION = 0.2
"""Share of all examples that is tested on, where a source has no test split."""


class _Purpose(IntEnum):
    """What random numbers are for: each has its own."""

    ORDER = 0
    AUGMENTATION = 1
    CALIBRATION = 2
    VALIDATION_CUT = 3
    TEST_CUT = 4
    MIXING = 5


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits that never mix: train to learn from, validation to decide by, test to report.

    Args:
        name: what the caller asked for.
        train: the examples to train on, and the only ones to calibrate with.
        validation: for early stopping, checkpoints and searches.
        test: for the last measurement.
        class_names: of the labels, in order; None where the source has none.
        seed: that the validation split was cut with.
        encoding: how text or sound became the inputs; None for data that comes as numbers.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...] | None = None
    seed: int = 0
    encoding: Encoding | None = None

    @property
    def splits(self) -> dict[str, Split]:
        """The three by their names."""
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch."""
        return self.train.inputs.shape[1:]

    @property
    def classes(self) -> int | None:
        """Number of classes: that of the names, else one more than the largest label; None without integer labels."""
        labels = [split.targets for split in self.splits.values() if is_labels(split.targets) and split.count]
        if not labels:
            return None
        return len(self.class_names) if self.class_names else 1 + max(int(part.max()) for part in labels)

    @property
    def files(self) -> dict[str, str]:
        """What belongs beside a model of this data, by file name: `labels.txt`, and the files of the encoding."""
        labels = {"labels.txt": "".join(f"{name}\n" for name in self.class_names)} if self.class_names else {}
        return labels | dict(self.encoding.files if self.encoding else {})

    @property
    def vocabulary_size(self) -> int | None:
        """Number of token ids: that of the vocabulary, else one more than the largest; None without integer inputs."""
        if self.encoding is not None:
            return self.encoding.vocabulary_size
        tokens = [split.inputs for split in self.splits.values() if split.inputs.dtype == np.int32 and split.count]
        return 1 + max(int(part.max()) for part in tokens) if tokens else None

    def steps_per_epoch(self, batch_size: int) -> int:
        """Training batches in an epoch, the last of which may be smaller."""
        return math.ceil(self.train.count / batch_size)

    def training_batches(
        self,
        *,
        preprocessing: Preprocessing,
        settings: DataSettings,
        seed: int,
        step: int,
        epoch: int,
        rows: np.ndarray | None = None,
    ) -> Any:
        """One epoch of shuffled, augmented training batches, which depends on the arguments alone.

        Args:
            preprocessing: applied to every input.
            settings: batch size and augmentation.
            seed: of the run.
            step: place of the recipe's step in the run, from 0.
            epoch: place of the epoch in the step, from 0.
            rows: `[n, ...]`, what else belongs to each training example and follows it into its batch. Defaults to
                nothing.

        Returns:
            A `tf.data.Dataset` of (inputs `[batch, ...]`, targets `[batch, ...]`), and of rows `[batch, ...]` behind
            them where there are any. Order, augmentation and mixing derive from (seed, step, epoch), augmentation by
            views from (seed, view); the last batch holds what is left.

        Raises:
            DataError: there are no targets, or the augmentation does not fit the inputs.
        """
        if self.train.targets is None:
            raise DataError(f"Training needs targets, and {self.name} has none.")
        settings.augment.check(self.input_shape)
        tf = kd.tf
        order = _generator(_Purpose.ORDER, seed, step, epoch).permutation(self.train.count)
        seeds = self._augmentation_seeds(settings, seed, step, epoch)
        if settings.augment.views:
            # What changes in a view goes with the example; what is new in every epoch, with the place in it.
            seeds = seeds[order]
        mixing = _seeds(_generator(_Purpose.MIXING, seed, step, epoch), self.train.count)
        inputs, *beside = self.train.tensors
        if rows is not None:
            with tf.device("CPU:0"):
                beside.append(tf.constant(rows))

        # Nothing in it branches on a tensor: without AutoGraph's rewriting it is traced in less than half the time.
        @tf.autograph.experimental.do_not_convert
        def load(indices: Any, seeds: Any, mixing: Any) -> tuple[Any, ...]:
            batch = settings.augment.apply(preprocessing.apply(tf.gather(inputs, indices)), seeds)
            return settings.augment.mixed(batch, mixing, *(tf.gather(values, indices) for values in beside))

        return (
            tf.data.Dataset.from_tensor_slices((order, seeds, mixing))
            .batch(settings.batch_size)
            .map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .prefetch(tf.data.AUTOTUNE)
        )

    def seen_inputs(
        self, *, preprocessing: Preprocessing, settings: DataSettings, seed: int, view: int, batch_size: int
    ) -> Iterator[np.ndarray]:
        """The training inputs in their order, as one of the augmentation's views has them in every step.

        Args:
            preprocessing: applied to every input.
            settings: the augmentation; where it is off there is one view.
            seed: of the run.
            view: which, from 0.
            batch_size: inputs in a batch; the last one holds what is left.

        Returns:
            Batches `[batch, ...]`, float32, or int32 of integers.
        """
        seeds = self._augmentation_seeds(settings, seed, 0, view)
        for start in range(0, self.train.count, batch_size):
            batch = preprocessing.apply(self.train.inputs[start : start + batch_size])
            if settings.augment.is_off:
                yield batch
            else:
                yield settings.augment.apply(kd.tf.constant(batch), seeds[start : start + batch_size]).numpy()

    def _augmentation_seeds(self, settings: DataSettings, seed: int, step: int, epoch: int) -> np.ndarray:
        """Of each training example, int32 `[n, 2]`."""
        place = (settings.augment.view(epoch),) if settings.augment.views else (step, epoch)
        return _seeds(_generator(_Purpose.AUGMENTATION, seed, *place), self.train.count)

    def batches(self, split: Split, *, preprocessing: Preprocessing, batch_size: int) -> Any:
        """The examples of a split in their order, not augmented.

        Args:
            split: one of the three.
            preprocessing: applied to every input.
            batch_size: examples in a batch; the last one holds what is left.

        Returns:
            A `tf.data.Dataset` of (inputs, targets), or of inputs alone where there are no targets.
        """
        tf = kd.tf
        inputs, *targets = split.tensors

        def load(indices: Any) -> Any:
            batch = preprocessing.apply(tf.gather(inputs, indices))
            return (batch, tf.gather(targets[0], indices)) if targets else batch

        return (
            tf.data.Dataset.range(split.count)
            .batch(batch_size)
            .map(load, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
            .prefetch(tf.data.AUTOTUNE)
        )

    def calibration(self, *, preprocessing: Preprocessing, count: int, seed: int) -> np.ndarray:
        """Training inputs to take activation ranges from.

        Args:
            preprocessing: applied to every input.
            count: how many; all, where there are fewer.
            seed: decides which.

        Returns:
            float32, or int32 of integers, `[min(count, n), ...]`, no example twice.
        """
        return preprocessing.apply(self.train.inputs[self._calibrating(count, seed)])

    def calibration_targets(self, *, count: int, seed: int) -> np.ndarray | None:
        """The targets `[min(count, n), ...]` of the inputs that `calibration` gives; None without labels."""
        targets = self.train.targets
        return None if targets is None else targets[self._calibrating(count, seed)]

    def _calibrating(self, count: int, seed: int) -> np.ndarray:
        return _generator(_Purpose.CALIBRATION, seed).permutation(self.train.count)[:count]


def is_labels(targets: np.ndarray | None) -> bool:
    """Whether targets are integer labels, one for each example."""
    return targets is not None and targets.ndim == 1 and np.issubdtype(targets.dtype, np.integer)


def _seeds(random: np.random.Generator, count: int) -> np.ndarray:
    """Of as many examples, int32 `[count, 2]`."""
    return random.integers(-(2**31), 2**31, (count, 2), dtype=np.int32)


def _generator(purpose: _Purpose, seed: int, *place: int) -> np.random.Generator:
    """Random numbers that depend on the arguments alone, and differ between purposes."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, *place)))


def assemble(
    name: str,
    splits: Mapping[str, Split],
    *,
    settings: DataSettings,
    seed: int,
    class_names: tuple[str, ...] | None = None,
    encoding: Encoding | None = None,
) -> Dataset:
    """A data set of `splits`, with those that are missing cut from train.

    The test split is cut first, see `with_test`. The validation split (`settings.validation_fraction` of what is
    left) is cut by `seed`. A cut takes at least one example.

    Args:
        name: of the data set.
        splits: `train`, and where the source has them `validation` and `test`.
        settings: the validation fraction.
        seed: decides which examples are validated on.
        class_names: of the labels, in order.
        encoding: how text or sound became the inputs.
    """
    splits = with_test(splits)
    train, test = splits["train"], splits["test"]
    if "validation" in splits:
        validation = splits["validation"]
    else:
        train, validation = _cut(train, settings.validation_fraction, _generator(_Purpose.VALIDATION_CUT, seed))
    return Dataset(name, train, validation, test, class_names, seed, encoding)


def with_test(splits: Mapping[str, Split]) -> Mapping[str, Split]:
    """`splits`, with a test split cut from train (`TEST_FRACTION`) where there is none.

    The cut is the same for every seed: a model trained under one seed and compressed under another is never tested
    on what it learned.
    """
    if "test" in splits:
        return splits
    train, test = _cut(splits["train"], TEST_FRACTION, _generator(_Purpose.TEST_CUT, 0))
    return {**splits, "train": train, "test": test}


def _cut(split: Split, fraction: float, random: np.random.Generator) -> tuple[Split, Split]:
    """What stays and what is cut off, both in the order of `split`."""
    size = min(max(1, round(split.count * fraction)), split.count)
    order = random.permutation(split.count)
    return split.at(np.sort(order[size:])), split.at(np.sort(order[:size]))
