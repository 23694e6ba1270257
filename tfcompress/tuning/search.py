"""The search: fills the holes of a recipe, trial after trial, and finds the Pareto front of real files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import yaml

from tfcompress.atomic import write_atomically
from tfcompress.convert.converter import float_tflite
from tfcompress.pipeline import ARTIFACT_FILE, FLOAT_FILE
from tfcompress.preparation import Job, JobOptions, open_job
from tfcompress.run_folder import RunFolder
from tfcompress.run_state import read_state
from tfcompress.techniques.base import Technique
from tfcompress.tuning import pareto
from tfcompress.tuning.epochs import last_epochs, with_epochs
from tfcompress.tuning.executor import Executor, Outcome
from tfcompress.tuning.executors import choose_executor
from tfcompress.tuning.latencies import Latencies
from tfcompress.tuning.live import Standing, planned, table
from tfcompress.tuning.measures import LATENCY, Goal
from tfcompress.tuning.oracles import ask, make_oracle, tell, tell_again
from tfcompress.tuning.painter import Painter
from tfcompress.tuning.request import checked_request, search_folder
from tfcompress.tuning.sensitivity import foreseen_by
from tfcompress.tuning.shared import FLOAT_FOLDER, keep_float_model, keep_shared
from tfcompress.tuning.space import Space, load_space
from tfcompress.tuning.trial_run import Shared, Task
from tfcompress.tuning.trials import Trial, Trials
from tfcompress.vocabulary.errors import EvaluationError, SearchError

SUMMARY_FILE = "search.json"
_OF_LABELS = frozenset({"accuracy", "drop_points"})


@dataclass(frozen=True)
class TrialResult:
    """A trial that ended.

    Args:
        trial: its record.
        folder: of its run.
    """

    trial: Trial
    folder: Path

    @property
    def artifact(self) -> Path:
        """The .tflite file."""
        return self.folder / ARTIFACT_FILE

    @property
    def values(self) -> dict[str, Any]:
        """What fills the holes."""
        return self.trial.values

    @property
    def measured(self) -> dict[str, float]:
        """Of the artifact, the metric on the validation split."""
        return self.trial.measured


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Args:
        trials: all that ended, by number.
        front: those that no other is better than in the objectives, within the bounds or not, ordered by the first
            objective.
        best: within the bounds the best of the first objective, or what comes nearest to them; None where every trial
            failed.
        goal: what was searched for.
        folder: of the search.
    """

    trials: tuple[TrialResult, ...]
    front: tuple[TrialResult, ...]
    best: TrialResult | None
    goal: Goal
    folder: Path

    @property
    def within_bounds(self) -> bool:
        """Whether a trial meets all bounds."""
        return self.best is not None and self.best.trial.status == "completed"

    def frame(self) -> Any:
        """All trials as a `pandas.DataFrame`, one a row: number, status, values, measures, and whether on the front."""
        import pandas as pd

        on_front = {result.trial.number for result in self.front}
        rows = [
            {"trial": t.number, "status": t.status, "front": t.number in on_front, **t.values, **t.measured}
            for t in (result.trial for result in self.trials)
        ]
        return pd.DataFrame(rows)


