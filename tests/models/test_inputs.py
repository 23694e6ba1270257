import pytest

from tfcompress import keras_door as kd
from tfcompress.models.inputs import input_dtype, token_limit
from tfcompress.vocabulary.errors import ModelError


def network(dtype="int32"):
    layers = kd.keras.layers
    tokens = layers.Input((5,), dtype=dtype)
    x = layers.GlobalAveragePooling1D()(layers.Embedding(11, 4, name="words")(tokens))
    return kd.keras.Model(tokens, layers.Dense(3)(x))


def test_the_rows_of_the_embedding_are_what_it_knows():
    assert (input_dtype(network()), token_limit(network())) == ("int32", 11)


def test_a_model_without_an_embedding_behind_its_input_knows_no_tokens():
    layers = kd.keras.layers
    pixels = layers.Input((5,))
    index = layers.Embedding(7, 2)(layers.Lambda(lambda x: kd.tf.cast(x > 0, "int32"))(pixels))
    model = kd.keras.Model(pixels, layers.Flatten()(index))
    assert (input_dtype(model), token_limit(model)) == ("float32", None)


def test_an_embedding_in_a_nested_model_is_looked_into():
    layers = kd.keras.layers
    ids = layers.Input((6,), dtype="int32")
    inner = kd.keras.Sequential([layers.Reshape((5,), input_shape=(5,)), network()], name="inner")
    model = kd.keras.Model(ids, inner(layers.Reshape((6,))(ids)[:, 1:]))
    assert token_limit(model) is None, "what an operator gives is not the input"
    assert token_limit(kd.keras.Sequential([layers.InputLayer((5,), dtype="int32"), inner])) == 11


class Words(kd.keras.layers.Layer):
    """A custom layer that looks words up, and their places in a smaller table."""

    def __init__(self, **more):
        super().__init__(**more)
        self.tables = [kd.keras.layers.Embedding(rows, 2) for rows in (11, 5)]

    def call(self, ids):
        return self.tables[0](ids) + self.tables[1](kd.tf.range(5))


def test_a_custom_layer_that_holds_an_embedding_is_refused_by_name_behind_real_numbers():
    layers = kd.keras.layers
    for dtype in ("int32", "float32"):
        ids = layers.Input((5,), dtype=dtype)
        inner = layers.Input((5,), dtype=dtype)
        inner = kd.keras.Model(inner, Words(name="inner_words")(inner))
        model = kd.keras.Model(ids, layers.Add()([Words(name="words")(ids), inner(ids)]))
        if dtype == "int32":
            assert token_limit(model) is None
    with pytest.raises(ModelError, match=r"float32 are taken by 'words' \(Words\), 'inner_words' \(Words\)\. Remedy"):
        token_limit(model)


@pytest.mark.parametrize("sequential", [True, False])
def test_an_embedding_behind_real_numbers_is_refused_with_the_remedy(sequential):
    layers = kd.keras.layers
    model = network("float32")
    if sequential:
        model = kd.keras.Sequential([layers.Embedding(11, 4, input_length=5, name="words"), layers.Flatten()])
    with pytest.raises(ModelError, match=r"float32.*'words'.*dtype='int32'"):
        token_limit(model)
