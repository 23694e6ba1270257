"""Which operators of a .tflite file the XNNPACK delegate takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tfcompress.evaluate.interpreter import ModelFile, in_child, open_interpreter, read

_DELEGATE = "DELEGATE"


@dataclass(frozen=True)
class Delegation:
    """How a graph divides between the delegate and the built-in kernels.

    Args:
        delegated: operators that XNNPACK runs.
        total: operators of the graph.
        left: names of the operators that stay with the built-in kernels, in the order they run.
    """

    delegated: int
    total: int
    left: tuple[str, ...]


def delegation(model: Path | bytes) -> Delegation:
    """Which operators of the main graph of `model` XNNPACK takes on this machine.

    An operator is taken when everything it computes is computed by a delegate node.

    Raises:
        EvaluationError: the file cannot be read, or crashed LiteRT.

    Example:
        >>> delegation(Path("resnet8_int8.tflite"))  # doctest: +SKIP
        Delegation(delegated=14, total=16, left=('AVERAGE_POOL_2D', 'SOFTMAX'))
    """
    file = read(model)
    return in_child(_delegation, file, where=file.where, doing="Asking which operators XNNPACK takes of")


def _delegation(file: ModelFile) -> Delegation:
    interpreter = open_interpreter(file, fuse_delegated=False)
    # LiteRT has no public list of the nodes of a graph; this one is what its own tools read.
    nodes = interpreter._get_ops_details()
    computed_by_delegate = {int(tensor) for node in nodes if node["op_name"] == _DELEGATE for tensor in node["outputs"]}
    operators = [node for node in nodes if node["op_name"] != _DELEGATE]
    left = tuple(
        node["op_name"]
        for node in operators
        if not len(node["outputs"]) or not computed_by_delegate.issuperset(map(int, node["outputs"]))
    )
    return Delegation(len(operators) - len(left), len(operators), left)
