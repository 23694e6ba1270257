"""The comparison of oracles replays searches over a table of measured recipes."""

import importlib.util
import json
from pathlib import Path

import pytest
from fixtures.spaces import measured, steps_space

from tfcompress.tuning.pareto import hypervolume
from tfcompress.vocabulary.errors import SearchError

_SPEC = importlib.util.spec_from_file_location(
    "search_benchmark_compare", Path(__file__).parent.parent / "experiments" / "search_benchmark" / "compare.py"
)
compare = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(compare)

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
