"""The evidence: everything that is measured of the shipped file, beside the float file."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress.evaluate import (
    agreement,
    delegation,
    departure,
    drop_points,
    io_types,
    layer_errors,
    measure_latency,
    output_step,
    predict,
    score,
)
from tfcompress.recipe import EvaluationSettings, Recipe
from tfcompress.shipping import Shipment
from tfcompress.vocabulary.evidence import (
    AgreementEvidence,
    ArtifactEvidence,
    FloatEvidence,
    LatencyEvidence,
    MetricEvidence,
    PromiseEvidence,
    TensorEvidence,
)
from tfcompress.vocabulary.reporter import Reporter

# Beyond these, outputs are far apart.
_NEAR_STEPS = 2.0
_NEAR_ARGMAX = 0.98
_COMPARED = 32
"""Samples on which layers are compared."""

_DECIDING_PACKAGES = (
    "tfcompress",
    "tensorflow",
    "tf_keras",
    "tensorflow-model-optimization",
    "tensorflow-datasets",
    "ai-edge-litert",
    "numpy",
)


@dataclass(frozen=True)
class Predictions:
    """Outputs of the float file, the artifact and the final Keras model on the same samples."""

    targets: np.ndarray | None
    float: np.ndarray
    artifact: np.ndarray
    keras: np.ndarray

    def arrays(self) -> dict[str, np.ndarray]:
        """All of them by name, for a file."""
        return {name: array for name, array in vars(self).items() if array is not None}


@dataclass(frozen=True)
class LatencyFindings:
    """Latencies of both files and their ratio."""

    float: tuple[LatencyEvidence, ...]
    artifact: tuple[LatencyEvidence, ...]
    speedup: float


def latency_evidence(
    float_path: Path, artifact_path: Path, settings: EvaluationSettings, reporter: Reporter
) -> LatencyFindings:
    """Time both files interleaved, at one thread and at several."""
    findings: dict[str, list[LatencyEvidence]] = {"float": [], "artifact": []}
    speedup = 1.0
    for threads in sorted({1, settings.threads or os.cpu_count() or 1}):
        report = measure_latency(
            {"float": float_path, "artifact": artifact_path},
            threads=threads,
            budget_s=settings.latency_seconds,
            progress=partial(reporter.progress, f"latency, {threads} thread(s)"),
        )
        for name, latency in report.latencies.items():
            findings[name].append(
                LatencyEvidence(threads=threads, kernels="xnnpack", median=latency.median_ms, p95=latency.p95_ms)
            )
        if threads == 1:
            speedup = report.ratio_to("artifact")["float"]
    return LatencyFindings(tuple(findings["float"]), tuple(findings["artifact"]), speedup)


def predictions(
    float_path: Path,
    artifact_path: Path,
    model: Any,
    inputs: np.ndarray,
    artifact_inputs: np.ndarray,
    targets: np.ndarray | None,
    reporter: Reporter,
) -> Predictions:
    """Run all three on the same samples; the artifact gets its own inputs where it does the preprocessing."""
    return Predictions(
        targets=targets,
        float=predict(float_path, inputs, progress=partial(reporter.progress, "float file on the samples")),
        artifact=predict(artifact_path, artifact_inputs, progress=partial(reporter.progress, "artifact likewise")),
        keras=np.asarray(model.predict(inputs, batch_size=256, verbose=0)),
    )


def metric_evidence(recipe: Recipe, outputs: Predictions, *, from_logits: bool) -> MetricEvidence | None:
    """The task's metric of both files, whose outputs may be logits; None without labels."""
    task = recipe.task
    if outputs.targets is None:
        return None
    of_float = score(task, outputs.targets, outputs.float, from_logits=from_logits)
    of_artifact = score(task, outputs.targets, outputs.artifact, from_logits=from_logits)
    return MetricEvidence(
        name=of_artifact.name,
        split=recipe.evaluation.split,
        count=of_artifact.count,
        float=of_float.value,
        artifact=of_artifact.value,
        drop_points=drop_points(of_float, of_artifact),
        standard_error=of_artifact.standard_error,
    )


def agreement_evidence(artifact_path: Path, outputs: Predictions) -> AgreementEvidence:
    """How far the artifact's outputs are from the Keras model it was converted from."""
    found = agreement(outputs.keras, outputs.artifact, output_step(artifact_path))
    return AgreementEvidence(
        count=len(outputs.keras),
        max_steps=found.max_steps,
        mean_steps=found.mean_steps,
        within_one_step=found.share_within_one_step,
        argmax=found.argmax_agreement,
    )


def explained(
    found: AgreementEvidence, shipment: Shipment, model: Any, inputs: np.ndarray, raw: np.ndarray, reporter: Reporter
) -> AgreementEvidence:
    """`found` with the layer that the difference comes from, where the outputs are far apart; a person is told.

    Args:
        found: the agreement of the outputs.
        shipment: the file, with its names.
        model: the Keras model it was converted from.
        inputs: the Keras model's inputs `[n, ...]`, of which the first few are compared.
        raw: the file's inputs for the same samples.
        reporter: gets one line.
    """
    if found.mean_steps <= _NEAR_STEPS and (found.argmax is None or found.argmax >= _NEAR_ARGMAX):
        return found
    said = f"The file's outputs differ from the Keras model's by {found.mean_steps:.1f} steps on average"
    if found.argmax is not None:
        said += f", {1 - found.argmax:.1%} of the samples get another class"
    errors = layer_errors(shipment.named, model, inputs[:_COMPARED], raw[:_COMPARED])
    if not errors:
        reporter.message(f"{said}; no layer's output can be compared.")
        return found
    worst = departure(errors)
    reporter.message(f"{said}; the error rises most at layer {worst.layer}, to {worst.relative:.1%} of its output.")
    return found.model_copy(update={"worst_layer": worst.layer, "worst_layer_error": worst.relative})


def float_evidence(path: Path, latency: LatencyFindings) -> FloatEvidence:
    """The float file's part."""
    return FloatEvidence(path=path.name, bytes=path.stat().st_size, latency_ms=latency.float)


def artifact_evidence(path: Path, shipment: Shipment, latency: LatencyFindings) -> ArtifactEvidence:
    """The artifact's part."""
    content = path.read_bytes()
    types = io_types(path)
    taken = delegation(path)
    return ArtifactEvidence(
        path=path.name,
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        deflated_bytes=len(zlib.compress(content, 9)),
        full_integer=shipment.proof.full_integer,
        float_operators=tuple(str(finding) for finding in shipment.proof.findings),
        input=_tensor(types.input),
        output=_tensor(types.output),
        latency_ms=latency.artifact,
        delegated_operators=taken.delegated,
        operators=taken.total,
        operators_left=taken.left,
    )


def promise_evidence(shipment: Shipment) -> tuple[PromiseEvidence, ...]:
    """Every promise, with what the file shows."""
    return tuple(
        PromiseEvidence(
            weight=f.promise.weight,
            kind=f.promise.kind,
            scope=f.promise.scope,
            domain=f.promise.domain,
            group=f.promise.group,
            promised=f.promise.bound,
            found=f.found,
            kept=f.kept,
        )
        for f in shipment.promises
    )


def versions() -> dict[str, str]:
    """Of Python and the libraries that decide the result."""
    return {"python": platform.python_version()} | {name: _version(name) for name in _DECIDING_PACKAGES}


def hardware() -> dict[str, Any]:
    """Of this machine."""
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines: Sequence[str] = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _tensor(kind: Any) -> TensorEvidence:
    return TensorEvidence(dtype=kind.dtype, shape=kind.shape, scale=kind.scale, zero_point=kind.zero_point)
