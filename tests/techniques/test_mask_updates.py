"""Pruning by other measures than the magnitudes of one layer: against NumPy, with exact numbers of zeros."""

from itertools import pairwise

import numpy as np
import pytest
from fixtures.models import CLASSES, conv_bn, dense, inputs_for, kernel_of, plan_for
from pydantic import ValidationError

from tfcompress import keras_door as kd
from tfcompress.convert.converter import quantized_tflite
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.read_back import read_promises, require_kept
from tfcompress.convert.settings import ConversionSettings
from tfcompress.models.loading import fingerprint
from tfcompress.techniques._masks import erdos_renyi_kernel, lamp
from tfcompress.techniques.base import StepPlan
from tfcompress.techniques.pruning import Pruning
from tfcompress.vocabulary.errors import PromiseError, RecipeError
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import State

COUNT = 40
"""More samples than one batch has, so that the last one is smaller."""
LAYERS = ("hidden", "out")
SIZES = (96, 36)


def squared_error(targets, outputs):
    return kd.tf.reduce_sum(kd.tf.square(outputs - targets), axis=-1)


@pytest.fixture(scope="module")
def network():
    return dense()


@pytest.fixture(scope="module")
def plan(network):
    targets = np.random.default_rng(5).normal(size=(COUNT, CLASSES)).astype(np.float32)
    return StepPlan(1, 0, inputs_for(network, COUNT), 7, targets=targets, loss=squared_error)


@pytest.fixture(scope="module")
def by_sample(network, plan):
    """The gradient of each sample's loss by both kernels, `[samples, inputs, outputs]`, written down."""
    (w1, b1), (w2, b2) = (network.get_layer(name).get_weights() for name in LAYERS)
    before = plan.calibration @ w1 + b1
    hidden = np.maximum(before, 0)
    by_output = 2 * (hidden @ w2 + b2 - plan.targets)
    by_before = by_output @ w2.T * (before > 0)
    return [np.einsum("ni,no->nio", a, b) for a, b in ((plan.calibration, by_before), (hidden, by_output))]


def batches_of(gradients, size=32):
    parts = [gradients[start : start + size] for start in range(0, len(gradients), size)]
    return sum(len(part) * np.abs(part.mean(0)) for part in parts) / len(gradients)


def at_once(network, plan, **settings):
    """The kernels by a step that trains nothing."""
    step = Pruning(fit={"epochs": 0}, **settings)
    state = step.finish(step.prepare(State(network), plan))
    return [kernel_of(state.model, name) for name in LAYERS], state


def lowest_gone(scores, zeros):
    return scores > np.sort(scores, axis=None)[zeros - 1]


@pytest.mark.parametrize("importance", ["gradient", "fisher", "magnitude"])
@pytest.mark.parametrize("distribution", ["uniform", "global"])
def test_scores_are_those_of_numpy(network, plan, by_sample, importance, distribution):
    weights = [kernel_of(network, name) for name in LAYERS]
    measure = {
        "gradient": lambda w, g: np.abs(w) * batches_of(g),
        "fisher": lambda w, g: w**2 * (g**2).mean(0),
        "magnitude": lambda w, _: np.abs(w),
    }[importance]
    scores = [measure(w, g) for w, g in zip(weights, by_sample, strict=True)]
    found, state = at_once(network, plan, importance=importance, distribution=distribution, final_sparsity=0.75)
    if distribution == "uniform":
        expected = [lowest_gone(own, zeros) for own, zeros in zip(scores, (72, 27), strict=True)]
    else:
        threshold = np.sort(np.concatenate([own.ravel() for own in scores]))[98]
        expected = [own > threshold for own in scores]
    for own, kept, weight in zip(found, expected, weights, strict=True):
        np.testing.assert_array_equal(own, np.where(kept, weight, 0))
    zeros = [int((own == 0).sum()) for own in found]
    assert sum(zeros) == 99
    shares = [n / size for n, size in zip(zeros, SIZES, strict=True)]
    assert state.promises == tuple(
        Promise(f"{name}/kernel", "zeros", share, made_by="pruning") for name, share in zip(LAYERS, shares, strict=True)
    )


def test_lamp_is_one_threshold_of_its_scores(network, plan):
    weights = [kernel_of(network, name) for name in LAYERS]
    scores = [lamp(np.abs(weight)) for weight in weights]
    threshold = np.sort(np.concatenate([own.ravel() for own in scores]))[98]
    found, _ = at_once(network, plan, distribution="lamp", final_sparsity=0.75)
    for own, score, weight in zip(found, scores, weights, strict=True):
        np.testing.assert_array_equal(own, np.where(score > threshold, weight, 0))


