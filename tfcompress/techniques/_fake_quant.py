"""The Keras half of quantization-aware training: quantizers and a scheme on tfmot's wrappers.

tfmot supplies the wrappers, the layer registry and the layout transforms (which activations fuse into which
layer). Replaced are its quantizers, because they start activation ranges at +-6, know 8 bits only, and forget
zeros and shared values of the weights they train.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_quantize_configs,
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
from tfcompress.models.graph import consumers, moves_values, producers
from tfcompress.models.loading import clone, copied_layer, custom_objects, set_weights
from tfcompress.techniques._activation_ranges import ActivationQuantizer, BorrowedRangeQuantizer, LearnedRangeQuantizer
from tfcompress.techniques._batch_norm import fold_where_scales_are_shared
from tfcompress.techniques._ranges import MIN_MAX, Extremes, Histogram, RangeChoice, off_the_halves
from tfcompress.techniques._weight_grid import WeightGrid, WeightQuantizer
from tfcompress.vocabulary.errors import ModelError

ACTIVATIONS = frozenset({None, "linear", "relu", "swish", "gelu", "softmax", "sigmoid", "tanh"})
"""Activations that tfmot's `QuantizeAwareActivation` knows, and None for a layer that has none."""


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
    for _, weight, quantizer in weight_quantizers(result):
        quantizer.start(weight)
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
            if self._is_left_to_concatenate(model, layer) or self._is_left_to_activations(model, layer):
                if self._registry.supports(layer):
                    config = self._registry.get_quantize_config(layer)
                    config.activation_attrs = []
                    config.quantize_output = False
                    record[layer.name]["quantize_config"] = config
                elif replaced:
                    record[layer.name]["quantize_config"] = default_8bit_quantize_configs.NoOpQuantizeConfig()
        return model, record

    def _is_left_to_concatenate(self, model: Any, layer: Any) -> bool:
        """Whether the output of `layer` is quantized by a Concatenate behind it.

        TFLite joins only what has one range, so the converter gives what nothing else takes that of the Concatenate;
        tfmot sees to that only where nothing else takes any of the inputs. An average has the range of what it is of:
        on one of its own the converter refuses it where others take it too, and without one it gets that of what it
        is joined with.
        """
        layers = kd.keras.layers
        takers = consumers(model, layer)
        activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
        if activation not in ("linear", "relu") and not isinstance(layer, layers.Activation):
            # Within a layer, these are rounded in other places too.
            return False
        joins = [t for t in takers if isinstance(t, layers.Concatenate) and self._registry.supports(t)]
        if len(takers) > 1 and isinstance(layer, layers.AveragePooling2D):
            return bool(joins)
        return len(takers) == 1 and bool(joins)

    def _is_left_to_activations(self, model: Any, layer: Any) -> bool:
        """Whether the output of `layer` is quantized by several ReLUs alone.

        The converter makes one of them, and makes it part of `layer`: the file rounds once. tfmot sees to that where
        there is one. A Concatenate takes no ReLU in, and joins in a range of its own.
        """
        if isinstance(layer, kd.keras.layers.Concatenate):
            return False
        takers = consumers(model, layer)
        return len(takers) > 1 and all(_is_relu(t) and not self._is_left_to_concatenate(model, t) for t in takers)


def _is_relu(layer: Any) -> bool:
    layers = kd.keras.layers
    if isinstance(layer, layers.Activation):
        return layer.activation is kd.keras.activations.relu
    plain = {"max_value": None, "negative_slope": 0.0, "threshold": 0.0}
    return isinstance(layer, layers.ReLU) and plain.items() <= layer.get_config().items()


def _borrow_ranges(model: Any) -> None:
    """Round the averages of every AveragePooling2D within the range of what they are of, as TFLite does.

    In a range of its own, which is narrower, the converter would put what the pooling takes, and clip it there.
    """
    for layer in model.layers:
        if isinstance(getattr(layer, "layer", None), kd.keras.layers.AveragePooling2D) and layer._output_quantizers:
            taken = range_taken(model, layer)
            if taken is not None:
                lender, layer._output_quantizer_vars = taken
                layer._output_quantizers = [BorrowedRangeQuantizer(lender)]


def range_taken(model: Any, layer: Any) -> tuple[ActivationQuantizer, dict[str, Any]] | None:
    """The quantizer of what `layer` takes, with the variables of its range.

    None where that is not rounded there, by calibration or in a range that TFLite fixes (a sigmoid, tanh or softmax),
    and where `layer` takes several.

    Args:
        model: quantized, with the quantizers of `use_calibrated_activations`.
        layer: of it, wrapped or not.
    """
    sources = producers(model, layer)
    while len(sources) == 1:
        found = _output_quantizer(sources[0])
        if found is not None or not _keeps_range(sources[0]):
            return found
        sources = producers(model, sources[0])
    return None


