"""Random changes to training images, each decided by its example's own seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field, model_validator

from tfcompress import keras_door as kd
from tfcompress.vocabulary.errors import DataError
from tfcompress.vocabulary.schema import Schema

# One stream of random numbers for each decision: turning one on does not change what another decides.
_FLIP, _CROP_ROW, _CROP_COLUMN, _CUTOUT_ROW, _CUTOUT_COLUMN = range(5)
_MIX, _MIX_AREA, _MIX_ROW, _MIX_COLUMN, _MIX_TARGET = range(5, 10)

_GOLDEN = 0x9E3779B9


class Augmentation(Schema):
    """Left-right flip, random crop, cutout and CutMix of images `[batch, height, width, channels]`.

    Each commutes with preprocessing: no absolute value is brought in, so that nothing depends on what zero means.
    All are off by default.
    """

    flip: bool = False
    """Mirror left to right, half of the time."""
    crop: int = Field(default=0, ge=0)
    """Pad by this many pixels on every side by reflection, and cut the original size out anywhere. 0 is off."""
    cutout: int = Field(default=0, ge=0)
    """Side in pixels of a square, centred on a random pixel, that is set to the image's mean. 0 is off.
    DeVries & Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout" (2017)."""
    cutmix: float = Field(default=0, ge=0, le=1)
    """Share of the images that get a rectangle of another one of their batch, of any size, new in every epoch. Such an
    image counts as either of the two, for its target and for what a teacher was asked about it, with the probability
    of its area: on average over draws these are the mixed ones of Yun et al., "CutMix" (2019). 0 is off."""
    views: int = Field(default=0, ge=0)
    """How many changed images there are of each, seen in turn from epoch to epoch, so that a teacher is asked about
    each of them once. Defaults to 0: new ones in every epoch, about which it is asked in every epoch."""

    @model_validator(mode="after")
    def _views_differ(self) -> Augmentation:
        if self.views and self.is_off:
            raise ValueError(
                f"views are of changed images. Received: views={self.views} without flip, crop and cutout. "
                "Remedy: turn one of them on, or views: 0"
            )
        return self

    def view(self, epoch: int) -> int:
        """Which of the views epoch number `epoch`, from 0, sees: 0 of images that are not changed, and where there are
        new ones in every epoch its own.

        Example:
            >>> [Augmentation(flip=True, views=2).view(epoch) for epoch in range(4)]
            [0, 1, 0, 1]
        """
        if self.is_off:
            return 0
        return epoch % self.views if self.views else epoch

    @property
    def is_off(self) -> bool:
        """Whether each image stays as it is, before any are mixed."""
        return not (self.flip or self.crop or self.cutout)

    def check(self, input_shape: Sequence[int]) -> None:
        """Refuse what cannot be done to samples of this shape.

        Args:
            input_shape: of one sample, without the batch.

        Raises:
            DataError: they are no images, or too small; all problems at once.
        """
        if self.is_off and not self.cutmix:
            return
        if len(input_shape) != 3:
            raise DataError(
                "Augmentation needs images of shape (height, width, channels). "
                f"Received: {tuple(input_shape)}. Remedy: leave flip, crop, cutout and cutmix off."
            )
        smaller = min(input_shape[:2])
        problems = [
            f"{name} must be smaller than the image. Received: {name}={value} for {tuple(input_shape)}."
            for name, value in (("crop", self.crop), ("cutout", self.cutout))
            if value >= smaller
        ]
        if problems:
            raise DataError("\n".join(problems))

    def apply(self, images: Any, seeds: Any) -> Any:
        """The images, each changed as its seed decides; the same seeds give the same images.

        Args:
            images: float tensor `[batch, height, width, channels]`.
            seeds: int32 tensor `[batch, 2]`.

        Returns:
            A tensor of the same shape and dtype.

        Raises:
            DataError: the shape does not allow it.
        """
        self.check(images.shape[1:])
        if self.is_off:
            return images
        return self._cut_out(self._moved(images, seeds), seeds)

    def mixed(self, images: Any, seeds: Any, *beside: Any) -> tuple[Any, ...]:
        """The images, some with a rectangle of the one before them in the batch, and what belongs to each.

        Args:
            images: float tensor `[batch, height, width, channels]`.
            seeds: int32 tensor `[batch, 2]`, which decide.
            beside: tensors `[batch, ...]`: targets, and what teachers said.

        Returns:
            The same tensors; of `beside`, rows of the image before are in the place of an image's own with the
            probability of its area. As they came where there is nothing to mix.
        """
        if not self.cutmix:
            return images, *beside
        tf = kd.tf
        # A side that is the root of a uniform share of the image's: the area is that share.
        share = tf.sqrt(_uniform(seeds, _MIX_AREA))
        rows, columns = (
            _between(tf.range(size), _below(seeds, stream, size), tf.cast(share * size, tf.int32))
            for size, stream in zip(images.shape[1:3], (_MIX_ROW, _MIX_COLUMN), strict=True)
        )
        chosen = _uniform(seeds, _MIX) < self.cutmix
        other = tf.logical_and(tf.logical_and(rows[:, :, None], columns[:, None, :]), chosen[:, :, None])
        area = tf.reduce_mean(tf.cast(other, tf.float32), axis=[1, 2])
        counts_as_other = _uniform(seeds, _MIX_TARGET)[:, 0] < area
        pairs = [(other[..., None], images), *((_along(counts_as_other, values), values) for values in beside)]
        return tuple(tf.where(takes, tf.roll(values, 1, axis=0), values) for takes, values in pairs)

    def _moved(self, images: Any, seeds: Any) -> Any:
        """Flipped and cropped, as a choice of rows and columns: padding is never built."""
        tf = kd.tf
        height, width = images.shape[1:3]
        if self.crop:
            rows = _reflected(tf.range(height) + self._shift(seeds, _CROP_ROW), height)
            images = tf.gather(images, rows, axis=1, batch_dims=1)
        if self.crop or self.flip:
            shift = self._shift(seeds, _CROP_COLUMN) if self.crop else tf.zeros_like(seeds[:, :1])
            columns = _reflected(tf.range(width) + shift, width)
            if self.flip:
                mirrored = _below(seeds, _FLIP, 2) == 1
                columns = tf.where(mirrored, columns[:, ::-1], columns)
            images = tf.gather(images, columns, axis=2, batch_dims=1)
        return images

    def _shift(self, seeds: Any, stream: int) -> Any:
        return _below(seeds, stream, 2 * self.crop + 1) - self.crop

    def _cut_out(self, images: Any, seeds: Any) -> Any:
        if not self.cutout:
            return images
        tf = kd.tf
        rows, columns = (
            _between(tf.range(size), _below(seeds, stream, size), self.cutout)
            for size, stream in zip(images.shape[1:3], (_CUTOUT_ROW, _CUTOUT_COLUMN), strict=True)
        )
        erased = tf.logical_and(rows[:, :, None], columns[:, None, :])[..., None]
        return tf.where(erased, tf.reduce_mean(images, axis=[1, 2], keepdims=True), images)


