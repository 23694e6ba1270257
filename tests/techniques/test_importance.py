"""Every importance against NumPy, on networks small enough to be computed by hand."""

import numpy as np
import pytest
from fixtures import models

from tfcompress import keras_door as kd
from tfcompress.models.channels import channel_groups
from tfcompress.models.channels.groups import Member
from tfcompress.techniques._importance import combined, importances
from tfcompress.techniques.base import StepPlan
from tfcompress.vocabulary.errors import RecipeError

COUNT = 40
"""More samples than one batch has, so that the last one is smaller."""


def groups_of(model):
    return [group for group in channel_groups(model) if not group.frozen]


def told(method, model, inputs=None, targets=None, loss=None, seed=0):
    inputs = models.inputs_for(model, COUNT) if inputs is None else inputs
    plan = StepPlan(1, 1, inputs, seed, targets=targets, loss=loss)
    return importances(method, model, groups_of(model), plan, where="channels")


def normalized(scores):
    return scores / scores.mean()


@pytest.fixture
def network():
    """Two linear Dense layers with ReLU between them: everything about it can be written down."""
    return models.dense()


@pytest.fixture
def parts(network):
    """Its inputs, targets, hidden activations, and the gradients of the mean squared error by output and hidden."""
    inputs = models.inputs_for(network, COUNT)
    targets = np.random.default_rng(5).normal(size=(COUNT, models.CLASSES)).astype(np.float32)
    (w1, b1), (w2, b2) = (network.get_layer(name).get_weights() for name in ("hidden", "out"))
    before = inputs @ w1 + b1
    hidden = np.maximum(before, 0)
    by_output = 2 * (hidden @ w2 + b2 - targets) / models.CLASSES
    return inputs, targets, hidden, by_output @ w2.T, before > 0


def test_norms_are_of_the_filters_of_all_layers_that_make_a_channel():
    model = models.residual()
    kernels = [models.kernel_of(model, name).reshape(-1, 8) for name in ("stem", "branch")]
    for method, norm in (("l1", lambda k: np.abs(k).sum(0)), ("l2", lambda k: np.sqrt((k**2).sum(0)))):
        expected = (normalized(norm(kernels[0])) + normalized(norm(kernels[1]))) / 2
        np.testing.assert_allclose(told(method, model)["stem"], expected, rtol=1e-5)


def test_the_scale_is_that_of_the_batch_normalization():
    model = models.conv_bn()
    gamma = model.get_layer("bn_c1").gamma
    gamma.assign(gamma * np.where(np.arange(8) % 2, -1, 0.5))
    np.testing.assert_allclose(told("bn_scale", model)["c1"], normalized(np.abs(gamma.numpy())), rtol=1e-5)
    with pytest.raises(RecipeError, match=r"importance bn_scale needs a BatchNormalization.*The groups hidden have"):
        told("bn_scale", models.dense())


def test_the_activation_is_the_mean_of_what_is_taken(network, parts):
    inputs, _, hidden, _, _ = parts
    found = told("activation", network, inputs)["hidden"]
    np.testing.assert_allclose(found, normalized(hidden.mean(0)), rtol=1e-4)


def test_behind_a_flatten_all_pixels_of_a_channel_count():
    model = models.conv_bn()
    inputs = models.inputs_for(model, COUNT)
    taken = kd.keras.Model(model.input, model.get_layer("relu_c1_1").output)(inputs).numpy()
    found = told("activation", model, inputs)["c1_1"]
    np.testing.assert_allclose(found, normalized(np.abs(taken).mean((0, 1, 2))), rtol=1e-4)


def test_taylor_is_the_square_of_gradient_times_weight_over_batches(network, parts):
    inputs, targets, _, by_hidden, open_ = parts
    kernel = network.get_layer("hidden").kernel.numpy()
    squares = []
    for batch in (slice(0, 32), slice(32, COUNT)):
        gradient = inputs[batch].T @ (by_hidden * open_)[batch] / len(inputs[batch])
        squares.append((gradient * kernel).sum(0) ** 2)
    loss = kd.keras.losses.MeanSquaredError()
    found = told("taylor", network, inputs, targets, loss)["hidden"]
    np.testing.assert_allclose(found, normalized(np.mean(squares, axis=0)), rtol=1e-3)


@pytest.mark.parametrize("loss", ["object", "function"])
def test_fisher_is_of_each_sample_alone(network, parts, loss):
    inputs, targets, hidden, by_hidden, _ = parts
    losses = kd.keras.losses
    loss = losses.MeanSquaredError() if loss == "object" else losses.get("mean_squared_error")
    found = told("fisher", network, inputs, targets, loss)["hidden"]
    np.testing.assert_allclose(found, normalized(((by_hidden * hidden) ** 2).mean(0) / 2), rtol=1e-3)


def test_fisher_sums_over_pixels_before_it_squares():
    layers = kd.keras.layers
    inputs = layers.Input((3, 3, 2))
    x = layers.Conv2D(5, 1, name="conv")(inputs)
    x = layers.Conv2D(1, 1, use_bias=False, name="after")(x)
    model = kd.keras.Model(inputs, layers.Flatten()(x))
    data = models.inputs_for(model, 6)
    taken = kd.keras.Model(model.input, model.get_layer("conv").output)(data).numpy()
    weights = model.get_layer("after").kernel.numpy()[0, 0, :, 0]
    loss = lambda targets, outputs: kd.tf.reduce_sum(outputs, axis=-1)  # noqa: E731
    found = told("fisher", model, data, np.zeros((6, 9)), loss)["conv"]
    expected = ((taken * weights).sum((1, 2)) ** 2).mean(0)
    np.testing.assert_allclose(found, normalized(expected), rtol=1e-4)


@pytest.mark.parametrize("method", ["taylor", "fisher"])
def test_what_is_of_the_loss_needs_labels_and_any_model_will_do(method):
    with pytest.raises(RecipeError, match=f"importance {method} needs labelled data.*Remedy: another importance"):
        told(method, models.dense())
    layers = kd.keras.layers
    ids = layers.Input((5,), dtype="int32")
    x = layers.Flatten()(layers.Embedding(9, 4, name="words")(ids))
    model = kd.keras.Model(ids, layers.Dense(models.CLASSES, name="out")(x))
    tokens = np.arange(20, dtype=np.int32).reshape(4, 5) % 9
    loss = kd.keras.losses.get("sparse_categorical_crossentropy")
    assert (told(method, model, tokens, np.zeros(4, np.int64), loss)["words"] > 0).all()


def test_random_is_by_the_seed_alone():
    one, same, other = (
        told("random", models.conv_bn(seed), seed=step)["c1"] for seed, step in ((0, 1), (9, 1), (0, 2))
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_layers_have_equal_say_where_they_have_one():
    whole = Member("whole", "kernel", 1, "makes", np.arange(4))
    first = Member("first", "kernel", 1, "makes", np.array([0, 1]))
    votes = [(whole, np.array([1.0, 1, 3, 3])), (first, np.array([30.0, 10]))]
    np.testing.assert_allclose(combined(4, votes), [(0.5 + 1.5) / 2, (0.5 + 0.5) / 2, 1.5, 1.5])
    np.testing.assert_array_equal(combined(4, [(whole, np.zeros(4))]), np.zeros(4))