def search(
    model: Any,
    data: Any,
    recipe: str | Path | Mapping[str, Any],
    *,
    objectives: Sequence[str] = ("deflated_bytes", "accuracy"),
    bounds: Mapping[str, float] | None = None,
    max_trials: int = 30,
    oracle: str = "pareto",
    workers: int | None = None,
    executor: str = "local",
    ray_address: str | None = None,
    cpus_per_trial: int | None = None,
    gpus_per_trial: float | None = None,
    sensitivity: str | Path | None = None,
    out: str | Path | None = None,
    **options: Unpack[JobOptions],
) -> SearchResult:
    """Search the holes of a recipe for the files that serve `objectives` best within `bounds`.

    Every trial runs a filled recipe to its artifact; only artifacts are measured, their metric on the validation
    split. The test split is looked at once, at the end, for the files of the front. The latency, where the goal names
    it, is timed on this machine when a trial ends, once for each architecture (`tfcompress.tuning.latencies`), while
    the other trials stand still (those of Ray run on). A search that was interrupted goes on where it stopped when it
    is called again with the same arguments and `out`; more `max_trials` continue it.

    Args:
        model: as `tfcompress.compress` takes it; a network of the zoo is trained once, for all trials.
        data: as `tfcompress.compress` takes it.
        recipe: a recipe with holes (`tfcompress.tuning.space`): its tree, a YAML file, or the name of a space that
            ships.
        objectives: names of measures (`tfcompress.tuning.measures`), each made as good as can be.
        bounds: by measure, the most (the least, for a measure of which more is better) that a file may have.
            Defaults to none.
        max_trials: proposals, failed ones included.
        oracle: who proposes (`tfcompress.tuning.oracles`).
        workers: trials at a time, each in a process of its own. Defaults to 1, on Ray to as many as the cluster has
            room for.
        executor: `"local"`, processes of this machine, or `"ray"`, tasks on an existing Ray cluster.
        ray_address: of the cluster (`tfcompress.tuning.on_ray.Cluster`, which also has the defaults of the next two).
        cpus_per_trial: that a trial asks Ray for.
        gpus_per_trial: that a trial asks Ray for.
        sensitivity: the folder of an analysis (`tfcompress.sensitivity`) that tells the oracle `pareto` what to try
            first. Defaults to none.
        out: the search's folder. Defaults to `tflite_models/<model>-<data>-<recipe>-search`.
        **options: as those of `tfcompress.compress`.

    Raises:
        SearchError, RecipeError, ModelError, DataError: it cannot be carried out as asked; nothing has run then.

    Example:
        >>> found = search("lenet300", "digits", "bits_and_sparsity", bounds={"drop_points": 1})  # doctest: +SKIP
        >>> found.best.artifact  # doctest: +SKIP
        PosixPath('tflite_models/lenet300-digits-bits_and_sparsity-search/trials/0017/run/model.tflite')
    """
    overrides = options.pop("overrides", ())
    request = checked_request(
        model,
        data,
        recipe,
        overrides,
        objectives=objectives,
        bounds=bounds or {},
        max_trials=max_trials,
        oracle=oracle,
        choose=partial(
            choose_executor,
            executor,
            workers=workers,
            ray_address=ray_address,
            cpus_per_trial=cpus_per_trial,
            gpus_per_trial=gpus_per_trial,
        ),
        sensitivity=sensitivity,
        out=out,
        seed=options.get("seed", 0),
    )
    goal = request.goal
    job = open_job(model, data, request.draft.fill(request.draft.default()), **options)
    start = job.enabled.state.model

    def layers(step: Technique) -> Sequence[str]:
        return step.layers_with_values(start)

    space = load_space(recipe, overrides, layers)
    space.check()
    _check_metric(goal, job)
    epochs = last_epochs(job.recipe, space) if oracle == "hyperband" else None
    foreseen = None if sensitivity is None else foreseen_by(sensitivity, job, space, layers)
    asked = make_oracle(
        oracle, space, goal, max_trials=max_trials, seed=job.seed, sensitivity=foreseen, max_epochs=epochs
    )
    identity = {
        **request.identity(space),
        **({} if foreseen is None else {"sensitivity": foreseen}),
        **{key: value for key, value in job.identity.items() if key != "recipe"},
    }
    with RunFolder(out or search_folder(job.default_name), identity) as folder:
        place, unsafe = keep_float_model(job, model, options, folder), options.get("unsafe", False)
        shared = Shared(place, job.data.dataset, job.seed, options.get("custom_objects"), unsafe)
        make_executor = partial(request.make_executor, keep_shared(shared, folder))
        latencies = _latencies(job, options, folder) if LATENCY in goal.needed else None
        total = planned(max_trials, space.size, oracle)
        return _Search(job, folder, space, goal, asked, total, make_executor, latencies).run()


