"""The Keras half of quantization-aware training: quantizers and a scheme on tfmot's wrappers.

tfmot supplies the wrappers, the layer registry and the layout transforms (which activations fuse into which
layer). Replaced are its quantizers, because they start activation ranges at +-6, know 8 bits only, and forget
zeros and shared values of the weights they train.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tensorflow_model_optimization.python.core.quantization.keras import quantizers
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_quantize_layout_transform,
    default_8bit_quantize_registry,
    default_8bit_quantize_scheme,
)
from tensorflow_model_optimization.python.core.quantization.keras.graph_transformations.model_transformer import (
    ModelTransformer,
)
from tensorflow_model_optimization.python.core.quantization.keras.quantize_layer import QuantizeLayer
from tensorflow_model_optimization.python.core.quantization.keras.quantize_wrapper import QuantizeWrapper
from tf_keras.src.saving.serialization_lib import SafeModeScope

from tfcompress import keras_door as kd
from tfcompress.models.graph import consumers
from tfcompress.models.loading import clone, copied_layer, custom_objects, set_weights
from tfcompress.techniques._batch_norm import fold_where_scales_are_shared
from tfcompress.techniques._ranges import MIN_MAX, Extremes, Histogram, RangeChoice
from tfcompress.vocabulary.errors import ModelError

ACTIVATIONS = frozenset({None, "linear", "relu", "swish", "gelu", "softmax", "sigmoid", "tanh"})
"""Activations that tfmot's `QuantizeAwareActivation` knows, and None for a layer that has none."""


@dataclass(frozen=True)
class WeightGrid:
    """How one weight is quantized in training, and what it must keep meanwhile.

    Args:
        bits: width of the grid, 2...8.
        container_bits: width of the stored integers, 4 or 8; the scale is laid out for it.
        channel_axes: how many of the last axes number the channels, each with a scale of its own; 0 for one scale.
        shared_range: every channel gets the range of the whole tensor, so that equal values become equal integers.
        zero_mask: 1 where the weight may move, 0 where it stays zero; the weight's shape.
        cluster_index: which cluster each value belongs to, int32 in the weight's shape.
    """

    bits: int = 8
    container_bits: int = 8
    channel_axes: int = 0
    shared_range: bool = False
    zero_mask: np.ndarray | None = None
    cluster_index: np.ndarray | None = None


