"""AdaRound: weights rounded up or down so that each layer's output, not each weight, comes near the float one.

Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization" (2020), equations 21 to 25. What is
learnt of each weight is a number V, whose rectified sigmoid h(V) in 0...1 is what is added to the level below it, and
which a regularizer drives to one of both ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfcompress import keras_door as kd
from tfcompress.models.graph import consumers
from tfcompress.models.rewrites._activations import is_elementwise
from tfcompress.schedules import polynomial
from tfcompress.techniques._fake_quant import weight_quantizers
from tfcompress.techniques._layer_rows import LayerRows, layer_rows
from tfcompress.techniques._lockstep import Counterparts, counterparts
from tfcompress.techniques._weight_grid import constrain, level_size
from tfcompress.vocabulary.errors import RecipeError

_ZETA, _GAMMA = 1.1, -0.1
"""The sigmoid is stretched to these, and then clipped: equation 23."""
_BETA_BEGIN, _BETA_END = 20.0, 2.0
_WARM_UP = 0.2
"""The share of the steps without the regularizer."""
_REGULARIZATION = 0.01
_RATE = 1e-2
_ON_A_LEVEL = 1e-3
"""How far from a level, in levels, a value may be that is on it but for floating-point arithmetic."""
_ROWS_AT_ONCE = 4096

Activation = Callable[[Any], Any]


@dataclass(frozen=True)
class Reconstruction:
    """How far a rounded layer's outputs are from the float layer's: the mean square over rows and channels.

    Args:
        nearest: with every weight rounded to the nearest level.
        adaptive: as the layer is now.
    """

    nearest: float
    adaptive: float


def round_adaptively(
    quantized: Any, model: Any, samples: np.ndarray, *, steps: int, seed: int
) -> Mapping[str, Reconstruction]:
    """Round the weights of every quantized layer, in order, so that its activated output is the float layer's.

    Each weight goes to the level below or above it. The levels stay: the largest weight of each range is on one, as
    are zeros, and what is on a level stays there. The inputs are those of the quantized model, rounded as far as this
    layer; the output to come near, what the float model makes of its own. A layer that nearest rounding serves better
    keeps it.

    Args:
        quantized: a tfmot-quantized model, its activation ranges calibrated; its weights are changed in place.
        model: the float model that it was made of, with the same names of layers, BatchNormalization folded.
        samples: preprocessed inputs, float32 `[n, ...]`; a few hundred.
        steps: of Adam, for each layer; a few thousand.
        seed: of what each step looks at.

    Returns:
        By the name of each quantized layer, how far its outputs are from the float ones.

    Raises:
        RecipeError: a weight has shared values to keep, which would be rounded apart.

    Example:
        >>> round_adaptively(quantized, model, samples, steps=2000, seed=0)["conv1"]  # doctest: +SKIP
        Reconstruction(nearest=0.0121, adaptive=0.0037)
    """
    _refuse_shared(quantized)
    found = {}
    for index, pair in enumerate(counterparts(quantized, model, samples)):
        own_seed = int(np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1)[0] >> 1)
        found[pair.name] = _rounded(pair, _activation(model, pair.layer), steps, own_seed)
    return found


def _refuse_shared(quantized: Any) -> None:
    shared = [
        w.layer.name for w, _, quantizer in weight_quantizers(quantized) if quantizer.grid.cluster_index is not None
    ]
    if shared:
        raise RecipeError(
            "Adaptive rounding moves every weight on its own, and would part values that an earlier step promised to "
            f"share, in: {', '.join(shared)}. Remedy: nearest rounding."
        )


def _activation(model: Any, layer: Any) -> Activation:
    """What the outputs of `layer` alone go through next, in it or behind it, number by number."""
    layers = kd.keras.layers
    own = layer.activation
    if own.__name__ != "linear":
        # A softmax has hardly a gradient where the network is sure.
        return own if is_elementwise(own) else _identity
    behind = consumers(model, layer)
    follower = behind[0] if len(behind) == 1 else None
    if isinstance(follower, layers.Activation) and is_elementwise(follower.activation):
        return follower.activation
    return follower if isinstance(follower, (layers.ReLU, layers.LeakyReLU)) else _identity


def _identity(values: Any) -> Any:
    return values


def _rounded(pair: Counterparts, activation: Activation, steps: int, seed: int) -> Reconstruction:
    """Round one layer; see `round_adaptively`."""
    rows = layer_rows(pair, seed)
    targets = _outputs(rows, rows.floats, pair.float_kernel, _bias(pair.layer), activation)
    kernel = constrain(pair.weight, pair.quantizer.grid).numpy()
    size = level_size(kernel, pair.quantizer.grid).numpy()
    bias = _bias(pair.wrapper.layer)
    levels = kernel.astype(np.float64) / size
    below = np.floor(levels)
    open_ = np.abs(levels - np.round(levels)) > _ON_A_LEVEL
    problem = _Problem(rows, targets, bias, activation, kernel, size, below, open_)
    added = problem.learnt(levels - below, steps, seed)
    adaptive = np.where(open_, (below + added) * size, kernel).astype(np.float32)

    def error(weights: Any) -> float:
        outputs = _outputs(rows, rows.quantized, weights, bias, activation)
        return float(kd.tf.reduce_mean(kd.tf.math.squared_difference(outputs, targets)))

    errors = error(pair.quantized_kernel), error(adaptive)
    if errors[1] < errors[0]:
        pair.weight.assign(adaptive)
    return Reconstruction(errors[0], min(errors))


def _bias(layer: Any) -> Any:
    return layer.bias if layer.use_bias else 0.0


def _outputs(rows: LayerRows, inputs: Any, kernel: Any, bias: Any, activation: Activation) -> Any:
    """The activated outputs for all of `inputs`."""
    parts = [
        activation(rows.response(inputs[start : start + _ROWS_AT_ONCE], kernel) + bias)
        for start in range(0, len(inputs), _ROWS_AT_ONCE)
    ]
    return kd.tf.concat(parts, axis=0)


@dataclass(frozen=True)
class _Problem:
    """What is to be rounded in one layer, and what its output is to be.

    `below` are the levels below the weights, in levels of `size`; only weights that are `open` are not on one.
    """

    rows: LayerRows
    targets: Any
    bias: Any
    activation: Activation
    kernel: np.ndarray
    size: np.ndarray
    below: np.ndarray
    open: np.ndarray

    def learnt(self, rest: np.ndarray, steps: int, seed: int) -> np.ndarray:
        """What is to be added to each level `below`, 0 or 1; begun with `rest`, what weights have above it."""
        tf = kd.tf
        variable = tf.Variable(-np.log((_ZETA - _GAMMA) / (rest - _GAMMA) - 1), dtype=tf.float32)
        optimizer = kd.keras.optimizers.Adam(_RATE)
        optimizer.build([variable])
        warm = round(_WARM_UP * steps)
        beta = polynomial(_BETA_BEGIN, _BETA_END, begin=warm, end=max(steps, warm + 1), power=1.0)

        @tf.function
        def learn() -> None:
            for step in tf.range(steps):
                index = tf.random.stateless_uniform(
                    [self.rows.batch], (seed, step), maxval=len(self.targets), dtype=tf.int32
                )
                with tf.GradientTape() as tape:
                    added = _rectified_sigmoid(variable)
                    loss = self._distance(added, index)
                    regularized = loss + _REGULARIZATION * self._undecided(added, beta(tf.cast(step, tf.float32)))
                    loss = tf.where(step < warm, loss, regularized)
                optimizer.apply_gradients([(tape.gradient(loss, variable), variable)])

        learn()
        return _rectified_sigmoid(variable).numpy() >= 0.5

    def _distance(self, added: Any, index: Any) -> Any:
        """Equation 25: the squared distance of the activated outputs, mean over the rows at `index`."""
        tf = kd.tf
        weights = tf.where(self.open, (self.below.astype(np.float32) + added) * self.size, self.kernel)
        outputs = self.activation(self.rows.response(tf.gather(self.rows.quantized, index), weights) + self.bias)
        apart = tf.math.squared_difference(outputs, tf.gather(self.targets, index))
        return tf.reduce_mean(tf.reduce_sum(apart, axis=-1))

    def _undecided(self, added: Any, beta: Any) -> Any:
        """Equation 24: by how much the open roundings are neither 0 nor 1."""
        tf = kd.tf
        return tf.reduce_sum(tf.boolean_mask(1 - tf.abs(2 * added - 1) ** beta, self.open))


def _rectified_sigmoid(variable: Any) -> Any:
    """Equation 23."""
    return kd.tf.clip_by_value(kd.tf.sigmoid(variable) * (_ZETA - _GAMMA) + _GAMMA, 0.0, 1.0)
