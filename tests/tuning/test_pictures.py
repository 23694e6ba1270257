"""The pictures of a search: a mark for each trial, where its record says, and the same bytes each time."""

import json
import xml.etree.ElementTree as ET
from dataclasses import asdict

import numpy as np
import pytest
from fixtures.spaces import measured, optional_space, range_space

from tfcompress.tuning import pareto, pictures
from tfcompress.tuning.measures import Goal
from tfcompress.tuning.pictures import draw_pictures, read_summary

FAILED = 3


def written(folder, space, objectives, bounds, count=30):
    """The summary of a search that never was, one trial failed."""
    random, goal = np.random.default_rng(0), Goal(objectives, bounds)
    trials = []
    for number in range(count):
        values = space.sample(random)
        found = measured(values)
        found["accuracy"] = 0.95 - found["drop_points"] / 100
        status = "infeasible" if goal.violation(found) else "completed"
        trials.append({"number": number, "values": values, "status": status, "measured": found})
    if count > FAILED:
        trials[FAILED] |= {"status": "failed", "measured": {}}
    known = [trial for trial in trials if trial["measured"]]
    ahead = pareto.front(
        [goal.vector(trial["measured"]) for trial in known], [goal.violation(trial["measured"]) for trial in known]
    )
    tree = {
        "objectives": objectives,
        "bounds": bounds,
        "space": [asdict(hole) for hole in space.holes],
        "front": [known[index]["number"] for index in ahead],
        "trials": trials,
    }
    path = folder / "search.json"
    path.write_text(json.dumps(tree))
    return path


def ids(text):
    return [element.get("id") for element in ET.fromstring(text).iter() if element.get("id")]


@pytest.mark.parametrize(
    ("space", "objectives"),
    [
        (range_space(), ("deflated_bytes", "accuracy")),
        (optional_space(), ("drop_points",)),
        (range_space(), ("deflated_bytes", "accuracy", "drop_points")),
    ],
)
def test_every_trial_with_a_file_has_one_mark_and_one_line(tmp_path, space, objectives):
    path = written(tmp_path, space, objectives, {"drop_points": 1.0})
    drawn = {place.name: place.read_text() for place in draw_pictures(path)}
    assert set(drawn) == {"front.svg", "parallel.svg", "importance.svg"}
    expected = [number for number in range(30) if number != FAILED]
    panels = max(len(objectives) - 1, 1)
    marks = [name for name in ids(drawn["front.svg"]) if name.startswith("trial-")]
    assert sorted(marks) == sorted(f"trial-{number}" for number in expected for _ in range(panels))
    lines = [name for name in ids(drawn["parallel.svg"]) if name.startswith("line-")]
    assert sorted(lines) == sorted(f"line-{number}" for number in expected)
    bars = [name for name in ids(drawn["importance.svg"]) if name.startswith("importance-")]
    assert len(bars) == len(space.holes) * len(objectives)
    assert "30 trials, 1 failed; bounds: drop points ≤ 1" in drawn["front.svg"]
    assert "deflated bytes" in drawn["front.svg"] or objectives == ("drop_points",)


def test_the_same_summary_gives_the_same_bytes(tmp_path):
    path = written(tmp_path, range_space(), ("deflated_bytes", "accuracy"), {}, count=9)
    before = {place: place.read_bytes() for place in draw_pictures(path)}
    assert {place: place.read_bytes() for place in draw_pictures(path)} == before


def test_a_bound_is_drawn_where_its_measure_or_one_on_a_line_with_it_is(tmp_path):
    summary = read_summary(written(tmp_path, range_space(), ("deflated_bytes", "accuracy"), {"drop_points": 1.5}))
    assert pictures._place_of_bound(summary, "drop_points", 1.5, "accuracy") == pytest.approx(0.935)
    assert pictures._place_of_bound(summary, "drop_points", 1.5, "deflated_bytes") is None
    assert "bound-drop_points" in ids(pictures.front(summary))
    own = read_summary(written(tmp_path, range_space(), ("drop_points", "accuracy"), {"drop_points": 1.5}))
    assert pictures._place_of_bound(own, "drop_points", 1.5, "drop_points") == 1.5


def test_a_front_that_is_small_among_all_trials_is_shown_nearer_too(tmp_path):
    path = written(tmp_path, range_space(), ("deflated_bytes", "accuracy"), {}, count=3)
    tree = json.loads(path.read_text())
    for trial, size, accuracy in zip(tree["trials"], (100, 110, 5000), (0.90, 0.95, 0.1), strict=True):
        trial["measured"] |= {"deflated_bytes": size, "accuracy": accuracy}
    path.write_text(json.dumps({**tree, "front": [0, 1]}))
    assert "nearer" in pictures.front(read_summary(path))
    path.write_text(json.dumps({**tree, "front": [0, 1, 2]}))
    assert "nearer" not in pictures.front(read_summary(path))


def test_a_search_that_has_just_begun_is_drawn_as_far_as_it_is(tmp_path):
    path = written(tmp_path, range_space(), ("deflated_bytes", "accuracy"), {}, count=2)
    assert [place.name for place in draw_pictures(path)] == ["front.svg", "parallel.svg"]
    tree = json.loads(path.read_text())
    for trial in tree["trials"]:
        trial["status"] = "running"
    path.write_text(json.dumps({**tree, "front": []}))
    assert draw_pictures(path) == []
