import numpy as np
import pytest
from pydantic import ValidationError

from tfcompress import keras_door as kd
from tfcompress.techniques.base import StepPlan, Technique
from tfcompress.techniques.clustering import Clustering
from tfcompress.vocabulary.errors import ModelError, PromiseError, RecipeError
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import Lineage, State

METHODS = ("linear", "random", "density_based", "kmeans_plus_plus")
X = np.random.default_rng(1).normal(size=(64, 8, 8, 2)).astype(np.float32)
Y = (X[:, :4].sum((1, 2, 3)) > X[:, 4:].sum((1, 2, 3))).astype(np.int64)


class Sparse(Technique):
    """A step that stands for one which makes zeros."""

    stage = "sparse"
    technique: str = "sparse"


def network():
    kd.keras.utils.set_random_seed(7)
    layers = kd.keras.layers
    x = inputs = layers.Input((8, 8, 2))
    x = layers.Conv2D(6, 3, use_bias=False, name="conv")(x)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU(name="relu")(x)
    x = layers.DepthwiseConv2D(3, name="dw")(x)
    x = layers.Conv2D(4, 1, name="point")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dropout(0.2, name="dropout")(x)
    return kd.keras.Model(inputs, layers.Dense(2, name="fc")(x))


def plan(seed=0):
    return StepPlan(steps_per_epoch=4, epochs=2, calibration=X[:4], seed=seed)


def train(model, epochs=1, rate=1e-2):
    model.compile(kd.keras.optimizers.Adam(rate), kd.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(X, Y, batch_size=16, epochs=epochs, shuffle=False, verbose=0)
    return model


def values(state, layer, attribute="kernel"):
    return getattr(state.model.get_layer(layer), attribute).numpy()


def distinct(kernel, per_channel=False):
    return max(np.unique(part).size for part in (np.moveaxis(kernel, -1, 0) if per_channel else [kernel]))


def sparse_state(share=0.6):
    """Every kernel with its smallest weights zero, one whole channel of `conv` among them; all promised."""
    model, promises = network(), []
    for name in ("conv", "point", "fc"):
        kernel = model.get_layer(name).kernel
        array = kernel.numpy()
        array.flat[np.argsort(np.abs(array), axis=None)[: int(np.ceil(share * array.size))]] = 0
        if name == "conv":
            array[..., 2] = 0
        kernel.assign(array)
        promises.append(Promise(f"{name}/kernel", "zeros", share, made_by="pruning"))
    return State(model, tuple(promises))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("per_channel", [False, True], ids=["tensor", "channel"])
def test_a_trained_and_finished_model_keeps_its_numbers(method, per_channel):
    model = network()
    before = model.get_weights()
    step = Clustering(clusters=5, per_layer={"fc": 8}, initialization=method, per_channel=per_channel)
    prepared = step.prepare(State(model), plan())
    train(prepared.model)
    done = step.finish(prepared)

    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))
    assert [la.name for la in done.model.layers] == [la.name for la in model.layers]
    assert [type(la) for la in done.model.layers] == [type(la) for la in model.layers]
    scope = "channel" if per_channel else "tensor"
    assert done.promises == (
        Promise("conv/kernel", "distinct", 5, scope, made_by="clustering"),
        Promise("point/kernel", "distinct", 5, scope, made_by="clustering"),
        Promise("fc/kernel", "distinct", 8, made_by="clustering"),
    )
    assert distinct(values(done, "conv"), per_channel) <= 5
    assert distinct(values(done, "fc")) <= 8
    assert distinct(values(done, "dw", "depthwise_kernel")) > 16
    # Training moved weights and centroids, and what was trained is what is handed on.
    assert not set(np.unique(values(done, "fc"))) & set(np.unique(before[-2]))
    np.testing.assert_allclose(done.model(X), prepared.model(X), rtol=1e-5, atol=1e-5)
    kd.tf.debugging.assert_all_finite(done.model(X), "outputs")


def test_per_channel_holds_more_values_than_per_tensor():
    step = Clustering(clusters=4, per_channel=True, layers=["conv"])
    done = step.finish(step.prepare(State(network()), plan()))
    kernel = values(done, "conv")
    assert distinct(kernel) > 4 >= distinct(kernel, per_channel=True) > 1


