import numpy as np
import pytest

from tfcompress import keras_door as kd
from tfcompress.convert.converter import quantized_tflite
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.read_back import PromiseFound, find_weight, read_promises, require_kept
from tfcompress.convert.settings import ConversionSettings
from tfcompress.vocabulary.errors import PromiseError
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import Lineage, State


def every_kind():
    """One layer of each kind whose weight can be read back, some behind BN."""
    layers = kd.keras.layers
    x = inputs = layers.Input((6, 6, 4))
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="dw")(x)
    x = layers.BatchNormalization(name="bn_dw")(x)
    x = layers.SeparableConv2D(8, 3, padding="same", name="sep")(x)
    x = layers.Conv2DTranspose(6, 3, name="up")(x)
    x = layers.BatchNormalization(name="bn_up")(x)
    x = layers.Conv2D(5, 3, activation="relu", name="conv")(x)
    x = layers.Reshape((-1, 5), name="rows")(x)
    x = layers.Conv1D(7, 3, name="conv1d")(x)
    x = layers.Dense(4, name="dense3d")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(6, name="dense_bn")(x)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn_dense")(x))
    model = kd.keras.Model(inputs, layers.Dense(3, name="out")(x), name="net")
    rng = np.random.default_rng(0)
    model.set_weights(
        [rng.normal(0, 0.3, w.shape) if w.ndim > 1 else rng.uniform(0.5, 1.5, w.shape) for w in model.get_weights()]
    )
    return model


# The Keras kernel's axes in the order of the file's.
LAYOUTS = {
    "dw/depthwise_kernel": lambda w: w.reshape(1, 3, 3, 8),
    "sep/depthwise_kernel": lambda w: w.reshape(1, 3, 3, 8),
    "sep/pointwise_kernel": lambda w: w.transpose(3, 0, 1, 2),
    "up/kernel": lambda w: w.transpose(2, 0, 1, 3),
    "conv/kernel": lambda w: w.transpose(3, 0, 1, 2),
    "conv1d/kernel": lambda w: w.transpose(2, 0, 1)[:, None],
    "dense3d/kernel": lambda w: w.T,
    "dense_bn/kernel": lambda w: w.T,
    "out/kernel": lambda w: w.T,
}


@pytest.fixture(scope="module")
def kinds():
    model = every_kind()
    inputs = np.random.default_rng(1).normal(size=(16, 6, 6, 4)).astype(np.float32)
    return model, Flatbuffer(quantized_tflite(model, "int8", ConversionSettings(), inputs))


