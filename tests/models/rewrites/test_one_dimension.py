import pytest

from tfcompress import keras_door as kd
from tfcompress.models.rewrites import ENABLING, rewrite
from tfcompress.techniques.quantization import unsupported


def _kinds(model):
    return [type(layer).__name__ for layer in model.layers if type(layer).__name__ != "InputLayer"]


@pytest.mark.parametrize("steps", [24, None])
@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("Conv1D", {"filters": 4, "kernel_size": 3, "strides": 2, "padding": "same", "activation": "relu"}),
        ("Conv1D", {"filters": 4, "kernel_size": 3, "dilation_rate": 2, "padding": "causal"}),
        ("Conv1D", {"filters": 4, "kernel_size": 5, "groups": 2, "use_bias": False}),
        ("DepthwiseConv1D", {"kernel_size": 3, "strides": 2, "depth_multiplier": 2, "padding": "same"}),
        ("DepthwiseConv1D", {"kernel_size": 3, "dilation_rate": 2}),
        ("SeparableConv1D", {"filters": 5, "kernel_size": 3, "padding": "causal", "activation": "relu"}),
        ("SeparableConv1D", {"filters": 5, "kernel_size": 3, "strides": 2, "padding": "same"}),
        ("Conv1DTranspose", {"filters": 5, "kernel_size": 3, "strides": 2, "padding": "same"}),
        ("MaxPooling1D", {"pool_size": 3, "strides": 2, "padding": "same"}),
        ("UpSampling1D", {"size": 3}),
    ],
)
def test_each_layer_is_the_same_on_images(layers, randomised, same_outputs, kind, config, steps):
    stack = [layers.Input((steps, 4)), layers.ReLU(), getattr(layers, kind)(name="layer", **config)]
    model = randomised(kd.keras.Sequential(stack))
    done = rewrite(model, ENABLING)
    assert unsupported(model)
    assert unsupported(done.model) == []
    assert same_outputs(model, done.model)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("AveragePooling1D", {"pool_size": 3, "strides": 2, "padding": "same"}),
        ("ZeroPadding1D", {"padding": (1, 2)}),
        ("Cropping1D", {"cropping": (1, 2)}),
        ("GlobalAveragePooling1D", {}),
        ("GlobalMaxPooling1D", {"keepdims": True}),
        ("Flatten", {}),
        ("BatchNormalization", {}),
        ("SpatialDropout1D", {"rate": 0.5}),
        ("LeakyReLU", {"alpha": 0.1}),
    ],
)
def test_what_stands_behind_goes_along(layers, randomised, same_outputs, kind, config):
    stack = [layers.Input((20, 4)), layers.Conv1D(3, 3, name="conv"), getattr(layers, kind)(name="behind", **config)]
    model = randomised(kd.keras.Sequential(stack))
    done = rewrite(model, ["one_dimension"])
    assert same_outputs(model, done.model)
    expected = ["Reshape", "Conv2D", kind.replace("1D", "2D")]
    # Only a row has to be given back as one.
    assert _kinds(done.model) == expected + (["Reshape"] if len(model.output_shape) == 3 else [])


def test_one_reshape_leads_in_and_one_out(layers, randomised, same_outputs):
    x = inputs = layers.Input((16, 3))
    for name in "ab":
        y = layers.Conv1D(3, 3, padding="same", use_bias=False, name=f"conv_{name}")(x)
        y = layers.ReLU(name=f"relu_{name}")(layers.BatchNormalization(name=f"bn_{name}")(y))
        x = layers.Concatenate(axis=1, name=f"cat_{name}")([x, y])
    x = layers.Dense(4, name="fc")(layers.MaxPooling1D(name="pool")(x))
    model = randomised(kd.keras.Model(inputs, x))
    done = rewrite(model, ENABLING)
    assert same_outputs(model, done.model)
    assert _kinds(done.model).count("Reshape") == 2
    assert unsupported(done.model) == []
    assert done.changes[0].layer == "conv_a"
    assert done.changes[0].became == ("conv_a_in", "conv_a")
    # ReLUs are the same layers on images as on rows: re-wired, not changed.
    named = ["conv_a", "bn_a", "cat_a", "conv_b", "bn_b", "cat_b", "pool"]
    assert [change.layer for change in done.changes] == named
    assert done.changes[-1].kinds == ("MaxPooling2D", "Reshape")
    assert done.model.get_layer("conv_a").kernel.shape == (1, 3, 3, 3)
    assert done.lineage.place("conv_a/kernel") == "conv_a/kernel"


def test_a_shared_convolution_stays_shared(layers, randomised, same_outputs):
    inputs, conv = layers.Input((16, 3)), layers.Conv1D(3, 3, padding="same", name="conv")
    model = randomised(kd.keras.Model(inputs, conv(conv(inputs))))
    done = rewrite(model, ENABLING)
    assert same_outputs(model, done.model)
    assert done.model.count_params() == model.count_params()


def test_rows_that_come_with_a_mask_stay(layers, randomised):
    stack = [layers.Input((8, 3)), layers.Masking(), layers.BatchNormalization(), layers.LSTM(3)]
    assert rewrite(randomised(kd.keras.Sequential(stack)), ENABLING).changes == ()


def test_what_needs_no_images_stays(layers, randomised):
    model = kd.keras.Sequential(
        [layers.Input((8, 3)), layers.AveragePooling1D(), layers.ZeroPadding1D(), layers.ReLU()]
    )
    assert rewrite(model, ENABLING).changes == ()
