"""The sensitivity analysis from end to end: its cells are the files that their recipes ship alone."""

import hashlib
import shutil
import xml.etree.ElementTree as ET
from functools import partial

import numpy as np
import pytest
from fixtures import contained_functions, models

import tfcompress
from tfcompress.pipeline import compress
from tfcompress.techniques.pruning import Pruning
from tfcompress.tuning import sensitivity as module
from tfcompress.tuning.cell_run import CellRun
from tfcompress.tuning.cells import alone
from tfcompress.tuning.local import LocalExecutor
from tfcompress.tuning.search import search
from tfcompress.tuning.sensitivity import read_table, sensitivity
from tfcompress.vocabulary.errors import ConversionError, RunFolderError, SearchError
from tfcompress.vocabulary.reporter import Reporter

RECIPE = {
    "name": "small",
    "data": {"preprocessing": "raw"},
    "steps": [
        {"technique": "pruning", "final_sparsity": {"choice": [0.0, 0.8]}},
        {"technique": "quantization", "per_layer": {"choice": [3, 8]}},
    ],
    "evaluation": {"latency_seconds": 0.02, "threads": 1},
}
LEVELS = {"bits": (3, 8), "sparsities": (0.8,)}
LAYERS = ("hidden", "out")
FREQUENCY = {
    "data": {"preprocessing": "raw"},
    "steps": [{"technique": "pruning", "frequency": {"choice": [5, 10]}}, {"technique": "quantization"}],
}
UNLABELLED = {
    "data": {"preprocessing": "raw"},
    "steps": [
        {"technique": "pruning", "final_sparsity": {"choice": [0.5, 0.9]}, "fit": {"epochs": 0}},
        {"technique": "post_training"},
    ],
}


@pytest.fixture(scope="module")
def net():
    return models.dense()


@pytest.fixture(scope="module")
def data(net):
    inputs = models.inputs_for(net, 200)
    return inputs, net.predict(inputs, verbose=0).argmax(axis=1)


@pytest.fixture(scope="module")
def found(net, data, tmp_path_factory):
    return sensitivity(net, data, RECIPE, **LEVELS, samples=20, out=tmp_path_factory.mktemp("sensitivity") / "all")


def cell_of(table, axis, layer, value):
    (cell,) = [c for c in table.cells if (c.axis, c.layer, c.value) == (axis, layer, value)]
    return cell


def test_every_layer_is_alone_at_every_level(found):
    planned = [("bits", layer, bits) for layer in LAYERS for bits in (3, 8)]
    planned += [("sparsity", layer, 0.8) for layer in LAYERS]
    assert [(cell.axis, cell.layer, cell.value) for cell in found.table.cells] == planned
    assert all(cell.status == "completed" for cell in found.table.cells)


@pytest.mark.parametrize("number", [0, 5])
def test_a_cell_is_the_file_that_its_recipe_ships_alone(found, net, data, tmp_path, number):
    cell = found.table.cells[number]
    recipe = found.folder / "cells" / f"{number:04d}" / "recipe.yaml"
    alone = compress(net, data, recipe, overrides=["evaluation.split=validation"], out=tmp_path / "alone")
    content = alone.artifact.read_bytes()
    assert cell.sha256 == hashlib.sha256(content).hexdigest()
    assert cell.measured["bytes"] == len(content)
    assert cell.measured["deflated_bytes"] == alone.evidence.artifact.deflated_bytes
    # All 20 examples of the validation split were asked for, so the figures are the run's own.
    assert found.table.samples == alone.evidence.metric.count
    assert cell.measured["accuracy"] == alone.evidence.metric.artifact
    assert cell.measured["drop_points"] == alone.evidence.metric.drop_points


def test_a_cell_of_sparsity_has_zeros_in_its_layer_only(found, net, data, tmp_path):
    steps = [
        {"technique": "pruning", "layers": ["hidden"], "final_sparsity": 0.8, "fit": {"epochs": 0}},
        {"technique": "quantization", "fit": {"epochs": 0}},
    ]
    run = compress(net, data, {**RECIPE, "steps": steps}, out=tmp_path / "run")
    shipped = hashlib.sha256(run.artifact.read_bytes()).hexdigest()
    assert shipped == cell_of(found.table, "sparsity", "hidden", 0.8).sha256
    (promise,) = run.evidence.promises
    assert (promise.weight, promise.kind) == ("hidden/kernel", "zeros")
    assert promise.found >= 0.8


