"""How the zoo's networks are registered, found by name, and built from a spec."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import ValidationError

from tfcompress import keras_door as kd
from tfcompress.models.zoo.layers import LayerMaker
from tfcompress.vocabulary.errors import ModelError
from tfcompress.vocabulary.schema import Schema


class NoOptions(Schema):
    """The options of a network that has none."""


Builder = Callable[..., Any]
"""``(inputs, classes, make, **options) -> outputs``: symbolic tensors in, class probabilities out.

One of token ids is also told their number, `vocabulary_size`.
"""


@dataclass(frozen=True)
class Network:
    """One entry of the zoo.

    Args:
        name: what a recipe or a command line calls it.
        builder: the function that connects inputs to outputs.
        options: the schema of what may follow the name in a spec.
        smallest: least height and width of its `[height, width, channels]` input, in pixels; None when the
            network takes an input of any rank.
        of_tokens: whether the input is a row of int32 token ids `[length]`.
    """

    name: str
    builder: Builder
    options: type[Schema]
    smallest: tuple[int, int] | None
    of_tokens: bool = False


_NETWORKS: dict[str, Network] = {}


def register(
    *, smallest: tuple[int, int] | None, options: type[Schema] = NoOptions, of_tokens: bool = False
) -> Callable[[Builder], Builder]:
    """Decorator that puts a builder into the zoo under its function's name; arguments as of `Network`."""

    def add(builder: Builder) -> Builder:
        _NETWORKS[builder.__name__] = Network(builder.__name__, builder, options, smallest, of_tokens)
        return builder

    return add


@cache
def _networks() -> dict[str, Network]:
    """Every network by its name. A new family is a new file in this folder; nothing else lists it."""
    package = importlib.import_module("tfcompress.models.zoo")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(_NETWORKS.items()))


def names() -> list[str]:
    """The names of all networks in the zoo, sorted. Needs no TensorFlow."""
    return list(_networks())


def is_zoo(spec: str) -> bool:
    """Whether `spec` starts with the name of a zoo network; its options are not judged. Needs no TensorFlow.

    Example:
        >>> is_zoo("mobilenet_v1:width=0.25"), is_zoo("my_model.h5")
        (True, False)
    """
    return spec.partition(":")[0] in _networks()


def input_dtype(spec: str) -> str:
    """What a network of the zoo takes: `int32` token ids, or `float32`. Needs no TensorFlow.

    Example:
        >>> input_dtype("resnet8")
        'float32'
    """
    return "int32" if _networks()[spec.partition(":")[0]].of_tokens else "float32"


def build(
    spec: str, input_shape: tuple[int, ...], classes: int, seed: int = 0, vocabulary_size: int | None = None
) -> Any:
    """A freshly initialised classifier of the zoo.

    Args:
        spec: a zoo name, with options after a colon where the network has some: ``"resnet8"``,
            ``"mobilenet_v1:width=0.25"``, ``"vgg16:width=0.25,head=cifar"``.
        input_shape: shape of one example without the batch axis, e.g. `(32, 32, 3)`.
        classes: number of classes, at least 2; the model ends in a softmax over them.
        seed: where the initial weights come from: the same seed gives the same weights. Defaults to 0.
        vocabulary_size: number of token ids, for a network of text. Defaults to None: the inputs are no text.

    Returns:
        An uncompiled Functional `tf_keras.Model` with one input and outputs `[batch, classes]`.

    Raises:
        ModelError: the name, an option, the input shape, the number of classes or the kind of input is not one the
            zoo can build; all that is wrong is named at once.

    Example:
        >>> build("resnet8", (32, 32, 3), 10).count_params()
        78666
    """
    name, _, text = spec.partition(":")
    if name not in _networks():
        raise ModelError(
            f"A zoo model must be one of {', '.join(names())}. Received: {name!r} (in {spec!r}). "
            "Options follow a colon, as in 'mobilenet_v1:width=0.25'."
        )
    network = _networks()[name]
    options, problems = _parsed_options(network, text)
    problems += _shape_problems(network, input_shape)
    problems += _token_problems(network, vocabulary_size)
    if classes < 2:
        problems.append(f"a classifier needs at least 2 classes. Received: classes={classes}")
    if problems:
        raise ModelError(f"Zoo model {spec!r} cannot be built: " + "; ".join(problems) + ".")
    inputs = kd.keras.Input(tuple(input_shape), name="input", dtype=input_dtype(spec))
    tokens = {"vocabulary_size": vocabulary_size} if network.of_tokens else {}
    outputs = network.builder(inputs, classes, LayerMaker(seed), **tokens, **options.model_dump())
    return kd.keras.Model(inputs, outputs, name=name)


def _parsed_options(network: Network, text: str) -> tuple[Schema | None, list[str]]:
    """The options that `text` (``"width=0.25,head=cifar"``) names, or what is wrong with them."""
    given: dict[str, str] = {}
    problems = []
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not equals or key in given:
            problems.append(f"each option must be written key=value, and once. Received: {item!r}")
        given[key] = value
    if problems:
        return None, problems
    try:
        return network.options.model_validate(given), []
    except ValidationError as error:
        known = ", ".join(f"{key}={field.default}" for key, field in network.options.model_fields.items())
        return None, [
            f"{_place_of(found)}: {found['msg']}. Received: {found['input']!r}. "
            f"Options of {network.name} and their defaults: {known or 'none'}"
            for found in error.errors()
        ]


def _place_of(issue: Mapping[str, Any]) -> str:
    return f"option {issue['loc'][0]!r}" if issue["loc"] else "options"


def _shape_problems(network: Network, input_shape: tuple[int, ...]) -> list[str]:
    received = f"Received: {tuple(input_shape)}"
    if not input_shape or not all(isinstance(size, int) and size > 0 for size in input_shape):
        return [f"every axis of the input shape must be a positive whole number. {received}"]
    if network.of_tokens and len(input_shape) != 1:
        return [f"{network.name} takes a row of token ids, of shape (length,). {received}"]
    if network.smallest is None:
        return []
    height, width = network.smallest
    if len(input_shape) != 3 or input_shape[0] < height or input_shape[1] < width:
        return [
            f"{network.name} takes inputs [height, width, channels] of at least {height} x {width} pixels. {received}"
        ]
    return []


def _token_problems(network: Network, vocabulary_size: int | None) -> list[str]:
    if network.of_tokens and vocabulary_size is None:
        return [f"{network.name} takes token ids, and needs their number. Received: vocabulary_size=None"]
    if vocabulary_size is not None and not network.of_tokens:
        of_tokens = ", ".join(name for name, other in _networks().items() if other.of_tokens)
        return [f"{network.name} takes real numbers, and the data is token ids; networks for these: {of_tokens}"]
    return []
