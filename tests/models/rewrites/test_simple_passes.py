import numpy as np
import pytest

from tfcompress import keras_door as kd
from tfcompress.models.rewrites import ENABLING, OPENING, rewrite
from tfcompress.pipeline import compress
from tfcompress.techniques.quantization import unsupported


def _kinds(model):
    return [type(layer).__name__ for layer in model.layers if type(layer).__name__ != "InputLayer"]


@pytest.mark.parametrize(
    "config",
    [
        {"filters": 5, "kernel_size": 3, "activation": "relu"},
        {"filters": 5, "kernel_size": 3, "strides": 2, "padding": "same", "depth_multiplier": 2, "use_bias": False},
        {"filters": 5, "kernel_size": 3, "dilation_rate": 2},
    ],
)
def test_a_separable_convolution_is_two(layers, randomised, same_outputs, config):
    model = randomised(kd.keras.Sequential([layers.Input((9, 9, 3)), layers.SeparableConv2D(name="sep", **config)]))
    done = rewrite(model, ENABLING)
    assert [layer.name for layer in done.model.layers[1:]] == ["sep_depthwise", "sep_pointwise"]
    assert same_outputs(model, done.model)
    assert unsupported(model)
    assert unsupported(done.model) == []
    assert done.lineage.place("sep/depthwise_kernel") == "sep_depthwise/depthwise_kernel"
    assert done.lineage.place("sep/pointwise_kernel") == "sep_pointwise/kernel"
    assert done.model.count_params() == model.count_params()


def test_a_shared_separable_convolution_stays_shared(layers, randomised, same_outputs):
    inputs, conv = layers.Input((9, 9, 3)), layers.SeparableConv2D(3, 3, padding="same")
    model = randomised(kd.keras.Model(inputs, conv(conv(inputs))))
    done = rewrite(model, ENABLING)
    assert same_outputs(model, done.model)
    assert done.model.count_params() == model.count_params()


@pytest.mark.parametrize("kind", ["GaussianNoise", "GaussianDropout", "AlphaDropout"])
def test_noise_is_left_out(layers, randomised, same_outputs, kind):
    stack = [layers.Conv2D(4, 3), getattr(layers, kind)(0.3, name="noise"), layers.BatchNormalization()]
    model = randomised(kd.keras.Sequential([layers.Input((6, 6, 3)), *stack, layers.Dropout(0.3)]))
    done = rewrite(model, ENABLING)
    assert _kinds(done.model) == ["Conv2D", "BatchNormalization", "Dropout"]
    assert same_outputs(model, done.model)
    assert unsupported(model)
    assert unsupported(done.model) == []
    assert (done.changes[0].layer, done.changes[0].became) == ("noise", ())


def test_noise_that_is_asked_for_in_inference_stays(layers):
    inputs = layers.Input((4,))
    model = kd.keras.Model(inputs, layers.GaussianNoise(0.3)(inputs, training=True))
    assert rewrite(model, ENABLING).changes == ()


def test_a_linear_activation_is_left_out_and_the_normalization_behind_it_can_be_folded(
    layers, randomised, same_outputs
):
    stack = [layers.Conv2D(4, 3), layers.Activation("linear"), layers.BatchNormalization()]
    model = randomised(kd.keras.Sequential([layers.Input((6, 6, 3)), *stack]))
    done = rewrite(model, ENABLING)
    assert _kinds(done.model) == ["Conv2D", "BatchNormalization"]
    assert same_outputs(model, done.model)


@pytest.mark.parametrize("behind", ["Conv2D", "padded", "ReLU"])
@pytest.mark.parametrize("offset", [0.0, -1.0])
def test_rescaling_and_normalization_are_folded_or_become_a_convolution(
    layers, randomised, same_outputs, behind, offset
):
    adapted = layers.Normalization()
    adapted.adapt(np.random.default_rng(0).normal(100, 50, (20, 6, 6, 3)))
    last = {
        "Conv2D": lambda: layers.Conv2D(4, 3),
        "padded": lambda: layers.Conv2D(4, 3, padding="same"),
        "ReLU": lambda: layers.ReLU(),
    }[behind]()
    model = kd.keras.Sequential(
        [
            layers.Input((6, 6, 3)),
            layers.Rescaling(0.5, offset),
            adapted,
            layers.ReLU(),
            layers.Rescaling(2.0, offset),
            last,
        ]
    )
    for weight in last.weights:
        weight.assign(np.random.default_rng(1).normal(0, 1, weight.shape))
    images = np.random.default_rng(2).uniform(0, 255, (4, 6, 6, 3)).astype("float32")
    done = rewrite(model, ENABLING)
    assert same_outputs(model, done.model, images)
    assert unsupported(done.model) == []
    folds = behind == "Conv2D" or (behind == "padded" and offset == 0)
    assert _kinds(done.model)[-2:] == ["ReLU" if folds else "DepthwiseConv2D", type(last).__name__]
    assert all(layer.trainable is False for layer in done.model.layers if isinstance(layer, layers.DepthwiseConv2D))