def test_untrained_weights_stand_at_their_nearest_centroid():
    model = network()
    step = Clustering(clusters=6, initialization="linear", layers=["fc"])
    done = step.finish(step.prepare(State(model), plan()))
    kernel = model.get_layer("fc").kernel.numpy()
    centroids = np.linspace(kernel.min(), kernel.max(), 6).astype(np.float32)
    assert np.array_equal(values(done, "fc"), centroids[np.abs(kernel[..., None] - centroids).argmin(-1)])
    assert np.array_equal(values(done, "conv"), model.get_layer("conv").kernel.numpy())


def test_batch_norm_statistics_go_on_moving():
    step = Clustering(clusters=4)
    prepared = step.prepare(State(network()), plan())
    train(prepared.model)
    assert np.abs(step.finish(prepared).model.get_layer("bn").moving_mean.numpy()).max() > 0


@pytest.mark.parametrize(("method", "per_channel"), [*zip(METHODS, (False, True, False, True), strict=True)])
def test_promised_zeros_stay_where_they_are(method, per_channel):
    state = sparse_state()
    step = Clustering(clusters=4, initialization=method, per_channel=per_channel)
    prepared = step.prepare(state, plan())
    train(prepared.model, rate=0.05)
    done = step.finish(prepared)
    assert done.promises[:3] == state.promises
    for name in ("conv", "point", "fc"):
        kernel, original = values(done, name), values(state, name)
        assert not kernel[original == 0].any()
        assert kernel.any()
        assert distinct(kernel, per_channel and name != "fc") <= 4


def test_groups_of_zeros_stay():
    model = network()
    kernel = model.get_layer("fc").kernel
    array = kernel.numpy()
    array[::2] = 0
    kernel.assign(array)
    state = State(model, (Promise("fc/kernel", "group_zeros", 2, group=4, made_by="pruning"),))
    step = Clustering(clusters=8, layers=["fc"])
    prepared = step.prepare(state, plan())
    train(prepared.model)
    assert not values(step.finish(prepared), "fc")[::2].any()


def test_layers_without_a_promise_do_not_keep_zeros():
    model = network()
    kernel = model.get_layer("fc").kernel
    kernel.assign(kernel * kd.tf.cast(kd.tf.abs(kernel) > 0.2, kd.tf.float32))
    step = Clustering(clusters=8, initialization="random", layers=["fc"])
    prepared = step.prepare(State(model), plan())
    train(prepared.model)
    assert (values(step.finish(prepared), "fc")[kernel.numpy() == 0] != 0).any()


def test_promises_follow_the_callers_names():
    state = sparse_state()
    renamed = tuple(p for p in state.promises if p.weight != "fc/kernel")
    state = state.evolve(
        promises=(*renamed, Promise("head/kernel", "zeros", 0.6)), lineage=Lineage({"head/kernel": "fc/kernel"})
    )
    step = Clustering(clusters=4)
    prepared = step.prepare(state, plan())
    train(prepared.model)
    done = step.finish(prepared)
    assert done.promises[-1] == Promise("head/kernel", "distinct", 4, made_by="clustering")
    assert (values(done, "fc") == 0).mean() >= 0.6


@pytest.mark.parametrize("method", ["random", "kmeans_plus_plus"])
def test_preparing_twice_gives_the_same_model_and_the_seed_decides(method):
    step = Clustering(clusters=6, initialization=method)
    state = State(network())
    first, again, other = (step.prepare(state, plan(seed)).model for seed in (3, 3, 4))
    assert [(w.name, w.shape) for w in first.weights] == [(w.name, w.shape) for w in again.weights]
    assert all(np.array_equal(a, b) for a, b in zip(first.weights, again.weights, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first.weights, other.weights, strict=True))


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_training_goes_on_bit_equal_in_a_newly_prepared_model(sparse):
    state = sparse_state() if sparse else State(network())
    state.model.get_layer("dropout").rate = 0.0
    step = Clustering(clusters=6)
    straight = train(step.prepare(state, plan()).model, epochs=2)

    first = train(step.prepare(state, plan()).model, epochs=1)
    second = step.prepare(state, plan())
    for new, old in zip(second.model.weights, first.weights, strict=True):
        new.assign(old.numpy())
    second.model.compile(kd.keras.optimizers.Adam(1e-2), first.loss)
    second.model.optimizer.build(second.model.trainable_variables)
    for new, old in zip(second.model.optimizer.variables, first.optimizer.variables, strict=True):
        new.assign(old.numpy())
    second.model.fit(X, Y, batch_size=16, shuffle=False, verbose=0)

    assert all(np.array_equal(a, b) for a, b in zip(second.model.weights, straight.weights, strict=True))


