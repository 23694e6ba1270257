import pytest

from tfcompress.recipe import load_recipe
from tfcompress.tuning.epochs import last_epochs, with_epochs
from tfcompress.tuning.space import load_space
from tfcompress.vocabulary.errors import SearchError

STEPS = [
    {"technique": "pruning", "final_sparsity": {"choice": [0.5, 0.8]}, "fit": {"epochs": 4}},
    {"technique": "quantization", "fit": {"epochs": 9, "decay": "constant"}},
]


def test_the_last_step_that_trains_is_given_epochs():
    space = load_space({"steps": STEPS})
    tree = space.fill(space.default())
    assert last_epochs(load_recipe(tree), space) == 9
    shorter = with_epochs(tree, 3)
    assert [step["fit"]["epochs"] for step in shorter["steps"]] == [4, 3]
    assert shorter["steps"][1]["fit"]["decay"] == "constant"
    assert tree["steps"][1]["fit"]["epochs"] == 9
    before_calibration = {"steps": [STEPS[0] | {"final_sparsity": 0.5}, {"technique": "post_training"}]}
    assert with_epochs(before_calibration, 2)["steps"][0]["fit"]["epochs"] == 2


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([{"technique": "post_training", "number_format": {"choice": ["int8", "float16"]}}], "no step of the recipe"),
        ([STEPS[1] | {"fit": {"epochs": {"int": [1, 9]}}}], r"quantization\.fit\.epochs is a hole"),
    ],
)
def test_what_has_no_epochs_to_give_out_is_refused(steps, words):
    space = load_space({"steps": steps})
    with pytest.raises(SearchError, match=words):
        last_epochs(load_recipe(space.fill(space.default())), space)
