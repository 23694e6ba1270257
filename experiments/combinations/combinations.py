"""The recipes that combine techniques, what each is run on, and the table of what their files are measured to be."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tfcompress.atomic import write_atomically
from tfcompress.vocabulary.evidence import Evidence
from tfcompress.vocabulary.schema import Schema

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Combination:
    """A recipe and what it is run on.

    Args:
        path: of the recipe.
        model: a network of the zoo.
        dataset: a TFDS set.
    """

    path: Path
    model: str
    dataset: str


COMBINATIONS = {
    "lenet5_prune_share_quantize": Combination(HERE.parent / "deep_compression_mnist/lenet5.yaml", "lenet5", "mnist"),
    "lenet5_vector_quantized": Combination(HERE.parent / "vector_quantization_mnist/lenet5.yaml", "lenet5", "mnist"),
    "mlp_low_rank_prune_distil_int8": Combination(HERE / "mlp_low_rank_prune_distil_int8.yaml", "lenet300", "mnist"),
    "resnet8_channels_distil_qat": Combination(HERE / "resnet8_channels_distil_qat.yaml", "resnet8", "cifar10"),
    "vgg16_prune_int8": Combination(HERE / "vgg16_prune_int8.yaml", "vgg16:width=0.25", "cifar10"),
    "transformer_distil_low_rank_int8": Combination(
        HERE / "transformer_distil_low_rank_int8.yaml", "transformer_text:width=128", "ag_news_subset"
    ),
}
"""By name."""

_HEADER = (
    *("recipe", "model, data", "steps", "float", "artifact (standard error)", "bytes, float", "bytes"),
    *("bytes deflated", "smaller", "speedup", "promises kept"),
)


class Line(Schema):
    """What one recipe's file was measured to be."""

    recipe: str
    """Its name in `COMBINATIONS`."""
    model: str
    """The network."""
    dataset: str
    """The data set."""
    steps: tuple[str, ...]
    """The recipe's steps."""
    seed: int
    """Of the run."""
    samples: int
    """Of the test split."""
    float_accuracy: float
    """Of the float file, on the test split."""
    accuracy: float
    """Of the artifact, on the test split."""
    standard_error: float
    """Of the artifact's accuracy."""
    float_bytes: int
    """Of the float file."""
    bytes: int
    """Of the artifact."""
    deflated_bytes: int
    """Of the artifact after DEFLATE."""
    speedup: float
    """Over the float file, one thread."""
    full_integer: bool
    """Whether every operator of the artifact works on integers."""
    promises: dict[str, int]
    """How many of each kind were made."""
    kept: int
    """How many of them the artifact honours."""


def measured(name: str, evidence: Evidence) -> Line:
    """The line of the recipe `name`, of what its run found."""
    combination, artifact, metric = COMBINATIONS[name], evidence.artifact, evidence.metric
    kinds = [promise.kind for promise in evidence.promises]
    return Line(
        recipe=name,
        model=combination.model,
        dataset=combination.dataset,
        steps=tuple(step["name"] for step in evidence.recipe["steps"]),
        seed=evidence.seed,
        samples=metric.count,
        float_accuracy=metric.float,
        accuracy=metric.artifact,
        standard_error=metric.standard_error,
        float_bytes=evidence.float.bytes,
        bytes=artifact.bytes,
        deflated_bytes=artifact.deflated_bytes,
        speedup=evidence.speedup,
        full_integer=artifact.full_integer,
        promises={kind: kinds.count(kind) for kind in dict.fromkeys(kinds)},
        kept=sum(promise.kept for promise in evidence.promises),
    )


def read(path: Path) -> dict[str, Line]:
    """The lines of a results file by recipe; none where there is no file yet."""
    if not path.exists():
        return {}
    lines = (Line.model_validate(tree) for tree in json.loads(path.read_text(encoding="utf-8")))
    return {line.recipe: line for line in lines}


def write(path: Path, lines: Mapping[str, Line]) -> None:
    """Write all lines whole or not at all, in the order of `COMBINATIONS`."""
    trees = [lines[name].model_dump(mode="json") for name in COMBINATIONS if name in lines]
    write_atomically(path, (json.dumps(trees, indent=2) + "\n").encode())


def table(lines: Mapping[str, Line]) -> str:
    """The markdown table of the lines there are, in the order of `COMBINATIONS`."""
    rows = [_row(lines[name]) for name in COMBINATIONS if name in lines]
    return "".join(_joined(row) for row in (_HEADER, ["---"] * len(_HEADER), *rows))


def _row(line: Line) -> Sequence[str]:
    kinds = ", ".join(f"{count} {kind}" for kind, count in line.promises.items())
    return (
        line.recipe,
        f"{line.model}, {line.dataset}",
        " → ".join(line.steps),
        f"{line.float_accuracy:.2%}",
        f"{line.accuracy:.2%} ({100 * line.standard_error:.2f})" + ("" if line.full_integer else ", not full-integer"),
        f"{line.float_bytes:,}",
        f"{line.bytes:,}",
        f"{line.deflated_bytes:,}",
        f"{line.float_bytes / line.bytes:.2f}x",
        f"{line.speedup:.2f}x",
        f"{line.kept} of {sum(line.promises.values())}" + (f" ({kinds})" if kinds else ""),
    )


def _joined(values: Iterable[str]) -> str:
    return f"| {' | '.join(values)} |\n"
