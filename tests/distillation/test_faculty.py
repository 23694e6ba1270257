"""The teachers of a recipe: read once, told by what they are, and refused all at once."""

import shutil

import numpy as np
import pytest
from fixtures import models

from tfcompress import keras_door as kd
from tfcompress.distillation.faculty import gathered
from tfcompress.feasibility import preflight
from tfcompress.models.loading import fingerprint, load_model
from tfcompress.preparation import open_job
from tfcompress.recipe import load_recipe
from tfcompress.vocabulary.errors import ModelError, RecipeError

POST = {"technique": "post_training"}


def recipe_of(**distillation):
    return load_recipe({"steps": [{"technique": "fine_tuning", "fit": {"distillation": distillation}}, POST]})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Teachers: like the student, of other classes, of other inputs; and a file that is none."""
    folder = tmp_path_factory.mktemp("teachers")
    models.conv_bn(seed=5).save(folder / "good.h5")
    layers = kd.keras.layers
    inputs = layers.Input(models.SHAPE)
    kd.keras.Model(inputs, layers.Dense(7)(layers.Flatten()(inputs))).save(folder / "seven.h5")
    models.dense().save(folder / "flat.h5")
    (folder / "broken.tflite").write_bytes(b"no flatbuffer at all")
    return folder


def test_every_problem_is_named_at_once_with_its_place(files):
    wrong = recipe_of(
        teacher=[f"{files}/{name}" for name in ("good.h5", "seven.h5", "flat.h5", "none.h5", "broken.tflite")],
        features=[{"student": "relu_c2", "teacher": "c1"}, {"student": "relu_c1", "teacher": "out"}],
    )
    net = models.conv_bn()
    found = "\n".join(gathered(wrong, None, False).problems(wrong, net, net))
    for expected in (
        f"{files}/seven.h5: 7, the student has 3",
        f"{files}/flat.h5: (8,), the student's are (6, 6, 4)",
        f"There is nothing at '{files}/none.h5'",
        f"{files}/broken.tflite",
        "relu_c2 must be a layer of the student. Did you mean relu_c1",
        "features must have the same positions",
    ):
        assert expected in found
    assert all(line.startswith("fine_tuning.fit.distillation.") for line in found.splitlines()[:1])
    report = preflight(net, wrong)
    assert set(found.splitlines()) <= set("\n".join(report.problems(wrong)).splitlines())
    data = models.inputs_for(net, 40), np.arange(40) % models.CLASSES
    with pytest.raises(RecipeError) as refused:
        open_job(net, data, wrong)
    assert found in str(refused.value)


def test_a_tflite_teacher_has_no_layers(files):
    wrong = recipe_of(teacher=f"{files}/broken.tflite", gradient_weight=1)
    found = gathered(wrong, None, False).problems(wrong, models.conv_bn(), models.conv_bn())
    assert any("has none. Remedy: put a Keras model first" in problem for problem in found)


def test_gradients_need_inputs_of_real_numbers():
    layers = kd.keras.layers
    tokens = layers.Input((5,), dtype="int32")
    net = kd.keras.Model(tokens, layers.Dense(2)(layers.Flatten()(layers.Embedding(9, 3)(tokens))))
    wrong = recipe_of(gradient_weight=1)
    found = gathered(wrong, None, False).problems(wrong, net, net)
    assert len(found) == 1
    assert "not integers such as token ids" in found[0]


def test_steps_without_epochs_need_no_teacher():
    idle = load_recipe(
        {"steps": [{"technique": "fine_tuning", "fit": {"epochs": 0, "distillation": {"teacher": "none.h5"}}}, POST]}
    )
    assert gathered(idle, None, False).networks == {}
    assert gathered(idle, None, False).problems(idle, models.conv_bn(), models.conv_bn()) == []


def test_a_run_is_told_by_what_its_teachers_are_and_not_by_where_they_lie(files, tmp_path):
    shutil.copy(files / "good.h5", tmp_path / "moved.h5")
    models.conv_bn(seed=6).save(tmp_path / "other.h5")
    net = models.conv_bn()
    data = models.inputs_for(net, 40), np.arange(40) % models.CLASSES

    def identity(path):
        return open_job(net, data, recipe_of(teacher=str(path)), overrides=["data.preprocessing=raw"]).identity

    good = identity(files / "good.h5")
    assert good == identity(tmp_path / "moved.h5")
    assert good != identity(tmp_path / "other.h5")
    told = good["recipe"]["steps"][0]["fit"]["distillation"]["teacher"][0]["model"]
    assert told == fingerprint(load_model(files / "good.h5"))


def test_a_keras_model_may_teach_in_python():
    net, large = models.conv_bn(), models.conv_bn(seed=5)
    recipe = recipe_of(teacher=large)
    faculty = gathered(recipe, None, False)
    assert faculty.problems(recipe, net, net) == []
    assert faculty.identified(recipe)["steps"][0]["fit"]["distillation"]["teacher"][0]["model"] == fingerprint(large)


def test_no_model_is_no_teacher(tmp_path):
    with pytest.raises(RecipeError, match="must be `float`, the path of a Keras model"):
        recipe_of(teacher=3)
    with pytest.raises((ModelError, RecipeError)):
        open_job(models.conv_bn(), (models.inputs_for(models.conv_bn(), 40), np.arange(40) % 3), recipe_of(teacher="n"))
