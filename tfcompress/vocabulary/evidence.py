"""The evidence of a run: one documented schema, written as `evidence.json`."""

from __future__ import annotations

from typing import Any, Literal

from tfcompress.vocabulary.changes import Change
from tfcompress.vocabulary.promises import Kind, Scope
from tfcompress.vocabulary.schema import Schema

SCHEMA_VERSION = 1


class MetricEvidence(Schema):
    """The task's metric of both files on one split, by the LiteRT interpreter."""

    name: str
    """The metric."""
    split: Literal["test", "validation"] = "test"
    """The split: test decided nothing; validation where the recipe asks for it, to decide something by the figures."""
    count: int
    """Samples."""
    float: float
    """Of the float file."""
    artifact: float
    """Of the shipped file."""
    drop_points: float
    """How much worse the artifact is: percentage points for metrics in 0...1, else in the metric's unit."""
    standard_error: float
    """Of the artifact's metric, from the spread over samples."""


class LatencyEvidence(Schema):
    """Time of one inference of batch 1, the two files interleaved in one process."""

    threads: int
    """Interpreter threads."""
    kernels: Literal["xnnpack", "builtin", "reference"]
    """Which kernels ran."""
    median: float
    """Milliseconds."""
    p95: float
    """Milliseconds."""


class AgreementEvidence(Schema):
    """Difference of the artifact's outputs from the Keras model's, in steps of the artifact's output scale."""

    count: int
    """Samples compared."""
    max_steps: float
    """Largest difference."""
    mean_steps: float
    """Mean difference."""
    within_one_step: float
    """Share of output values that differ by at most one step."""
    argmax: float | None
    """Share of samples with the same largest output; None where that means nothing."""
    worst_layer: str | None = None
    """Where the outputs are far apart: the layer at which the error rises most. None where they are near."""
    worst_layer_error: float | None = None
    """Root mean square error of that layer's output over the root mean square of the Keras model's."""


class FloatEvidence(Schema):
    """The float .tflite of the model as it came."""

    path: str
    """In the run folder."""
    bytes: int
    """Size on disk."""
    latency_ms: tuple[LatencyEvidence, ...]
    """One entry for each number of threads."""


class TensorEvidence(Schema):
    """An input or output of the artifact: what to feed, and how to read it."""

    dtype: str
    """Type of its integers."""
    shape: tuple[int, ...]
    """Static shape, batch first."""
    scale: float
    """Real value of one step; 0 for float tensors."""
    zero_point: int
    """The integer that means 0."""


class ArtifactEvidence(Schema):
    """The shipped file."""

    path: str
    """In the run folder."""
    sha256: str
    """Of its bytes."""
    bytes: int
    """Size on disk."""
    deflated_bytes: int
    """Size after DEFLATE (zlib, level 9)."""
    full_integer: bool
    """Whether every operator works on integers."""
    float_operators: tuple[str, ...]
    """Those that do not, with their layer."""
    input: TensorEvidence
    """What to feed."""
    output: TensorEvidence
    """What comes out."""
    latency_ms: tuple[LatencyEvidence, ...]
    """One entry for each number of threads."""
    delegated_operators: int
    """Operators that XNNPACK took."""
    operators: int
    """All operators."""
    operators_left: tuple[str, ...]
    """Those that it did not take, in execution order."""


class PromiseEvidence(Schema):
    """A promise and what the artifact's flatbuffer shows for it."""

    weight: str
    """The weight, as the caller's model names it."""
    kind: Kind
    """What was promised; see `Promise`."""
    scope: Scope
    """Of the tensor, or of each channel or subspace alone."""
    domain: Literal["float", "integer"]
    """Of real values or of the stored integers."""
    group: int | None
    """Size of a group, for group_zeros and codewords."""
    promised: float
    """The bound."""
    found: float
    """What the file has."""
    kept: bool
    """Whether it honours the promise."""


class StageEvidence(Schema):
    """One step of the run; its metric is simulated in Keras, on the validation split."""

    name: str
    """The step's name."""
    technique: str
    """Its technique; `train` for the training of a zoo network."""
    epochs: int
    """Epochs trained."""
    seconds: float
    """Wall time of the training."""
    metric: float | None
    """After the step; None without labels."""


class RewriteEvidence(Schema):
    """An exact rewrite for speed: what it did to the file on this machine."""

    name: str
    """The rewrite."""
    kept: bool
    """Whether the shipped file has it."""
    reason: str
    """Why it was kept or not."""
    latency_ratio: float | None = None
    """Latency with it over that without: median of paired ratios, one thread. None where no file could be made."""
    noise: float | None = None
    """How far below 1 the ratio had to be."""
    bytes_ratio: float | None = None
    """Bytes with it over those without."""

    def __str__(self) -> str:
        kept = "kept" if self.kept else "not taken"
        if self.latency_ratio is None:
            return f"{self.name}: {kept}, {self.reason}"
        return (
            f"{self.name}: {kept}, {self.latency_ratio:.3f}x the latency (noise {self.noise:.3f}), "
            f"{self.bytes_ratio:.3f}x the bytes"
        )


class PreprocessingEvidence(Schema):
    """What is done to raw values before they are quantized and fed."""

    encoding: tuple[str, ...] = ()
    """How text or sound becomes the values, in words, a step each; empty for data that comes as numbers."""

    description: str
    """In words."""
    scale: float | tuple[float, ...]
    """Factor."""
    offset: float | tuple[float, ...]
    """Added after it."""
    in_graph: bool
    """Whether the artifact does it itself."""
    chosen_by: str
    """Who decided: the recipe, the zoo, or a measurement, with its figures."""


class Evidence(Schema):
    """Everything measured of a run."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this schema."""
    metric: MetricEvidence | None
    """None for data without labels."""
    agreement: AgreementEvidence
    """Artifact against Keras model."""
    float: FloatEvidence
    """The reference."""
    artifact: ArtifactEvidence
    """What ships."""
    speedup: float
    """Float latency over artifact latency, one thread, XNNPACK: median of paired ratios."""
    compression: float
    """Float bytes over artifact bytes."""
    promises: tuple[PromiseEvidence, ...]
    """Every promise, read back from the artifact."""
    stages: tuple[StageEvidence, ...]
    """What was trained."""
    rewrites: tuple[Change, ...] = ()
    """The exact rewrites that this run made for its steps and its conversion, layer by layer; empty where none was
    needed. Those for speed stand in `faster`."""
    faster: tuple[RewriteEvidence, ...] = ()
    """The rewrites that were tried for speed; empty where none was asked for or applies."""
    preprocessing: PreprocessingEvidence
    """What a person deploying has to feed."""
    recipe: dict[str, Any]
    """The recipe as run."""
    seed: int
    """The run's seed."""
    versions: dict[str, str]
    """Of Python and the libraries that decide the result."""
    hardware: dict[str, Any]
    """Of the machine that measured."""
