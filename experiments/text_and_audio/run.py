"""Text and sound as full-integer files: `python experiments/text_and_audio/run.py --model=lstm_text`.

Trains the network on its data set, runs `<model>.yaml`, and prints what the float file and the integer file reach on
the test split, and how far the integer file is from the Keras model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from tfcompress.card import figures
from tfcompress.cli.common import TerminalReporter, print_table
from tfcompress.pipeline import compress

HERE = Path(__file__).parent
DATASETS = {
    "lstm_text": "ag_news_subset",
    "transformer_text": "ag_news_subset",
    "ds_cnn": "spoken_digit",
}

MODEL = flags.DEFINE_enum("model", "lstm_text", sorted(DATASETS), "A network of the zoo.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS keeps the data sets.")
OUT = flags.DEFINE_string("out", None, "The run's folder.")
SEED = flags.DEFINE_integer("seed", 0, "Of the run.")


def main(argv: Sequence[str]) -> None:
    """Run and print."""
    del argv
    dataset = DATASETS[MODEL.value]
    result = compress(
        MODEL.value,
        dataset,
        HERE / f"{MODEL.value}.yaml",
        data_dir=DATA_DIR.value,
        out=OUT.value or f"tflite_models/text_and_audio-{MODEL.value}-{SEED.value}",
        seed=SEED.value,
        reporter=TerminalReporter(),
    )
    title = f"{MODEL.value} on {dataset}, seed {SEED.value}"
    print_table(title, ("", "float", "artifact"), figures(result.evidence))


if __name__ == "__main__":
    app.run(main)
