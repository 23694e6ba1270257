"""The networks of the matrix: how each is made and trained, and the data that it and its recipes see."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.atomic import save_atomically
from tfcompress.data import load_data
from tfcompress.pipeline import train
from tfcompress.vocabulary.preprocessing import NAMED

CLASSES = 10
BATCH = 32
SEED = 0
NORM_MOMENTUM = 0.9
"""Of BatchNormalization. The networks' own, up to 0.9997, are for runs of 10,000 steps: after a few hundred their
moments still stand near 0 and 1."""


@dataclass(frozen=True)
class Application:
    """A network of `keras.applications`, trained from nothing by Keras 3 on handwritten digits.

    Args:
        name: as Keras has it.
        preprocessing: what it is fed: `raw` where the network scales its input itself.
        side: of the input, pixels; the least that the network takes.
        options: further arguments of the network.
        epochs: of the training.
        learning_rate: Adam's at the first step; it falls to 0 as a cosine.
        quantization: values that the recipes' step of this technique gets.
    """

    name: str
    preprocessing: str
    side: int = 32
    options: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 12
    learning_rate: float = 1e-3
    quantization: Mapping[str, Any] = field(default_factory=dict)

    @property
    def overrides(self) -> dict[str, Any]:
        """Of the recipes' `data` section."""
        return {"batch_size": BATCH, "preprocessing": self.preprocessing, "augment": {"crop": 3}}

    def trained(self, folder: Path, data_dir: str | None) -> Path:
        """The trained network's `.keras` file; training goes on from the last epoch that `folder` has."""
        del data_dir
        path = folder / f"{self.name}.keras"
        if not path.exists():
            model = self._compiled()
            backup = kd.keras_3.callbacks.BackupAndRestore(str(folder / "epochs"))
            model.fit(self._batches(), epochs=self.epochs, shuffle=False, callbacks=[backup], verbose=2)
            save_atomically(path, model.save)
        return path

    def data(self, data_dir: str | None) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
        """The digits in the three splits, as bytes `[n, side, side, 3]` and labels."""
        del data_dir
        return _digits(self.side)

    def _batches(self) -> Any:
        """The training split, shuffled and moved a little, as the network is fed."""
        move = kd.keras_3.layers.RandomTranslation(0.1, 0.1, fill_mode="nearest", seed=SEED)
        inputs, targets = self.data(None)["train"]
        batches = kd.tf.data.Dataset.from_tensor_slices((NAMED[self.preprocessing].apply(inputs), targets))
        batches = batches.shuffle(len(targets), seed=SEED).batch(BATCH)
        return batches.map(lambda x, y: (move(x), y)).prefetch(2)

    def _compiled(self) -> Any:
        keras = kd.keras_3
        keras.utils.set_random_seed(SEED)
        make = getattr(keras.applications, self.name)
        shape = (self.side, self.side, 3)
        model = make(weights=None, input_shape=shape, classes=CLASSES, **self.options)
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = NORM_MOMENTUM
        steps = self.epochs * -(-len(self.data(None)["train"][1]) // BATCH)
        rate = keras.optimizers.schedules.CosineDecay(self.learning_rate, steps)
        model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model


@dataclass(frozen=True)
class ZooNetwork:
    """A network of the zoo for text or sound, trained by `tfcompress.train` on a prepared TFDS set.

    Args:
        name: in the zoo.
        dataset: the TFDS set.
        overrides: of the recipes' `data` section.
        fit: how it is trained.
        quantization: values that the recipes' step of this technique gets.
    """

    name: str
    dataset: str
    overrides: Mapping[str, Any]
    fit: Mapping[str, Any]
    quantization: Mapping[str, Any] = field(default_factory=dict)

    @property
    def learning_rate(self) -> float:
        """Adam's at the first step of the training."""
        return self.fit["learning_rate"]

    def trained(self, folder: Path, data_dir: str | None) -> Path:
        """The trained network's file; an interrupted training goes on."""
        recipe = {"data": self.overrides, "train": self.fit, "steps": [{"technique": "post_training"}]}
        return train(self.name, self.dataset, recipe, data_dir=data_dir, seed=SEED, out=folder / "train")

    def data(self, data_dir: str | None) -> str:
        """The set's name, which `compress` takes together with `data_dir`."""
        del data_dir
        return self.dataset


@functools.lru_cache(maxsize=1)
def _digits(side: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    splits = load_data("digits", input_shape=(side, side, 3), seed=SEED).splits
    return {name: (np.repeat(split.inputs, 3, axis=-1), split.targets) for name, split in splits.items()}


_TEXT = {"batch_size": 64, "text": {"vocabulary_size": 5000, "length": 64}}
_TEXT_FIT = {"epochs": 15, "early_stopping": {"patience": 4}}
_SOUND = {
    "batch_size": 32,
    "audio": {"features": "log_mel", "duration_ms": 1000, "frame_ms": 40, "hop_ms": 20, "mel_bins": 40},
}

_NARROW = {"ranges": "percentile", "percentile": 99.5}
"""Of activations that a few samples have twenty times as large as all others."""

FAMILIES: dict[str, Application | ZooNetwork] = {
    family.name: family
    for family in (
        Application("MobileNet", "signed", options={"alpha": 0.25}, epochs=50, learning_rate=3e-3),
        Application("MobileNetV2", "signed", options={"alpha": 0.35}, epochs=50, learning_rate=3e-3),
        Application("MobileNetV3Small", "raw", options={"alpha": 0.5}, epochs=50, learning_rate=3e-3),
        Application("EfficientNetB0", "raw", epochs=50, learning_rate=3e-3, quantization=_NARROW),
        Application("EfficientNetV2B0", "raw", epochs=50, learning_rate=3e-3, quantization=_NARROW),
        Application("ResNet50", "signed"),
        Application("ResNet50V2", "signed"),
        Application("VGG16", "signed", learning_rate=1e-4),
        Application("InceptionV3", "signed", side=75, epochs=10),
        Application("DenseNet121", "signed"),
        Application("Xception", "signed", side=71, epochs=8),
        Application("NASNetMobile", "signed", epochs=15),
        Application("ConvNeXtTiny", "raw", epochs=15, learning_rate=3e-4),
        ZooNetwork("lstm_text", "ag_news_subset", _TEXT, {"learning_rate": 0.003, **_TEXT_FIT}),
        ZooNetwork("transformer_text", "ag_news_subset", _TEXT, {"learning_rate": 0.002, **_TEXT_FIT}),
        ZooNetwork("ds_cnn", "spoken_digit", _SOUND, {"epochs": 40, "learning_rate": 0.002}),
        ZooNetwork("conv1d_audio", "spoken_digit", _SOUND, {"epochs": 40, "learning_rate": 0.002}),
        ZooNetwork("gru_audio", "spoken_digit", _SOUND, {"epochs": 40, "learning_rate": 0.002}),
    )
}
