"""Small functional graphs drawn at random: rewritten, they compute the same, and more of them can be quantized."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfcompress import keras_door as kd
from tfcompress.models.rewrites import ENABLING, rewrite
from tfcompress.models.rewrites._graph import attribute_of
from tfcompress.techniques.quantization import unsupported

CHANNELS = 4
UNARY = (
    "Conv2D",
    "Conv1D",
    "DepthwiseConv1D",
    "SeparableConv2D",
    "SeparableConv1D",
    "Conv2DTranspose",
    "BatchNormalization",
    "Rescaling",
    "MaxPooling1D",
    "GaussianNoise",
    "Dense",
    "hard",
    "nested",
    "operators",
    "ReLU",
)
BINARY = ("Add", "Multiply", "Subtract", "Average")
ACTIVATIONS = (None, "relu", "hard_sigmoid", "swish")

steps = st.lists(
    st.tuples(st.sampled_from(UNARY + BINARY), st.sampled_from(ACTIVATIONS), st.integers(0, 5)), min_size=1, max_size=6
)


def _unary(kind, activation, x):
    layers = kd.keras.layers
    if kind in ("Conv2D", "SeparableConv2D", "Conv2DTranspose", "Conv1D", "SeparableConv1D"):
        return getattr(layers, kind)(CHANNELS, 3, padding="same", activation=activation)(x)
    if kind == "DepthwiseConv1D":
        return layers.DepthwiseConv1D(3, padding="same", activation=activation)(x)
    if kind == "Dense":
        return layers.Dense(CHANNELS, activation=activation)(x)
    if kind == "MaxPooling1D":
        return layers.MaxPooling1D(3, 1, padding="same")(x)
    if kind == "Rescaling":
        return layers.Rescaling(0.5, 0.25)(x)
    if kind == "GaussianNoise":
        return layers.GaussianNoise(0.5)(x)
    if kind == "hard":
        return x * kd.tf.nn.relu6(x + 3.0) / 6.0
    if kind == "nested":
        inputs = layers.Input(x.shape[1:])
        y = layers.BatchNormalization(name="bn")(layers.Dense(CHANNELS, name="fc")(inputs))
        return kd.keras.Model(inputs, layers.ReLU()(y))(x)
    if kind == "operators":
        return 1.0 - kd.tf.nn.leaky_relu(x - 0.5)
    return getattr(layers, kind)()(x)


def _drawn(recipe):
    """A model over rows or over images, by whether the first layer of a number of dimensions wants rows."""
    layers = kd.keras.layers
    rows = "1D" in next((kind for kind, *_ in recipe if kind[-1] == "D" or "2DT" in kind), "2D")
    values = [inputs := layers.Input((8, CHANNELS) if rows else (6, 6, CHANNELS))]
    for kind, activation, back in recipe:
        x, other = values[-1], values[max(0, len(values) - 1 - back)]
        if kind in BINARY:
            values.append(getattr(layers, kind)()([x, other]))
        else:
            kind = kind.replace("2D", "1D") if rows else kind.replace("1D", "2D")
            if kind == "MaxPooling2D":
                values.append(layers.MaxPooling2D(3, 1, padding="same")(x))
            elif kind == "DepthwiseConv2D":
                values.append(layers.DepthwiseConv2D(3, padding="same", activation=activation)(x))
            else:
                values.append(_unary(kind, activation, x))
    return kd.keras.Model(inputs, [values[-1], values[len(values) // 2]])


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(recipe=steps)
def test_a_rewritten_model_computes_the_same_and_can_be_trained_as_integers(recipe, randomised, same_outputs):
    model = randomised(_drawn(recipe))
    done = rewrite(model, ENABLING)
    assert same_outputs(model, done.model)
    left = [verdict.layer for verdict in unsupported(done.model)]
    assert left == [], [(type(done.model.get_layer(name)).__name__, name) for name in left]
    places = {f"{layer.name}/{attribute_of(weight)}" for layer in done.model.layers for weight in layer.weights}
    assert set(done.lineage.places.values()) <= places