def _output_quantizer(layer: Any) -> tuple[ActivationQuantizer, dict[str, Any]] | None:
    """The quantizer of what `layer` gives, with the variables of its range; None where that is not rounded last."""
    if _quantizes_input(layer):
        return layer.quantizer, layer.quantizer_vars
    if isinstance(layer, QuantizeWrapper):
        if layer._output_quantizers:
            return layer._output_quantizers[0], layer._output_quantizer_vars
        for activation in layer._quantize_activations:
            if hasattr(activation, "_post_activation_vars"):
                return activation.quantizer, activation._post_activation_vars
    return None


def _keeps_range(layer: Any) -> bool:
    """Whether `layer`, wrapped or not, gives values that it takes, and zeros."""
    layers, inner = kd.keras.layers, getattr(layer, "layer", layer)
    choosing = (layers.MaxPooling2D, layers.GlobalMaxPooling2D, layers.ZeroPadding2D, layers.Cropping2D, layers.Dropout)
    return moves_values(inner) or isinstance(inner, choosing)


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


def use_calibrated_activations(model: Any, *, learned: bool = False) -> None:
    """Put an `ActivationQuantizer` in the place of every activation quantizer of a tfmot-quantized model.

    tfmot creates some of them inside its layout transforms, out of a registry's reach.

    Args:
        model: changed in place.
        learned: whether ranges are to be trained with the layers they belong to. What is fed to the model has the
            range of the data, and frozen layers have those they see. Defaults to False.
    """
    for layer in model.layers:
        if _quantizes_input(layer):
            layer.quantizer = ActivationQuantizer()
        elif isinstance(layer, QuantizeWrapper):
            learns = learned and layer.trainable
            new = LearnedRangeQuantizer if learns else ActivationQuantizer
            for activation in layer._quantize_activations:
                activation.quantizer = new()
            if layer._output_quantizers:
                layer._output_quantizers = [new()]
            if learns:
                _train_ranges(layer)
    _borrow_ranges(model)


def _train_ranges(wrapper: QuantizeWrapper) -> None:
    """Put trainable variables in the place of the ranges that tfmot made for `wrapper`, which no gradient reaches."""
    places = [
        (activation, f"_{when}_vars", when, activation.quantizer)
        for activation in wrapper._quantize_activations
        for when in ("pre_activation", "post_activation")
        if hasattr(activation, f"_{when}_vars")
    ]
    if wrapper._output_quantizers:
        places.append((wrapper, "_output_quantizer_vars", "output", wrapper._output_quantizers[0]))
    old = {id(variable) for owner, attribute, _, _ in places for variable in getattr(owner, attribute).values()}
    wrapper._non_trainable_weights[:] = [v for v in wrapper._non_trainable_weights if id(v) not in old]
    with kd.tf.name_scope(wrapper.name):
        for owner, attribute, name, quantizer in places:
            setattr(owner, attribute, quantizer.build(None, name, wrapper))


def calibrate(model: Any, samples: np.ndarray, choice: RangeChoice = MIN_MAX, batch_size: int = 32) -> None:
    """Set every activation range to what is chosen by what `samples` show, in float arithmetic.

    The range of what is fed to the model is a hair wider where it has to be: `off_the_halves`.

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
    for layer in (layer for layer in model.layers if _quantizes_input(layer)):
        ends = [layer.quantizer_vars[end] for end in ("min_var", "max_var")]
        before = tuple(float(end) for end in ends)
        after = off_the_halves(samples, *before)
        # Moved by what it sees, the range would come back to where it was.
        layer.quantizer.moves = after == before
        for end, value in zip(ends, after, strict=True):
            end.assign(value)


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


def _quantizes_input(layer: Any) -> bool:
    return isinstance(layer, QuantizeLayer) and layer.quantizer is not None


def activation_quantizers(model: Any) -> Iterator[tuple[ActivationQuantizer, dict[str, Any]]]:
    """Every activation quantizer of a quantized model with the variables of its range."""
    for layer in model.layers:
        yield from _quantizers_of(layer)


def _quantizers_of(layer: Any) -> Iterator[tuple[ActivationQuantizer, dict[str, Any]]]:
    if _quantizes_input(layer):
        yield layer.quantizer, layer.quantizer_vars
    elif isinstance(layer, QuantizeWrapper):
        for activation in layer._quantize_activations:
            if hasattr(activation, "_pre_activation_vars"):
                yield activation.quantizer, activation._pre_activation_vars
            if hasattr(activation, "_post_activation_vars"):
                yield activation.quantizer, activation._post_activation_vars
        if layer._output_quantizers:
            yield layer._output_quantizers[0], layer._output_quantizer_vars
