"""Convolutions on images whose 2x2 blocks of pixels are channels: the arithmetic of space to depth.

In ``tf.nn.space_to_depth(x, 2)`` pixel `(2Y + dy, 2X + dx)` is at `(Y, X)`, in the channels of phase `2 dy + dx`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Axis:
    """A convolution along one axis, its input, its output or both in phases.

    Args:
        size: of the kernel.
        strided: whether the convolution takes every second pixel; its output then has no phases.
        split: whether its input is in phases.
    """

    size: int
    strided: bool
    split: bool

    def taps(self) -> Iterator[tuple[int, int, int, int]]:
        """For each output phase and place in the kernel, where the pixel is: `(phase out, place, offset, phase in)`."""
        # How TensorFlow pads: by the smaller half in front.
        padding = max(self.size - 2, 0) // 2 if self.strided else (self.size - 1) // 2
        for out in range(1 if self.strided else 2):
            for place in range(self.size):
                at = out + place - padding
                yield (out, place, at // 2, at % 2) if self.split else (out, place, at, 0)

    @property
    def first(self) -> int:
        """The offset of the first place of the new kernel."""
        if not self.split:
            return min(offset for _, _, offset, _ in self.taps())
        return -((self.new_size - 1) // 2)

    @property
    def new_size(self) -> int:
        """The size of the new kernel under TensorFlow's own padding, ``"same"``."""
        offsets = [offset for _, _, offset, _ in self.taps()]
        if not self.split:
            return max(offsets) - min(offsets) + 1
        size = 1
        while (size - 1) // 2 < -min(offsets) or size // 2 < max(offsets):
            size += 1
        return size


def rearranged(kernel: np.ndarray, rows: Axis, columns: Axis) -> np.ndarray:
    """The kernel that does in phases what `kernel` does to pixels.

    Args:
        kernel: `[height, width, in, out]`.
        rows, columns: along its two axes; both of one kind.

    Returns:
        `[new height, new width, in phases * in, out phases * out]`, the same values at new places, and zeros.
    """
    phases_in, phases_out = (2 if rows.split else 1), (1 if rows.strided else 2)
    taken, given = kernel.shape[2:]
    shape = (rows.new_size, columns.new_size, phases_in, phases_in, taken, phases_out, phases_out, given)
    new = np.zeros(shape, kernel.dtype)
    for out_y, y, offset_y, in_y in rows.taps():
        for out_x, x, offset_x, in_x in columns.taps():
            place = (offset_y - rows.first, offset_x - columns.first)
            new[(*place, in_y, in_x, slice(None), out_y, out_x)] = kernel[y, x]
    return new.reshape(*shape[:2], phases_in**2 * taken, phases_out**2 * given)
