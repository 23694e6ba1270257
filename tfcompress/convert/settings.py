"""What of a conversion a recipe may choose."""

from typing import Literal

from tfcompress.vocabulary.schema import Schema


class ConversionSettings(Schema):
    """The form of the shipped file, whatever technique chose its arithmetic."""

    input_type: Literal["int8", "uint8", "float32"] = "int8"
    """Type of the file's inputs; `float32` puts the quantizers inside. Defaults to int8 (int16 for int16x8)."""
    output_type: Literal["int8", "uint8", "float32"] = "int8"
    """Type of the file's outputs. Defaults to int8 (int16 for int16x8)."""
    preprocessing_in_graph: bool = False
    """Put the preprocessing into the file, so that raw values (a uint8 image) are fed. Off by default."""
    allow_float: bool = False
    """Report operators left in float instead of refusing the file. Off by default."""
    strip_names: bool = True
    """Remove tensor names and metadata from the shipped file; signatures stay. On by default."""
    c_array: bool = False
    """Also write the file as C source and header, for TensorFlow Lite Micro. Off by default."""
