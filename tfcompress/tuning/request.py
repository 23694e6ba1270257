"""What a search is asked for, refused as far as can be before a model, data or TensorFlow are loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tfcompress.data import Dataset
from tfcompress.measure import hardware, versions
from tfcompress.models import zoo
from tfcompress.preparation import default_name
from tfcompress.recipe import load_recipe
from tfcompress.run_folder import recorded_identity, refuse_another_run
from tfcompress.tuning.epochs import last_epochs
from tfcompress.tuning.executor import Executor
from tfcompress.tuning.measures import LATENCY, Goal
from tfcompress.tuning.oracles import refuse_unknown
from tfcompress.tuning.sensitivity import read_table
from tfcompress.tuning.space import Space, load_space, read_space
from tfcompress.tuning.trials import count_recorded
from tfcompress.vocabulary.errors import SearchError, TfcompressError

_SOME_LAYER = "layer"
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Request:
    """What can be known of a search before its model is.

    Args:
        goal: what is searched for.
        oracle: who proposes.
        draft: the space, but without the holes for each layer.
        make_executor: of the file of what all trials start from.
    """

    goal: Goal
    oracle: str
    draft: Space
    make_executor: Callable[[Path], Executor]

    def identity(self, space: Space) -> dict[str, Any]:
        """What makes the search in `space` another, its model, data and seed aside."""
        return {
            "space": space.identity(),
            "objectives": list(self.goal.objectives),
            "bounds": dict(self.goal.bounds),
            "oracle": self.oracle,
            # Latencies of two machines cannot be compared.
            **({"hardware": hardware()} if LATENCY in self.goal.needed else {}),
        }


def checked_request(
    model: Any,
    data: Any,
    recipe: str | Path | Mapping[str, Any],
    overrides: Sequence[str],
    *,
    objectives: Sequence[str],
    bounds: Mapping[str, float],
    max_trials: int,
    oracle: str,
    choose: Callable[[], Callable[[Path], Executor]],
    sensitivity: str | Path | None,
    out: str | Path | None,
    seed: int,
) -> Request:
    """The request that `tfcompress.search` was called with.

    Args:
        model: and what follows, as there.
        choose: makes what makes the executor.

    Raises:
        SearchError, RecipeError, RunFolderError: it cannot be carried out; all problems at once.
    """
    checks = _Checks()
    checks.run(_check_trials, max_trials, oracle, sensitivity)
    checks.run(refuse_unknown, oracle)
    if sensitivity is not None:
        checks.run(read_table, sensitivity)
    goal = checks.run(Goal, objectives, bounds)
    make_executor = checks.run(choose)
    draft = checks.run(_draft, recipe, overrides, oracle)
    place = Path(out) if out is not None else draft and _default_place(model, data, draft)
    if place is not None:
        checks.run(_check_recorded, place, max_trials)
    request = Request(goal, oracle, draft, make_executor)
    if place is not None and goal is not None and draft is not None:
        known = {**request.identity(draft), "seed": seed, "versions": versions()}
        if sensitivity is None:
            known["sensitivity"] = None
        if isinstance(model, str) and zoo.is_zoo(model):
            known["model"] = model
        checks.run(_check_folder, place, known)
    checks.finish()
    return request


class _Checks:
    """Checks that do not depend on one another, whose problems are told together."""

    def __init__(self) -> None:
        self._problems: list[TfcompressError] = []

    def run(self, check: Callable[..., _Made], *arguments: Any) -> _Made | None:
        """What `check` gives; None where it refuses."""
        try:
            return check(*arguments)
        except TfcompressError as problem:
            self._problems.append(problem)
            return None

    def finish(self) -> None:
        """Raise what was refused: the error itself, or one for several."""
        if len(self._problems) == 1:
            raise self._problems[0]
        if self._problems:
            raise SearchError("The search cannot be carried out:\n" + "\n".join(map(str, self._problems)))


def _check_trials(max_trials: int, oracle: str, sensitivity: str | Path | None) -> None:
    if max_trials < 1:
        raise SearchError(f"max_trials must be at least 1. Received: {max_trials}.")
    if sensitivity is not None and oracle != "pareto":
        raise SearchError(f"only the oracle pareto can use a sensitivity analysis. Received: {oracle}.")


def _draft(recipe: str | Path | Mapping[str, Any], overrides: Sequence[str], oracle: str) -> Space:
    """The space without the holes for each layer, once it was checked with those of some layer."""
    load_space(recipe, overrides, lambda _: (_SOME_LAYER,)).check()
    draft = read_space(recipe, overrides, lambda _: None)
    if oracle == "hyperband":
        last_epochs(load_recipe(draft.fill(draft.default())), draft)
    return draft


def _default_place(model: Any, data: Any, draft: Space) -> Path | None:
    if not isinstance(model, (str, Path)) or not isinstance(data, (str, Path, Dataset)):
        return None
    recipe = load_recipe(draft.fill(draft.default()))
    return search_folder(default_name(str(model), data.name if isinstance(data, Dataset) else str(data), recipe.name))


def search_folder(name: str) -> Path:
    """Where a search called `name` lies unless it is told."""
    return Path("tflite_models") / f"{name}-search"


def _check_folder(place: Path, known: Mapping[str, Any]) -> None:
    """Refuse the folder of a search that differs in what is known; of the space, not in what layers have."""
    recorded = recorded_identity(place)
    if recorded is not None:
        there = {key: recorded.get(key) for key in known}
        refuse_another_run(place, _without_layers(there), _without_layers(known))


def _check_recorded(place: Path, max_trials: int) -> None:
    recorded = count_recorded(place)
    if recorded > max_trials:
        raise SearchError(
            f"A search cannot have fewer trials than it has recorded. {place} holds {recorded}. "
            f"Received: max_trials={max_trials}. Remedy: at least {recorded}, or another --out."
        )


def _without_layers(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _without_layers(inner) for key, inner in tree.items() if key != "per_layer"}
    return [_without_layers(inner) for inner in tree] if isinstance(tree, (list, tuple)) else tree