def test_what_leaves_a_layer_as_it_is_is_the_reference_and_costs_nothing(found):
    for layer in LAYERS:
        cell = cell_of(found.table, "bits", layer, 8)
        assert (cell.measured, cell.sha256) == (found.table.reference.measured, found.table.reference.sha256)
        assert cell.seconds == 0


def test_the_output_error_is_that_of_the_outputs(found, net, data, tmp_path):
    recipe = found.folder / "cells" / "reference" / "recipe.yaml"
    run = compress(net, data, recipe, overrides=["evaluation.split=validation"], out=tmp_path / "run")
    stored = np.load(run.folder / "predictions.npz")
    expected = np.linalg.norm(stored["artifact"] - stored["float"]) / np.linalg.norm(stored["float"])
    assert found.table.reference.output_error == pytest.approx(expected, rel=1e-5)


def test_the_order_is_that_of_the_damage(found):
    ordered = found.table.by_damage()
    drops = [cell.measured["drop_points"] for cell in ordered]
    assert drops == sorted(drops, reverse=True)
    assert found.table.added_drop(ordered[0]) == drops[0] - found.table.reference.measured["drop_points"]


def test_the_picture_has_a_mark_for_each_cell_and_is_the_same_each_time(found):
    text = (found.folder / "sensitivity.svg").read_text()
    ids = {element.get("id") for element in ET.fromstring(text).iter()}
    assert {f"cell-{cell.axis}-{cell.layer}-{cell.value:g}" for cell in found.table.cells} <= ids
    assert module.heat_map(found.table) == text


class Stop(Reporter):
    def progress(self, label, done, total, note=""):
        if label == "sensitivity" and done == 3:
            raise KeyboardInterrupt


def test_an_interrupted_analysis_goes_on_and_measures_no_cell_twice(found, net, data, tmp_path, monkeypatch):
    few = {**LEVELS, "samples": 20, "out": tmp_path / "analysis"}
    with pytest.raises(KeyboardInterrupt):
        sensitivity(net, data, RECIPE, **few, reporter=Stop())
    with pytest.raises(SearchError, match="must be finished"):
        read_table(tmp_path / "analysis")
    records = sorted((tmp_path / "analysis").glob("cells/*/cell.json"))
    before = {record: record.read_bytes() for record in records}
    assert len(before) == 2
    measured = []
    ship = CellRun._shipped
    monkeypatch.setattr(CellRun, "_shipped", lambda self, r: measured.append(r.name) or ship(self, r))
    again = sensitivity(net, data, RECIPE, **few)
    assert measured == ["out-bits-3", "hidden-sparsity-0.8", "out-sparsity-0.8"]
    assert all(record.read_bytes() == content for record, content in before.items())
    assert [cell.sha256 for cell in again.table.cells] == [cell.sha256 for cell in found.table.cells]
    with pytest.raises(RunFolderError, match="samples"):
        sensitivity(net, data, RECIPE, **{**few, "samples": 19})


def test_several_workers_find_the_same_and_go_on_where_one_stopped(found, net, data, tmp_path):
    def plain(table):
        return [cell.model_dump(exclude={"seconds"}) for cell in (table.reference, *table.cells)]

    place = shutil.copytree(found.folder, tmp_path / "analysis")
    for number in ("0000", "0005"):
        shutil.rmtree(place / "cells" / number)
    many = sensitivity(net, data, RECIPE, **LEVELS, samples=20, workers=2, out=place)
    assert plain(many.table) == plain(found.table)
    for number in ("0000", "0005"):
        recipe = f"cells/{number}/recipe.yaml"
        assert (many.folder / recipe).read_bytes() == (found.folder / recipe).read_bytes()


def test_a_cell_whose_process_dies_is_a_failed_cell(found, net, data, tmp_path, monkeypatch):
    dying = partial(LocalExecutor, run=contained_functions.die_of)
    monkeypatch.setattr(module, "LocalExecutor", lambda *arguments, run: dying(*arguments))
    result = sensitivity(net, data, RECIPE, bits=(8,), sparsities=(0.8,), samples=20, workers=2, out=tmp_path / "a")
    assert [cell.status for cell in result.table.cells] == ["completed", "completed", "failed", "failed"]
    assert "SIGABRT" in result.table.cells[3].reason


