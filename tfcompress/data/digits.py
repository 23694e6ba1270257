"""The data set that needs no download: the handwritten digits that scikit-learn ships, as a TFDS builder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tfcompress import keras_door as kd

tfds = kd.tfds

_CITATION = """\
@misc{alpaydin1998optical,
  author = {Alpaydin, E. and Kaynak, C.},
  title = {Optical Recognition of Handwritten Digits},
  year = {1998},
  howpublished = {UCI Machine Learning Repository},
}"""


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 handwritten digits of 8 × 8 pixels in 10 classes: 1,437 to train on and 360 to test on.

    scikit-learn stores 0...16; the images here are ``rint(value * 255 / 16)`` as bytes, so that preprocessings mean
    the same as for other images. Sorted by class, and within a class in scikit-learn's order, every fifth image
    from the first on is a test image: each class gives a fifth of its images, to within one.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Bytes 0...255; every fifth image of the class order is a test image."}  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description="Handwritten digits of 8 by 8 grey pixels: the test part of a UCI data set, from scikit-learn.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), dtype=np.uint8),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
            citation=_CITATION,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        by_class = np.argsort(digits.target, kind="stable")
        is_test = np.arange(len(by_class)) % 5 == 0
        return {
            split: self._generate_examples(images, digits.target, np.sort(by_class[chosen]))
            for split, chosen in (("train", ~is_test), ("test", is_test))
        }

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray, indices: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Examples keyed by their place in scikit-learn's file."""
        for index in indices.tolist():
            yield index, {"image": images[index], "label": int(labels[index])}
