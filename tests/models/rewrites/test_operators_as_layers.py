import numpy as np
import pytest

from tfcompress import keras_door as kd
from tfcompress.models.rewrites import ENABLING, rewrite
from tfcompress.techniques.quantization import unsupported

VECTOR = np.array([0.5, -2.0, 3.0, 1.5], "float32")

ON_ONE = {
    "constants": lambda x: 3.0 - (2.0 * x + 1.0) / 4.0,
    "vectors": lambda x: (x - VECTOR) * VECTOR / kd.tf.constant(VECTOR),
    "negative": lambda x: -x,
    "square": lambda x: kd.tf.square(x),
    "relu6": lambda x: kd.tf.nn.relu6(4 * x),
    "leaky": lambda x: kd.tf.nn.leaky_relu(x, alpha=0.3),
    "activations": lambda x: kd.tf.nn.relu(x) + kd.tf.nn.silu(x) + kd.tf.sigmoid(x) + kd.tf.tanh(x) + kd.tf.nn.gelu(x),
    "softmax": lambda x: kd.tf.nn.softmax(x),
    "clip": lambda x: kd.tf.clip_by_value(x, 0.0, 0.5) + kd.tf.clip_by_value(6 * x, 0.0, 6.0),
    "hard_sigmoid": lambda x: kd.keras.activations.hard_sigmoid(3 * x),
    "with_each_other": lambda x: (x + kd.tf.nn.relu(x)) * (x - kd.tf.sigmoid(x)),
    "concat": lambda x: kd.tf.concat([x, x * 2], -1),
    "cast": lambda x: kd.tf.identity(kd.tf.cast(x, "float32")) * 2,
}
ON_IMAGES = {
    "reshape": lambda x: kd.tf.reshape(x, [-1, 18, 8]),
    "reshape_by_size": lambda x: kd.tf.reshape(x, [kd.tf.shape(x)[0], 6, 24]),
    "squeeze": lambda x: kd.tf.squeeze(kd.tf.expand_dims(x, 1), [1]),
    "mean": lambda x: kd.tf.reduce_mean(x, [1, 2]),
    "mean_kept": lambda x: x * kd.tf.reduce_mean(x, [2, 1], keepdims=True),
    "max": lambda x: kd.tf.reduce_max(x, [1, 2]),
    "transpose": lambda x: kd.tf.transpose(x, [0, 2, 1, 3]),
    "pad": lambda x: kd.tf.pad(x, [[0, 0], [1, 0], [2, 1], [0, 0]]),
}
CASES = [
    *[(name, shape) for name in ON_ONE for shape in [(6, 6, 4), (4,)]],
    *[(name, (6, 6, 4)) for name in ON_IMAGES],
]


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_an_operator_becomes_layers_that_can_be_trained_as_integers(layers, same_outputs, name, shape):
    inputs = layers.Input(shape)
    model = kd.keras.Model(inputs, {**ON_ONE, **ON_IMAGES}[name](inputs))
    done = rewrite(model, ENABLING)
    assert same_outputs(model, done.model)
    assert unsupported(model)
    assert unsupported(done.model) == []
    assert not [layer.name for layer in done.model.layers if hasattr(layer, "symbol")]


@pytest.mark.parametrize(
    "operator",
    [
        lambda x: 1.0 / x,
        lambda x: kd.tf.exp(x),
        lambda x: x + np.ones((6, 6, 1), "float32"),
        lambda x: kd.tf.reduce_mean(x, 1),
        lambda x: kd.tf.reduce_sum(x, [1, 2]),
        lambda x: kd.tf.nn.silu(x, beta=2.0),
        lambda x: kd.tf.clip_by_value(x, -1.0, 1.0),
        lambda x: kd.tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT"),
        lambda x: kd.tf.cast(x, "float64"),
    ],
)
def test_an_operator_without_a_layer_stays(layers, operator):
    inputs = layers.Input((6, 6, 4))
    assert rewrite(kd.keras.Model(inputs, operator(inputs)), ENABLING).changes == ()


def test_an_average_becomes_a_sum_and_a_factor(layers, same_outputs):
    inputs = layers.Input((6, 6, 4))
    model = kd.keras.Model(inputs, layers.Average(name="mean")([inputs, layers.ReLU()(inputs)]))
    done = rewrite(model, ENABLING)
    assert same_outputs(model, done.model)
    assert unsupported(done.model) == []
    assert done.changes[0].became == ("mean_sum", "mean_share")
