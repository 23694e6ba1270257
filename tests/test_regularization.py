"""Penalties on kernels: their value and slope, and what they do to a training."""

import numpy as np
import pytest
from fixtures import models
from fixtures.distillation import by_teacher, lesson_of
from pydantic import ValidationError

from tfcompress import keras_door as kd
from tfcompress.data import load_data
from tfcompress.data.settings import DataSettings
from tfcompress.distillation.teachers import Network
from tfcompress.regularization import regularized
from tfcompress.run_folder import RunFolder
from tfcompress.techniques.pruning import Pruning
from tfcompress.training import Training
from tfcompress.training_data import TrainingData
from tfcompress.vocabulary.errors import RecipeError
from tfcompress.vocabulary.preprocessing import NAMED
from tfcompress.vocabulary.regularization import Regularization
from tfcompress.vocabulary.reporter import Reporter
from tfcompress.vocabulary.state import State
from tfcompress.vocabulary.training import Fit, Task

L1, GROUPS = Regularization(strength=0.5), Regularization(kind="group_lasso", strength=0.5)
TASK = Task(loss=kd.keras.losses.SparseCategoricalCrossentropy(from_logits=True))


@pytest.fixture(scope="module")
def data():
    inputs = models.inputs_for(models.dense(), 96)
    settings = DataSettings(batch_size=16)
    return TrainingData(
        load_data((inputs, np.arange(96) % models.CLASSES), settings=settings), NAMED["raw"], settings, TASK
    )


def various():
    layers = kd.keras.layers
    x = inputs = layers.Input((4, 4, 2))
    x = layers.Conv2D(3, 2, name="conv")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.PReLU(name="prelu")(x)
    x = layers.DepthwiseConv2D(2, depth_multiplier=2, name="depthwise")(x)
    x = layers.Conv2DTranspose(5, 2, name="transposed")(x)
    return kd.keras.Model(inputs, layers.Dense(2, name="out")(layers.Flatten()(x)))


def penalty_and_slopes(model, settings):
    network = regularized(model, model, settings, where="step")
    with kd.tf.GradientTape() as tape:
        (value,) = network.losses
    return float(value), tape.gradient(value, [model.get_layer("conv").kernel, model.get_layer("conv").bias])


def test_the_penalties_are_of_all_kernels_and_of_nothing_else():
    model = various()
    names = ("conv", "depthwise", "transposed", "out")
    kernels = [models.kernel_of(model, name).astype(np.float64) for name in names]
    of_one_channel = [(0, 1, 2), (0, 1), (0, 1, 3), (0,)]
    norms = [np.sqrt((k**2).sum(axes)) for k, axes in zip(kernels, of_one_channel, strict=True)]
    assert [norm.size for norm in norms] == [3, 6, 5, 2]
    value, (slope, of_bias) = penalty_and_slopes(model, L1)
    assert value == pytest.approx(sum(np.abs(k).sum() for k in kernels) / 2, rel=1e-5)
    np.testing.assert_array_equal(slope, np.sign(kernels[0]) / 2)
    assert of_bias is None
    value, (slope, _) = penalty_and_slopes(model, GROUPS)
    assert value == pytest.approx(sum(norm.sum() for norm in norms) / 2, rel=1e-5)
    np.testing.assert_allclose(slope, kernels[0] / norms[0] / 2, rtol=1e-4)
    assert model.losses == [], "the model itself keeps nothing of it"


def test_a_channel_that_is_gone_has_no_slope():
    model = various()
    kernel = model.get_layer("conv").kernel
    kernel.assign(kernel * [1.0, 0.0, 1.0])
    _, (slope, _) = penalty_and_slopes(model, GROUPS)
    assert np.isfinite(slope).all()
    assert (slope.numpy()[..., 1] == 0).all()
    assert (slope.numpy()[..., 0] != 0).any()


def test_wrapped_layers_are_drawn_too():
    model = models.dense()
    prepared = Pruning().prepare(State(model), models.plan_for(models.inputs_for(model))).model
    (value,) = regularized(prepared, prepared, L1, where="pruning").losses
    expected = sum(np.abs(models.kernel_of(model, name)).sum() for name in ("hidden", "out")) / 2
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_without_kernels_there_is_nothing_to_draw():
    inputs = kd.keras.layers.Input((4,))
    model = kd.keras.Model(inputs, kd.keras.layers.BatchNormalization()(inputs))
    with pytest.raises(RecipeError, match="step: regularization is of trained kernels, and the model has none"):
        regularized(model, model, L1, where="step")
    with pytest.raises(ValidationError):
        Regularization(strength=0)


class InterruptAt(Reporter):
    """Stops a training as Ctrl-C would, in the middle of an epoch."""

    def __init__(self, done):
        self.done = done

    def progress(self, label, done, total, note=""):
        if done == self.done:
            raise KeyboardInterrupt


def trained(data, settings, folder=None, **more):
    model = models.dense()
    fit = Fit(epochs=3, learning_rate=0.05, regularization=settings)
    Training("step", 1, fit, data, seed=3, folder=folder, **more).run(model)
    return model


def test_it_draws_whole_channels_to_zero_and_an_interrupted_training_ends_bit_equal(data, tmp_path):
    settings = GROUPS.model_copy(update={"strength": 1.0})
    model, folder = trained(data, settings), RunFolder(tmp_path, {})
    with pytest.raises(KeyboardInterrupt):
        trained(data, settings, folder, reporter=InterruptAt(14))
    again = trained(data, settings, folder)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), again.get_weights(), strict=True))
    drawn, before = (np.linalg.norm(models.kernel_of(net, "hidden"), axis=0) for net in (model, models.dense()))
    assert (drawn < 0.5 * before).all()
    assert model.losses == []


def test_it_stands_beside_distillation(data):
    teacher = Network("teacher.h5", model=models.dense(seed=4))
    lesson = lesson_of(by_teacher(), data, teacher)
    fit = Fit(epochs=1, distillation=by_teacher(), regularization=L1)
    model = models.dense()
    network = Training("step", 1, fit, data, seed=3, lesson=lesson).network(model)
    expected = sum(np.abs(models.kernel_of(model, name)).sum() for name in ("hidden", "out")) / 2
    assert float(network.losses[0]) == pytest.approx(expected, rel=1e-5)
    assert model.losses == []
