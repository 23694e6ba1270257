"""The matrix of model families and recipes: what it remembers, runs again and shows; nothing is trained."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tfcompress.vocabulary.errors import ConversionError

FOLDER = Path(__file__).parent.parent / "experiments" / "model_families"
MEASURED = {
    "loaded": True,
    "full_integer": True,
    "mean_steps": 0.25,
    "argmax": 0.995,
    "float_accuracy": 0.99,
    "accuracy": 0.9875,
    "seconds": 12.4,
}


@pytest.fixture(scope="module")
def matrix():
    spec = importlib.util.spec_from_file_location("model_families_matrix", FOLDER / "matrix.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def failing(error):
    def run(found):
        found["loaded"] = True
        found["mean_steps"] = 0.5
        raise error

    return run


def test_a_cell_holds_what_was_measured(matrix):
    cell = matrix.attempt("A", "qat", lambda found: found.update(MEASURED))
    assert cell.model_dump(exclude_none=True) == {"family": "A", "recipe": "qat", **MEASURED}
    assert cell.is_finished
    assert cell.verdict == "yes"


def test_a_failure_becomes_its_cells_reason(matrix):
    refused = matrix.attempt("A", "qat", failing(ConversionError("The converter refused.\n- LSTM | state")))
    assert (refused.refusal, refused.is_finished) == ("ConversionError: The converter refused.\n- LSTM | state", True)
    defect = matrix.attempt("A", "qat", failing(KeyError("conv1")))
    assert (defect.defect, defect.is_finished) == ("KeyError: 'conv1'", False)
    for cell in (refused, defect):
        assert cell.loaded
        assert cell.mean_steps is None, "half a measurement is none"
    with pytest.raises(KeyboardInterrupt):
        matrix.attempt("A", "qat", failing(KeyboardInterrupt()))


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"mean_steps": 1.0, "argmax": 0.98}, "yes"),
        ({"argmax": None}, "yes"),
        ({"mean_steps": 1.01}, "more than 1 step"),
        ({"argmax": 0.979, "full_integer": False}, "not full integer, same class under 98%"),
    ],
)
def test_the_verdict_names_what_misses_the_bars(matrix, change, verdict):
    cell = matrix.attempt("A", "qat", lambda found: found.update(MEASURED | change))
    assert cell.verdict == verdict


def test_finished_cells_are_not_run_again(matrix, tmp_path):
    path = tmp_path / "new" / "result.json"
    assert matrix.read(path) == {}
    cells = {
        ("A", "ptq_int8"): matrix.attempt("A", "ptq_int8", lambda found: found.update(MEASURED)),
        ("A", "qat"): matrix.attempt("A", "qat", failing(ConversionError("no"))),
        ("B", "qat"): matrix.attempt("B", "qat", failing(ValueError("oops"))),
    }
    matrix.write(path, cells)
    assert matrix.read(path) == cells
    left = [("A", "prune_qat"), ("B", "ptq_int8"), ("B", "qat"), ("B", "prune_qat")]
    assert list(matrix.left_to_run(matrix.read(path), ["A", "B"], matrix.RECIPES)) == left
    assert list(matrix.left_to_run(cells, ["A"], ["qat"], again=True)) == [("A", "qat")]


def test_the_table_has_a_line_a_cell_and_counts_those_that_pass(matrix):
    cells = {
        ("B", "qat"): matrix.attempt("B", "qat", failing(ConversionError("The converter refused.\n- LSTM | state"))),
        ("A", "qat"): matrix.attempt("A", "qat", lambda found: found.update(MEASURED)),
        ("A", "ptq_int8"): matrix.attempt("A", "ptq_int8", lambda found: found.update(MEASURED | {"mean_steps": 2})),
    }
    lines = matrix.table(cells, ["A", "B"]).splitlines()
    assert lines[2:5] == [
        "| A | ptq_int8 | yes | yes | 2.000 | 99.50% | 99.00% | 98.75% | 12 | more than 1 step |",
        "| A | qat | yes | yes | 0.250 | 99.50% | 99.00% | 98.75% | 12 | yes |",
        "| B | qat | yes |  |  |  |  |  |  | refused, ConversionError: The converter refused. - LSTM \\| state |",
    ]
    assert lines[6].startswith("1 of 3 cells are within the bars")
    assert lines[0].count("|") == lines[1].count("|") == lines[3].count("|")


def test_the_command_runs_nothing_when_all_chosen_cells_are_finished(matrix, tmp_path):
    cell = {"family": "MobileNet", "recipe": "ptq_int8", **MEASURED}
    (tmp_path / "result.json").write_text(json.dumps([cell]))
    flags = ["--family=MobileNet", "--recipe=ptq_int8", f"--out={tmp_path}/result", f"--work={tmp_path}/work"]
    done = subprocess.run([sys.executable, FOLDER / "run.py", *flags], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| MobileNet | ptq_int8 | yes | yes | 0.250 |" in done.stdout
    assert (tmp_path / "result.md").read_text() == done.stdout
    assert not (tmp_path / "work").exists()
    assert json.loads((tmp_path / "result.json").read_text()) == [cell]


def test_text_without_data_is_refused_with_the_remedy(tmp_path):
    command = [sys.executable, FOLDER / "run.py", "--family=lstm_text", f"--out={tmp_path}/result"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert "lstm_text need prepared text or sound. Remedy: --data_dir." in done.stderr


def test_the_readme_shows_what_was_measured(matrix):
    cells = matrix.read(FOLDER / "result.json")
    readme = (FOLDER.parent.parent / "README.md").read_text(encoding="utf-8").splitlines()
    rows = matrix.summary(cells, list(dict.fromkeys(family for family, _ in cells))).splitlines()
    assert len(rows) > 2
    assert set(rows) <= set(readme)
