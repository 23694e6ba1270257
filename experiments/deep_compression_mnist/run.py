"""Prune, share, quantize on MNIST: `python experiments/deep_compression_mnist/run.py --model=lenet5`.

Trains the network, runs `<model>.yaml`, and prints what Deep Compression (Han et al., ICLR 2016, tables 1 and 3)
reports of LeNet-5: error, size, zeros and shared values, all of the shipped file on the test split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import app, flags

from tfcompress.cli.common import TerminalReporter, print_table
from tfcompress.pipeline import compress
from tfcompress.vocabulary.evidence import Evidence

HERE = Path(__file__).parent

MODEL = flags.DEFINE_enum("model", "lenet5", ["lenet5", "resnet8"], "A network of the zoo.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS keeps mnist.")
OUT = flags.DEFINE_string("out", None, "The run's folder.")
SEED = flags.DEFINE_integer("seed", 0, "Of the run.")


def rows(evidence: Evidence, weights: Mapping[str, int]) -> list[tuple[str, str]]:
    """The table's figures; `weights` says how many values each weight has."""
    metric, artifact = evidence.metric, evidence.artifact
    zeros = sum(p.found * weights[p.weight] for p in evidence.promises if p.kind == "zeros")
    distinct = {p.weight: p.found for p in evidence.promises if p.kind == "distinct"}
    return [
        ("test error, float", f"{1 - metric.float:.2%}"),
        ("test error, artifact", f"{1 - metric.artifact:.2%} ± {metric.standard_error:.2%}"),
        ("bytes, float", f"{evidence.float.bytes:,}"),
        ("bytes", f"{artifact.bytes:,}"),
        ("bytes deflated", f"{artifact.deflated_bytes:,}"),
        ("zeros over all clustered weights", f"{zeros / sum(weights[w] for w in distinct):.3%}"),
        ("most distinct values in a clustered tensor", f"{max(distinct.values()):.0f}"),
        ("full integer", "yes" if artifact.full_integer else "no"),
        ("speedup", f"{evidence.speedup:.2f}x"),
    ]


def main(argv: Sequence[str]) -> None:
    """Run and print."""
    del argv
    out = OUT.value or f"tflite_models/deep_compression_mnist-{MODEL.value}-{SEED.value}"
    result = compress(
        MODEL.value,
        "mnist",
        HERE / f"{MODEL.value}.yaml",
        data_dir=DATA_DIR.value,
        out=out,
        seed=SEED.value,
        reporter=TerminalReporter(),
    )
    sizes = {
        f"{layer.name}/{attribute}": int(getattr(layer, attribute).shape.num_elements())
        for layer in (wrapper.layer for wrapper in result.model.layers if hasattr(wrapper, "layer"))
        for attribute in ("kernel", "depthwise_kernel")
        if getattr(layer, attribute, None) is not None
    }
    print_table(f"{MODEL.value} on MNIST, seed {SEED.value}", ("", "measured"), rows(result.evidence, sizes))


if __name__ == "__main__":
    app.run(main)
