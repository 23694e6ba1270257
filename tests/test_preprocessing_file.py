"""A preprocessing written down: the same words as in a recipe, beside the model's file."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfcompress.data import load_data
from tfcompress.preprocessing_choice import choose_preprocessing
from tfcompress.preprocessing_file import parse_preprocessing, read_sidecar, sidecar_of, sidecar_text
from tfcompress.recipe import load_recipe
from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.preprocessing import NAMED, Preprocessing

BYTES = load_data((np.zeros((20, 4, 4, 1), np.uint8), np.arange(20) % 2))
NUMBERS = st.floats(1e-6, 1e6) | st.floats(-1e6, -1e-6)


def choose(path, preprocessing="auto"):
    recipe = load_recipe({"steps": [{"technique": "post_training"}], "data": {"preprocessing": preprocessing}})
    return choose_preprocessing(recipe, BYTES, None, from_zoo=False, seed=0, path=path)


@given(NUMBERS | st.lists(NUMBERS, min_size=3, max_size=3).map(tuple), NUMBERS)
@settings(max_examples=30, deadline=None)
def test_what_is_written_is_read_back_exactly(scale, offset):
    for way in (*NAMED.values(), Preprocessing(scale=scale, offset=offset), Preprocessing(name="unit", scale=scale)):
        assert parse_preprocessing("here", sidecar_text(way)) == way


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("auto", ["must be one of raw, unit, signed, {mean, std}", "Received: auto"]),
        ("", ["must be one of raw", "Received: None"]),
        ("[1, 2]", ["must be one of raw", "Received: [1, 2]"]),
        ("{mean: [1, 2], std: [1, 0]}", ["std must be greater than 0"]),
        ("{mean: 1}", ["std: this key is required"]),
        ("mean: 1\nstd: 2\nvariance: 4", ["line 3, variance: unknown key"]),
        ("scale: 1\nofset: 2", ["line 2, ofset: unknown key. Did you mean `offset`?"]),
        ("{scale: big, offset: [x]}", ["scale", "offset", "Received: 'big'"]),
        ("scale: 1\nscale: 2", ["`scale` in lines 1 and 2"]),
        ("{scale: [", ["is not valid YAML"]),
    ],
)
def test_what_says_no_preprocessing_is_refused_with_its_place(tmp_path, text, problems):
    with pytest.raises(RecipeError) as caught:
        parse_preprocessing("--preprocessing", text)
    assert str(caught.value).startswith("--preprocessing")
    assert all(problem in str(caught.value) for problem in problems), str(caught.value)
    (tmp_path / "net.preprocessing.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"net\.preprocessing\.yaml"):
        choose(tmp_path / "net.h5")


def test_the_file_beside_the_model_is_taken_and_the_recipe_wins(tmp_path):
    model = tmp_path / "net.v2.h5"
    assert read_sidecar(model) is None
    (tmp_path / "net.v2.preprocessing.yaml").write_text("mean: 100\nstd: 50\n")
    found, by = choose(model)
    assert (found.scale, found.offset) == (0.02, -2)
    assert by == "net.v2.preprocessing.yaml, beside the model"
    assert choose(model, "signed") == (NAMED["signed"], "the recipe")


def test_a_folder_has_it_beside_itself(tmp_path, monkeypatch):
    folder = tmp_path / "saved.model"
    folder.mkdir()
    assert sidecar_of(folder) == tmp_path / "saved.model.preprocessing.yaml"
    monkeypatch.chdir(folder)
    assert sidecar_of(Path()) == sidecar_of(folder)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "net.preprocessing.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"net\.preprocessing\.yaml must be a YAML text in UTF-8.*Remedy"):
        choose(tmp_path / "net.h5")