class WeightQuantizer(quantizers.Quantizer):
    """Symmetric fake quantization of a weight on a `WeightGrid`.

    The grid has 2**bits - 1 levels, from the largest magnitude of the channel (Jacob et al. 2018, section 3.1,
    with a zero point of 0). It is emulated inside the integer container that will hold it: an outer range of
    scale * (2**(container_bits - 1) - 1) makes the converter store exactly these levels at every width.
    While `resting`, values pass unchanged.
    """

    def __init__(self, grid: WeightGrid) -> None:
        self.grid = grid
        self.resting = False

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """No variables: the range is that of the current values."""
        del tensor_shape, name, layer
        return {}

    def __call__(self, inputs: Any, training: bool, weights: dict[str, Any], **kwargs: Any) -> Any:
        del training, weights, kwargs
        return inputs if self.resting else fake_quantize(constrain(inputs, self.grid), self.grid)

    def get_config(self) -> dict[str, Any]:
        """The grid without the arrays, which belong to the training and not to the layer."""
        grid = self.grid
        return {
            "bits": grid.bits,
            "container_bits": grid.container_bits,
            "channel_axes": grid.channel_axes,
            "shared_range": grid.shared_range,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> WeightQuantizer:
        """The inverse of `get_config`."""
        return cls(WeightGrid(**config))


def constrain(weight: Any, grid: WeightGrid) -> Any:
    """`weight` with the zeros and shared values that `grid` asks to keep.

    Each shared value is the mean of its cluster, so its members receive the mean gradient: they move together
    under any element-wise optimizer, and stay equal.
    """
    tf = kd.tf
    if grid.cluster_index is not None:
        index = tf.constant(grid.cluster_index.ravel())
        clusters = int(grid.cluster_index.max()) + 1
        centroids = tf.math.unsorted_segment_mean(tf.reshape(weight, [-1]), index, clusters)
        weight = tf.reshape(tf.gather(centroids, index), tf.shape(weight))
    if grid.zero_mask is not None:
        weight = weight * tf.constant(grid.zero_mask, weight.dtype)
    return weight


def fake_quantize(weight: Any, grid: WeightGrid) -> Any:
    """`weight` rounded to the levels of `grid`, with straight-through gradients; same shape."""
    tf = kd.tf
    weight = tf.convert_to_tensor(weight)
    outer = level_size(weight, grid) * (2 ** (grid.container_bits - 1) - 1)
    if grid.channel_axes == 0:
        return tf.quantization.fake_quant_with_min_max_vars(
            weight, -outer, outer, num_bits=grid.container_bits, narrow_range=True
        )
    # The operation wants all channels in one last axis.
    by_channel = [*weight.shape[: -grid.channel_axes], -1]
    outer = tf.reshape(outer, [-1])
    quantized = tf.quantization.fake_quant_with_min_max_vars_per_channel(
        tf.reshape(weight, by_channel), -outer, outer, num_bits=grid.container_bits, narrow_range=True
    )
    return tf.reshape(quantized, weight.shape)


def level_size(weight: Any, grid: WeightGrid) -> Any:
    """The distance between neighbouring levels of `grid` for the values of `weight`, without gradients.

    One number, or one for each channel, in the shape of the weight's last `channel_axes`.
    """
    tf = kd.tf
    magnitude = tf.stop_gradient(tf.abs(tf.convert_to_tensor(weight)))
    largest = tf.reduce_max(magnitude)
    # A channel or tensor of zeros has no range of its own; any positive one represents it exactly.
    ranges = largest = tf.where(largest > 0, largest, 1.0)
    if grid.channel_axes:
        by_channel = tf.reduce_max(magnitude, axis=range(magnitude.shape.rank - grid.channel_axes))
        own = tf.logical_and(by_channel > 0, not grid.shared_range)
        ranges = tf.where(own, by_channel, largest)
    return ranges / (2 ** (grid.bits - 1) - 1)


class ActivationQuantizer(quantizers.MovingAverageQuantizer):
    """tfmot's moving-average 8-bit quantizer that can first observe calibration data.

    While there are `observers`, values pass unchanged, and the observer of their range is shown them.
    """

    def __init__(self) -> None:
        super().__init__(num_bits=8, per_axis=False, symmetric=False, narrow_range=False)
        self.observers: Mapping[Any, Extremes | Histogram] | None = None
        """By the reference of a range's lower variable; None (the default) to quantize."""

    def __call__(self, inputs: Any, training: bool, weights: dict[str, Any], **kwargs: Any) -> Any:
        if self.observers is None:
            return super().__call__(inputs, training, weights, **kwargs)
        observer = self.observers.get(weights["min_var"].ref())
        if observer is not None:
            observer.observe(inputs.numpy())
        return inputs

    def get_config(self) -> dict[str, Any]:
        """Nothing to configure."""
        return {}


def quantized(model: Any, trained: Collection[str], grids: Mapping[str, WeightGrid]) -> Any:
    """A copy of `model` with tfmot's wrappers around the layers to be trained as integers; the others stay float.

    Args:
        model: a Sequential or Functional model, which stays as it is.
        trained: names of the layers to wrap, each of which the registry supports.
        grids: the grid of each weighted layer among them, by the layer's name.
    """
    tfmot = kd.tfmot.quantization.keras
    copied = clone(model)
    inputs = kd.keras.layers.InputLayer
    left = [layer for layer in model.layers if layer.name not in trained and not isinstance(layer, inputs)]
    opaque = {layer.name: _opaque(layer) for layer in left}
    _change_classes(copied, opaque)
    own = {name: value for layer in model.layers for name, value in custom_objects(layer).items()}
    with tfmot.quantize_scope(own, {cls.__name__: cls for cls in opaque.values()}):
        annotated = kd.keras.models.clone_model(
            fold_where_scales_are_shared(copied),
            clone_function=lambda layer: tfmot.quantize_annotate_layer(layer) if layer.name in trained else layer,
        )
        result = tfmot.quantize_apply(annotated, scheme=Scheme(trained, grids))
    _change_classes(result, {name: cls.__base__ for name, cls in opaque.items()})
    for name in opaque:
        set_weights(result.get_layer(name), model.get_layer(name).get_weights())
    for layer in result.layers:
        if isinstance(layer, QuantizeWrapper) and not layer.trainable:
            _freeze(layer)
    return result


def _freeze(wrapper: QuantizeWrapper) -> None:
    """Keep a frozen layer's kernel from training; tfmot counts it among the trained weights in any case."""
    wrapper._non_trainable_weights.extend(wrapper._trainable_weights)
    wrapper._trainable_weights.clear()


def _opaque(original: Any) -> type:
    """A subclass of a layer's class with nothing in its configuration; it is made again as a copy of `original`.

    tfmot's transforms make every layer of a model again from a configuration in JSON's terms, which holds no function,
    and fill in weights by name, of which a nested model may have two alike. What they are not to touch they see so.
    """

    def get_config(self: Any) -> dict[str, Any]:
        return {"name": self.name}

    def from_config(cls: type, config: dict[str, Any]) -> Any:
        del config
        # Lambdas too: their code is that of a model in memory, which its owner could run anyway.
        with SafeModeScope(safe_mode=False):
            made = copied_layer(original)
        object.__setattr__(made, "__class__", cls)
        return made

    methods = {"get_config": get_config, "from_config": classmethod(from_config)}
    return type(f"Opaque_{original.name}", (type(original),), methods)


def _change_classes(model: Any, classes: Mapping[str, type]) -> None:
    for name, cls in classes.items():
        # Keras' own __setattr__ would track the class as a part of the layer.
        object.__setattr__(model.get_layer(name), "__class__", cls)


class Scheme(default_8bit_quantize_scheme.Default8BitQuantizeScheme):
    """tfmot's default scheme with our weight quantizers.

    Args:
        trained: names of the layers to be trained as integers.
        grids: the grid of each weighted layer among them, by the layer's name.
    """

    def __init__(self, trained: Collection[str], grids: Mapping[str, WeightGrid]) -> None:
        super().__init__()
        self._trained = trained
        self._grids = grids

    def get_layout_transformer(self) -> Layout:
        """tfmot's layout, with every weight on its grid."""
        return Layout(self.get_quantize_registry())

    def get_quantize_registry(self) -> Registry:
        """The registry that hands out the grids."""
        return Registry(self._grids, self._trained)


class Layout(default_8bit_quantize_layout_transform.Default8BitQuantizeLayoutTransform):
    """tfmot's layout transforms, without their loss of weight quantizers.

    To quantize once behind `Conv2D - ReLU` or `Conv2D - Concatenate`, tfmot gives the convolution a configuration
    that quantizes nothing of it, or one that keeps its range of the output, which the converter then takes for
    the whole concatenation. Here the weight keeps its grid, and only the quantizer of the output goes.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def apply(self, model: Any, layer_quantize_map: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The transformed model, and tfmot's record of how each of its layers is quantized."""
        with _inputs_in_order():
            model, record = super().apply(model, layer_quantize_map)
        for layer in model.layers:
            replaced = record.get(layer.name, {}).get("quantize_config") is not None
            if replaced and weight_attribute(self._registry, layer):
                config = self._registry.get_quantize_config(layer)
                config.activation_attrs = []
                record[layer.name]["quantize_config"] = config
            elif _is_averaged_for_concatenate(model, layer):
                config = self._registry.get_quantize_config(layer)
                config.quantize_output = False
                record[layer.name]["quantize_config"] = config
        return model, record


def _is_averaged_for_concatenate(model: Any, layer: Any) -> bool:
    """Whether `layer` is an average pooling that a Concatenate takes, beside others or alone.

    TFLite's average has the range of what it is of. On one of its own, which is to become the Concatenate's too, the
    converter refuses it. tfmot sees to that only where the Concatenate alone takes it.
    """
    layers = kd.keras.layers
    return isinstance(layer, layers.AveragePooling2D) and any(
        isinstance(consumer, layers.Concatenate) for consumer in consumers(model, layer)
    )


class _InOrder(ModelTransformer):
    """tfmot's rebuilding of a model, with the inputs of every layer in their order.

    tfmot takes them in the order in which the layers stand in the model's configuration, by their depth, and so gives
    many a Concatenate its inputs in another order, and the layers behind it other channels than they were trained on.
    """

    def _get_layers(self, layer_names: Sequence[str]) -> list[dict[str, Any]]:
        found = super()._get_layers(layer_names)
        if not self._is_functional_model(self.model):
            return found
        return sorted(found, key=lambda layer: layer_names.index(layer["config"]["name"]))


@contextmanager
def _inputs_in_order() -> Iterator[None]:
    """Meanwhile tfmot's layout rebuilds models by `_InOrder`; it has no other place for that."""
    module = default_8bit_quantize_layout_transform.model_transformer
    module.ModelTransformer = _InOrder
    try:
        yield
    finally:
        module.ModelTransformer = ModelTransformer


class Registry(default_8bit_quantize_registry.Default8BitQuantizeRegistry):
    """tfmot's registry of what can be quantized, with products and differences, each layer's weight on its own grid.

    Args:
        grids: the grid of each weighted layer, by the layer's name.
        only: names of the layers to know; None (the default) for all. tfmot also asks for the layers in front of
            those it is to quantize, and would wrap them.
    """

    def __init__(self, grids: Mapping[str, WeightGrid], only: Collection[str] | None = None) -> None:
        super().__init__()
        self._grids = grids
        self._only = only
        for kind in (kd.keras.layers.Multiply, kd.keras.layers.Subtract):
            # Their outputs have ranges of their own, as those of the Add that tfmot knows.
            info = default_8bit_quantize_registry._QuantizeInfo(kind, [], [], quantize_output=True)
            self._layer_quantize_map[kind] = info

    def supports(self, layer: Any) -> bool:
        """Whether `layer` can be trained as integers."""
        return (self._only is None or layer.name in self._only) and super().supports(layer)

    def get_quantize_config(self, layer: Any) -> Any:
        """The layer's configuration; copied, since tfmot shares one object among all layers of a class."""
        config = copy.deepcopy(super().get_quantize_config(layer))
        if layer.name in self._grids:
            config.weight_quantizer = WeightQuantizer(self._grids[layer.name])
        return config


def weight_attribute(registry: Registry, layer: Any) -> str | None:
    """The attribute of `layer` that holds the weight to quantize; None where it has none."""
    if not registry.supports(layer):
        return None
    attributes = getattr(registry.get_quantize_config(layer), "weight_attrs", [])
    return attributes[0] if len(attributes) == 1 else None


def weight_quantizers(model: Any) -> Iterator[tuple[Any, Any, WeightQuantizer]]:
    """Every wrapper of a quantized model with the weight it trains and that weight's quantizer."""
    for layer in model.layers:
        if isinstance(layer, QuantizeWrapper):
            for weight, quantizer, _ in layer._weight_vars:
                yield layer, weight, quantizer


def attribute_of(weight: Any) -> str:
    """The attribute of its layer that a variable is: `kernel` of `conv/kernel:0`."""
    return weight.name.split("/")[-1].split(":")[0]


def settle(weight: Any, quantizer: WeightQuantizer) -> None:
    """Write what training kept into `weight` itself; afterwards the quantizer only rounds."""
    weight.assign(constrain(weight, quantizer.grid))
    quantizer.grid = replace(quantizer.grid, zero_mask=None, cluster_index=None)


def use_calibrated_activations(model: Any) -> list[ActivationQuantizer]:
    """Put an `ActivationQuantizer` in the place of every activation quantizer of a tfmot-quantized model.

    tfmot creates some of them inside its layout transforms, out of a registry's reach.
    """
    replaced = []

    def new() -> ActivationQuantizer:
        replaced.append(ActivationQuantizer())
        return replaced[-1]

    for layer in model.layers:
        if isinstance(layer, QuantizeLayer) and layer.quantizer is not None:
            layer.quantizer = new()
        elif isinstance(layer, QuantizeWrapper):
            for activation in layer._quantize_activations:
                activation.quantizer = new()
            if layer._output_quantizers:
                layer._output_quantizers = [new()]
    return replaced


def calibrate(model: Any, samples: np.ndarray, choice: RangeChoice = MIN_MAX, batch_size: int = 32) -> None:
    """Set every activation range to what is chosen by what `samples` show, in float arithmetic.

    Args:
        model: a quantized model whose quantizers came from `use_calibrated_activations`.
        samples: preprocessed inputs, float32 `[n, ...]`.
        choice: how ranges are chosen. Defaults to the least and the largest values.
        batch_size: samples at a time. Defaults to 32.

    Raises:
        ModelError: an activation is not finite.
    """
    extremes: dict[Any, Extremes] = {key: Extremes() for key in _ranges_of(model)}
    _observe(model, samples, batch_size, extremes)
    variables = _ranges_of(model)
    endless = [
        variables[key]["min_var"].name for key, seen in extremes.items() if not np.isfinite(seen.high - seen.low)
    ]
    if endless:
        raise ModelError(
            "Activations must be finite to be given a range. Not so on the calibration samples: "
            f"{', '.join(name.rpartition('/')[0] for name in endless)}. Remedy: check weights and preprocessing."
        )
    histograms: dict[Any, Histogram] = {}
    if choice.needs_histogram:
        histograms = {key: Histogram(seen.low, seen.high) for key, seen in extremes.items() if seen.low < seen.high}
        _observe(model, samples, batch_size, histograms)
    for key, seen in extremes.items():
        # A tensor that is always zero still needs a range to be quantized on.
        low, high = choice.of(seen, histograms.get(key)) if seen.low < seen.high else (0.0, 1.0)
        variables[key]["min_var"].assign(low)
        variables[key]["max_var"].assign(high)


def _observe(model: Any, samples: np.ndarray, batch_size: int, observers: Mapping[Any, Extremes | Histogram]) -> None:
    """Show `observers` the activations of `samples`."""
    quantizers = [quantizer for quantizer, _ in activation_quantizers(model)]
    for quantizer in quantizers:
        quantizer.observers = observers
    for start in range(0, len(samples), batch_size):
        model(samples[start : start + batch_size], training=False)
    for quantizer in quantizers:
        quantizer.observers = None


def _ranges_of(model: Any) -> dict[Any, dict[str, Any]]:
    """The variables of every activation range, by the reference of the lower one."""
    return {variables["min_var"].ref(): variables for _, variables in activation_quantizers(model)}


def activation_quantizers(model: Any) -> Iterator[tuple[ActivationQuantizer, dict[str, Any]]]:
    """Every activation quantizer of a quantized model with the variables of its range."""
    for layer in model.layers:
        if isinstance(layer, QuantizeLayer) and layer.quantizer is not None:
            yield layer.quantizer, layer.quantizer_vars
        elif isinstance(layer, QuantizeWrapper):
            for activation in layer._quantize_activations:
                if hasattr(activation, "_pre_activation_vars"):
                    yield activation.quantizer, activation._pre_activation_vars
                if hasattr(activation, "_post_activation_vars"):
                    yield activation.quantizer, activation._post_activation_vars
            if layer._output_quantizers:
                yield layer._output_quantizers[0], layer._output_quantizer_vars
