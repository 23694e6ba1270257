import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from tfcompress.techniques.base import ANY_STAGE, STAGES, StepPlan, Technique, select_layers, techniques, value_for
from tfcompress.techniques.post_training import PostTraining
from tfcompress.techniques.pruning import Pruning
from tfcompress.techniques.quantization import Quantization
from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.state import State

LAYERS = ["conv1", "conv2", "fc"]


def test_every_technique_of_the_folder_is_found_by_its_name():
    found = techniques()
    assert found["pruning"] is Pruning
    assert found["quantization"] is Quantization
    assert found["post_training"] is PostTraining
    assert all(
        cls.stage in (*STAGES, ANY_STAGE) for name, cls in found.items() if cls.__module__.startswith("tfcompress.")
    )


def test_schemas_need_no_tensorflow():
    code = (
        "import sys; from tfcompress.techniques.base import techniques; techniques(); "
        "sys.exit(any(m.partition('.')[0] in ('tensorflow', 'tf_keras') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_step_is_named_after_its_technique_unless_it_has_a_name():
    assert Pruning().name == "pruning"
    assert Pruning(name="again").name == "again"
    with pytest.raises(ValidationError, match="name"):
        Pruning(name="a.b")


def test_the_verbs_do_nothing_by_default():
    class Idle(Technique):
        stage = "sparse"
        technique: str = "idle"

    step, state, plan = Idle(), State("model"), StepPlan(3, 2, np.zeros((1, 4)), 0)
    assert step.check("model") is None
    assert step.prepare(state, plan) is state
    assert step.finish(state) is state
    assert step.objective(abs) is abs
    assert step.callbacks(state) == []
    assert step.problems_after([step]) == []
    assert step.first_selectable_epoch(plan) == 0
    assert plan.total_steps == 6


@pytest.mark.parametrize(
    ("include", "exclude", "chosen"),
    [
        (None, [], LAYERS),
        (["fc", "conv*"], [], LAYERS),
        (["conv?"], ["*2"], ["conv1"]),
        (None, ["fc"], ["conv1", "conv2"]),
    ],
)
def test_layers_are_chosen_by_patterns_in_the_models_order(include, exclude, chosen):
    assert select_layers(LAYERS, include, exclude, where="step") == chosen


def test_every_pattern_without_a_layer_is_named_at_once():
    with pytest.raises(RecipeError) as failure:
        select_layers(LAYERS, ["conv*", "dense*"], ["FC"], where="pruning")
    assert "pruning: " in str(failure.value)
    assert "No match for: dense*, FC." in str(failure.value)
    assert "conv1, conv2, fc" in str(failure.value)
    with pytest.raises(RecipeError, match="none"):
        select_layers([], ["conv*"], where="pruning")


def test_the_last_pattern_that_matches_decides():
    per_layer = {"*": 8, "conv*": 4, "conv2": 2}
    assert [value_for(name, 5, per_layer) for name in LAYERS] == [4, 2, 8]
    assert value_for("fc", 5, {"conv*": 4}) == 5