def _between(positions: Any, centre: Any, count: Any) -> Any:
    """Which `positions` are among the `count` around `centre`."""
    first = centre - count // 2
    return kd.tf.logical_and(positions >= first, positions < first + count)


def _along(chosen: Any, values: Any) -> Any:
    """`chosen`, `[batch]`, with as many axes as `values`."""
    return kd.tf.reshape(chosen, [-1, *[1] * (len(values.shape) - 1)])


def _reflected(positions: Any, size: int) -> Any:
    """Positions up to one size outside, brought inside by reflection that does not repeat the border."""
    tf = kd.tf
    return (size - 1) - tf.abs((size - 1) - tf.abs(positions))


def _below(seeds: Any, stream: int, bound: int) -> Any:
    """A random integer below `bound` for each seed, int32 `[batch, 1]`."""
    return kd.tf.cast(_uniform(seeds, stream) * bound, kd.tf.int32)


def _uniform(seeds: Any, stream: int) -> Any:
    """A random number from 0 up to, not including, 1 for each seed, float32 `[batch, 1]`.

    TensorFlow's stateless generators take one seed for a whole batch. Hashing the seeds draws for each example
    alone, in one pass over the batch: 32-bit words are chained through the finalizer of MurmurHash3.
    """
    tf = kd.tf
    words = tf.bitcast(seeds, tf.uint32)
    state = tf.fill([tf.shape(seeds)[0]], tf.constant(_GOLDEN, tf.uint32))
    for word in (words[:, 0], words[:, 1], tf.constant(stream, tf.uint32)):
        state = _avalanche(tf.bitwise.bitwise_xor(state, word) + tf.constant(_GOLDEN, tf.uint32))
    # 24 bits are what a float32 holds exactly.
    return (tf.cast(tf.bitwise.right_shift(state, tf.constant(8, tf.uint32)), tf.float32) / 2.0**24)[:, None]


def _avalanche(words: Any) -> Any:
    tf = kd.tf
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        words = tf.bitwise.bitwise_xor(words, tf.bitwise.right_shift(words, tf.constant(shift, tf.uint32)))
        words = words * tf.constant(factor, tf.uint32)
    return words