@pytest.mark.parametrize("place", LAYOUTS)
def test_the_weight_of_every_kind_of_layer_is_found(kinds, place):
    model, flat = kinds
    layer, _, attribute = place.partition("/")
    weight, axis = find_weight(flat, place, model)
    expected = LAYOUTS[place](getattr(model.get_layer(layer), attribute).numpy())
    assert weight.shape == expected.shape
    # Channel by channel the same direction: BN has given each its own length.
    stored = np.moveaxis(weight.data.astype(np.float64), axis, 0).reshape(weight.shape[axis], -1)
    expected = np.moveaxis(expected, axis, 0).reshape(stored.shape)
    cosine = (stored * expected).sum(1) / np.linalg.norm(stored, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() > 0.999


def test_names_that_begin_alike_are_told_apart(network, int8_file):
    flat, model = Flatbuffer(int8_file), network[0]
    assert find_weight(flat, "c1/kernel", model)[0].shape == (8, 3, 3, 4)
    assert find_weight(flat, "c1_1/kernel", model)[0].shape == (8, 3, 3, 8)


def test_an_embedding_is_read_back_too():
    layers = kd.keras.layers
    ids = layers.Input((6,), dtype="int32")
    x = layers.Flatten()(layers.Embedding(20, 3, name="words")(ids))
    model = kd.keras.Model(ids, layers.Dense(2, name="out")(x), name="net")
    samples = np.random.default_rng(0).integers(0, 20, (16, 6)).astype(np.float32)
    flat = Flatbuffer(quantized_tflite(model, "int8", ConversionSettings(), samples))
    assert flat.inputs[0].dtype == "INT32"
    weight, axis = find_weight(flat, "words/embeddings", model)
    assert (weight.shape, axis) == ((20, 3), 1)


def test_a_float16_weight_is_found_behind_its_dequantize(network):
    model, inputs = network
    flat = Flatbuffer(quantized_tflite(model, "float16", ConversionSettings(), inputs))
    weight, _ = find_weight(flat, "out/kernel", model)
    assert weight.dtype == "FLOAT16"
    np.testing.assert_array_equal(weight.data, model.get_layer("out").get_weights()[0].T.astype(np.float16))


@pytest.fixture(scope="module")
def patterned():
    """A Dense whose kernel has a known pattern, and the file of it."""
    layers = kd.keras.layers
    inputs = layers.Input((8,))
    model = kd.keras.Model(inputs, layers.Dense(4, use_bias=False, name="fc")(inputs), name="net")
    kernel = np.zeros((8, 4), np.float32)
    # Of every four inputs two are zero, of the first four of output 0 three.
    kernel[[0, 2, 4, 6]] = [[1.0], [0.5], [-1.0], [0.25]]
    kernel[2, 0] = 0
    model.get_layer("fc").kernel.assign(kernel)
    samples = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    return model, kernel, Flatbuffer(quantized_tflite(model, "int8", ConversionSettings(), samples))


PROMISES = {
    Promise("fc/kernel", "zeros", 0.5, made_by="pruning"): 17 / 32,
    Promise("fc/kernel", "zeros", 0.6, made_by="pruning"): 17 / 32,
    Promise("fc/kernel", "group_zeros", 2, group=4, made_by="pruning"): 2,
    Promise("fc/kernel", "group_zeros", 3, group=4, made_by="pruning"): 2,
    Promise("fc/kernel", "distinct", 5, made_by="clustering"): 5,
    Promise("fc/kernel", "distinct", 4, made_by="clustering"): 5,
    Promise("fc/kernel", "distinct", 5, "channel", made_by="clustering"): 5,
    Promise("fc/kernel", "codewords", 5, group=4, made_by="product_quantization"): 3,
    Promise("fc/kernel", "codewords", 1, "subspace", group=4, made_by="product_quantization"): 2,
    Promise("fc/kernel", "levels", 255, made_by="quantization"): 255,
    Promise("fc/kernel", "levels", 15, made_by="quantization"): 255,
}


def test_every_kind_of_promise_is_measured_in_the_file(patterned):
    model, _, flat = patterned
    found = read_promises(flat, State(model, tuple(PROMISES)))
    assert [(f.promise, f.found) for f in found] == list(PROMISES.items())
    assert [f.kept for f in found] == [True, False, True, False, True, False, True, True, False, True, False]


def test_every_broken_promise_is_named_with_what_was_found(patterned):
    model, _, flat = patterned
    with pytest.raises(PromiseError) as failure:
        require_kept(read_promises(flat, State(model, tuple(PROMISES))))
    lines = str(failure.value).splitlines()[1:]
    assert [line.strip() for line in lines] == [
        "fc/kernel: pruning promised zeros 0.6, the file has 0.53125",
        "fc/kernel: pruning promised group_zeros 3, the file has 2",
        "fc/kernel: clustering promised distinct 4, the file has 5",
        "fc/kernel: product_quantization promised codewords 1, the file has 2",
        "fc/kernel: quantization promised levels 15, the file has 255",
    ]


def test_promises_that_are_kept_pass(patterned):
    model, _, flat = patterned
    kept = tuple(p for p, found in PROMISES.items() if p.is_kept_by(found))
    require_kept(read_promises(flat, State(model, kept)))
    require_kept(())
    assert PromiseFound(kept[0], 0.5).kept


def test_a_weight_that_moved_is_read_where_it_is(patterned):
    model, _, flat = patterned
    promise = Promise("before/kernel", "zeros", 0.5)
    state = State(model, (promise,), Lineage().moved({"before/kernel": "fc/kernel"}))
    assert read_promises(flat, state)[0].found == 17 / 32


def test_a_weight_that_is_not_in_the_file_is_an_error(patterned):
    model, _, flat = patterned
    with pytest.raises(PromiseError, match=r"ghost/kernel .* 0 constants carry the name .*Remedy: exclude ghost"):
        read_promises(flat, State(model, (Promise("ghost/kernel", "zeros", 0.5),)))


def test_two_layers_with_the_same_weights_are_an_error_with_a_remedy():
    layers = kd.keras.layers
    inputs = layers.Input((8,))
    first, second = layers.Dense(4, name="first"), layers.Dense(4, name="second")
    model = kd.keras.Model(inputs, layers.Add()([layers.ReLU()(first(inputs)), second(inputs)]), name="net")
    second.set_weights(first.get_weights())
    samples = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    flat = Flatbuffer(quantized_tflite(model, "int8", ConversionSettings(), samples))
    promises = tuple(Promise(f"{name}/kernel", "zeros", 0.0) for name in ("first", "second"))
    with pytest.raises(PromiseError, match=r"same weights as another loses its name.*give it weights of its own"):
        read_promises(flat, State(model, promises))
