"""What a search refuses before it looks for a model, data or TensorFlow."""

import json
import os
import socket
import subprocess
import sys

import pytest

from tfcompress.measure import versions
from tfcompress.tuning import request as module
from tfcompress.tuning.request import checked_request
from tfcompress.tuning.search import search
from tfcompress.tuning.trials import Trial
from tfcompress.vocabulary.errors import RecipeError, RunFolderError, SearchError

SPACE = {
    "name": "small",
    "steps": [
        {"technique": "pruning", "final_sparsity": {"choice": [0.5, 0.9]}},
        {"technique": "quantization", "per_layer": {"choice": [3, 8]}},
    ],
}
GOAL = {"objectives": ["bytes"], "bounds": {"drop_points": 1}}


def refused(error, words, recipe=SPACE, **change):
    # Neither is there: what is refused below is refused before they are looked for.
    with pytest.raises(error, match=words) as failure:
        search("no_such_network", "no_such_data", recipe, **{**GOAL, **change})
    return str(failure.value)


def asked(objectives):
    rest = {"max_trials": 5, "oracle": "pareto", "choose": lambda: None, "sensitivity": None, "out": None, "seed": 0}
    return checked_request("net.h5", "digits", SPACE, (), **{**GOAL, "objectives": objectives}, **rest)


@pytest.fixture
def folder(tmp_path):
    """Of a search that has three trials."""
    request = asked(GOAL["objectives"])
    space = json.loads(json.dumps(request.identity(request.draft)["space"]))
    # As the search records it, which knows the layers.
    space["steps"][1]["per_layer"] = {"fc1": {"hole": {}}}
    identity = {**request.identity(request.draft), "space": space, "seed": 0, "versions": versions(), "model": "x"}
    (tmp_path / "run.json").write_text(json.dumps(identity))
    for number in range(3):
        (tmp_path / "trials" / f"{number:04d}").mkdir(parents=True)
        trial = Trial(number=number, values={}, asked_after=0)
        (tmp_path / "trials" / f"{number:04d}" / "trial.json").write_text(trial.model_dump_json())
    return tmp_path


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"objectives": ["speed"]}, SearchError, "an objective must be one of .* Received: speed"),
        ({"oracle": "gird"}, SearchError, "Did you mean grid"),
        ({"max_trials": 0}, SearchError, "max_trials must be at least 1"),
        ({"executor": "raid"}, SearchError, "executor must be one of"),
        ({"ray_address": "10.0.0.1:1"}, SearchError, "of the executor ray only"),
        ({"recipe": "no_such_recipe"}, RecipeError, "must be a YAML file or the name of one that ships"),
        ({"recipe": "ptq_int8"}, RecipeError, "has no hole"),
        (
            {"recipe": SPACE | {"data": {"validation_fraction": {"float": [0.1, 0.2]}}}},
            RecipeError,
            "cannot stand here",
        ),
        ({"recipe": SPACE | {"task": {"metric": {"choice": ["a", "b"]}}}}, RecipeError, "cannot stand here"),
        (
            {"overrides": ["pruning.final_sparsity={choice: [0.5, 2]}"]},
            RecipeError,
            "final_sparsity: must be less than 1",
        ),
        ({"overrides": ["quantization.per_layer={choice: [3, 99]}"]}, RecipeError, "99"),
        ({"sensitivity": "nowhere"}, SearchError, r"has no sensitivity\.json"),
        (
            {"oracle": "hyperband", "overrides": ["quantization.fit.epochs={choice: [1, 2]}"]},
            SearchError,
            r"quantization\.fit\.epochs is a hole",
        ),
    ],
)
def test_what_needs_no_model_is_refused_before_one_is_looked_for(change, error, words):
    refused(error, words, **change)


def test_a_cluster_that_does_not_answer_is_refused_before_a_model_is_looked_for():
    pytest.importorskip("ray", reason="Ray is an extra, and not installed: tfcompress[ray]")
    with socket.create_server(("127.0.0.1", 0)) as server:
        free_port = server.getsockname()[1]
    refused(SearchError, "No Ray cluster answers", executor="ray", ray_address=f"127.0.0.1:{free_port}")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"objectives": ["macs"]}, r"differs in: objectives\[0\]"),
        ({"bounds": {}}, r"differs in: bounds\.drop_points \(1.0 there, null now\)"),
        ({"oracle": "grid"}, "differs in: oracle"),
        ({"seed": 1}, "differs in: seed"),
        ({"overrides": ["pruning.begin=0.1"]}, r"differs in: space\.steps\[0\]\.begin"),
        ({"overrides": ["pruning.final_sparsity={choice: [0.5, 0.8]}"]}, r"differs in: space\.steps\[0\]"),
    ],
)
def test_another_search_is_refused_in_the_same_folder(folder, change, words):
    refused(RunFolderError, words, out=folder, **change)


@pytest.mark.parametrize(("objective", "here"), [("latency_ratio", {"hardware": {"cores": 99}}), ("bytes", {})])
def test_a_search_for_latency_is_of_one_machine(monkeypatch, objective, here):
    monkeypatch.setattr(module, "hardware", lambda: {"cores": 99})
    request = asked([objective])
    identity = request.identity(request.draft)
    assert {key: identity[key] for key in identity.keys() & {"hardware"}} == here


def test_fewer_trials_than_there_are_is_refused(folder):
    refused(SearchError, "holds 3. Received: max_trials=2. Remedy: at least 3", out=folder, max_trials=2)


def test_in_its_own_folder_a_search_goes_on_to_its_model(folder):
    with pytest.raises(Exception, match="no_such_network"):
        search("no_such_network", "no_such_data", SPACE, **GOAL, out=folder, max_trials=3)


def test_all_problems_are_told_at_once(folder):
    message = refused(
        SearchError, "cannot be carried out", out=folder, max_trials=2, oracle="gird", objectives=["speed"], workers=0
    )
    for words in ("gird", "speed", "workers must be", "holds 3"):
        assert words in message


def test_it_needs_no_tensorflow(folder):
    code = (
        "import sys\nfrom tfcompress.cli.main import main\n"
        f"code = main(['search', '--model=lenet300', '--dataset=digits', '--out={folder}', '--max_trials=2'])\n"
        "heavy = [m for m in ('tensorflow', 'tf_keras', 'keras_tuner', 'ai_edge_litert') if m in sys.modules]\n"
        "sys.exit(f'{code} {heavy}' if code != 1 or heavy else 0)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "holds 3" in done.stderr