@pytest.mark.parametrize("importance", ["magnitude", "random"])
def test_erk_is_known_beforehand(network, plan, importance):
    step = {"distribution": "erk", "final_sparsity": 0.9, "importance": importance}
    # A tenth of 132 weights, as 8 + 12 to 12 + 3.
    counts = erdos_renyi_kernel([(8, 12), (12, 3)], SIZES, 13, [1, 1])
    assert counts == [7, 6]
    found, state = at_once(network, plan, **step)
    assert [np.count_nonzero(own) for own in found] == counts
    assert Pruning(**step).promised(State(network)) == state.promises
    assert [promise.bound for promise in state.promises] == [89 / 96, 30 / 36]


def test_chance_is_by_the_seed_alone(network, plan):
    first, _ = at_once(network, plan, importance="random")
    again, _ = at_once(dense(seed=3), plan, importance="random")
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one == 0, two == 0)
        assert np.count_nonzero(one) * 2 == one.size


def test_every_layer_keeps_something_and_what_competes_is_foreseen_honestly(network, plan):
    small = dense()
    small.get_layer("hidden").kernel.assign(small.get_layer("hidden").kernel / 1000)
    settings = {"distribution": "global", "final_sparsity": 0.75, "at_least": 0.25}
    (hidden, out), _ = at_once(small, plan, **settings)
    # A quarter of the 24 that uniform would leave it; the other layer gets all the rest of 33.
    assert (np.count_nonzero(hidden), np.count_nonzero(out)) == (6, 27)
    # 33 less the 2 that `out` keeps at least are the most that `hidden` can have.
    bounds = [promise.bound for promise in Pruning(**settings).promised(State(network))]
    assert bounds == [(96 - 31) / 96, (36 - 27) / 36]


def test_layers_with_a_sparsity_of_their_own_do_not_compete():
    model = conv_bn()
    images = StepPlan(1, 0, inputs_for(model, 8), 0)
    step = Pruning(distribution="global", final_sparsity=0.9, per_layer={"c1": 0.5}, fit={"epochs": 0})
    state = step.finish(step.prepare(State(model), images))
    zeros = {name: (kernel_of(state.model, name) == 0) for name in ("c1", "c1_1", "out")}
    assert zeros["c1"].mean() == 0.5
    rest = np.concatenate([zeros["c1_1"].ravel(), zeros["out"].ravel()])
    assert (rest.sum() - 1) / rest.size < 0.9 <= rest.sum() / rest.size
    assert step.promised(State(model))[0] == Promise("c1/kernel", "zeros", 0.5, made_by="pruning")
    # What each of them lost is in the file.
    flat = Flatbuffer(quantized_tflite(state.model, "int8", ConversionSettings(), images.calibration))
    found = read_promises(flat, state)
    require_kept(found)
    assert {one.promise.weight: one.found for one in found}["out/kernel"] >= zeros["out"].mean() > 0


