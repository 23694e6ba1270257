"""Exact rewrites of the model that a run starts from: those it always needs, and those that let its steps do more."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tfcompress.models.rewrites import ENABLING, OPENING, Rewritten, rewrite
from tfcompress.recipe import Recipe
from tfcompress.techniques.base import BY_CALIBRATION, BY_REWRITE, NO, NOTHING, YES, Technique, Verdict
from tfcompress.vocabulary.changes import Change
from tfcompress.vocabulary.state import State


@dataclass(frozen=True)
class Enabled:
    """A state and the rewrites that made it so; none when none was needed."""

    state: State
    changes: tuple[Change, ...] = ()


def opened(state: State) -> Enabled:
    """`state` as every recipe can start from it, such as with token ids that are integers."""
    done = rewrite(state.model, OPENING)
    return Enabled(state.rewritten(done.model, done.lineage), done.changes) if done.changes else Enabled(state)


def enabled(recipe: Recipe, state: State) -> Enabled:
    """`state` rewritten where a step of `recipe` can do more with a layer after an exact rewrite.

    Not for a step that is to train, but for no epoch.
    """
    rewriting = Rewriting(state.model)
    steps = [step for step in recipe.steps if step.fit.epochs or not step.trains]
    if not any(v.outcome == BY_REWRITE for step in steps for v in rewriting.verdicts(step)):
        return Enabled(state)
    done = rewriting.done
    return Enabled(state.rewritten(done.model, done.lineage), done.changes)


class Rewriting:
    """Verdicts on a model that know what its exact rewrites would change, made when first needed."""

    def __init__(self, model: Any) -> None:
        self._model = model

    @cached_property
    def done(self) -> Rewritten:
        """The model after the rewrites that enable techniques."""
        return rewrite(self._model, ENABLING)

    def verdicts(self, step: Technique) -> tuple[Verdict, ...]:
        """Those of `step`, ``by rewrite`` where it can do with the layers that a rewrite makes what it cannot now."""
        before = step.verdicts(self._model)
        if not any(verdict.outcome in (NO, BY_CALIBRATION) for verdict in before):
            return before
        after = {verdict.layer: verdict for verdict in step.verdicts(self.done.model)}
        return tuple(self._better(verdict, after) for verdict in before)

    def _better(self, verdict: Verdict, after: Mapping[str, Verdict]) -> Verdict:
        if verdict.outcome not in (NO, BY_CALIBRATION):
            return verdict
        changes = [c for c in self.done.changes if c.layer == verdict.layer or c.layer.startswith(f"{verdict.layer}/")]
        names = [name for change in changes for name in change.became] if changes else [verdict.layer]
        became = dict.fromkeys(name for name in names if name in after)
        left = [name for name in became if after[name].outcome not in (YES, NOTHING)]
        if left and not self._only_weights_matter(became, left):
            return verdict
        passes = ", ".join(dict.fromkeys(change.rewrite for change in changes))
        instead = f"{passes} has {', '.join(became)} in its place" if became else f"{passes} takes it out"
        how = instead if changes else "not so once the layers around it are rewritten"
        if left:
            how += f", of which {', '.join(left)} stays as it is"
        remedy = after[left[0]].remedy if left else "none needed: it is exact"
        return Verdict(verdict.layer, BY_REWRITE, f"{verdict.reason}; {how}", remedy)

    def _only_weights_matter(self, became: Iterable[str], left: Collection[str]) -> bool:
        """Whether all weights of the layers in the place of one are gained, and only others, without any, are `left`.

        Such as an activation that cannot be trained as integers, and the Dense layer that it was in, which can.
        """
        with_weights = {name for name in became if self.done.model.get_layer(name).weights}
        return bool(with_weights) and with_weights.isdisjoint(left)
