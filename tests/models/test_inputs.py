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


@pytest.mark.parametrize("sequential", [True, False])
def test_an_embedding_behind_real_numbers_is_refused_with_the_remedy(sequential):
    layers = kd.keras.layers
    model = network("float32")
    if sequential:
        model = kd.keras.Sequential([layers.Embedding(11, 4, input_length=5, name="words"), layers.Flatten()])
    with pytest.raises(ModelError, match=r"'words'.*float32.*dtype='int32'"):
        token_limit(model)