def _check_metric(goal: Goal, job: Job) -> None:
    """Refuse measures of a metric that the data or the task does not have."""
    if job.data.dataset.train.targets is None and (missing := sorted(goal.needed & _OF_LABELS)):
        raise SearchError(f"{', '.join(missing)} need labels, and {job.data.dataset.name} has none.")
    if "accuracy" in goal.needed and not (score := job.data.validation_score(job.state.model)).higher_is_better:
        raise SearchError(
            f"accuracy stands for a metric of which more is better, and less of {score.name} is. Remedy: drop_points."
        )


def _latencies(job: Job, options: JobOptions, folder: RunFolder) -> Latencies:
    """What times the artifacts, beside the float file, which is made of the model that the trials start from."""
    reference = folder.file(FLOAT_FOLDER) / FLOAT_FILE
    if not reference.exists():
        start = read_state(reference.parent, options.get("custom_objects"), options.get("unsafe", False))
        write_atomically(reference, float_tflite(start.model, job.recipe.conversion))
    return Latencies(folder, reference, job.recipe.evaluation.latency_seconds)


class _Search:
    """One execution of a search in its folder."""

    def __init__(
        self,
        job: Job,
        folder: RunFolder,
        space: Space,
        goal: Goal,
        oracle: Any,
        total: int,
        make_executor: Callable[[], Executor],
        latencies: Latencies | None,
    ) -> None:
        self.job = job
        self.folder = folder
        self.space = space
        self.goal = goal
        self.oracle = oracle
        self.total = total
        self.make_executor = make_executor
        self.latencies = latencies
        self.trials = Trials(folder)
        self.seconds: list[float] = []

    def run(self) -> SearchResult:
        """Go on until the oracle has no more, then test the front."""
        ended = [(trial.proposal, trial.measured or None) for trial in self.trials.ended]
        tell_again(self.oracle, ended, [trial.proposal for trial in self.trials.running])
        summary = self.folder.file(SUMMARY_FILE)
        with Painter(summary, self._complain) as painter, self.make_executor() as executor:
            for trial in self.trials.running:
                executor.submit(trial.number, self._task(trial))
            self._propose(executor)
            while self.trials.running:
                self._show(executor, self._end(self._timed(executor.next(), executor, painter)))
                painter.redraw()
                self._propose(executor)
            self._test(executor)
            self._summarise()
            painter.finish()
        return self._result()

    def _propose(self, executor: Executor) -> None:
        """Give every free worker a trial, as far as the oracle has any."""
        while len(self.trials.running) < executor.workers and (proposal := ask(self.oracle)):
            trial = self.trials.begin(proposal)
            self.folder.write(f"trials/{self.trials.name(trial)}/recipe.yaml", _recipe_text(self._filled(trial)))
            executor.submit(trial.number, self._task(trial))
        self._show(executor)

    def _timed(self, outcome: Outcome, executor: Executor, painter: Painter) -> Outcome:
        """`outcome` with its artifact's latency, where the goal needs it; a failure when it cannot be timed."""
        if self.latencies is None or not outcome.measured:
            return outcome

        @contextmanager
        def quiet() -> Iterator[None]:
            with executor.quiet(), painter.quiet():
                yield

        artifact = self.trials.run_folder(self.trials[outcome.number]) / ARTIFACT_FILE
        try:
            ratio = self.latencies.ratio(artifact.read_bytes(), quiet)
        except EvaluationError as error:
            return replace(outcome, measured={}, reason=str(error))
        return replace(outcome, measured={**outcome.measured, LATENCY: ratio})

    def _end(self, outcome: Outcome) -> str:
        """Record what came of a trial and tell the oracle; returns a line that says it."""
        trial = self.trials[outcome.number]
        if not outcome.measured:
            ended = self.trials.end(trial, status="failed", reason=outcome.reason, seconds=outcome.seconds)
        else:
            excesses = self.goal.excesses(outcome.measured)
            reason = ", ".join(f"{name} by {excess:g}" for name, excess in excesses.items())
            ended = self.trials.end(
                trial,
                status="infeasible" if excesses else "completed",
                reason=f"exceeds {reason}" if reason else "",
                measured=outcome.measured,
                seconds=outcome.seconds,
            )
        tell(self.oracle, ended.number, ended.measured or None)
        self.seconds.append(outcome.seconds)
        self._summarise()
        return self._said(ended)

    def _test(self, executor: Executor) -> None:
        """Measure the best file and those of the front once more, with the metric of the test split."""
        found = self._result()
        ahead = {result.trial.number: result.trial for result in (*found.front, found.best) if result}
        waiting = [trial for trial in ahead.values() if not trial.tested]
        for trial in waiting:
            executor.submit(trial.number, self._task(trial, split="test"))
        for done in range(len(waiting)):
            self.job.reporter.progress("testing the front", done, len(waiting))
            outcome = executor.next()
            if not outcome.measured:
                raise SearchError(f"Trial {outcome.number} could not be measured again: {outcome.reason}")
            self.trials.keep(self.trials[outcome.number].model_copy(update={"tested": outcome.measured}))

    def _task(self, trial: Trial, split: str = "validation") -> Task:
        # Those trained for longest first: of one of these a trial may go on.
        ended = sorted((t for t in self.trials.ended if t.has_artifact), key=lambda other: -(other.epochs or 0))
        earlier = tuple(self.trials.run_folder(other) for other in ended)
        return Task(self._filled(trial), self.trials.run_folder(trial), split, earlier)

    def _filled(self, trial: Trial) -> dict[str, Any]:
        """The trial's recipe, which trains its last step for as many epochs as the oracle gave it."""
        tree = self.space.fill(trial.values)
        return tree if trial.epochs is None else with_epochs(tree, trial.epochs)

    def _result(self) -> SearchResult:
        results = tuple(TrialResult(trial, self.trials.run_folder(trial)) for trial in self.trials if trial.ended)
        with_artifact = [result for result in results if result.trial.has_artifact]
        measured = [result.measured for result in with_artifact]
        vectors = [self.goal.vector(one) for one in measured]
        indices = sorted(pareto.front(vectors, [0] * len(vectors)), key=vectors.__getitem__) if vectors else []
        best = self.goal.best(measured)
        return SearchResult(
            results,
            front=tuple(with_artifact[index] for index in indices),
            best=None if best is None else with_artifact[best],
            goal=self.goal,
            folder=self.folder.path,
        )

    def _summarise(self) -> None:
        result = self._result()
        tree = {
            "objectives": list(self.goal.objectives),
            "bounds": dict(self.goal.bounds),
            "space": [asdict(hole) for hole in self.space.holes],
            "within_bounds": result.within_bounds,
            "best": result.best.trial.number if result.best else None,
            "front": [one.trial.number for one in result.front],
            "trials": [trial.model_dump(mode="json") for trial in self.trials],
        }
        self.folder.write_json(SUMMARY_FILE, tree)

    def _said(self, trial: Trial) -> str:
        shown = sorted(self.goal.needed & trial.measured.keys())
        line = ", ".join([f"trial {trial.number}: {trial.status}", *(f"{k} {trial.measured[k]:g}" for k in shown)])
        if trial.reason:
            line += f" ({trial.reason.splitlines()[0]})"
        self.folder.log(line)
        return line

    def _show(self, executor: Executor, said: str = "") -> None:
        """Let a person see where the search stands, and what was `said` of the last trial."""
        found = self._result()
        standing = Standing(
            tuple(self.trials),
            [result.trial.number for result in found.front],
            found.best.trial.number if found.best else None,
            self.total,
            executor.workers,
            self.seconds,
        )
        news = f"{said}; {standing}" if said else ""
        self.job.reporter.table(f"search: {standing}", *table(standing, self.goal, self.space.holes), news=news)

    def _complain(self, problem: str) -> None:
        self.folder.log(problem)
        self.job.reporter.message(problem)


def _recipe_text(tree: Mapping[str, Any]) -> str:
    return yaml.safe_dump(json.loads(json.dumps(tree)), sort_keys=False)
