"""Exact rewrites for speed, each kept only where the file that it gives is measured to be faster."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tfcompress.evaluate import measure_latency
from tfcompress.models.rewrites import FASTER, rewrite
from tfcompress.techniques.base import Technique
from tfcompress.vocabulary.errors import ConversionError, PromiseError, RecipeError, RunFolderError
from tfcompress.vocabulary.evidence import RewriteEvidence
from tfcompress.vocabulary.state import State

_NOISES = 2


def try_rewrites(
    state: State, step: Technique, convert: Callable[[State], bytes], budget_s: float
) -> tuple[State, tuple[RewriteEvidence, ...]]:
    """`state` after the rewrites of `FASTER` that make its file faster, each tried on top of those kept before.

    They are made before the step that chooses the file's arithmetic, for a model trained as integers cannot be
    rewritten. Training changes values, neither operators nor shapes: what is faster before it is faster after it.

    A file with a rewrite, the one without, and the latter once more are timed in turn, with one thread. It is kept
    where the median of the paired ratios is below 1 by more than the noise: twice the standard error of that median,
    and what the same file differs from itself.

    Args:
        state: what the last step, which chooses the arithmetic, is to receive.
        step: that step.
        convert: the file that the step without any training makes of a state.
        budget_s: seconds of timing for each rewrite.

    Returns:
        The state, and what was found of each rewrite that applies to its model.
    """
    found: list[RewriteEvidence] = []
    before: bytes | None = None
    for name in FASTER:
        done = rewrite(state.model, [name])
        if not done.changes:
            continue
        try:
            candidate = state.rewritten(done.model, done.lineage)
            step.check(candidate)
            after = convert(candidate)
        except (PromiseError, RecipeError, ConversionError) as error:
            found.append(RewriteEvidence(name=name, kept=False, reason=str(error)))
            continue
        before = before or convert(state)
        found.append(_compared(name, before, after, budget_s))
        if found[-1].kept:
            state, before = candidate, after
    return state, tuple(found)


def with_kept(state: State, found: Sequence[RewriteEvidence]) -> State:
    """`state` after the rewrites that an earlier measurement kept."""
    for name in (one.name for one in found if one.kept):
        done = rewrite(state.model, [name])
        state = state.rewritten(done.model, done.lineage)
    return state


def read_found(path: Path) -> tuple[RewriteEvidence, ...]:
    """What an earlier measurement found, from the run folder's file.

    Raises:
        RunFolderError: the file is damaged.
    """
    try:
        return tuple(RewriteEvidence.model_validate(one) for one in json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise RunFolderError(
            f"{path} is damaged: {str(error).splitlines()[0]}. Remedy: remove it, and the rewrites are measured again."
        ) from error


def _compared(name: str, before: bytes, after: bytes, budget_s: float) -> RewriteEvidence:
    report = measure_latency({"before": before, "after": after, "again": before}, budget_s=budget_s)
    base = np.asarray(report.samples_ms["before"])
    ratios = np.asarray(report.samples_ms["after"]) / base
    # A normal distribution's standard deviation by its quartiles, for outliers are the machine's; that of its median.
    low, high = np.percentile(ratios, [25, 75])
    error = 1.2533 * (high - low) / 1.349 / np.sqrt(len(ratios))
    ratio, noise = float(np.median(ratios)), float(_NOISES * error + abs(report.ratio_to("before")["again"] - 1))
    kept = ratio < 1 - noise
    reason = "faster by more than the noise" if kept else "not faster by more than the noise"
    return RewriteEvidence(
        name=name, kept=kept, reason=reason, latency_ratio=ratio, noise=noise, bytes_ratio=len(after) / len(before)
    )