def test_depthwise_layers_are_clustered_when_named():
    step = Clustering(clusters=3, layers=["dw"])
    done = step.finish(step.prepare(State(network()), plan()))
    assert done.promises == (Promise("dw/depthwise_kernel", "distinct", 3, made_by="clustering"),)
    assert distinct(values(done, "dw", "depthwise_kernel")) == 3


def test_a_transposed_convolution_shares_over_the_tensor():
    layers = kd.keras.layers
    model = kd.keras.Sequential([layers.Input((4, 4, 3)), layers.Conv2DTranspose(5, 2, name="up")])
    step = Clustering(clusters=4, per_channel=True)
    done = step.finish(step.prepare(State(model), plan()))
    assert done.promises[0].scope == "tensor"
    assert distinct(values(done, "up")) == 4


def test_the_finished_model_shares_nothing_with_the_one_that_was_trained():
    step = Clustering(clusters=4)
    prepared = step.prepare(State(network()), plan())
    done = step.finish(prepared)
    before = done.model.get_weights()
    train(prepared.model)
    assert all(np.array_equal(a, b) for a, b in zip(done.model.get_weights(), before, strict=True))


def test_broken_promises_are_named():
    state = sparse_state()
    step = Clustering(clusters=4)
    prepared = step.prepare(state, plan())
    kernel = prepared.model.get_layer("cluster_fc").layer.kernel
    kernel.assign(kd.tf.ones_like(kernel))
    with pytest.raises(PromiseError, match=r"fc/kernel must have zeros 0\.6, promised by pruning, but has 0"):
        step.finish(prepared)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": ["bn"]}, "No match for: bn"),
        ({"exclude": ["nothing*"]}, r"No match for: nothing\*"),
        ({"per_layer": {"dw": 4}}, r"clustering\.per_layer.*No match for: dw"),
        ({"layers": ["fc"], "exclude": ["fc"]}, "no layer of this model is left"),
    ],
)
def test_patterns_must_match(arguments, message):
    with pytest.raises(RecipeError, match=message):
        Clustering(**arguments).prepare(State(network()), plan())


def test_two_clusters_cannot_keep_zeros():
    with pytest.raises(RecipeError, match=r"at least 3 clusters.*2 for conv, fc"):
        Clustering(clusters=2, per_layer={"point": 4}).prepare(sparse_state(), plan())
    assert Clustering(clusters=2).problems_after([Clustering()]) == []
    assert Clustering(clusters=3).problems_after([Sparse()]) == []
    assert "at least 3 clusters" in Clustering(per_layer={"fc": 2}).problems_after([Sparse()])[0]


def test_custom_functions_of_a_layer_survive():
    def shifted(x):
        return kd.tf.nn.relu(x) - 0.5

    layers = kd.keras.layers
    model = kd.keras.Sequential([layers.Input((6,)), layers.Dense(40, activation=shifted, name="fc")])
    step = Clustering(clusters=4)
    done = step.finish(step.prepare(State(model), plan()))
    assert done.model(np.zeros((1, 6), np.float32)).numpy().max() == -0.5


def test_nested_models_are_refused():
    outer = kd.keras.Sequential([kd.keras.layers.Input((8, 8, 2)), network()])
    with pytest.raises(ModelError, match="nested"):
        Clustering().prepare(State(outer), plan())


@pytest.mark.parametrize(
    "arguments", [{"clusters": 1}, {"clusters": 257}, {"per_layer": {"fc": 1}}, {"initialization": "zeros"}, {"k": 3}]
)
def test_values_out_of_range_are_refused(arguments):
    with pytest.raises(ValidationError):
        Clustering(**arguments)
