"""The search from end to end, over recipes that need no training."""

import contextlib
import json

import numpy as np
import pytest
from fixtures import models

import tfcompress
from tfcompress import keras_door as kd
from tfcompress.pipeline import compress
from tfcompress.tuning import latencies, painter, trial_run
from tfcompress.tuning.local import LocalExecutor
from tfcompress.tuning.measures import LATENCY, MEASURES
from tfcompress.tuning.search import search
from tfcompress.vocabulary.errors import EvaluationError, RecipeError, RunFolderError, SearchError
from tfcompress.vocabulary.reporter import Reporter

SPACE = {
    "name": "formats",
    "data": {"preprocessing": "raw"},
    "steps": [{"technique": "post_training", "number_format": {"choice": ["int8", "int16x8", "float16"]}}],
    "evaluation": {"latency_seconds": 0.02, "threads": 1},
}
GOAL = {"objectives": ["deflated_bytes", "drop_points"], "oracle": "grid"}


@pytest.fixture(scope="module")
def net():
    return models.conv_bn()


@pytest.fixture(scope="module")
def data(net):
    inputs = models.inputs_for(net, 60)
    return inputs, net.predict(inputs, verbose=0).argmax(axis=1)


class Watching(Reporter):
    def __init__(self):
        self.tables, self.news = [], []

    def table(self, title, header, rows, news=""):
        self.tables.append((title, header, rows))
        self.news += [news] if news else []


@pytest.fixture(scope="module")
def watching():
    return Watching()


