import pytest

from tfcompress import keras_door as kd
from tfcompress.models.rewrites import ENABLING, rewrite
from tfcompress.models.rewrites._activations import trained_as_integers
from tfcompress.techniques._fake_quant import ACTIVATIONS
from tfcompress.techniques.quantization import unsupported


def hard_silu(x):
    return x * kd.tf.nn.relu6(x + 3) / 6


def hard_gate(x):
    return kd.tf.nn.relu6(x + 3) / 6


def steep(x):
    return kd.keras.activations.relu(x, alpha=0.3)


EXACT = ["hard_sigmoid", hard_silu, hard_gate, steep, "relu6", "leaky_relu"]


def _activation(given):
    return getattr(kd.tf.nn, given) if given in ("relu6", "leaky_relu") else given


def _kinds(model):
    return [type(layer).__name__ for layer in model.layers if type(layer).__name__ != "InputLayer"]


@pytest.mark.parametrize("activation", EXACT)
@pytest.mark.parametrize("kind", ["Conv2D", "DepthwiseConv2D", "Conv2DTranspose", "Dense", "Activation"])
def test_an_exact_form_stands_where_training_refuses_the_activation(layers, randomised, same_outputs, kind, activation):
    activation = _activation(activation)
    layer = {
        "Conv2D": lambda: layers.Conv2D(3, 2, activation=activation, name="layer"),
        "DepthwiseConv2D": lambda: layers.DepthwiseConv2D(2, activation=activation, name="layer"),
        "Conv2DTranspose": lambda: layers.Conv2DTranspose(3, 2, activation=activation, name="layer"),
        "Dense": lambda: layers.Dense(3, activation=activation, name="layer"),
        "Activation": lambda: layers.Activation(activation, name="layer"),
    }[kind]()
    model = kd.keras.Sequential([layers.Input((4,) if kind == "Dense" else (5, 5, 4)), layer])
    randomised(model)
    # Large numbers reach every piece of the activation.
    model.set_weights([4 * weight for weight in model.get_weights()])
    done = rewrite(model, ENABLING)
    assert same_outputs(model, done.model)
    assert unsupported(model)
    assert unsupported(done.model) == []


@pytest.mark.parametrize("activation", ["elu", "selu", "softplus"])
def test_others_are_only_taken_out_of_the_layer(layers, randomised, same_outputs, activation):
    model = randomised(
        kd.keras.Sequential([layers.Input((6, 6, 3)), layers.Conv2D(4, 3, activation=activation, name="c")])
    )
    done = rewrite(model, ENABLING)
    assert _kinds(done.model) == ["Conv2D", "Activation"]
    assert same_outputs(model, done.model)
    assert [verdict.layer for verdict in unsupported(done.model)] == [f"c_{activation}"]
    assert done.changes[0].became == ("c", f"c_{activation}")


def test_an_activation_that_is_a_layer_is_taken_out(layers, randomised, same_outputs):
    conv = layers.Conv2D(4, 3, activation=layers.LeakyReLU(0.1, name="leaky"), name="conv")
    model = randomised(kd.keras.Sequential([layers.Input((6, 6, 3)), conv]))
    done = rewrite(model, ENABLING)
    assert _kinds(done.model) == ["Conv2D", "LeakyReLU"]
    assert same_outputs(model, done.model)


@pytest.mark.parametrize("activation", ["relu", "swish", "gelu", "softmax", "sigmoid", "tanh"])
def test_what_training_takes_stays(layers, activation):
    model = kd.keras.Sequential([layers.Input((6, 6, 3)), layers.Conv2D(4, 3, activation=activation)])
    assert rewrite(model, ENABLING).changes == ()


def test_a_shared_layer_stays_shared(layers, randomised, same_outputs):
    inputs, fc = layers.Input((4,)), layers.Dense(4, activation="elu", name="fc")
    model = randomised(kd.keras.Model(inputs, fc(fc(inputs))))
    done = rewrite(model, ENABLING)
    assert same_outputs(model, done.model)
    assert done.changes[0].became == ("fc", "fc_elu", "fc_elu_1")
    assert done.model.count_params() == model.count_params()


def test_the_activations_are_those_that_the_technique_takes():
    names = {name for name in ACTIVATIONS if name}
    assert all(trained_as_integers(getattr(kd.keras.activations, name)) for name in names)
    assert not any(trained_as_integers(getattr(kd.keras.activations, name)) for name in ("elu", "selu", "mish"))
