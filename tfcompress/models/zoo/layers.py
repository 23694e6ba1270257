"""The building blocks the zoo's families share: seeded layers with stable names, and channel rounding."""

from __future__ import annotations

import zlib
from typing import Any

from tfcompress import keras_door as kd


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, rounded to the nearest multiple of 8, but never losing more than 10 %.

    The rule of the published MobileNetV2 networks; halves round up, and the result is at least 8.

    Example:
        >>> scaled(32, 0.25), scaled(24, 0.35), scaled(64, 1.0)
        (8, 8, 64)
    """
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8


class LayerMaker:
    """Makes layers whose initial weights and dropout derive from one seed and their own names.

    A layer's weights therefore do not depend on how many layers were made before it. Layers before a
    rectifier start as in He et al. 2015 (arXiv:1502.01852, eq. 10), the classifier as in Glorot and Bengio
    2010. BatchNormalization always stands directly behind a linear layer, where it can be folded.

    Args:
        seed: the model's seed.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def conv(self, x: Any, filters: int, kernel: int | tuple[int, int], name: str, **options: Any) -> Any:
        """A Conv2D with padding "same" and a bias; `options` are Conv2D's."""
        return kd.keras.layers.Conv2D(
            filters,
            kernel,
            name=name,
            kernel_initializer=kd.keras.initializers.HeNormal(self._seed_of(name)),
            **{"padding": "same", **options},
        )(x)

    def conv_bn(self, x: Any, filters: int, kernel: int | tuple[int, int], name: str, **options: Any) -> Any:
        """`conv` without a bias unless `options` ask for one, and BatchNormalization ``<name>_bn``."""
        return self._bn(self.conv(x, filters, kernel, name, **{"use_bias": False, **options}), name)

    def depthwise_bn(self, x: Any, name: str, **options: Any) -> Any:
        """A 3×3 DepthwiseConv2D with padding "same", by default without a bias, and ``<name>_bn``."""
        # Keras takes the fan-in of a depthwise kernel for that of a full convolution, which starts a wide
        # layer's outputs near BatchNormalization's epsilon. Each output sees one channel: the fan-in is 3·3.
        initializer = kd.keras.initializers.TruncatedNormal(stddev=(2 / 9) ** 0.5, seed=self._seed_of(name))
        layer = kd.keras.layers.DepthwiseConv2D(
            3,
            name=name,
            depthwise_initializer=initializer,
            **{"padding": "same", "use_bias": False, **options},
        )
        return self._bn(layer(x), name)

    def relu(self, x: Any, name: str) -> Any:
        """A rectifier, ``<name>_relu``."""
        return kd.keras.layers.Activation("relu", name=f"{name}_relu")(x)

    def relu6(self, x: Any, name: str) -> Any:
        """A rectifier that saturates at 6, ``<name>_relu``."""
        return kd.keras.layers.ReLU(6.0, name=f"{name}_relu")(x)

    def dense(self, x: Any, units: int, name: str) -> Any:
        """A Dense layer with a rectifier."""
        return kd.keras.layers.Dense(
            units,
            activation="relu",
            name=name,
            kernel_initializer=kd.keras.initializers.HeNormal(self._seed_of(name)),
        )(x)

    def projection(self, x: Any, units: int, name: str) -> Any:
        """A Dense layer without an activation."""
        initializer = kd.keras.initializers.GlorotUniform(self._seed_of(name))
        return kd.keras.layers.Dense(units, name=name, kernel_initializer=initializer)(x)

    def dropout(self, x: Any, rate: float, name: str) -> Any:
        """Dropout of the share `rate` of values."""
        return kd.keras.layers.Dropout(rate, seed=self._seed_of(name), name=name)(x)

    def embedding(self, tokens: Any, vocabulary_size: int, width: int, name: str) -> Any:
        """A vector of `width` numbers, of length 1 in the mean before training, for each token id.

        Keras starts them within 0.05: the few words that training moves then stand far outside the others, which an
        8-bit range of all has hardly a step for.
        """
        initializer = kd.keras.initializers.RandomNormal(stddev=width**-0.5, seed=self._seed_of(name))
        return kd.keras.layers.Embedding(vocabulary_size, width, embeddings_initializer=initializer, name=name)(tokens)

    def recurrent(self, kind: str, x: Any, units: int, name: str, **options: Any) -> Any:
        """A recurrent layer of Keras, `LSTM` or `GRU`, over `[batch, time, features]`; `options` are the layer's."""
        initializers = kd.keras.initializers
        return getattr(kd.keras.layers, kind)(
            units,
            name=name,
            kernel_initializer=initializers.GlorotUniform(self._seed_of(name)),
            recurrent_initializer=initializers.Orthogonal(seed=self._seed_of(f"{name}/recurrent")),
            **options,
        )(x)

    def conv1d_bn(self, x: Any, filters: int, kernel: int, name: str, **options: Any) -> Any:
        """A Conv1D with padding "same" and no bias, and ``<name>_bn``; `options` are Conv1D's."""
        layer = kd.keras.layers.Conv1D(
            filters,
            kernel,
            name=name,
            padding="same",
            use_bias=False,
            kernel_initializer=kd.keras.initializers.HeNormal(self._seed_of(name)),
            **options,
        )
        return self._bn(layer(x), name)

    def positioned(self, x: Any, width: int, name: str) -> Any:
        """A linear map to `width` features and a learned vector for each position, of `[batch, time, features]`.

        The bias of an EinsumDense holds the positions: an Embedding of them would need a second input.
        """
        initializers = kd.keras.initializers
        return kd.keras.layers.EinsumDense(
            "btd,de->bte",
            output_shape=(x.shape[1], width),
            bias_axes="te",
            kernel_initializer=initializers.GlorotUniform(self._seed_of(name)),
            bias_initializer=initializers.RandomUniform(-0.05, 0.05, self._seed_of(f"{name}/position")),
            name=name,
        )(x)

    def self_attention(self, x: Any, heads: int, name: str) -> Any:
        """Multi-head attention of `[batch, time, features]` to itself, the features divided among the heads."""
        width = x.shape[-1]
        layer = kd.keras.layers.MultiHeadAttention(heads, width // heads, name=name)
        attended = layer(x, x)
        # Keras starts query, key and value alike from one seeded initializer, and scales a kernel
        # [width, heads, features] as if it were a convolution's.
        for weight in layer.trainable_weights:
            place = weight.name.partition(":")[0]
            if place.endswith("kernel"):
                values = kd.keras.initializers.GlorotUniform(self._seed_of(place))((width, width))
                weight.assign(kd.tf.reshape(values, weight.shape))
        return attended

    def classifier(self, x: Any, classes: int) -> Any:
        """The Dense layer ``classifier`` with a softmax over `classes`."""
        return kd.keras.layers.Dense(
            classes,
            activation="softmax",
            name="classifier",
            kernel_initializer=kd.keras.initializers.GlorotUniform(self._seed_of("classifier")),
        )(x)

    def _bn(self, x: Any, name: str) -> Any:
        return kd.keras.layers.BatchNormalization(name=f"{name}_bn")(x)

    def _seed_of(self, name: str) -> int:
        # Initializers take a signed 32-bit seed.
        return zlib.crc32(f"{self._seed}/{name}".encode()) & 0x7FFFFFFF