@pytest.fixture(scope="module")
def found(net, data, watching, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(painter.Painter, "redraw", lambda _: watching.news.append("drawn"))
        return search(net, data, SPACE, **GOAL, out=tmp_path_factory.mktemp("search") / "all", reporter=watching)


def test_every_recipe_of_a_small_space_runs_once_and_its_file_is_measured(found):
    assert sorted(result.values["post_training.number_format"] for result in found.trials) == [
        "float16",
        "int16x8",
        "int8",
    ]
    for result in found.trials:
        assert result.trial.status == "completed"
        assert result.measured["bytes"] == result.artifact.stat().st_size
        evidence = json.loads((result.folder / "evidence.json").read_text())
        assert evidence["metric"]["split"] == ("test" if result.trial.tested else "validation")


def test_the_front_is_of_those_that_none_is_better_than_and_is_tested(found):
    def dominated(mine):
        return any(
            all(o <= m for o, m in zip(other, mine, strict=True)) and other != mine for other in vectors.values()
        )

    vectors = {r.trial.number: (r.measured["deflated_bytes"], r.measured["drop_points"]) for r in found.trials}
    expected = {number for number, mine in vectors.items() if not dominated(mine)}
    assert {result.trial.number for result in found.front} == expected
    assert found.best.measured["deflated_bytes"] == min(v[0] for v in vectors.values())
    assert all("drop_points" in result.trial.tested for result in found.front)
    assert found.within_bounds


def test_a_filled_recipe_run_alone_gives_the_same_file(found, net, data, tmp_path):
    recipe = found.folder / "trials" / f"{found.best.trial.number:04d}" / "recipe.yaml"
    alone = compress(net, data, recipe, out=tmp_path / "alone")
    assert alone.artifact.read_bytes() == found.best.artifact.read_bytes()


def test_the_frame_has_a_trial_a_row(found):
    frame = found.frame()
    assert list(frame["trial"]) == [0, 1, 2]
    assert set(frame.loc[frame["front"], "trial"]) == {result.trial.number for result in found.front}
    assert "post_training.number_format" in frame
    assert frame["bytes"].min() > 0


def test_the_summary_says_what_the_result_says(found):
    summary = json.loads((found.folder / "search.json").read_text())
    assert summary["best"] == found.best.trial.number
    assert summary["front"] == [result.trial.number for result in found.front]
    assert [trial["measured"] for trial in summary["trials"]] == [result.measured for result in found.trials]


def test_the_pictures_lie_beside_the_summary(found):
    assert {path.name for path in found.folder.glob("*.svg")} == {"front.svg", "parallel.svg"}
    text = (found.folder / "front.svg").read_text()
    assert all(f'id="trial-{result.trial.number}"' in text for result in found.trials)


def test_it_is_seen_while_it_runs_and_drawn_behind_each_trial(found, watching):
    assert [line.partition(":")[0] for line in watching.news] == [
        "trial 0",
        "drawn",
        "trial 1",
        "drawn",
        "trial 2",
        "drawn",
    ]
    # A grid of three ends behind three, whatever max_trials says.
    assert "; 1 of 3 trials, 0:0" in watching.news[0]
    assert "; 3 of 3 trials, 0:00:00 left" in watching.news[4]
    title, header, rows = watching.tables[-1]
    assert title == "search: 3 of 3 trials, 0:00:00 left"
    assert header[-1] == "number_format"
    assert {int(row[0]) for row in rows if row[2]} == {result.trial.number for result in found.front}


class Interrupt(Reporter):
    """Behind the end of the first trial."""

    def message(self, text):
        if text.startswith("trial 0"):
            raise KeyboardInterrupt


def test_an_interrupted_search_goes_on_and_more_trials_continue_it(found, net, data, tmp_path):
    def again(max_trials, **options):
        return search(net, data, SPACE, **GOAL, max_trials=max_trials, out=tmp_path / "search", **options)

    with pytest.raises(KeyboardInterrupt):
        again(2, reporter=Interrupt())
    assert len(list((tmp_path / "search" / "trials").glob("*/trial.json"))) == 1
    whole = again(3)
    for mine, theirs in zip(whole.trials, found.trials, strict=True):
        assert mine.values == theirs.values
        assert mine.artifact.read_bytes() == theirs.artifact.read_bytes()


def test_failed_trials_are_not_the_end_and_the_nearest_to_the_bounds_is_there(tmp_path):
    layers = kd.keras.layers
    inputs = layers.Input((6,))
    # .tflite has no ELU of integers.
    net = kd.keras.Model(inputs, layers.Dense(3, activation="softmax")(layers.ELU()(layers.Dense(8)(inputs))))
    samples = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    data = samples, net.predict(samples, verbose=0).argmax(axis=1)
    result = search(net, data, SPACE, **GOAL, bounds={"bytes": 10}, workers=2, out=tmp_path / "search")
    by_format = {r.values["post_training.number_format"]: r for r in result.trials}
    for name in ("int8", "int16x8"):
        assert by_format[name].trial.status == "failed"
        assert "ELU" in by_format[name].trial.reason
    nearest = by_format["float16"]
    assert nearest.trial.status == "infeasible"
    assert nearest.trial.reason == f"exceeds bytes by {nearest.measured['bytes'] - 10:g}"
    assert not result.within_bounds
    assert result.best == nearest
    assert result.front == (nearest,)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"objectives": ["speed"]}, SearchError, "an objective must be one of"),
        ({"bounds": {"byte": 3}}, SearchError, "Did you mean bytes"),
        ({"objectives": "bytes"}, SearchError, "a sequence of names"),
        ({"bounds": {"bytes": -3}}, SearchError, "must not be negative"),
        ({"oracle": "gird"}, SearchError, "Did you mean grid"),
        ({"max_trials": 0}, SearchError, "max_trials"),
        ({"recipe": "ptq_int8"}, RecipeError, "has no hole"),
    ],
)
def test_what_cannot_be_searched_is_refused_and_leaves_nothing(net, data, tmp_path, change, error, words):
    arguments = {"recipe": SPACE, **GOAL, **change}
    with pytest.raises(error, match=words):
        search(net, data, arguments.pop("recipe"), **arguments, out=tmp_path / "search")
    assert not (tmp_path / "search").exists()


def test_what_needs_no_model_is_refused_before_one_is_looked_for():
    for change, words in (({"oracle": "gird"}, "Did you mean grid"), ({"objectives": ["speed"]}, "an objective must")):
        with pytest.raises(SearchError, match=words):
            search("no_such_network", "no_such_data", SPACE, **{**GOAL, **change})


def test_another_space_is_refused_in_the_same_folder(found, net, data):
    other = {**SPACE, "conversion": {"strip_names": False}}
    with pytest.raises(RunFolderError, match=r"belongs to another run; it differs in: space\.conversion"):
        search(net, data, other, **GOAL, out=found.folder)


def test_without_labels_measures_of_the_metric_are_refused(net, data, tmp_path):
    with pytest.raises(SearchError, match="drop_points need labels"):
        search(net, data[0], SPACE, **GOAL, out=tmp_path / "search")


def test_a_metric_of_which_less_is_better_is_no_accuracy(net, data, tmp_path):
    targets = np.eye(models.CLASSES, dtype=np.float32)[data[1]]
    regression = SPACE | {"task": {"loss": "mean_squared_error", "metric": "mean_absolute_error"}}
    with pytest.raises(SearchError, match=r"less of mean_absolute_error is\. Remedy: drop_points"):
        search(net, (data[0], targets), regression, objectives=["accuracy"], out=tmp_path / "search")