@pytest.mark.parametrize(
    "config",
    [
        {"filters": 6, "kernel_size": 3, "padding": "same", "activation": "relu"},
        {"filters": 12, "kernel_size": (3, 2), "strides": 2, "use_bias": False},
        {"filters": 6, "kernel_size": 2, "dilation_rate": 2},
    ],
)
def test_a_convolution_of_a_group_for_each_channel_is_depthwise(layers, randomised, same_outputs, config):
    grouped = layers.Conv2D(groups=6, name="grouped", **config)
    model = randomised(kd.keras.Sequential([layers.Input((9, 9, 6)), grouped, layers.Flatten(), layers.Dense(2)]))
    done = rewrite(model, OPENING)
    assert _kinds(done.model)[0] == "DepthwiseConv2D"
    assert same_outputs(model, done.model)
    assert done.lineage.place("grouped/kernel") == "grouped/depthwise_kernel"


@pytest.mark.parametrize(
    "config", [{"groups": 3}, {"groups": 1}, {"groups": 6, "strides": (1, 2)}], ids=["wide", "one", "strides"]
)
def test_other_convolutions_stay(layers, config):
    model = kd.keras.Sequential([layers.Input((9, 9, 6)), layers.Conv2D(6, 3, **config)])
    assert rewrite(model, OPENING).changes == ()


def test_zeros_of_such_a_convolution_are_promised_and_found_in_the_file(layers, tmp_path):
    stack = [layers.Conv2D(16, 3, groups=16, name="grouped"), layers.Conv2D(8, 1, name="point"), layers.Flatten()]
    model = kd.keras.Sequential([layers.Input((6, 6, 16)), *stack, layers.Dense(3, activation="softmax")])
    data = np.random.default_rng(0).normal(size=(48, 6, 6, 16)).astype(np.float32), np.arange(48) % 3
    recipe = {
        "data": {"preprocessing": "raw"},
        "steps": [
            {"technique": "pruning", "final_sparsity": 0.5, "depthwise": True, "fit": {"epochs": 1}},
            {"technique": "post_training"},
        ],
        "evaluation": {"latency_seconds": 0.01, "threads": 1},
    }
    made = compress(model, data, recipe, out=tmp_path)
    assert {promise.weight for promise in made.evidence.promises if promise.kept} >= {"grouped/kernel", "point/kernel"}


def _scaled(layers, before, users=1):
    from tf_keras.src.applications.convnext import LayerScale

    x = inputs = layers.Input((6, 6, 4))
    taken = [before(x)] * users
    scaled = LayerScale(0.5, 8, name="scale")(taken[0])
    rest = [layers.ReLU()(tensor) for tensor in (scaled, *taken[1:])]
    return kd.keras.Model(inputs, layers.Add()(rest) if users > 1 else rest[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda layers: layers.Dense(8, name="before"),
        lambda layers: layers.Conv2D(8, 3, use_bias=False, name="before"),
        lambda layers: layers.DepthwiseConv2D(3, depth_multiplier=2, name="before"),
    ],
    ids=["Dense", "Conv2D", "DepthwiseConv2D"],
)
def test_a_factor_by_channel_is_folded_into_the_linear_layer_before(layers, randomised, same_outputs, make):
    model = randomised(_scaled(layers, make(layers)))
    scale = model.get_layer("scale").gamma
    scale.assign(np.random.default_rng(0).normal(size=scale.shape))
    done = rewrite(model, ENABLING)
    assert same_outputs(model, done.model)
    assert [layer.name for layer in done.model.layers[1:-1]] == ["before"]
    assert [change.rewrite for change in done.changes] == ["fold_layer_scales"]


def test_a_factor_stays_where_something_else_takes_what_it_scales_or_an_activation_is_between(layers):
    for model in (
        _scaled(layers, layers.Dense(8), users=2),
        _scaled(layers, layers.Dense(8, activation="gelu")),
    ):
        kept = rewrite(model, ENABLING).model
        assert any(type(layer).__name__ == "LayerScale" for layer in kept.layers)


@pytest.mark.parametrize("kind", ["Add", "Multiply"])
def test_many_tensors_are_summed_two_at_a_time(layers, randomised, same_outputs, kind):
    inputs = layers.Input((6,))
    parts = [layers.Dense(4)(inputs) for _ in range(4)]
    whole = getattr(layers, kind)(name="whole")(parts)
    model = randomised(kd.keras.Model(inputs, getattr(layers, kind)()([whole, parts[0]])))
    done = rewrite(model, ("sums_of_two",))
    assert [change.became for change in done.changes] == [("whole_of_2", "whole_of_3", "whole")]
    assert all(len(layer.input) == 2 for layer in done.model.layers if isinstance(layer, getattr(layers, kind)))
    assert same_outputs(model, done.model, tolerance=0)


def test_sums_keep_their_number_type(layers):
    inputs = layers.Input((4,))
    total = layers.Add(name="whole", dtype="float64")([layers.Dense(4, dtype="float64")(inputs) for _ in range(3)])
    done = rewrite(kd.keras.Model(inputs, total), ("sums_of_two",))
    assert {done.model.get_layer(name).compute_dtype for name in ("whole_of_2", "whole")} == {"float64"}
