"""Python objects in a recipe - a loss, a schedule - told apart, so that a run is not taken for another."""

from __future__ import annotations

import hashlib
import json
import types
import uuid
from typing import Any


def describe(value: Any) -> str:
    """A name for `value` that equal definitions share, in this process and in the next.

    Keras objects are told by class and configuration, functions by name, code, defaults and closure. What cannot
    be told so gets a name that nothing else has, for the safe side: a run with it is never taken for another.

    Example:
        >>> describe(lambda x: x + 1) == describe(lambda x: x + 2)
        False
    """
    name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return f"{name} #{_digest(_essence(value))}"


_LIBRARIES = frozenset({"tf_keras", "keras", "tensorflow", "numpy"})
"""Whose functions are told by name; a run's identity holds the versions."""


def _essence(value: Any, within: tuple[Any, ...] = ()) -> Any:
    def inner(item: Any) -> Any:
        return _essence(item, (*within, value))

    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return repr(value)
    if any(value is outer for outer in within):
        return f"itself, {len(within)} levels down"
    if isinstance(value, frozenset):
        return [inner(item) for item in sorted(value, key=repr)]
    if isinstance(value, (tuple, list)):
        return [inner(item) for item in value]
    if isinstance(value, types.CodeType):
        return [value.co_code.hex(), list(value.co_names), inner(value.co_consts)]
    if isinstance(value, types.FunctionType):
        if value.__module__.partition(".")[0] in _LIBRARIES:
            return f"{value.__module__}.{value.__qualname__}"
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return [inner(value.__code__), inner(value.__defaults__), [inner(cell) for cell in cells]]
    if hasattr(value, "get_config"):
        return [type(value).__qualname__, json.dumps(value.get_config(), sort_keys=True, default=describe)]
    return uuid.uuid4().hex


def _digest(essence: Any) -> str:
    return hashlib.sha256(json.dumps(essence).encode()).hexdigest()[:16]
