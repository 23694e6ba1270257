"""VGG-16 at half its multiply-accumulates: `python experiments/vgg16_low_rank/run.py`.

Trains the network of a quarter of the width on CIFAR-10, makes one int8 file of it whole (`whole.yaml`) and one of
low rank (`low_rank.yaml`), and times the two in turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from absl import app, flags

from tfcompress.cli.common import TerminalReporter, print_table
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.operations import operations
from tfcompress.evaluate import measure_latency
from tfcompress.pipeline import Result, compress

HERE = Path(__file__).parent
MODEL = "vgg16:width=0.25"
RECIPES = ("whole", "low_rank")

DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS keeps cifar10.")
OUT = flags.DEFINE_string("out", "tflite_models/vgg16_low_rank", "The folder of both runs.")
SEED = flags.DEFINE_integer("seed", 0, "Of the runs.")


def rows(results: Mapping[str, Result], ratio: float) -> list[tuple[str, str, str]]:
    """The table's figures, of the whole network's file and of the other; `ratio` is of their latencies."""
    evidence = [results[name].evidence for name in RECIPES]
    macs = [operations(Flatbuffer(results[name].artifact.read_bytes())).macs for name in RECIPES]
    return [
        ("test accuracy, float", *(f"{e.metric.float:.2%}" for e in evidence)),
        ("test accuracy, artifact", *(f"{e.metric.artifact:.2%} ± {e.metric.standard_error:.2%}" for e in evidence)),
        ("drop, points", *(f"{100 * (e.metric.float - e.metric.artifact):.2f}" for e in evidence)),
        ("multiply-accumulates", *(f"{count:,}" for count in macs)),
        ("bytes", *(f"{e.artifact.bytes:,}" for e in evidence)),
        ("latency, one thread", "1", f"{ratio:.2f}"),
        ("speedup over the float file", *(f"{e.speedup:.2f}x" for e in evidence)),
        ("ranks promised and found", "", str(sum(p.kind == "channels" and p.kept for p in evidence[1].promises))),
    ]


def main(argv: Sequence[str]) -> None:
    """Run and print."""
    del argv
    results: dict[str, Result] = {}
    for name in RECIPES:
        results[name] = compress(
            MODEL,
            "cifar10",
            HERE / f"{name}.yaml",
            data_dir=DATA_DIR.value,
            out=Path(OUT.value) / f"{name}-{SEED.value}",
            # Both begin with one training.
            reuse=[result.folder for result in results.values()],
            seed=SEED.value,
            reporter=TerminalReporter(),
        )
    ratio = measure_latency({name: results[name].artifact for name in RECIPES}, budget_s=10.0).ratio_to("whole")
    print_table(f"{MODEL} on CIFAR-10, seed {SEED.value}", ("", *RECIPES), rows(results, ratio["low_rank"]))


if __name__ == "__main__":
    app.run(main)
