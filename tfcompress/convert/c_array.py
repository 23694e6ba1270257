"""A .tflite file as a C source and header, for TensorFlow Lite Micro."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfcompress.atomic import write_atomically
from tfcompress.convert.arena import ALIGNMENT, arena_bytes, read_flatbuffer
from tfcompress.vocabulary.errors import ConversionError

MICRO_OPERATORS = frozenset(
    """
    ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND BROADCAST_ARGS
    BROADCAST_TO CALL_ONCE CAST CEIL CONCATENATION CONV_2D COS CUMSUM DEPTH_TO_SPACE DEPTHWISE_CONV_2D DEQUANTIZE
    DIV ELU EMBEDDING_LOOKUP EQUAL EXP EXPAND_DIMS FILL FLOOR FLOOR_DIV FLOOR_MOD FULLY_CONNECTED GATHER GATHER_ND
    GREATER GREATER_EQUAL HARD_SWISH IF L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS LESS_EQUAL LOG LOG_SOFTMAX
    LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC MAX_POOL_2D MAXIMUM MEAN MINIMUM MIRROR_PAD MUL NEG NOT_EQUAL PACK
    PAD PADV2 PRELU QUANTIZE READ_VARIABLE REDUCE_MAX REDUCE_MIN RELU RELU6 RESHAPE RESIZE_BILINEAR
    RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SELECT_V2 SHAPE SIN SLICE SOFTMAX SPACE_TO_BATCH_ND
    SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM SVDF TANH TRANSPOSE
    TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK VAR_HANDLE WHILE ZEROS_LIKE
    """.split()  # noqa: SIM905 - as one text it can be compared and read
)
"""Built-in operators that TensorFlow Lite Micro can register: the `Add...` functions of
`tensorflow/lite/micro/micro_mutable_op_resolver.h` in github.com/tensorflow/tflite-micro, as of 2025. An operator
here may still lack a kernel for a tensor type (most have int8 and float32)."""

_BYTES_A_LINE = 16


@dataclass(frozen=True)
class CArray:
    """A model written as C.

    Args:
        source: path of the `.c` file that holds the array.
        header: path of the `.h` file that declares it.
        bytes: length of the array, which is the size of the .tflite file.
        arena_bytes: estimate of the memory for activations (`convert.arena.arena_bytes`).
        operators: names of the operators to register with a `MicroMutableOpResolver`, sorted.
    """

    source: Path
    header: Path
    bytes: int
    arena_bytes: int
    operators: tuple[str, ...]


def write_c_array(model: Path, folder: Path, name: str) -> CArray:
    """Write `model` as `<name>.c` and `<name>.h` into `folder`, valid as C (from C11) and as C++ (from C++11).

    The source defines `<name>_tflite`, aligned to 16 bytes, and `<name>_tflite_len`; the header declares both and
    defines `<NAME>_TFLITE_ARENA_BYTES`, an estimate. Neither file is ever seen half-written.

    Args:
        model: path of a .tflite file.
        folder: where the two files go; made when missing.
        name: start of the C names, a letter and then letters, digits and underscores.

    Raises:
        ConversionError: TensorFlow Lite Micro lacks operators of the model (all are listed), the name is none in
            C, or the model cannot be read.
        RunFolderError: the files cannot be written.

    Example:
        >>> write_c_array(Path("digits.tflite"), Path("firmware"), "digits").source  # doctest: +SKIP
        PosixPath('firmware/digits.c')
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise ConversionError(
            "The name of a C array must be a letter, then letters, digits or underscores. "
            f"Received: {name!r}. Choose another name."
        )
    operators = micro_operators(model)
    content = model.read_bytes()
    array = CArray(folder / f"{name}.c", folder / f"{name}.h", len(content), arena_bytes(content), operators)
    write_atomically(array.header, _header(array, name, content).encode())
    write_atomically(array.source, _source(name, content).encode())
    return array


def micro_operators(model: Path | bytes) -> tuple[str, ...]:
    """The operators of a .tflite file, all of which TensorFlow Lite Micro has, by name.

    Raises:
        ConversionError: it lacks some, or the file cannot be read.
    """
    operators = operator_names(read_flatbuffer(model))
    lacking = [operator for operator in operators if operator not in MICRO_OPERATORS]
    if lacking:
        raise ConversionError(
            f"TensorFlow Lite Micro must have every operator of a model written as C. This one uses "
            f"{', '.join(lacking)}, which it lacks. Replace the layers they come from, or ship the .tflite file."
        )
    return operators


def operator_names(flatbuffer: Any) -> tuple[str, ...]:
    """The operators that the graphs of a model use, sorted; a custom one reads `CUSTOM <its name>`."""
    from ai_edge_litert.tools import flatbuffer_utils

    used = {operator.opcodeIndex for graph in flatbuffer.subgraphs for operator in graph.operators}
    names = set()
    for index in used:
        custom = flatbuffer.operatorCodes[index].customCode
        name = flatbuffer_utils.opcode_to_name(flatbuffer, index) or f"operator code {index}"
        names.add(f"{name} {custom.decode()}" if custom else name)
    return tuple(sorted(names))


def _header(array: CArray, name: str, content: bytes) -> str:
    guard = f"{name.upper()}_H_"
    return f"""\
/* The model {name}: a .tflite file of {array.bytes} bytes,
 * sha256 {hashlib.sha256(content).hexdigest()}.
 * Operators: {", ".join(array.operators)}.
 */
#ifndef {guard}
#define {guard}

/* Estimate of the memory for activations. The runtime's records and the kernels' scratch memory come on top:
 * give the arena more, and read MicroInterpreter::arena_used_bytes() on the device. */
#define {name.upper()}_TFLITE_ARENA_BYTES {array.arena_bytes}

#ifdef __cplusplus
extern "C" {{
#endif

extern const unsigned char {name}_tflite[];
extern const unsigned int {name}_tflite_len;

#ifdef __cplusplus
}}
#endif

#endif /* {guard} */
"""


def _source(name: str, content: bytes) -> str:
    return f"""\
#include "{name}.h"

#ifndef __cplusplus
#include <stdalign.h>
#endif

alignas({ALIGNMENT}) const unsigned char {name}_tflite[] = {{
{chr(10).join(_rows(content))}
}};
const unsigned int {name}_tflite_len = {len(content)};
"""


def _rows(content: bytes) -> Iterator[str]:
    for start in range(0, len(content), _BYTES_A_LINE):
        yield "    " + " ".join(f"0x{byte:02x}," for byte in content[start : start + _BYTES_A_LINE])
