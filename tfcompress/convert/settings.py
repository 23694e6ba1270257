"""What of a conversion a recipe may choose."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tfcompress.vocabulary.schema import Schema
from tfcompress.vocabulary.state import NumberFormat

IoType = Literal["int8", "uint8", "int16", "float32"]

IO_TYPES: dict[NumberFormat, tuple[IoType, ...]] = {
    "int8": ("int8", "uint8", "float32"),
    "int16x8": ("int16", "float32"),
    "dynamic_range": ("float32",),
    "float16": ("float32",),
}
"""The types that inputs and outputs of each arithmetic may have, its own first."""


class ConversionSettings(Schema):
    """The form of the shipped file, whatever technique chose its arithmetic."""

    input_type: IoType | None = None
    """Type of the file's inputs; `float32` puts the quantizers inside. Defaults to that of the arithmetic: int8 for
    int8, int16 for int16x8, else float32."""
    output_type: IoType | None = None
    """Type of the file's outputs. Defaults likewise."""
    preprocessing_in_graph: bool = False
    """Put the preprocessing into the file, so that raw values (a uint8 image) are fed. Off by default."""
    allow_float: bool = False
    """Report operators left in float instead of refusing the file. Off by default."""
    strip_names: bool = True
    """Remove tensor names and metadata from the shipped file, and write equal vectors (zero points, shapes) once;
    signatures stay. On by default."""
    faster: bool = False
    """Try exact rewrites for speed (a full-window average pooling as a mean, an early stage in space-to-depth form),
    and keep each that the converted file is measured to be faster with, by more than the noise. May cost bytes; the
    choice holds for this machine. Before quantization-aware training it is made on what calibration alone gives: the
    same operators of the same shapes. Off by default."""
    int4_convolutions: Literal["convolution", "fully_connected"] = "convolution"
    """What a convolution of INT4 weights (``low_bit_storage: size``) becomes. ``fully_connected`` over patches is what
    XNNPACK has kernels for; the file grows by about 1,500 bytes for a 3x3 kernel, which 3,000 weights make up for, and
    a patch for every output is held in memory twice. ``convolution`` is what LiteRT for Microcontrollers has. Defaults
    to convolution."""
    c_array: bool = False
    """Also write the file as C source and header, for TensorFlow Lite Micro. Off by default."""
    time_limit_s: float | None = Field(default=None, gt=0)
    """Seconds that one conversion may take, or be refused. Defaults to no limit."""
    memory_limit_mb: float | None = Field(default=None, gt=0)
    """MiB of memory that the converting process may hold, TensorFlow's own (about 600) included; Linux only.
    Defaults to no limit."""

    @model_validator(mode="after")
    def _for_one_runtime(self) -> ConversionSettings:
        if self.c_array and self.int4_convolutions == "fully_connected":
            raise ValueError(
                "int4_convolutions: fully_connected is for XNNPACK, and c_array for LiteRT for Microcontrollers, which "
                "refuses INT4 weights there. Received: both. Remedy: int4_convolutions=convolution"
            )
        return self

    def io_types(self, number_format: NumberFormat) -> tuple[IoType, IoType]:
        """Types of input and output in `number_format`."""
        own = IO_TYPES[number_format][0]
        return self.input_type or own, self.output_type or own

    def problems_with(self, number_format: NumberFormat) -> list[str]:
        """What of these settings a file of `number_format` cannot have; empty when it can have all."""
        possible = IO_TYPES[number_format]
        return [
            f"conversion.{side}_type: a file of {number_format} has {' or '.join(possible)}. Received: {kind}"
            for side, kind in zip(("input", "output"), self.io_types(number_format), strict=True)
            if kind not in possible
        ]
