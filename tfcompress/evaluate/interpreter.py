"""Opening a .tflite file with LiteRT."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tfcompress import keras_door as kd
from tfcompress.native_output import captured_stderr
from tfcompress.vocabulary.errors import EvaluationError

Kernels = Literal["xnnpack", "builtin", "reference"]
"""Who computes: XNNPACK with the optimized kernels behind it, those alone, or the reference kernels."""

_RESOLVERS: dict[Kernels, str] = {
    "xnnpack": "AUTO",
    "builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES",
    "reference": "BUILTIN_REF",
}


_LAST_LINES = 3
"""Lines of native output that an error repeats."""


def open_interpreter(
    model: Path | bytes,
    *,
    threads: int = 1,
    kernels: Kernels = "xnnpack",
    fuse_delegated: bool = True,
    allocate: bool = True,
) -> Any:
    """A LiteRT interpreter of `model`, with its tensors allocated.

    Args:
        model: the path of a .tflite file, or its bytes.
        threads: threads that the kernels may use. Defaults to 1.
        kernels: which kernels run the graph. Defaults to `xnnpack`.
        fuse_delegated: whether neighbouring operators go to the delegate as one piece; without, each delegated
            operator can be told apart. Defaults to True.
        allocate: False leaves the allocation to a caller who resizes the input first. Defaults to True.

    Raises:
        EvaluationError: the file is missing, is no complete .tflite file, or holds an operator that cannot run.
    """
    where = describe(model)
    if isinstance(model, bytes):
        content = model
    else:
        try:
            content = Path(model).read_bytes()
        except OSError as error:
            raise EvaluationError(
                f"A .tflite file must be readable. {where}: {error.strerror}. Check the path."
            ) from error
    if not content:
        raise EvaluationError(f"A .tflite file must not be empty. {where} has 0 bytes. Convert the model again.")
    # Native code reports every delegate it makes, to a person's terminal, and what is wrong with a file only there.
    with captured_stderr() as lines:
        try:
            interpreter = kd.litert.Interpreter(
                model_content=content,
                num_threads=threads,
                experimental_op_resolver_type=kd.litert.OpResolverType[_RESOLVERS[kernels]],
                experimental_disable_delegate_node_fusion=not fuse_delegated,
            )
            if allocate:
                interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            said = "; ".join([str(error), *lines()[-_LAST_LINES:]])
            raise EvaluationError(
                f"LiteRT must be able to load the model with {kernels} kernels. {where}: {said}. "
                "If the file is damaged, convert the model again."
            ) from error
    return interpreter


def describe(model: Path | bytes) -> str:
    """How messages name `model`: its path, or its size when it came as bytes."""
    return f"{len(model):,} bytes of a .tflite" if isinstance(model, bytes) else str(model)