def test_a_cell_that_fails_is_recorded_and_the_others_go_on(found, net, data, tmp_path, monkeypatch):
    prepare = Pruning.prepare

    def refuses_one(self, state, plan):
        if self.layers == ["hidden"]:
            raise ConversionError("the layer hidden is refused")
        if self.layers == ["out"]:
            raise ValueError("nobody named this")
        return prepare(self, state, plan)

    monkeypatch.setattr(Pruning, "prepare", refuses_one)
    result = sensitivity(net, data, RECIPE, bits=(8,), sparsities=(0.8,), samples=20, out=tmp_path / "analysis")
    assert [c.status for c in result.table.cells] == ["completed", "completed", "failed", "failed"]
    assert [c.reason for c in result.table.by_damage()[2:]] == [
        "the layer hidden is refused",
        "ValueError: nobody named this",
    ]
    assert read_table(result.folder) == result.table
    ET.parse(result.folder / "sensitivity.svg")


def test_without_labels_the_outputs_are_compared(net, data, tmp_path):
    result = sensitivity(net, data[0], UNLABELLED, sparsities=(0.9,), out=tmp_path / "a")
    assert result.table.metric is None
    cells = result.table.by_damage()
    assert {cell.axis for cell in cells} == {"sparsity"}
    assert cells[0].output_error > cells[1].output_error > result.table.reference.output_error
    assert "accuracy" not in cells[0].measured


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bits": (1, 4), "sparsities": (1.0,)}, r"bits must be .* Received: 1\n.*sparsity must be .* Received: 1$"),
        ({"samples": 1}, "samples must be at least 2"),
        ({"workers": 0}, "workers must be at least 1"),
        ({"recipe": "ptq_int8"}, "must have a step of quantization or pruning"),
    ],
)
def test_what_cannot_be_analysed_is_refused_and_leaves_nothing(net, data, tmp_path, change, words):
    arguments = {"recipe": RECIPE, **change}
    with pytest.raises(SearchError, match=words):
        sensitivity(net, data, arguments.pop("recipe"), **arguments, out=tmp_path / "analysis")
    assert not (tmp_path / "analysis").exists()


def test_a_search_begins_with_what_the_analysis_foresees(found, net, data, tmp_path, monkeypatch):
    from tfcompress.tuning import search as of_search

    given = {}

    def kept(*arguments, **options):
        given.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(of_search, "make_oracle", kept)
    with pytest.raises(KeyboardInterrupt):
        search(net, data, RECIPE, sensitivity=found.folder, out=tmp_path / "search")
    assert set(given["sensitivity"]) == {
        "pruning.final_sparsity",
        "quantization.per_layer.hidden",
        "quantization.per_layer.out",
    }
    with pytest.raises(SearchError, match="only the oracle pareto"):
        search(net, data, RECIPE, sensitivity=found.folder, oracle="random", out=tmp_path / "search")
    with pytest.raises(SearchError, match=r"has no sensitivity\.json"):
        search(net, data, RECIPE, sensitivity=tmp_path, out=tmp_path / "search")
    with pytest.raises(SearchError, match="differs in its model"):
        search(models.dense(seed=1), data, RECIPE, sensitivity=found.folder, out=tmp_path / "search")
    with pytest.raises(SearchError, match="say something of a hole"):
        search(net, data, FREQUENCY, sensitivity=found.folder, out=tmp_path / "search")
    assert not (tmp_path / "search").exists()


def test_it_is_at_hand_in_the_package():
    assert tfcompress.sensitivity is sensitivity


def test_a_cell_of_sparsity_needs_no_training_whatever_the_step_goes_by():
    step = Pruning(importance="movement", distribution="global", regrow="momentum", final_sparsity=0.9)
    cell = Pruning.model_validate(alone("sparsity", step, "hidden", 0.5).model_dump())
    assert (cell.importance, cell.distribution, cell.regrow, cell.fit.epochs) == ("magnitude", "uniform", "none", 0)
    assert (cell.layers, cell.final_sparsity) == (["hidden"], 0.5)
