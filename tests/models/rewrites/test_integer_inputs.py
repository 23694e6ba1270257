import numpy as np
import pytest

from tfcompress import keras_door as kd
from tfcompress.models.rewrites import OPENING, rewrite

IDS = np.random.default_rng(0).integers(0, 11, (16, 6))


@pytest.mark.parametrize(
    "between", [[], ["Reshape", (2, 3)], ["Permute", (1,)], ["Flatten"], ["RepeatVector", 2]], ids=str
)
def test_ids_are_taken_as_integers_and_give_the_same(layers, randomised, same_outputs, between):
    moved = [getattr(layers, between[0])(*between[1:])] if between else []
    stack = [layers.Embedding(11, 4, mask_zero=not moved, name="words"), layers.Flatten(), layers.Dense(3)]
    model = randomised(kd.keras.Sequential([layers.InputLayer((6,), name="ids"), *moved, *stack]))
    done = rewrite(model, OPENING)
    assert (model.inputs[0].dtype.name, done.model.inputs[0].dtype.name) == ("float32", "int32")
    assert done.model.input_names == ["ids"]
    assert same_outputs(model, done.model, IDS, tolerance=0)
    assert [(c.rewrite, c.layer, c.became) for c in done.changes] == [("integer_inputs", "ids", ("ids",))]
    assert rewrite(done.model, OPENING).changes == ()


def test_masked_ids_mask_the_same_steps(layers, randomised, same_outputs):
    stack = [layers.Embedding(11, 4, mask_zero=True, input_length=6), layers.LSTM(3)]
    model = randomised(kd.keras.Sequential(stack))
    assert same_outputs(model, rewrite(model, OPENING).model, np.minimum(IDS, 3) % 3)


def test_one_of_two_inputs(layers, randomised, same_outputs):
    ids, numbers = layers.Input((6,), name="ids"), layers.Input((4,), name="numbers")
    words = layers.Flatten()(layers.Embedding(11, 2)(ids))
    model = kd.keras.Model([numbers, ids], layers.Dense(2)(layers.Concatenate()([words, numbers])))
    done = rewrite(randomised(model), OPENING)
    assert [tensor.dtype.name for tensor in done.model.inputs] == ["float32", "int32"]
    assert same_outputs(model, done.model, np.ones((16, 4), np.float32), IDS)


def test_what_other_layers_take_too_stays(layers):
    numbers = layers.Input((6,))
    words = layers.Flatten()(layers.Embedding(11, 2)(numbers))
    used_twice = kd.keras.Model(numbers, layers.Concatenate()([words, layers.Dense(2)(numbers)]))
    given_back = kd.keras.Model(numbers, [words, layers.Reshape((3, 2))(numbers)])
    for model in (used_twice, given_back, kd.keras.Sequential([layers.Input((6,)), layers.Dense(2)])):
        assert rewrite(model, OPENING).changes == ()