def test_groups_and_blocks_are_by_any_importance(network, plan, by_sample):
    weights = [kernel_of(network, name) for name in LAYERS]
    scores = [w**2 * (g**2).mean(0) for w, g in zip(weights, by_sample, strict=True)]
    (hidden, _), state = at_once(network, plan, importance="fisher", n_of_m=(2, 4))
    rows, kept = (a.T.reshape(-1, 4) for a in (scores[0], hidden != 0))
    assert all(row[keep].min() > row[~keep].max() for row, keep in zip(rows, kept, strict=True))
    assert state.promises[0] == Promise("hidden/kernel", "group_zeros", 2, group=4, made_by="pruning")
    (hidden, out), _ = at_once(network, plan, distribution="global", block_size=(2, 3), final_sparsity=0.5)
    blocks = [np.moveaxis((own == 0).reshape(len(own) // 2, 2, -1, 3), 2, 1).reshape(-1, 6) for own in (hidden, out)]
    assert all((own.all(1) == own.any(1)).all() for own in blocks)
    assert sum(int(own.all(1).sum()) for own in blocks) == 11


def regrowing(network, plan, **settings):
    """A step that has reached its sparsity, as its training goes on; and its two wrappers."""
    step = Pruning(regrow="gradient", schedule="constant", frequency=1, end=1.0, fit={"epochs": 1}, **settings)
    longer = StepPlan(10, 1, plan.calibration, 7, targets=plan.targets, loss=plan.loss)
    prepared = step.prepare(State(network), longer)
    wrappers = [layer for layer in prepared.model.layers if hasattr(layer, "renew")]
    return prepared.model.mask_updates, wrappers


def test_regrowth_drops_the_lowest_and_grows_where_the_gradient_is_largest(network, plan, by_sample):
    updates, wrappers = regrowing(network, plan, final_sparsity=0.75, regrow_share=0.5)
    updates.make(1)
    before = [wrapper.mask.numpy() for wrapper in wrappers]
    np.testing.assert_array_equal(before[0], lowest_gone(np.abs(kernel_of(network, "hidden")), 72))
    # As an optimizer does, which knows nothing of masks.
    for wrapper in wrappers:
        wrapper.weight.assign(wrapper.weight + 0.001)
    masked = [(wrapper.weight * wrapper.mask).numpy() for wrapper in wrappers]
    x, (b1, b2) = plan.calibration, [network.get_layer(name).bias.numpy() for name in LAYERS]
    pre = x @ masked[0] + b1
    by_output = 2 * (np.maximum(pre, 0) @ masked[1] + b2 - plan.targets)
    gradient = np.abs(x.T @ (by_output @ masked[1].T * (pre > 0)))
    updates.make(2)
    after = wrappers[0].mask.numpy()
    # Step 2 of 1...10: of 24 weights so many make way.
    moving = int(0.5 / 2 * (1 + np.cos(np.pi / 9)) * 24)
    stayed = lowest_gone(np.abs(masked[0]), 96 - 24 + moving)
    grown = ~stayed & (gradient >= np.sort(gradient[~stayed])[-moving])
    np.testing.assert_array_equal(after, stayed | grown)
    assert (after != before[0]).any()
    # What was zero begins at zero.
    np.testing.assert_array_equal(wrappers[0].weight.numpy(), np.where(after, masked[0], 0))


def test_the_number_of_zeros_stays_while_the_mask_moves(network, plan):
    updates, wrappers = regrowing(network, plan, final_sparsity=0.8, importance="random", distribution="erk")
    seen = []
    for step in range(1, 11):
        updates.make(step)
        seen.append([wrapper.mask.numpy() for wrapper in wrappers])
    zeros = {tuple(int((mask == 0).sum()) for mask in masks) for masks in seen}
    assert len(zeros) == 1
    assert sum(*zeros) == 106, "a fifth of 132 stays, 26"
    moved = [sum((a != b).sum() for a, b in zip(one, two, strict=True)) for one, two in pairwise(seen)]
    assert moved[0] > 0
    assert moved[-1] == 0, "the share that makes way has fallen to nothing"


def test_movement_is_minus_weight_times_gradient_over_the_steps(network):
    inputs = inputs_for(network, 32)
    targets = np.random.default_rng(2).normal(size=(32, CLASSES)).astype(np.float32)
    step = Pruning(importance="movement", distribution="global", final_sparsity=0.75, end=1.0, frequency=3)
    prepared = step.prepare(State(network), StepPlan(4, 1, inputs, 0))
    (w1, b1), (w2, b2) = (network.get_layer(name).get_weights() for name in LAYERS)
    masks, moved, rate = [np.ones_like(w1), np.ones_like(w2)], [0.0, 0.0], 0.05
    for number in range(1, 5):
        w1, w2 = w1 * masks[0], w2 * masks[1]
        if number in (1, 4):
            zeros = {1: 0, 4: 99}[number]
            ranked = np.sort(
                np.concatenate([np.ravel(own + np.zeros_like(m)) for own, m in zip(moved, masks, strict=True)])
            )
            threshold = ranked[zeros - 1] if zeros else -np.inf
            masks = [(own > threshold) * np.ones_like(m) for own, m in zip(moved, masks, strict=True)]
            w1, w2 = w1 * masks[0], w2 * masks[1]
        x, y = inputs[8 * (number - 1) : 8 * number], targets[8 * (number - 1) : 8 * number]
        hidden = np.maximum(x @ w1 + b1, 0)
        by_output = 2 * (hidden @ w2 + b2 - y) / 8
        by_hidden = by_output @ w2.T * (hidden > 0)
        gradients = [x.T @ by_hidden, hidden.T @ by_output]
        moved = [own - weight * gradient for own, weight, gradient in zip(moved, (w1, w2), gradients, strict=True)]
        w1, w2 = w1 - rate * gradients[0], w2 - rate * gradients[1]
        b1, b2 = b1 - rate * by_hidden.sum(0), b2 - rate * by_output.sum(0)
    prepared.model.compile(kd.keras.optimizers.SGD(rate), squared_error)
    prepared.model.fit(inputs, targets, batch_size=8, shuffle=False, verbose=0, callbacks=step.callbacks(prepared))
    wrappers = [layer for layer in prepared.model.layers if hasattr(layer, "renew")]
    for wrapper, own, mask in zip(wrappers, moved, masks, strict=True):
        np.testing.assert_allclose(wrapper.movement.numpy(), own, rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(wrapper.mask.numpy(), mask)
    state = step.finish(prepared)
    np.testing.assert_allclose(kernel_of(state.model, "hidden"), w1 * masks[0], rtol=1e-3, atol=1e-5)
    assert [type(layer) for layer in state.model.layers] == [type(layer) for layer in network.layers]
    assert [weight.shape for weight in state.model.weights] == [weight.shape for weight in network.weights]


def test_an_interrupted_step_goes_on_as_if_it_had_not_been(network):
    """By what the training gathers, and by what its optimizer does."""
    inputs, before = inputs_for(network), fingerprint(network)
    step = Pruning(
        importance="movement",
        distribution="global",
        regrow="momentum",
        final_sparsity=0.8,
        frequency=2,
        fit={"epochs": 2},
    )

    def prepared():
        state = step.prepare(State(network), plan_for(inputs, epochs=2))
        loss = kd.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        state.model.compile(kd.keras.optimizers.Adam(1e-2), loss)
        state.model.optimizer.build(state.model.trainable_variables)
        return state

    def epoch(state, number):
        span = {"initial_epoch": number, "epochs": number + 1}
        labels = np.arange(64) % CLASSES
        state.model.fit(
            inputs, labels, batch_size=16, shuffle=False, verbose=0, callbacks=step.callbacks(state), **span
        )

    def variables(state):
        return list({id(v): v for v in (*state.model.weights, *state.model.optimizer.variables)}.values())

    straight, resumed = prepared(), prepared()
    epoch(straight, 0)
    for variable, value in zip(variables(resumed), [v.numpy() for v in variables(straight)], strict=True):
        variable.assign(value)
    with pytest.raises(PromiseError, match=r"the layers together must have zeros 0\.8, but have 0\."):
        step.finish(resumed)
    epoch(straight, 1)
    epoch(resumed, 1)
    for a, b in zip(variables(straight), variables(resumed), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    first, second = step.finish(straight), step.finish(resumed)
    assert fingerprint(first.model) == fingerprint(second.model)
    assert fingerprint(network) == before
    zeros = [promise.bound * size for promise, size in zip(first.promises, SIZES, strict=True)]
    assert sum(zeros) == pytest.approx(106)


def test_the_momentum_is_the_optimizers(network):
    from tfcompress.techniques._mask_updates import momentum_of

    variable = kd.tf.Variable([1.0, -2.0])
    for optimizer, expected in (
        (kd.keras.optimizers.Adam(0.1, beta_1=0.75), [0.5, 1.0]),
        (kd.keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True), [-0.2, -0.4]),
    ):
        optimizer.build([variable])
        optimizer.apply_gradients([(kd.tf.constant([2.0, 4.0]), variable)])
        np.testing.assert_allclose(momentum_of(optimizer, variable, "pruning"), expected, rtol=1e-6)
    optimizer = kd.keras.optimizers.RMSprop()
    optimizer.build([variable])
    with pytest.raises(RecipeError, match=r"Received: RMSprop\. Remedy: fit.optimizer adam"):
        momentum_of(optimizer, variable, "pruning")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"importance": "fisher"}, r"importance fisher needs labelled data.*Remedy: importance magnitude, or labels"),
        ({"regrow": "gradient"}, r"regrow gradient needs labelled data.*Remedy: regrow momentum, or labels"),
        ({"importance": "movement", "schedule": "constant", "begin": 0.01}, "gathered by training before the first"),
    ],
)
def test_what_the_data_or_the_plan_does_not_have_is_refused(network, settings, message):
    with pytest.raises(RecipeError, match=message):
        Pruning(**settings).prepare(State(network), plan_for(inputs_for(network)))


