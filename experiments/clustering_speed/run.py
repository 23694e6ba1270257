"""How much longer a training step takes with clustered weights: LeNet-5, against the float model and tfmot's own.

Every variant trains one epoch in turn, round after round, so that whatever else the machine does falls on all of
them; the first round compiles and is not counted. Times depend on shapes alone, so random images do by default.
Beside the time on the clock stands the processor time of all threads, which a busy machine disturbs less.

    python experiments/clustering_speed/run.py --out=experiments/clustering_speed/result
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from absl import app, flags

from tfcompress import keras_door as kd
from tfcompress.models.zoo import build
from tfcompress.techniques.base import StepPlan
from tfcompress.techniques.clustering import Clustering
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import State

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 5, "Epochs of each variant that are counted.", lower_bound=1)
flags.DEFINE_integer("steps", 60, "Steps of an epoch.", lower_bound=1)
flags.DEFINE_integer("batch", 128, "Images in a step.", lower_bound=1)
flags.DEFINE_integer("clusters", 16, "Values that each weight may take.", lower_bound=3, upper_bound=256)
flags.DEFINE_float("sparsity", 0.8, "Share of zeros of the variants that keep them.", lower_bound=0, upper_bound=1)
flags.DEFINE_integer("seed", 0, "Seed of weights, images and centroids.")
flags.DEFINE_string("data_dir", None, "Where TFDS has MNIST prepared. Random images when not given.")
flags.DEFINE_string("out", None, "Path without extension to write the result to, as .json and .md.")


def main(argv: list[str]) -> None:
    """Measure, print the table, and write it when --out is given."""
    if len(argv) > 1:
        raise app.UsageError(f"No arguments are expected beside flags. Received: {argv[1:]}")
    rows = table(measure(variants(), *images()))
    lines = ["| variant | ms a step | of float | CPU ms a step | of float |", "|---|---|---|---|---|"]
    lines += ["| " + " | ".join(str(value) for value in row.values()) + " |" for row in rows]
    print("\n".join(lines))
    if FLAGS.out:
        setting = {name: FLAGS[name].value for name in ("rounds", "steps", "batch", "clusters", "sparsity", "seed")}
        Path(f"{FLAGS.out}.json").write_text(json.dumps({"setting": setting, "rows": rows}, indent=2) + "\n")
        Path(f"{FLAGS.out}.md").write_text("\n".join(lines) + "\n")


def variants() -> dict[str, Any]:
    """The models to compare, by name, each compiled with Adam."""
    from tensorflow_model_optimization.python.core.clustering.keras.experimental import cluster

    dense = State(build("lenet5", (28, 28, 1), 10, seed=FLAGS.seed))
    sparse = pruned(dense)
    plan = StepPlan(FLAGS.steps, FLAGS.rounds, np.zeros((1, 28, 28, 1), np.float32), FLAGS.seed)
    ours = Clustering(clusters=FLAGS.clusters)
    models = {
        "float": copy(dense.model),
        "tfmot clustering": cluster.cluster_weights(copy(dense.model), FLAGS.clusters),
        "tfmot clustering, zeros kept": cluster.cluster_weights(
            copy(sparse.model), FLAGS.clusters, preserve_sparsity=True
        ),
        "tfcompress clustering": ours.prepare(dense, plan).model,
        "tfcompress clustering, zeros kept": ours.prepare(sparse, plan).model,
    }
    for model in models.values():
        model.compile("adam", "sparse_categorical_crossentropy")
    return models


def copy(model: Any) -> Any:
    """`model` with its own variables."""
    other = kd.keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    return other


def pruned(state: State) -> State:
    """The state with the smallest weights of every kernel zero, and promised so."""
    model, promises = copy(state.model), []
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            kernel = layer.kernel.numpy()
            kernel[np.abs(kernel) <= np.quantile(np.abs(kernel), FLAGS.sparsity)] = 0
            layer.kernel.assign(kernel)
            promises.append(Promise(f"{layer.name}/kernel", "zeros", FLAGS.sparsity))
    return State(model, tuple(promises))


def images() -> tuple[np.ndarray, np.ndarray]:
    """One epoch of images `[n, 28, 28, 1]` in 0...1 and their labels."""
    count = FLAGS.steps * FLAGS.batch
    if FLAGS.data_dir is None:
        rng = np.random.default_rng(FLAGS.seed)
        return rng.uniform(size=(count, 28, 28, 1)).astype(np.float32), rng.integers(10, size=count)
    import tensorflow_datasets as tfds

    split = tfds.load(
        "mnist", split=f"train[:{count}]", data_dir=FLAGS.data_dir, download=False, batch_size=-1, as_supervised=True
    )
    x, y = tfds.as_numpy(split)
    return x.astype(np.float32) / 255, y


def measure(models: dict[str, Any], x: np.ndarray, y: np.ndarray) -> dict[str, list[tuple[float, float]]]:
    """For each model and counted epoch, milliseconds a step: on the clock, and of the processor."""
    data = kd.tf.data.Dataset.from_tensor_slices((x, y)).batch(FLAGS.batch, drop_remainder=True).cache()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for round_index in range(FLAGS.rounds + 1):
        for name, model in models.items():
            wall, cpu = epoch_seconds(model, data)
            if round_index:
                times[name].append((wall * 1000 / FLAGS.steps, cpu * 1000 / FLAGS.steps))
    return times


def epoch_seconds(model: Any, data: Any) -> tuple[float, float]:
    """Seconds from the first step of an epoch to its last; what `fit` does before and after is no step's time."""
    moments: list[tuple[float, float]] = []

    def note(*_: Any) -> None:
        moments.append((time.perf_counter(), time.process_time()))

    timer = kd.keras.callbacks.LambdaCallback(on_epoch_begin=note, on_epoch_end=note)
    model.fit(data, verbose=0, callbacks=[timer])
    (wall_before, cpu_before), (wall_after, cpu_after) = moments
    return wall_after - wall_before, cpu_after - cpu_before


def table(times: dict[str, list[tuple[float, float]]]) -> list[dict[str, Any]]:
    """One row a variant: medians over the epochs, and their ratios to the float model's."""
    medians = {name: [median(column) for column in zip(*epochs, strict=True)] for name, epochs in times.items()}
    float_wall, float_cpu = medians["float"]
    return [
        {
            "variant": name,
            "step_ms": round(wall, 1),
            "ratio": round(wall / float_wall, 2),
            "cpu_step_ms": round(cpu, 1),
            "cpu_ratio": round(cpu / float_cpu, 2),
        }
        for name, (wall, cpu) in medians.items()
    ]


if __name__ == "__main__":
    app.run(main)
