"""The proof that a file is integer throughout, by walking every operator of its flatbuffer."""

from __future__ import annotations

from dataclasses import dataclass

from tfcompress.convert.flatbuffer import Flatbuffer, Operator
from tfcompress.vocabulary.errors import ConversionError

_BOUNDARY = frozenset({"QUANTIZE", "DEQUANTIZE"})


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
    """Walk every operator of `flat`, which must still carry its tensor names.

    An operator fails when it is custom, or has a floating-point input or output. A QUANTIZE right at a float
    input of the graph, and a DEQUANTIZE right at a float output, are the quantizers a caller asked to have inside.
    """
    edges = {t.index for t in (*flat.inputs, *flat.outputs)}
    findings = []
    for op in flat.operators:
        floats = [i for i in (*op.inputs, *op.outputs) if i >= 0 and flat.tensors[i].is_float]
        if op.custom:
            findings.append(Finding(op.name, _layer(flat, op), "custom operators have no integer kernel here"))
        elif floats and not (op.name in _BOUNDARY and edges.issuperset(floats)):
            findings.append(Finding(op.name, _layer(flat, op), "the converter has no integer form of it"))
    return Proof(tuple(findings), len(flat.operators))


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


def _layer(flat: Flatbuffer, op: Operator) -> str:
    """The layer an operator came from, as far as the name of its output tells."""
    name = flat.tensors[op.outputs[0]].name if op.outputs else ""
    parts = [part for part in name.split(";")[0].split("/") if part]
    return parts[1] if len(parts) > 1 else name or "an unnamed layer"
