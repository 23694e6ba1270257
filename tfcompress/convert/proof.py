"""The proof that a file is integer throughout, by walking every operator of its flatbuffer."""

from __future__ import annotations

from dataclasses import dataclass

from tfcompress.convert.flatbuffer import Flatbuffer, Graph, Operator
from tfcompress.vocabulary.errors import ConversionError

BOUNDARY = frozenset({"QUANTIZE", "DEQUANTIZE"})
"""Operators that only carry values between integers and floats."""
OUTPUT_LAYER = "the layer of the model's output"
"""How a finding names it, for the converter has renamed its tensor."""


@dataclass(frozen=True)
class Finding:
    """An operator that is not integer: its name, the layer it came from, and what to do."""

    operator: str
    layer: str
    reason: str

    def __str__(self) -> str:
        return f"{self.operator} from {self.layer}: {self.reason}"


@dataclass(frozen=True)
class Proof:
    """What was found: the file is full integer when nothing was."""

    findings: tuple[Finding, ...]
    operators: int

    @property
    def full_integer(self) -> bool:
        """Whether every operator works on integers; quantizers at float inputs and outputs excepted."""
        return not self.findings


def prove_integer(flat: Flatbuffer) -> Proof:
    """Walk every operator of every graph of `flat`, which must still carry its tensor names.

    An operator fails when it is custom, or has a floating-point input or output. A QUANTIZE right at a float
    input of the main graph, and a DEQUANTIZE right at a float output, are the quantizers a caller asked to have
    inside.
    """
    edges = {t.index for t in (*flat.inputs, *flat.outputs)}
    findings = []
    for graph in flat.graphs:
        allowed = edges if graph is flat else set()
        for op in graph.operators:
            floats = [i for i in (*op.inputs, *op.outputs) if i >= 0 and graph.tensors[i].is_float]
            if op.custom or (floats and not (op.name in BOUNDARY and allowed.issuperset(floats))):
                findings.append(_finding(graph, op))
    return Proof(tuple(findings), sum(len(graph.operators) for graph in flat.graphs))


def _finding(graph: Graph, op: Operator) -> Finding:
    if op.custom:
        reason = "custom operators have no integer kernel here"
    elif op.name in BOUNDARY:
        reason = "it carries values to or from operators left in float"
    else:
        reason = "the converter has no integer form of it"
    # A boundary has no layer of its own: it stands behind the one whose output it carries.
    tensors = op.inputs if op.name in BOUNDARY else op.outputs
    return Finding(op.name, _layer(graph.tensors[tensors[0]].name if tensors else ""), reason)


def require_integer(proof: Proof) -> None:
    """Refuse a file with findings.

    Raises:
        ConversionError: naming every operator that is not integer, its layer, and the remedy.
    """
    if proof.full_integer:
        return
    listed = "\n  ".join(str(finding) for finding in proof.findings)
    raise ConversionError(
        f"The file must be integer throughout, but {len(proof.findings)} of {proof.operators} operators are not:\n"
        f"  {listed}\nRemedy: replace these layers by ones with an integer form (an ELU by a ReLU, say), "
        "or set conversion.allow_float=true to ship the file with them."
    )


def _layer(tensor: str) -> str:
    """The layer that a tensor is the output of, as far as its name ``model/layer/operation;...`` tells."""
    parts = [part for part in tensor.split(";")[0].split("/") if part]
    if len(parts) > 1:
        # A model behind preprocessing is nested in one of its own name.
        return parts[2] if len(parts) > 2 and parts[0] == parts[1] else parts[1]
    return OUTPUT_LAYER if tensor.startswith("StatefulPartitionedCall") else tensor or "unnamed"
