"""Opening a .tflite file with LiteRT.

LiteRT ends its process on some damaged files. What is measured here is therefore computed in a child process
(`in_child`), where `open_interpreter` is called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tfcompress import contained
from tfcompress import keras_door as kd
from tfcompress.native_output import captured_stderr
from tfcompress.vocabulary.errors import EvaluationError
from tfcompress.vocabulary.reporter import Progress

Kernels = Literal["xnnpack", "builtin", "reference"]
"""Who computes: XNNPACK with the optimized kernels behind it, those alone, or the reference kernels."""

_RESOLVERS: dict[Kernels, str] = {
    "xnnpack": "AUTO",
    "builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES",
    "reference": "BUILTIN_REF",
}


_LAST_LINES = 3
"""Lines of native output that an error repeats."""


@dataclass(frozen=True)
class ModelFile:
    """A .tflite file that has been read.

    Args:
        content: its bytes.
        where: how messages name it.
    """

    content: bytes
    where: str


def read(model: Path | bytes | ModelFile) -> ModelFile:
    """The bytes of `model`, and how messages name it: its path, or its size when it came as bytes.

    Raises:
        EvaluationError: the file is missing or empty.
    """
    if isinstance(model, ModelFile):
        return model
    if isinstance(model, bytes):
        file = ModelFile(model, f"{len(model):,} bytes of a .tflite")
    else:
        try:
            file = ModelFile(Path(model).read_bytes(), str(model))
        except OSError as error:
            raise EvaluationError(
                f"A .tflite file must be readable. {model}: {error.strerror}. Check the path."
            ) from error
    if not file.content:
        raise EvaluationError(f"A .tflite file must not be empty. {file.where} has 0 bytes. Convert the model again.")
    return file


def in_child(
    function: Callable[..., Any], *arguments: Any, where: str, doing: str, progress: Progress | None = None
) -> Any:
    """``function(*arguments)`` in a child process, where a crash of LiteRT becomes an EvaluationError.

    Args:
        function: see `tfcompress.contained.call`, as of the other arguments.
        *arguments: its arguments.
        where: how messages name the file.
        doing: what is done to it: "Running".
        progress: told of the function's progress. Defaults to none.
    """
    return contained.call(
        function,
        *arguments,
        stage=f"{doing} {where}",
        error=EvaluationError,
        remedy="convert the model again, or try other kernels.",
        progress=progress,
    )


def open_interpreter(
    model: Path | bytes | ModelFile,
    *,
    threads: int = 1,
    kernels: Kernels = "xnnpack",
    fuse_delegated: bool = True,
    keep_all: bool = False,
    allocate: bool = True,
) -> Any:
    """A LiteRT interpreter of `model` in this process, with its tensors allocated.

    On some damaged files LiteRT ends the process; the other functions of this package run in a child process.

    Args:
        model: the path of a .tflite file, or its bytes.
        threads: threads that the kernels may use. Defaults to 1.
        kernels: which kernels run the graph. Defaults to `xnnpack`.
        fuse_delegated: whether neighbouring operators go to the delegate as one piece; without, each delegated
            operator can be told apart. Defaults to True.
        keep_all: whether every tensor can be read after a run, not the outputs alone. Defaults to False.
        allocate: False leaves the allocation to a caller who resizes the input first. Defaults to True.

    Raises:
        EvaluationError: the file is missing, is no complete .tflite file, or holds an operator that cannot run.
    """
    file = read(model)
    # Native code reports every delegate it makes, to a person's terminal, and what is wrong with a file only there.
    with captured_stderr() as lines:
        try:
            interpreter = kd.litert.Interpreter(
                model_content=file.content,
                num_threads=threads,
                experimental_op_resolver_type=kd.litert.OpResolverType[_RESOLVERS[kernels]],
                experimental_disable_delegate_node_fusion=not fuse_delegated,
                experimental_preserve_all_tensors=keep_all,
            )
            if allocate:
                interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            said = "; ".join([str(error), *lines()[-_LAST_LINES:]])
            raise EvaluationError(
                f"LiteRT must be able to load the model with {kernels} kernels. {file.where}: {said}. "
                "If the file is damaged, convert the model again."
            ) from error
    return interpreter
