import numpy as np
import pytest

from tfcompress import keras_door as kd
from tfcompress.models.rewrites import CALIBRATING, ENABLING, rewrite
from tfcompress.techniques.quantization import unsupported
from tfcompress.vocabulary.promises import Promise


def _kinds(model):
    return [type(layer).__name__ for layer in model.layers if type(layer).__name__ != "InputLayer"]


def _built(layers, randomised, *stack, shape=(8, 8, 3)):
    return randomised(kd.keras.Sequential([layers.Input(shape), *stack]))


def test_behind_a_linear_convolution_it_stays(layers, randomised):
    stack = [layers.Conv2D(4, 3), layers.BatchNormalization(), layers.DepthwiseConv2D(3), layers.BatchNormalization()]
    dense = [layers.Flatten(), layers.Dense(4), layers.BatchNormalization()]
    model = _built(layers, randomised, *stack, *dense)
    assert rewrite(model, ENABLING).changes == ()


def test_behind_a_transposed_convolution_it_is_folded(layers, randomised, same_outputs):
    conv = layers.Conv2DTranspose(4, 3, strides=2, use_bias=False, name="up")
    model = _built(layers, randomised, conv, layers.BatchNormalization(name="bn"), layers.ReLU())
    done = rewrite(model, ENABLING)
    assert _kinds(done.model) == ["Conv2DTranspose", "ReLU"]
    assert same_outputs(model, done.model)
    assert done.lineage.place("bn/gamma") == "up/kernel"
    assert done.lineage.place("bn/beta") == "up/bias"
    assert done.lineage.effect("up/kernel", "zeros").refused == ""
    assert done.lineage.effect("up/kernel", "distinct").refused
    assert done.lineage.effect("bn/gamma", "zeros").refused


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("kind", ["Conv2D", "grouped", "DepthwiseConv2D", "Dense"])
def test_before_an_unpadded_layer_it_is_folded(layers, randomised, same_outputs, kind, scale):
    behind = {
        "Conv2D": lambda: layers.Conv2D(6, 3, name="next", use_bias=False),
        "grouped": lambda: layers.Conv2D(6, 3, groups=2, name="next"),
        "DepthwiseConv2D": lambda: layers.DepthwiseConv2D(3, depth_multiplier=2, name="next"),
        "Dense": lambda: layers.Dense(6, name="next"),
    }[kind]()
    model = _built(layers, randomised, layers.ReLU(), layers.BatchNormalization(scale=scale), behind, shape=(8, 8, 4))
    done = rewrite(model, ENABLING)
    assert _kinds(done.model) == ["ReLU", type(behind).__name__]
    assert same_outputs(model, done.model)
    assert done.changes[0].became == ("next",)


def test_before_a_padded_convolution_it_is_folded_only_where_nothing_is_shifted(layers, randomised, same_outputs):
    norm = layers.BatchNormalization(name="bn")
    model = _built(layers, randomised, layers.ReLU(), norm, layers.Conv2D(4, 3, padding="same"))
    assert _kinds(rewrite(model, ENABLING).model) == ["ReLU", "DepthwiseConv2D", "Conv2D"]
    norm.beta.assign(np.zeros(3))
    norm.moving_mean.assign(np.zeros(3))
    done = rewrite(model, ENABLING)
    assert _kinds(done.model) == ["ReLU", "Conv2D"]
    assert same_outputs(model, done.model)


@pytest.mark.parametrize("shape", [(6, 6, 3), (5,), (7, 3), (None, 3), (4, 4, 4, 2)])
def test_alone_it_becomes_a_trainable_depthwise_convolution(layers, randomised, same_outputs, shape):
    x = inputs = layers.Input(shape)
    x = layers.BatchNormalization(name="bn")(layers.Add()([x, layers.ReLU()(x)]))
    model = randomised(kd.keras.Model(inputs, layers.ReLU()(x)))
    done = rewrite(model, ENABLING)
    assert same_outputs(model, done.model)
    assert unsupported(model)
    assert unsupported(done.model) == []
    assert [weight.name for weight in done.model.trainable_weights] == ["bn/depthwise_kernel:0", "bn/bias:0"]
    assert done.lineage.place("bn/moving_mean") == "bn/bias"


def test_behind_a_convolution_that_others_take_too_it_stands_alone(layers, randomised, same_outputs):
    inputs = layers.Input((6, 6, 3))
    conv = layers.Conv2D(3, 3, padding="same", name="conv")(inputs)
    model = randomised(kd.keras.Model(inputs, layers.Add()([layers.BatchNormalization(name="bn")(conv), conv])))
    done = rewrite(model, ENABLING)
    assert type(done.model.get_layer("bn")).__name__ == "DepthwiseConv2D"
    assert same_outputs(model, done.model)
    assert unsupported(done.model) == []


def test_a_normalization_called_twice_stays(layers, randomised):
    norm, inputs = layers.BatchNormalization(), layers.Input((6, 6, 3))
    model = randomised(kd.keras.Model(inputs, layers.Add()([norm(inputs), norm(layers.ReLU()(inputs))])))
    assert rewrite(model, ENABLING).changes == ()


def test_a_normalization_of_integers_stays(layers):
    model = kd.keras.Sequential([layers.Input((4, 4, 3), dtype="uint8"), layers.Rescaling(0.5), layers.ReLU()])
    assert rewrite(model, ENABLING).changes == ()


def test_zeros_are_kept_when_a_normalization_before_is_folded(layers, randomised):
    conv = layers.Conv2D(4, 3, name="conv")
    model = _built(layers, randomised, layers.ReLU(), layers.BatchNormalization(), conv)
    kernel = conv.kernel.numpy()
    kernel[np.abs(kernel) < np.median(np.abs(kernel))] = 0
    conv.kernel.assign(kernel)
    done = rewrite(model, ENABLING)
    (promise,) = done.lineage.carried([Promise("conv/kernel", "zeros", 0.5)])
    assert promise.is_kept_by(promise.found_in(done.model.get_layer("conv").kernel.numpy()))


def test_behind_a_linear_layer_it_is_folded_before_rounding_without_training(layers, randomised, same_outputs):
    stack = [
        layers.Conv2D(6, 3, groups=3, use_bias=False, name="conv"),
        layers.BatchNormalization(name="bn"),
        layers.ReLU(),
        layers.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise"),
        layers.BatchNormalization(scale=False),
        layers.Conv2D(4, 1, activation="relu"),
        layers.BatchNormalization(name="behind_relu"),
        layers.Flatten(),
        layers.Dense(4, name="dense"),
        layers.BatchNormalization(center=False),
    ]
    model = _built(layers, randomised, *stack)
    done = rewrite(model, CALIBRATING)
    kept = ["Conv2D", "ReLU", "DepthwiseConv2D", "Conv2D", "BatchNormalization", "Flatten", "Dense"]
    assert _kinds(done.model) == kept
    assert same_outputs(model, done.model)
    assert [change.became for change in done.changes] == [("conv",), ("depthwise",), ("dense",)]
    assert done.lineage.place("bn/moving_mean") == "conv/bias"
    assert done.lineage.effect("depthwise/depthwise_kernel", "distinct").refused
    assert not done.lineage.effect("depthwise/depthwise_kernel", "zeros").refused


def test_what_others_take_too_keeps_its_normalization_before_rounding(layers, randomised):
    inputs = layers.Input((6, 6, 3))
    conv = layers.Conv2D(3, 3, padding="same")(inputs)
    model = randomised(kd.keras.Model(inputs, layers.Add()([layers.BatchNormalization()(conv), conv])))
    assert rewrite(model, CALIBRATING).changes == ()
