"""The model card beside an artifact: what it is, what to feed, how good it is, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from tfcompress.vocabulary.changes import summary
from tfcompress.vocabulary.evidence import Evidence, TensorEvidence


def card(evidence: Evidence, model: str, data: str, class_names: Sequence[str] | None) -> str:
    """The card's text.

    Args:
        evidence: of the run.
        model: how the caller named the model.
        data: the data set's name.
        class_names: what the outputs mean, in order; None when unknown.
    """
    artifact, steps = evidence.artifact, ", ".join(step["name"] for step in evidence.recipe["steps"])
    lines = [
        f"# {artifact.path}",
        "",
        f"{model} on {data}, compressed by the recipe `{evidence.recipe['name']}` ({steps}), seed {evidence.seed}.",
        f"SHA-256 `{artifact.sha256}`.",
        "",
        "## What to feed",
        *(f"- {step}" for step in _feeding(evidence)),
        f"- Input: {_tensor(artifact.input)}",
        f"- Output: {_tensor(artifact.output)}",
    ]
    if class_names:
        lines.append(f"- Classes, in order: {', '.join(class_names)}")
    lines += ["", "## What was measured", "", "| | float | artifact |", "|---|---|---|"]
    lines += [f"| {name} | {of_float} | {of_artifact} |" for name, of_float, of_artifact in figures(evidence)]
    lines += ["", f"Measured on: {evidence.hardware['processor']}, {evidence.hardware['cores']} cores."]
    if evidence.rewrites:
        lines += ["", "## Exact rewrites", "", *(f"- {line}" for line in summary(evidence.rewrites))]
    if evidence.faster:
        lines += ["", "## Rewrites tried for speed", "", *(f"- {found}" for found in evidence.faster)]
    if evidence.promises:
        lines += ["", "## Promises, read back from the file", "", "| weight | promise | found |", "|---|---|---|"]
        lines += [f"| {p.weight} | {p.kind} {p.promised:g} per {p.scope} | {p.found:.4g} |" for p in evidence.promises]
    return "\n".join(lines) + "\n"


def figures(evidence: Evidence) -> list[tuple[str, str, str]]:
    """The measured figures as rows of (name, float file, artifact)."""
    rows = []
    metric, artifact = evidence.metric, evidence.artifact
    if metric is not None:
        rows.append(
            (
                f"{metric.name}, {metric.count} {metric.split} samples",
                f"{metric.float:.4f}",
                f"{metric.artifact:.4f} ± {metric.standard_error:.4f}",
            )
        )
        rows.append(("drop, points or the metric's unit", "", f"{metric.drop_points:.2f}"))
    rows.append(("bytes", f"{evidence.float.bytes:,}", f"{artifact.bytes:,} ({evidence.compression:.2f}x smaller)"))
    rows.append(("bytes deflated", "", f"{artifact.deflated_bytes:,}"))
    for of_float, of_artifact in zip(evidence.float.latency_ms, artifact.latency_ms, strict=True):
        threads = f"{of_float.threads} thread" + ("s" if of_float.threads > 1 else "")
        rows.append(
            (
                f"latency ms median / p95, {threads}",
                f"{of_float.median:.4f} / {of_float.p95:.4f}",
                f"{of_artifact.median:.4f} / {of_artifact.p95:.4f}",
            )
        )
    rows.append(("speedup, 1 thread", "", f"{evidence.speedup:.2f}x"))
    rows.append(("full integer", "", "yes" if artifact.full_integer else "no"))
    left = f" (not {', '.join(sorted(set(artifact.operators_left)))})" if artifact.operators_left else ""
    rows.append(("operators run by XNNPACK", "", f"{artifact.delegated_operators} of {artifact.operators}{left}"))
    rows.append(("input / output", "", f"{artifact.input.dtype} / {artifact.output.dtype}"))
    agreement = evidence.agreement
    same = "" if agreement.argmax is None else f", same class {agreement.argmax:.2%}"
    rows.append(
        (
            "difference from Keras, output steps",
            "",
            f"mean {agreement.mean_steps:.3f}, largest {agreement.max_steps:.0f}{same}",
        )
    )
    if agreement.worst_layer is not None:
        where = f"layer {agreement.worst_layer}, to {agreement.worst_layer_error:.1%} of its output"
        rows.append(("where the error rises most", "", where))
    return rows


def _feeding(evidence: Evidence) -> list[str]:
    """How raw data becomes what the file takes; of encoded data that is fed unchanged nothing more is said."""
    preprocessing = evidence.preprocessing
    unchanged = preprocessing.scale == 1 and preprocessing.offset == 0
    last = [] if preprocessing.encoding and unchanged else [_preprocessing(evidence)]
    return [*preprocessing.encoding, *last]


def _preprocessing(evidence: Evidence) -> str:
    preprocessing = evidence.preprocessing
    if preprocessing.in_graph:
        return f"Raw values: the file does the preprocessing itself ({preprocessing.description})"
    return f"Preprocessing: {preprocessing.description} (chosen by {preprocessing.chosen_by})"


def _tensor(tensor: TensorEvidence) -> str:
    shape = " x ".join(map(str, tensor.shape))
    if tensor.scale == 0:
        return f"{tensor.dtype}, {shape}"
    return f"{tensor.dtype}, {shape}; integer = real / {tensor.scale:.8g} + {tensor.zero_point}"
