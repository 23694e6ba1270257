"""What half of the multiply-accumulates is worth in time: `python experiments/vgg16_low_rank/methods.py`.

Factors VGG-16 of a quarter of the width, with the random weights it begins with, by every method, and by one in its
later layers alone, and times the int8 files, and the whole network's float file, in turn. Kernels take as long for any
weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from absl import app, flags

from tfcompress.cli.common import print_table
from tfcompress.convert.converter import float_tflite, quantized_tflite
from tfcompress.convert.settings import ConversionSettings
from tfcompress.evaluate import measure_latency
from tfcompress.models import zoo
from tfcompress.techniques.base import StepPlan
from tfcompress.techniques.low_rank import LowRank
from tfcompress.vocabulary.state import State

VALUES = {
    "spatial_svd": {"method": "spatial_svd"},
    "spatial_svd, stages 3 to 5": {"method": "spatial_svd", "exclude": ["stage1_*", "stage2_*"]},
    "svd": {"method": "svd"},
    "tucker2": {"method": "tucker2"},
    "auto": {"method": "auto"},
}

SECONDS = flags.DEFINE_float("seconds", 6.0, "Of each timing.")
TIMES = flags.DEFINE_integer("times", 3, "How often all files are timed.")


def main(argv: Sequence[str]) -> None:
    """Convert, time and print."""
    del argv
    model = zoo.build("vgg16:width=0.25", (32, 32, 3), 10, 0)
    samples = np.random.default_rng(0).normal(size=(4, *model.input_shape[1:])).astype(np.float32)
    plan = StepPlan(steps_per_epoch=1, epochs=0, calibration=samples, seed=0)
    models = {"whole": model}
    for name, values in VALUES.items():
        models[name] = LowRank(target={"macs": 0.5}, **values).prepare(State(model), plan).model
    files = {name: quantized_tflite(network, "int8", ConversionSettings(), samples) for name, network in models.items()}
    files["whole, float"] = float_tflite(model)
    ratios = []
    for turn in range(TIMES.value):
        # Where a file lies in memory moves its time by up to a tenth, and depends on the order.
        names = [*files]
        order = names[turn % len(names) :] + names[: turn % len(names)]
        report = measure_latency({name: files[name] for name in order}, budget_s=SECONDS.value)
        ratios.append(report.ratio_to("whole"))
    rows = [(name, *(f"{ratio[name]:.2f}" for ratio in ratios), f"{len(file):,}") for name, file in files.items()]
    print_table("Latency, one thread", ("", *["of whole"] * TIMES.value, "bytes"), rows)


if __name__ == "__main__":
    app.run(main)
