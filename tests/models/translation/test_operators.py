"""Operators in the graph: which layer each becomes, and that it computes the same."""

import numpy as np
import pytest
from fixtures.keras_3 import randomised

from tfcompress import keras_door as kd
from tfcompress.models import clone, fingerprint
from tfcompress.models.translation import translate
from tfcompress.vocabulary.errors import ModelError

ops = kd.keras_3.ops

# Each of an image `i` [2, 6, 6, 4] and a sequence `s` [2, 6, 4]: the expression, and the classes that it becomes.
EXPRESSIONS = {
    "scaled": (lambda i, s: i * 2, ["Rescaling"]),
    "shifted by a vector": (lambda i, s: i - np.arange(4, dtype="float32"), ["Rescaling"]),
    "subtracted from": (lambda i, s: 1.0 - i, ["Rescaling"]),
    "divided": (lambda i, s: i / 4, ["Rescaling"]),
    "divided by": (lambda i, s: 2 / (ops.exp(i / 255) + 1), ["Activation", "Rescaling", "Rescaling", "TFOpLambda"]),
    "added": (lambda i, s: i + i, ["Add"]),
    "multiplied": (lambda i, s: i * i, ["Multiply"]),
    "subtracted": (lambda i, s: i - ops.relu(i), ["ReLU", "Subtract"]),
    "largest": (lambda i, s: ops.maximum(i, -i), ["Maximum", "TFOpLambda"]),
    "of unequal rank": (lambda i, s: s + ops.mean(s, axis=0), ["TFOpLambda", "TFOpLambda"]),
    "at least": (lambda i, s: ops.maximum(i, 0.3), ["TFOpLambda"]),
    "power": (lambda i, s: ops.abs(i) ** 2, ["TFOpLambda", "TFOpLambda"]),
    "root": (lambda i, s: ops.sqrt(ops.abs(i)), ["TFOpLambda", "TFOpLambda"]),
    "clipped": (lambda i, s: ops.clip(i, -1, 1), ["TFOpLambda"]),
    "chosen": (lambda i, s: ops.where(ops.greater(i, 0.1), i, -i), ["TFOpLambda"] * 3),
    "cast": (lambda i, s: i * ops.cast(ops.greater(i, 0.0), "float32"), ["Multiply", "TFOpLambda", "TFOpLambda"]),
    "mean of the pixels": (lambda i, s: ops.mean(i, axis=(1, 2)), ["GlobalAveragePooling2D"]),
    "mean of the steps": (lambda i, s: ops.mean(s, axis=-2, keepdims=True), ["GlobalAveragePooling1D"]),
    "largest pixel": (lambda i, s: ops.max(i, axis=(1, 2)), ["GlobalMaxPooling2D"]),
    "mean of the channels": (lambda i, s: ops.mean(i, axis=-1), ["TFOpLambda"]),
    "sum": (lambda i, s: ops.sum(ops.square(i), axis=(1, 2)), ["TFOpLambda", "TFOpLambda"]),
    "variance": (lambda i, s: ops.var(i, axis=-1), ["TFOpLambda"]),
    "index": (lambda i, s: ops.argmax(s, axis=-1), ["TFOpLambda"]),
    "reshaped": (lambda i, s: ops.reshape(i, (-1, 36, 4)), ["Reshape"]),
    "reshaped across samples": (lambda i, s: ops.reshape(i, (-1, 4)), ["TFOpLambda"]),
    "an axis more": (lambda i, s: ops.expand_dims(s, -1), ["Reshape"]),
    "an axis less": (lambda i, s: ops.squeeze(ops.expand_dims(s, 1), 1), ["Reshape", "Reshape"]),
    "transposed": (lambda i, s: ops.transpose(i, (0, 3, 1, 2)), ["Permute"]),
    "concatenated": (lambda i, s: ops.concatenate([i, i], axis=-1), ["Concatenate"]),
    "stacked": (lambda i, s: ops.stack([s, s], axis=1), ["TFOpLambda"]),
    "repeated": (lambda i, s: ops.repeat(s, 2, axis=1), ["TFOpLambda"]),
    "sliced": (lambda i, s: i[:, 1:3, ::2, -1], ["SlicingOpLambda"]),
    "sliced with a new axis": (lambda i, s: i[:, None, ..., 1:], ["SlicingOpLambda"]),
    "product of matrices": (lambda i, s: ops.matmul(s, ops.transpose(s, (0, 2, 1))), ["Permute", "TFOpLambda"]),
    "relu": (lambda i, s: ops.relu(i), ["ReLU"]),
    "relu6": (lambda i, s: ops.relu6(i), ["ReLU"]),
    "leaky relu": (lambda i, s: ops.leaky_relu(i, 0.1), ["LeakyReLU"]),
    "elu": (lambda i, s: ops.elu(i, 0.5), ["ELU"]),
    "softmax": (lambda i, s: ops.softmax(s, axis=1), ["Softmax"]),
    "log softmax": (lambda i, s: ops.log_softmax(s), ["Activation"]),
    "hard silu": (lambda i, s: ops.hard_silu(i), ["Activation"]),
    "gelu by tanh": (lambda i, s: ops.gelu(i), ["TFOpLambda"]),
    "gelu": (lambda i, s: ops.gelu(i, approximate=False), ["Activation"]),
    "average pool": (lambda i, s: ops.average_pool(i, 2), ["AveragePooling2D"]),
    "max pool": (lambda i, s: ops.max_pool(s, 2, 1, "same"), ["MaxPooling1D"]),
}


@pytest.mark.parametrize("what", EXPRESSIONS)
def test_an_operator_is_translated(what):
    expression, classes = EXPRESSIONS[what]
    image, sequence = kd.keras_3.Input((6, 6, 4)), kd.keras_3.Input((6, 4))
    model = kd.keras_3.Model([image, sequence], [expression(image, sequence), kd.keras_3.layers.Flatten()(sequence)])
    translated = translate(model)
    of_operators = [layer for layer in translated.layers if type(layer).__name__ not in ("InputLayer", "Flatten")]
    assert sorted(type(layer).__name__ for layer in of_operators) == classes
    assert {operation.name for operation in model.operations} == {layer.name for layer in translated.layers}
    assert fingerprint(clone(translated)) == fingerprint(translated)


def test_operators_between_layers():
    inputs = kd.keras_3.Input((8, 8, 3))
    x = kd.keras_3.layers.Conv2D(4, 3)(inputs)
    x = ops.concatenate([x * ops.sigmoid(x), 1.0 - x], axis=-1)
    model = randomised(kd.keras_3.Model(inputs, kd.keras_3.layers.Dense(2)(ops.mean(x, axis=(1, 2)))))
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    np.testing.assert_allclose(translate(model)(x), model(x), rtol=1e-4, atol=1e-6)


def test_an_operator_without_counterpart_is_refused():
    inputs = kd.keras_3.Input((8, 8))
    with pytest.raises(ModelError, match=r"\(Rot90\): tf_keras has no layer for the operator Rot90\. Replace it"):
        translate(kd.keras_3.Model(inputs, ops.rot90(inputs, axes=(1, 2))))


def test_settings_that_a_function_does_not_take_are_refused():
    inputs = kd.keras_3.Input((8,))
    with pytest.raises(ModelError, match=r"operator Max\."):
        translate(kd.keras_3.Model(inputs, ops.max(inputs, axis=-1, initial=3.0)))
