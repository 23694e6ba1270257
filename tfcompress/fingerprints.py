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


def _essence(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return repr(value)
    if isinstance(value, (tuple, list, frozenset)):
        return [_essence(item) for item in (sorted(value, key=repr) if isinstance(value, frozenset) else value)]
    if isinstance(value, types.CodeType):
        return [value.co_code.hex(), list(value.co_names), _essence(value.co_consts)]
    if isinstance(value, types.FunctionType):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return [_essence(value.__code__), _essence(value.__defaults__), [_essence(cell) for cell in cells]]
    if hasattr(value, "get_config"):
        return [type(value).__qualname__, json.dumps(value.get_config(), sort_keys=True, default=describe)]
    return uuid.uuid4().hex


def _digest(essence: Any) -> str:
    return hashlib.sha256(json.dumps(essence).encode()).hexdigest()[:16]
