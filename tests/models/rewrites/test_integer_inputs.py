import numpy as np
import pytest

from tfcompress import keras_door as kd
from tfcompress.models.rewrites import ENABLING, OPENING, rewrite

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


def nested(layers, *, sequential=True, depth=1, shared=False):
    stack = [layers.Embedding(11, 4, mask_zero=True, name="words"), layers.GlobalAveragePooling1D(name="mean")]
    if sequential:
        inner = kd.keras.Sequential([layers.InputLayer((6,)), *stack], name="inner")
    else:
        x = ids = layers.Input((6,))
        for layer in stack:
            x = layer(x)
        inner = kd.keras.Model(ids, x, name="inner")
    for level in range(depth - 1):
        inner = kd.keras.Sequential([layers.InputLayer((6,)), inner], name=f"level{level}")
    ids = layers.Input((6,), name="ids")
    x = inner(layers.Reshape((6,))(ids))
    x = layers.Concatenate()([x, inner(ids)]) if shared else x
    return kd.keras.Model(ids, layers.Dense(2, name="out")(x))


@pytest.mark.parametrize("how", [{}, {"sequential": False}, {"depth": 3}, {"shared": True}], ids=str)
def test_nested_models_are_looked_into(layers, randomised, same_outputs, how):
    model = randomised(nested(layers, **how))
    done = rewrite(model, OPENING)
    models = [done.model, *(layer for layer in done.model._flatten_layers() if isinstance(layer, kd.keras.Model))]
    assert {part.inputs[0].dtype.name for part in models} == {"int32"}
    assert [layer.name for layer in done.model.layers] == [layer.name for layer in model.layers]
    assert next(change.layer for change in done.changes) == "ids"
    assert same_outputs(model, done.model, IDS, tolerance=0)
    assert rewrite(done.model, OPENING).changes == ()
    assert same_outputs(model, rewrite(model, (*OPENING, *ENABLING)).model, IDS)


def test_one_of_two_inputs_of_a_nested_model(layers, randomised, same_outputs):
    def model():
        ids, numbers = layers.Input((6,), name="ids"), layers.Input((4,), name="numbers")
        words = layers.Flatten()(layers.Embedding(11, 2)(ids))
        return [numbers, ids], layers.Dense(2)(layers.Concatenate()([words, numbers]))

    inner = kd.keras.Model(*model())
    ends = [layers.Input((4,)), layers.Input((6,))]
    outer = randomised(kd.keras.Model(ends, inner(ends)))
    done = rewrite(outer, OPENING)
    assert [tensor.dtype.name for tensor in done.model.inputs] == ["float32", "int32"]
    assert same_outputs(outer, done.model, np.ones((16, 4), np.float32), IDS)


def test_what_other_layers_take_too_stays(layers):
    numbers = layers.Input((6,))
    words = layers.Flatten()(layers.Embedding(11, 2)(numbers))
    used_twice = kd.keras.Model(numbers, layers.Concatenate()([words, layers.Dense(2)(numbers)]))
    given_back = kd.keras.Model(numbers, [words, layers.Reshape((3, 2))(numbers)])
    within = kd.keras.Sequential([layers.InputLayer((6,)), used_twice])
    for model in (used_twice, given_back, within, kd.keras.Sequential([layers.Input((6,)), layers.Dense(2)])):
        assert rewrite(model, OPENING).changes == ()