@pytest.mark.parametrize("settings", [{"final_sparsity": 0.99}, {"final_sparsity": 0.9, "at_least": 1.0}])
@pytest.mark.parametrize("distribution", ["erk", "global", "lamp"])
def test_too_many_zeros_are_refused_with_the_most_that_there_can_be(network, settings, distribution):
    step = Pruning(distribution=distribution, layers=["hidden", "out"], **settings)
    if settings["final_sparsity"] == 0.9:
        # 9 and 3 of 13: there is room.
        assert step.check(State(network)) is None
        return
    with pytest.raises(RecipeError, match=r"leaves 1 to 2 layers, of which 2 are spoken for.*at most 0\.98484"):
        step.check(State(network))


def test_choices_that_contradict_one_another_are_refused_together():
    wrong = {"importance": "movement", "distribution": "lamp", "regrow": "momentum", "schedule": "constant"}
    with pytest.raises(ValidationError) as failure:
        Pruning(**wrong, fit={"epochs": 0, "optimizer": "rmsprop"})
    for part in (
        "distribution lamp makes magnitudes comparable. Received: importance movement",
        "importance movement and regrow momentum can only be told while the model trains. Received: fit.epochs 0",
        "importance movement is gathered by training before the first zeros",
        "regrow momentum needs an optimizer that keeps one. Received: fit.optimizer rmsprop",
    ):
        assert part in str(failure.value)
    with pytest.raises(ValidationError, match="n_of_m takes the place of distribution, regrow"):
        Pruning(n_of_m=(2, 4), distribution="erk", regrow="gradient")
