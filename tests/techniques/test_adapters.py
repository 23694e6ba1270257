from functools import partial

import numpy as np
import pytest
from fixtures import models
from pydantic import ValidationError

from tfcompress import keras_door as kd
from tfcompress.callbacks._inference_model import inference_model
from tfcompress.techniques.adapters import Adapters
from tfcompress.techniques.clustering import Clustering
from tfcompress.techniques.product_quantization import ProductQuantization
from tfcompress.techniques.pruning import Pruning
from tfcompress.trained_part import train_only, trained_variables
from tfcompress.vocabulary.errors import ModelError, RecipeError
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import Lineage, State

SMALL = partial(Adapters, rank=2)


def image_net():
    """A convolution with a stride and a bias, and a Dense layer."""
    layers = kd.keras.layers
    x = inputs = layers.Input(models.SHAPE)
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu", name="conv")(x)
    x = layers.Flatten(name="flatten")(x)
    return models._model(inputs, layers.Dense(models.CLASSES, name="out")(x), 0)


def train(prepared, inputs, part="added", epochs=1, rate=5e-2):
    """Some steps of 16 in which `part` alone is trained, by the functions that a run calls."""
    model = prepared.model
    model.compile(kd.keras.optimizers.Adam(rate), kd.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    chosen = trained_variables(model, model, part, "step")
    model.optimizer.build(chosen)
    train_only(model.optimizer, chosen)
    targets = np.random.default_rng(1).integers(0, models.CLASSES, len(inputs))
    model.fit(inputs, targets, batch_size=16, epochs=epochs, shuffle=False, verbose=0)
    return prepared


@pytest.fixture(scope="module")
def trained():
    """An image network, and its state with adapters trained in it."""
    model = image_net()
    inputs = models.inputs_for(model)
    step = SMALL(alpha=6)
    prepared = step.prepare(State(model), models.plan_for(inputs))
    began = prepared.model(inputs).numpy()
    return model, inputs, began, train(prepared, inputs), step


def test_an_adapter_begins_as_nothing(trained):
    model, inputs, began, *_ = trained
    np.testing.assert_array_equal(began, model(inputs))


def test_it_computes_the_layer_and_a_path_of_low_rank_beside_it(trained):
    """Hu et al. (2022), equation 3: the two paths apart, as they are before they are merged."""
    _, inputs, began, prepared, _ = trained
    conv, out = (prepared.model.get_layer(f"adapted_{name}") for name in ("conv", "out"))
    assert conv.down.shape == (3, 3, 4, 2)
    assert conv.up.shape == (2, 8)
    assert all(np.abs(matrix.numpy()).max() > 0 for layer in (conv, out) for matrix in (layer.down, layer.up))
    low = kd.tf.nn.conv2d(inputs, conv.down, 2, "SAME")
    x = kd.tf.nn.conv2d(inputs, conv.layer.kernel, 2, "SAME") + conv.layer.bias
    x = kd.tf.nn.relu(x + 6 / 2 * kd.tf.nn.conv2d(low, kd.tf.reshape(conv.up, (1, 1, 2, 8)), 1, "SAME"))
    x = np.reshape(x, (len(inputs), -1))
    expected = x @ out.layer.kernel + out.layer.bias + 6 / 2 * (x @ out.down.numpy()) @ out.up.numpy()
    np.testing.assert_allclose(prepared.model(inputs), expected, rtol=1e-5, atol=1e-5)
    assert np.abs(prepared.model(inputs) - began).max() > 0.1


def test_the_merged_model_is_plain_and_computes_the_same(trained):
    model, inputs, _, prepared, step = trained
    seen = inference_model(prepared.model)(inputs).numpy()
    done = step.finish(prepared)
    assert [(la.name, type(la)) for la in done.model.layers] == [(la.name, type(la)) for la in model.layers]
    assert [w.shape for w in done.model.weights] == [w.shape for w in model.weights]
    for outputs in (prepared.model(inputs), seen):
        np.testing.assert_allclose(done.model(inputs), outputs, rtol=1e-5, atol=1e-5)
    change = models.kernel_of(done.model, "conv") - models.kernel_of(model, "conv")
    assert np.linalg.matrix_rank(change.reshape(-1, 8), tol=1e-4) == 2
    assert done.promises == ()


def test_nothing_but_adapters_is_trained(trained):
    """The kernels are looked at before the merge; it is they that stay, to the bit."""
    before, inputs = image_net(), trained[1]
    prepared = train(SMALL().prepare(State(image_net()), models.plan_for(inputs)), inputs)
    for name in ("conv", "out"):
        own = [w.numpy() for w in prepared.model.get_layer(f"adapted_{name}").layer.weights]
        assert all(np.array_equal(a, b) for a, b in zip(own, before.get_layer(name).get_weights(), strict=True))
    prepared = train(SMALL().prepare(State(before), models.plan_for(inputs)), inputs, "biases")
    biases = [la.layer.bias for la in prepared.model.layers if hasattr(la, "layer")]
    assert not any(np.array_equal(bias, before.get_layer(bias.name.split("/")[0]).bias) for bias in biases)


def test_the_callers_model_stays(trained):
    assert all(np.array_equal(a, b) for a, b in zip(trained[0].weights, image_net().weights, strict=True))


def test_what_it_trains_is_the_adapters_unless_something_is_said():
    assert SMALL().fit.train == "added"
    assert SMALL(fit={"epochs": 3}).fit.model_dump(include={"epochs", "train"}) == {"epochs": 3, "train": "added"}
    assert SMALL(fit={"train": "normalizations"}).fit.train == "normalizations"


def test_promised_zeros_stay_zero_and_others_may_move():
    model = models.dense()
    inputs = models.inputs_for(model)
    kernel = model.get_layer("out").kernel
    kernel.assign(kernel * np.float32(np.arange(36).reshape(12, 3) % 2))
    state = models.run(Pruning(layers=["hidden"], final_sparsity=0.5), State(model), inputs, epochs=0)
    zero = models.kernel_of(state.model, "hidden") == 0
    done = SMALL().finish(train(SMALL().prepare(state, models.plan_for(inputs)), inputs))
    assert done.promises == state.promises
    after = models.kernel_of(done.model, "hidden")
    assert (after[zero] == 0).all()
    assert (after[~zero] != models.kernel_of(state.model, "hidden")[~zero]).mean() > 0.9
    assert (models.kernel_of(done.model, "out") != 0).all()


def test_promises_that_a_change_would_break_are_refused_together():
    model = models.dense()
    coded = ProductQuantization(codewords=6, layers=["hidden"]).foreseen(State(model))
    state = Clustering(clusters=4, layers=["out"]).foreseen(coded)
    with pytest.raises(RecipeError) as refusal:
        SMALL().check(state)
    message = str(refusal.value)
    assert message.startswith("adapters cannot adapt 2 layer(s):\n  hidden: product_quantization promised codewords 6,")
    assert (
        "out: clustering promised distinct 4, which a low-rank change would not keep. Remedy: adapt before" in message
    )
    renamed = State(model, (Promise("head/kernel", "distinct", 4),), Lineage({"head/kernel": "out/kernel"}))
    with pytest.raises(RecipeError, match="out: an earlier step promised distinct 4"):
        SMALL().prepare(renamed, models.plan_for(models.inputs_for(model)))
    assert SMALL(exclude=["out"]).check(renamed) is None


def test_ranks_that_save_nothing_are_refused_where_named():
    model = models.conv_bn()
    assert SMALL(rank=3, per_layer={"c1*": 4}).layers_with_values(model) == ("c1", "c1_1")
    with pytest.raises(RecipeError) as refusal:
        Adapters(rank=8, layers=["c1", "out"]).check(State(model))
    assert str(refusal.value).splitlines()[1:] == [
        "  c1: an adapter of rank 8 has 352 values, its kernel 288. Remedy: a rank of at most 6 for it, by "
        "adapters.per_layer, or leave it out",
        "  out: an adapter of rank 8 has 280 values, its kernel 96. Remedy: a rank of at most 2 for it, by "
        "adapters.per_layer, or leave it out",
    ]
    with pytest.raises(RecipeError, match=r"no layer of this model is left to work on\.\n  c1: an adapter of rank 100"):
        Adapters(rank=100).check(State(model))


def test_every_layer_has_a_verdict():
    verdicts = {v.layer: (v.outcome, v.reason) for v in SMALL().verdicts(models.depthwise())}
    assert verdicts["dw"] == ("no", "adapters are for Dense, Conv1D and Conv2D")
    assert verdicts["point"] == ("yes", "")
    assert verdicts["bn_dw"] == ("-", "")


def test_preparing_twice_gives_the_same_model_and_the_seed_decides():
    model = models.dense()
    plans = [models.plan_for(models.inputs_for(model), seed=seed) for seed in (3, 3, 4)]
    first, again, other = (SMALL().prepare(State(model), plan).model for plan in plans)
    assert [(w.name, w.shape) for w in first.weights] == [(w.name, w.shape) for w in again.weights]
    assert all(np.array_equal(a, b) for a, b in zip(first.weights, again.weights, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first.weights, other.weights, strict=True))


def test_nested_models_are_refused():
    outer = kd.keras.Sequential([kd.keras.layers.Input((8,)), models.dense()])
    with pytest.raises(ModelError, match="nested"):
        SMALL().check(State(outer))


@pytest.mark.parametrize("arguments", [{"rank": 0}, {"alpha": 0}, {"per_layer": {"fc": 0}}])
def test_values_out_of_range_are_refused(arguments):
    with pytest.raises(ValidationError):
        Adapters(**arguments)
