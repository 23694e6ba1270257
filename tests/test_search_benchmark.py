"""The comparison of oracles replays searches over a table of measured recipes, which is made of a finished search."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from fixtures.spaces import measured, steps_space

from tfcompress.tuning.pareto import hypervolume
from tfcompress.tuning.space import load_space
from tfcompress.vocabulary.errors import SearchError

FOLDER = Path(__file__).parent.parent / "experiments" / "search_benchmark"


def _loaded(name):
    spec = importlib.util.spec_from_file_location(f"search_benchmark_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


compare, table = _loaded("compare"), _loaded("table")

BITS = {"choice": [2, 4, 8]}
RECIPE = {
    "steps": [
        {"technique": "pruning", "final_sparsity": {"choice": [0.3, 0.6, 0.9]}},
        {"technique": "quantization", "per_layer": {"conv1": BITS, "fc": BITS}},
    ]
}


def plain(epochs=()):
    rows = []
    for values in steps_space().grid():
        finished = measured(values)
        late = {str(n): {**finished, "drop_points": finished["drop_points"] + 3 / n} for n in epochs}
        rows.append({"values": values, "measured": finished} | ({"by_epoch": late} if epochs else {}))
    reference = {"deflated_bytes": 11000, "drop_points": 8.0}
    return {
        "recipe": RECIPE,
        "objectives": ["deflated_bytes", "drop_points"],
        "bounds": {"drop_points": 8.0},
        "reference": reference,
        "rows": rows,
    }


def test_regret_is_what_the_tried_recipes_lack_of_the_tables_hypervolume(tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps(plain()))
    table = compare.Table(plain())
    tried = compare.searched(table, "random", 5, seed=3)
    assert len(tried) == 5
    everything = [(m["deflated_bytes"], m["drop_points"]) for m in (row["measured"] for row in plain()["rows"])]
    best = hypervolume(everything, (11000, 8.0))
    ours = hypervolume([(m["deflated_bytes"], m["drop_points"]) for m in tried], (11000, 8.0))
    assert compare.regret(str(path), "random", 5, 3) == pytest.approx(1 - ours / best)
    assert compare.regret(str(path), "grid", 27, 0) == pytest.approx(0.0, abs=1e-12)


def test_hyperband_gets_the_epochs_of_the_others_trials():
    table = compare.Table(plain(epochs=(1, 3, 9)))
    assert table.max_epochs == 9
    tried = compare.searched(table, "hyperband", 4, seed=0)
    # 36 epochs: more trials than four, most of them with 1 epoch, after which nothing is as good as at the end.
    assert len(tried) > 4
    assert compare.Table(plain()).max_epochs is None


def test_a_table_with_a_missing_recipe_is_refused():
    table = plain()
    table["rows"] = table["rows"][1:]
    with pytest.raises(SearchError, match="26 rows, 1 recipes without one"):
        compare.Table(table)


EPOCHS = "quantization.fit.epochs"


def trials(epochs=()):
    """The trials of a search through `steps_space`, in another order than its grid's."""
    found = []
    for values in reversed(list(steps_space().grid())):
        sizes = {**measured(values), "bytes": 9000.0, "bit_operations": 5e6, "accuracy": 0.9012345678}
        for count in epochs or (None,):
            of = {**values, EPOCHS: count} if count else dict(values)
            drop = sizes["drop_points"] + (3 / count if count else 0)
            found.append(SimpleNamespace(values=of, measured={**sizes, "drop_points": drop, "latency_ratio": 0.5}))
    return found


def test_a_table_has_what_a_search_measured_recipe_by_recipe():
    rows = table.rows_of(trials(), steps_space())
    assert [row["values"] for row in rows] == list(steps_space().grid())
    first = measured(rows[0]["values"])
    assert rows[0]["measured"] == {
        "deflated_bytes": int(first["deflated_bytes"]),
        "bytes": 9000,
        "bit_operations": 5_000_000,
        "accuracy": 0.901235,
        "drop_points": round(first["drop_points"], 4),
    }
    text = table.table_text(RECIPE, ["deflated_bytes", "drop_points"], {"drop_points": 8.0}, rows)
    read = json.loads(text)
    largest = max(row["measured"]["deflated_bytes"] for row in rows)
    assert read["reference"] == {"deflated_bytes": largest, "drop_points": 8.0}
    assert sum(line.startswith('{"values":') for line in text.splitlines()) == 27
    assert compare.Table(read).best > 0


def test_a_table_has_the_measures_after_fewer_epochs():
    rows = table.rows_of(trials(epochs=(1, 3)), steps_space(), EPOCHS)
    assert [row["values"] for row in rows] == list(steps_space().grid())
    for row in rows:
        assert set(row["by_epoch"]) == {"1", "3"}
        assert row["measured"] == row["by_epoch"]["3"]
        assert row["by_epoch"]["1"]["drop_points"] == pytest.approx(row["measured"]["drop_points"] + 2, abs=1e-3)
    text = table.table_text(RECIPE, ["deflated_bytes", "drop_points"], {"drop_points": 8.0}, rows)
    assert compare.Table(json.loads(text)).max_epochs == 3


def test_a_table_is_not_made_of_a_search_with_gaps():
    failed = trials()
    failed[-1].measured = {}
    with pytest.raises(SearchError, match=r"Not all is there of 1, the first being .*pruning.final_sparsity': 0.3"):
        table.rows_of(failed, steps_space())
    with pytest.raises(SearchError, match="Not all is there of 1,"):
        table.rows_of(trials(epochs=(1, 3))[1:], steps_space(), EPOCHS)
    with pytest.raises(SearchError, match="Not all is there of 27,"):
        table.rows_of([], steps_space())


@pytest.mark.parametrize("name", ["lenet5_mnist", "resnet8_cifar10"])
def test_the_spaces_are_small_enough_to_be_measured_whole(name):
    space = load_space(FOLDER / f"{name}.yaml")
    space.check()
    assert 100 <= space.size <= 256
