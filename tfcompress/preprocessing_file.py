"""What a model expects to be fed, written down: as a YAML text, and as a file beside the model's."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import ValidationError

from tfcompress.recipe import problems_in
from tfcompress.recipe_text import parse_yaml
from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.preprocessing import NAMED, Preprocessing


def parse_preprocessing(origin: str, text: str) -> Preprocessing:
    """The preprocessing that a YAML text says, in the words of a recipe's `data.preprocessing`.

    Args:
        origin: where the text stands, for the message.
        text: `raw`, `unit`, `signed`, `{mean, std}` or `{scale, offset}`.

    Raises:
        RecipeError: it says something else; all problems at once.

    Example:
        >>> parse_preprocessing("here", "{mean: 100, std: 50}").scale
        0.02
    """
    tree, lines = parse_yaml(origin, text)
    try:
        return Preprocessing.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(
            f"{origin} must say what the model is fed, as data.preprocessing of a recipe does:\n  "
            + problems_in(error, tree, lines, Preprocessing)
        ) from None


def sidecar_of(model: Path) -> Path:
    """Where the preprocessing of a model file or folder is written: `net.preprocessing.yaml` beside `net.h5`."""
    model = model.absolute()
    return model.with_name(f"{model.name if model.is_dir() else model.stem}.preprocessing.yaml")


def sidecar_text(preprocessing: Preprocessing) -> str:
    """What `sidecar_of` holds; `parse_preprocessing` takes it back exactly."""
    if NAMED.get(preprocessing.name) == preprocessing:
        return f"{preprocessing.name}\n"
    return yaml.safe_dump(preprocessing.model_dump(mode="json"), sort_keys=False)


def read_sidecar(model: Path) -> Preprocessing | None:
    """The preprocessing that is written beside a model file or folder; None where none is.

    Raises:
        RecipeError: the file cannot be read, or says no preprocessing.
    """
    path = sidecar_of(model)
    if not path.exists():
        return None
    try:
        return parse_preprocessing(str(path), path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} must be a YAML text in UTF-8: {error}. Remedy: mend it, or remove it.") from None
