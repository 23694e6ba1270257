"""Applying rewrites to a model until nothing changes, each proven at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfcompress.models.loading import clone
from tfcompress.models.rewrites._graph import Call, Graph, rebuilt
from tfcompress.models.rewrites._proof import TOLERANCE, difference
from tfcompress.models.rewrites.base import Edit, Rewrite, rewrites
from tfcompress.vocabulary.changes import Change
from tfcompress.vocabulary.errors import ModelError
from tfcompress.vocabulary.state import Lineage

_ROUNDS = 20


@dataclass(frozen=True)
class Rewritten:
    """What `rewrite` gives back.

    Args:
        model: a new model, the same function as the caller's in inference; uncompiled.
        lineage: where each of the caller's weights is now, and what became of promises on it.
        changes: what was done, in order; empty when nothing was.
    """

    model: Any
    lineage: Lineage
    changes: tuple[Change, ...]


def rewrite(model: Any, names: Sequence[str]) -> Rewritten:
    """`model` after the rewrites of these names, applied in their order until none finds anything to do.

    Args:
        model: a Sequential or Functional tf_keras model; it is not touched.
        names: passes, such as `ENABLING`.

    Raises:
        ModelError: a name is no pass; a pass changes what the model computes (its name and the layer are said); or
            a layer cannot be made again.

    Example:
        >>> rewrite(model, ENABLING).changes  # doctest: +SKIP
        (Change(rewrite='flatten_models', layer='inner', kind='Functional', became=('conv',), ...),)
    """
    passes = _passes(names)
    current, lineage, changes, origins = clone(model), Lineage(), [], {}
    for _ in range(_ROUNDS):
        done = len(changes)
        for found in passes:
            graph = Graph(current)
            edits = list(_independent(found.edits(graph)))
            if not edits:
                continue
            changed = _proven(found, graph, edits)
            for edit in edits:
                changes += _changes(found, edit, graph, changed, origins)
                lineage = lineage.moved(edit.moves)
                _trace(origins, edit, graph)
            current = changed
        if len(changes) == done:
            return Rewritten(current, lineage, tuple(changes))
    raise ModelError(f"The rewrites {', '.join(names)} must come to an end; after {_ROUNDS} rounds they go on.")


def _passes(names: Sequence[str]) -> list[Rewrite]:
    known = rewrites()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ModelError(f"A rewrite must be one of {', '.join(known)}. Received: {', '.join(unknown)}.")
    return [known[name] for name in names]


def _independent(edits: Iterator[Edit]) -> Iterator[Edit]:
    """The edits that replace no call that an earlier one replaces."""
    taken: set[Call] = set()
    for edit in edits:
        if taken.isdisjoint(edit.builders):
            taken.update(edit.builders)
            yield edit


def _applied(graph: Graph, edits: Sequence[Edit]) -> tuple[Any, str]:
    """The model with `edits` made, and what is wrong with it; nothing where it is the same function."""
    builders = {call: builder for edit in edits for call, builder in edit.builders.items()}
    copies = {layer: part for edit in edits for layer, part in edit.copies.items()}
    try:
        changed = rebuilt(graph, builders, copies)
    except (ValueError, TypeError) as error:  # Shapes or types that do not fit one another.
        return None, f"gave layers that Keras refuses ({error})"
    apart = difference(graph.model, changed)
    return changed, "" if apart <= TOLERANCE else f"changed them by {apart:.3g}"


def _proven(found: Rewrite, graph: Graph, edits: Sequence[Edit]) -> Any:
    """The model with `edits` made, after both were run.

    Raises:
        ModelError: their outputs differ; it names the first edit to blame.
    """
    changed, wrong = _applied(graph, edits)
    if wrong:
        to_blame = next(_alone(found, graph), edits[0])
        raise ModelError(
            f"A rewrite must leave the outputs as they are, within {TOLERANCE:g} of the largest. {found.name} {wrong} "
            f"at the layer {to_blame.layer!r}. Remedy: leave {found.name} out of the rewrites."
        )
    return changed


def _alone(found: Rewrite, graph: Graph) -> Iterator[Edit]:
    """The edits that change the outputs when they are made alone."""
    count = len(list(_independent(found.edits(Graph(graph.model)))))
    for index in range(count):
        # Planned anew, because the layers of an edit are used up by making it.
        again = Graph(graph.model)
        edit = list(_independent(found.edits(again)))[index]
        if _applied(again, [edit])[1]:
            yield edit


def _changes(found: Rewrite, edit: Edit, graph: Graph, after: Any, origins: Mapping[str, str]) -> Iterator[Change]:
    """What `edit` did to each layer that it is about, in the caller's names."""
    # By its calls, because a Sequential does not list its input layer.
    before = {call.layer.name: type(call.layer).__name__ for call in graph.calls}
    kinds = {layer.name: type(layer).__name__ for layer in after.layers}
    for layer, names in edit.became.items():
        # What led to an output that nobody takes is no longer there.
        became = tuple(name for name in names if name in kinds)
        yield Change(
            rewrite=found.name,
            layer=origins.get(layer, layer),
            kind=before[layer],
            became=became,
            kinds=tuple(kinds[name] for name in became),
            reason=edit.reason,
        )


def _trace(origins: dict[str, str], edit: Edit, graph: Graph) -> None:
    """Note which of the caller's layers each new layer of `edit` comes from."""
    existing = {layer.name for layer in graph.model.layers}
    sources = {name: layer for layer, became in edit.became.items() for name in became if name not in existing}
    for name, source in {**sources, **edit.origins}.items():
        origins[name] = origins.get(source, source)
