"""Vector quantization of LeNet-5 on MNIST: `python experiments/vector_quantization_mnist/run.py`.

Trains the network, runs `lenet5.yaml`, and prints error and size of the shipped file on the test split, and of each
weight how many different sub-vectors the file has and how many bits a weight they cost: those of its codes and of its
code words, as Gong et al., "Compressing deep convolutional networks using vector quantization" (2014), count.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import app, flags

from tfcompress.cli.common import TerminalReporter, print_table
from tfcompress.pipeline import compress
from tfcompress.vocabulary.evidence import Evidence

HERE = Path(__file__).parent

DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS keeps mnist.")
OUT = flags.DEFINE_string("out", None, "The run's folder.")
SEED = flags.DEFINE_integer("seed", 0, "Of the run.")


def rows(evidence: Evidence, sizes: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """The table's figures; `sizes` says how many values each weight has."""
    metric, artifact = evidence.metric, evidence.artifact
    yield "test error, float", f"{1 - metric.float:.2%}"
    yield "test error, artifact", f"{1 - metric.artifact:.2%} ± {metric.standard_error:.2%}"
    yield "bytes, float", f"{evidence.float.bytes:,}"
    yield "bytes", f"{artifact.bytes:,}"
    yield "bytes deflated", f"{artifact.deflated_bytes:,}"
    yield "full integer", "yes" if artifact.full_integer else "no"
    for promise in evidence.promises:
        size, words = sizes[promise.weight], promise.found
        bits = size / promise.group * np.ceil(np.log2(words)) + 8 * words * promise.group
        yield f"{promise.weight}: code words, bits a weight", f"{words:.0f}, {bits / size:.2f}"


def main(argv: Sequence[str]) -> None:
    """Run and print."""
    del argv
    result = compress(
        "lenet5",
        "mnist",
        HERE / "lenet5.yaml",
        data_dir=DATA_DIR.value,
        out=OUT.value or f"tflite_models/vector_quantization_mnist-{SEED.value}",
        seed=SEED.value,
        reporter=TerminalReporter(),
    )
    sizes = {
        f"{wrapper.layer.name}/kernel": int(wrapper.layer.kernel.shape.num_elements())
        for wrapper in result.model.layers
        if hasattr(getattr(wrapper, "layer", None), "kernel")
    }
    print_table(f"LeNet-5 on MNIST, seed {SEED.value}", ("", "measured"), list(rows(result.evidence, sizes)))


if __name__ == "__main__":
    app.run(main)