def test_it_is_at_hand_in_the_package():
    assert tfcompress.search is search


def test_the_measures_of_a_trial_are_those_that_goals_may_name(found):
    # Of which the goal here needs no latency.
    assert set(found.best.measured) == set(MEASURES) - {LATENCY}
    assert trial_run.Task({}, found.folder).split == "validation"
    assert np.isfinite(list(found.best.measured.values())).all()


FOR_SPEED = {
    **SPACE,
    "steps": [{"technique": "post_training", "number_format": {"choice": ["int8", "float16"]}}],
    "conversion": {"strip_names": {"bool": None}},
}
SPEED = {"objectives": ["latency_ratio", "accuracy"], "oracle": "grid"}


@pytest.fixture
def timed(monkeypatch):
    """Sizes of the artifacts timed, each while the executor keeps its trials quiet."""
    sizes, quiet = [], []
    stand_still, measure = LocalExecutor.quiet, latencies.measure_latency

    @contextlib.contextmanager
    def entered(executor):
        with stand_still(executor):
            quiet.append(executor)
            yield
            quiet.pop()

    def measured(files, **settings):
        assert quiet
        sizes.append(len(files["artifact"]))
        return measure(files, **settings)

    monkeypatch.setattr(LocalExecutor, "quiet", entered)
    monkeypatch.setattr(latencies, "measure_latency", measured)
    return sizes


def test_files_of_one_architecture_are_timed_once_beside_the_float_file(net, data, timed, tmp_path):
    def go_on(**options):
        return search(net, data, FOR_SPEED, **SPEED, out=tmp_path / "search", **options)

    with pytest.raises(KeyboardInterrupt):
        go_on(reporter=Interrupt())
    result = go_on(workers=2)
    by_format = {}
    for one in result.trials:
        assert one.trial.status == "completed", one.trial.reason
        by_format.setdefault(one.values["post_training.number_format"], set()).add(one.measured[LATENCY])
    assert [len(result.trials), len(timed), *map(len, by_format.values())] == [4, 2, 1, 1]
    assert result.best.measured[LATENCY] == min(*by_format["int8"], *by_format["float16"]) > 0
    assert (result.folder / "float" / "float.tflite").read_bytes() == (result.best.folder / "float.tflite").read_bytes()
    go_on()
    assert len(timed) == 2


def test_an_artifact_that_cannot_be_timed_is_a_failed_trial(net, data, timed, monkeypatch, tmp_path):
    measure = latencies.measure_latency

    def crash_once(files, **settings):
        found = measure(files, **settings)
        if len(timed) == 1:
            raise EvaluationError("LiteRT crashed")
        return found

    monkeypatch.setattr(latencies, "measure_latency", crash_once)
    one_format = FOR_SPEED | {"steps": [{"technique": "post_training"}]}
    failed, completed = search(net, data, one_format, **SPEED, out=tmp_path / "search").trials
    assert (failed.trial.status, failed.trial.reason, failed.measured) == ("failed", "LiteRT crashed", {})
    assert completed.trial.status == "completed"


def test_evidence_is_timed_for_long_only_for_the_front(found):
    for result in found.trials:
        settings = json.loads((result.folder / "evidence.json").read_text())["recipe"]["evaluation"]
        assert settings["latency_seconds"] == (SPACE["evaluation"]["latency_seconds"] if result.trial.tested else 0.001)


@pytest.mark.slow
def test_hyperband_goes_on_from_checkpoints_and_its_files_are_those_of_runs_alone(net, data, tmp_path):
    space = {
        **SPACE,
        "steps": [
            {
                "technique": "quantization",
                "weight_bits": {"choice": [2, 3, 4, 5, 6, 7, 8]},
                "fit": {"epochs": 4, "decay": "constant"},
            }
        ],
    }
    goal = {**GOAL, "oracle": "hyperband"}
    result = search(net, data, space, **goal, max_trials=7, workers=2, out=tmp_path / "search")
    going_on = [r for r in result.trials if r.trial.continues is not None]
    assert going_on
    for one in going_on[:2]:
        before = result.trials[one.trial.continues].trial
        assert before.values == one.values
        assert one.trial.initial_epoch == before.epochs < one.trial.epochs
        recipe = result.folder / "trials" / f"{one.trial.number:04d}" / "recipe.yaml"
        alone = compress(net, data, recipe, out=tmp_path / f"alone{one.trial.number}")
        assert alone.artifact.read_bytes() == one.artifact.read_bytes()
