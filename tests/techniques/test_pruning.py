import numpy as np
import pytest
from fixtures.models import conv_bn, dense, depthwise, inputs_for, kernel_of, plan_for, run, train
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from tfcompress import keras_door as kd
from tfcompress.models.loading import fingerprint
from tfcompress.schedules import polynomial
from tfcompress.techniques._masks import fewest_zeros
from tfcompress.techniques.pruning import Pruning
from tfcompress.vocabulary.errors import PromiseError, RecipeError
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import State

# Small integers, so that many magnitudes are equal.
tied_weights = hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=4, max_side=7), elements=st.integers(-3, 3))


def zeros_in(model, layer):
    kernel = kernel_of(model, layer)
    return np.count_nonzero(kernel == 0), kernel.size


def exact_pruning(sparsity=0.5, block_size=(1, 1)):
    from tfcompress.techniques._magnitude import ExactPruning, StepSchedule

    return ExactPruning(
        training_step_fn=lambda: 1,
        pruning_vars=[],
        pruning_schedule=StepSchedule(lambda _: sparsity, 1, 1, 1),
        block_size=block_size,
        block_pooling_type="AVG",
    )


@settings(deadline=None)
@given(tied_weights, st.floats(0, 0.999, allow_subnormal=False) | st.integers(0, 99).map(lambda percent: percent / 100))
def test_masks_zero_the_smallest_and_no_more_than_asked(weights, sparsity):
    mask = exact_pruning(sparsity)._update_mask(kd.tf.constant(weights))[1].numpy()

    flat, size = np.abs(weights).ravel(), weights.size
    zeros = next(k for k in range(size + 1) if k / size >= sparsity)
    expected = np.zeros(size)
    expected[np.argsort(-flat, kind="stable")[: size - zeros]] = 1
    np.testing.assert_array_equal(mask, expected.reshape(weights.shape))


@settings(deadline=None)
@given(
    st.integers(1, 3_000_000),
    st.floats(0, 0.9999, allow_subnormal=False) | st.integers(0, 9999).map(lambda x: x / 10_000),
)
def test_the_count_of_zeros_is_exact_at_every_size(count, sparsity):
    zeros = int(fewest_zeros(np.float64(sparsity), count))
    assert zeros / count >= sparsity
    assert zeros == 0 or (zeros - 1) / count < sparsity


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 4), max_size=2), st.integers(1, 3), st.integers(1, 5), st.integers(0, 99))
def test_two_of_four_goes_along_the_input_channels(window, groups, outputs, seed):
    weights = np.random.default_rng(seed).integers(-3, 4, (*window, 4 * groups, outputs)).astype(np.float32)
    mask = exact_pruning()._update_mask_sparsity_m_by_n(kd.tf.constant(weights), (2, 4)).numpy()

    assert mask.shape == weights.shape
    rows = np.moveaxis(np.abs(weights), -2, -1).reshape(-1, 4)
    kept = np.moveaxis(mask, -2, -1).reshape(-1, 4).astype(bool)
    assert (kept.sum(1) == 2).all()
    assert all(row[keep].min() >= row[~keep].max() for row, keep in zip(rows, kept, strict=True))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 40), st.integers(0, 60), st.integers(1, 25))
def test_masks_are_updated_at_the_frequency_and_at_the_very_end(begin, length, frequency):
    from tfcompress.techniques._magnitude import StepSchedule

    end = begin + length
    curve = polynomial(0.0, 0.8, begin, end) if length else lambda _: 0.8
    schedule = StepSchedule(curve, begin, end, frequency)
    updates = {step: None for step in (*range(begin, end, frequency), end)}
    for step in range(end + 30):
        due, sparsity = schedule(kd.tf.constant(step, kd.tf.int64))
        assert bool(due) == (step in updates)
        if due:
            assert float(sparsity) == curve(step)
    assert schedule.values[-1] == 0.8


@pytest.mark.parametrize("sparsity", [0.57, 0.5700000000000001, 0.7000000000000001])
def test_masks_made_in_a_graph_are_exact_at_shares_that_no_decimal_ends(sparsity):
    pruning, weights = exact_pruning(sparsity), np.random.default_rng(0).normal(size=(64, 300)).astype(np.float32)
    mask = kd.tf.function(lambda: pruning._update_mask(kd.tf.constant(weights))[1])().numpy()
    zeros = np.count_nonzero(mask == 0)
    assert zeros / mask.size >= sparsity > (zeros - 1) / mask.size


@pytest.fixture(scope="module")
def pruned():
    """A network pruned gradually, with a frequency that does not divide the span; and what it was made from."""
    model = conv_bn()
    before, layers = fingerprint(model), list(model.layers)
    step = Pruning(
        final_sparsity=0.83, per_layer={"c1*": 0.71, "c1": 0.5}, exclude=["out"], frequency=3, fit={"epochs": 2}
    )
    inputs = inputs_for(model)
    state = run(step, State(model), inputs, epochs=2)
    return step, model, before, layers, state, inputs


def test_every_layer_has_exactly_its_share(pruned):
    *_, state, _ = pruned
    for layer, share in {"c1": 0.5, "c1_1": 0.71}.items():
        zeros, size = zeros_in(state.model, layer)
        assert (zeros - 1) / size < share <= zeros / size
    assert zeros_in(state.model, "out")[0] == 0


def test_the_share_is_promised(pruned):
    *_, state, _ = pruned
    assert state.promises == (
        Promise("c1/kernel", "zeros", 0.5, made_by="pruning"),
        Promise("c1_1/kernel", "zeros", 0.71, made_by="pruning"),
    )


def test_the_callers_model_is_unchanged(pruned):
    _, model, before, layers, state, inputs = pruned
    assert fingerprint(model) == before
    assert all(now is then for now, then in zip(model.layers, layers, strict=True))
    assert not {id(w) for w in model.weights} & {id(w) for w in state.model.weights}
    assert all(len(layer._outbound_nodes) <= 1 for layer in model.layers)
    # It still trains: nothing of it was captured by the wrapped copy.
    assert np.isfinite(model.predict(inputs, verbose=0)).all()


def test_the_pruned_model_is_plain_again(pruned):
    _, model, *_, state, _ = pruned
    assert [layer.name for layer in state.model.layers] == [layer.name for layer in model.layers]
    assert [type(layer) for layer in state.model.layers] == [type(layer) for layer in model.layers]
    assert [w.shape for w in state.model.weights] == [w.shape for w in model.weights]
    # Trained, not only masked.
    kept = kernel_of(state.model, "c1") != 0
    assert not np.allclose(kernel_of(state.model, "c1")[kept], kernel_of(model, "c1")[kept])


def test_the_first_selectable_epoch_is_that_of_the_last_mask(pruned):
    step, *_, inputs = pruned
    # 64 samples are 4 steps an epoch; of 8, the last mask is made at step 6.
    assert step.first_selectable_epoch(plan_for(inputs, epochs=2)) == 1
    assert step.model_copy(update={"end": 0.5}).first_selectable_epoch(plan_for(inputs, epochs=2)) == 0
    assert Pruning(n_of_m=(2, 4)).first_selectable_epoch(plan_for(inputs, epochs=2)) == 0


def test_sparsity_rises_with_the_schedule():
    model = dense()
    inputs = inputs_for(model)
    step = Pruning(final_sparsity=0.8, end=1.0, frequency=1, layers=["hidden"], fit={"epochs": 2})
    plan = plan_for(inputs, epochs=2)
    prepared = step.prepare(State(model), plan)
    seen = []
    watch = kd.keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda *_: seen.append(1 - float(np.mean(prepared.model.layers[1].pruning_vars[0][1])))
    )
    train(prepared.model, inputs, 2, callbacks=[*step.callbacks(prepared), watch])
    curve = polynomial(0.0, 0.8, 1, 8)
    expected = [np.ceil(96 * curve(step) - 1e-9) / 96 for step in range(1, 9)]
    np.testing.assert_allclose(seen, expected, atol=1e-6)


def test_without_its_callback_training_is_refused():
    prepared = Pruning().prepare(State(dense()), plan_for(inputs_for(dense())))
    with pytest.raises(kd.tf.errors.InvalidArgumentError, match="UpdatePruningStep"):
        train(prepared.model, inputs_for(dense()))


def test_a_function_may_be_the_schedule():
    def in_two_jumps(step):
        assert step >= 1
        return 0.4 if step < 3 else 0.9

    model = dense()
    step = Pruning(schedule=in_two_jumps, final_sparsity=0.9, per_layer={"out": 0.6}, frequency=2, fit={"epochs": 1})
    state = run(step, State(model), inputs_for(model))
    for layer, share in {"hidden": 0.9, "out": 0.6}.items():
        zeros, size = zeros_in(state.model, layer)
        assert (zeros - 1) / size < share <= zeros / size


@pytest.mark.parametrize("schedule", [lambda _: 0.5, lambda step: step - 1.1, lambda _: float("nan")])
def test_a_function_must_end_at_the_final_sparsity(schedule):
    step = Pruning(schedule=schedule, final_sparsity=0.9)
    with pytest.raises(RecipeError, match=r"end at the sparsity of the layer, 0\.9 for hidden"):
        step.prepare(State(dense()), plan_for(inputs_for(dense())))


def test_blocks_are_zero_together():
    model = dense()
    step = Pruning(final_sparsity=0.6, block_size=(2, 3), layers=["hidden"], schedule="constant")
    kernel = kernel_of(run(step, State(model), inputs_for(model)).model, "hidden")
    blocks = (kernel == 0).reshape(4, 2, 4, 3).transpose(0, 2, 1, 3).reshape(16, 6)
    assert (blocks.all(1) | ~blocks.any(1)).all()
    assert blocks.all(1).sum() == 10
    # Those of the least mean magnitude, of what the caller gave: the mask is made before the first step.
    means = np.abs(kernel_of(model, "hidden")).reshape(4, 2, 4, 3).transpose(0, 2, 1, 3).reshape(16, 6).mean(1)
    assert set(np.argsort(means)[:10]) == set(np.flatnonzero(blocks.all(1)))


def test_two_of_four_holds_after_training_and_is_promised():
    model = conv_bn()
    state = run(Pruning(n_of_m=(2, 4)), State(model), inputs_for(model))
    for layer in ("c1", "c1_1", "out"):
        groups = np.moveaxis(kernel_of(state.model, layer), -2, -1).reshape(-1, 4)
        assert ((groups == 0).sum(1) == 2).all()
    assert state.promises[0] == Promise("c1/kernel", "group_zeros", 2, group=4, made_by="pruning")
    assert len(state.promises) == 3


def test_groups_leave_out_what_they_do_not_fit_unless_it_is_named():
    layers = kd.keras.layers
    inputs = layers.Input((6, 6, 3))
    x = layers.Conv2D(8, 3, name="stem")(inputs)
    x = layers.Conv2DTranspose(4, 3, name="up")(x)
    model = kd.keras.Model(inputs, layers.Conv2D(8, 3, name="conv")(x))
    assert list(Pruning(n_of_m=(2, 4))._kernels(model)) == ["conv"]
    with pytest.raises(RecipeError) as failure:
        Pruning(n_of_m=(2, 4), layers=["stem", "up", "conv"]).check(State(model))
    assert "groups of 4; stem has 3" in str(failure.value)
    assert "up is a Conv2DTranspose" in str(failure.value)


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depthwise_layers_are_pruned_when_asked_for(multiplier):
    model = depthwise(multiplier)
    state = run(Pruning(final_sparsity=0.6, depthwise=True, layers=["dw", "point"]), State(model), inputs_for(model))
    for layer in ("dw", "point"):
        zeros, size = zeros_in(state.model, layer)
        assert (zeros - 1) / size < 0.6 <= zeros / size
    assert [p.weight for p in state.promises] == ["dw/depthwise_kernel", "point/kernel"]


def test_depthwise_layers_are_left_out_by_default():
    assert list(Pruning()._kernels(depthwise())) == ["point", "out"]
    assert list(Pruning(layers=["*"])._kernels(depthwise())) == ["point", "out"]


@pytest.mark.parametrize(
    "settings", [{"layers": ["d*"]}, {"layers": ["point", "dw"]}, {"per_layer": {"dw": 0.3}}, {"exclude": ["dw"]}]
)
def test_a_pattern_for_a_depthwise_layer_says_what_to_set(settings):
    with pytest.raises(RecipeError, match=r"chooses dw\. Remedy: set pruning\.depthwise=true"):
        Pruning(**settings).check(State(depthwise()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": ["nothing", "bn*"]}, "No match for: nothing, bn\\*"),
        ({"exclude": ["fc"]}, "No match for: fc"),
        ({"per_layer": {"fc": 0.3}}, "pruning.per_layer: .*No match for: fc"),
        ({"exclude": ["c1"], "per_layer": {"c1": 0.3}}, "pruning.per_layer: .*No match for: c1"),
        ({"exclude": ["*"]}, "no layer of this model can be pruned"),
        ({"layers": ["c1"], "block_size": (1, 2)}, "No match for: c1"),
        ({"block_size": (5, 2)}, "must divide the kernel of out, 32 x 3"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(settings, message):
    with pytest.raises(RecipeError, match=message):
        Pruning(**settings).check(State(conv_bn()))


def test_a_model_without_kernels_and_one_with_an_lstm_are_told_so():
    layers = kd.keras.layers
    inputs = layers.Input((5, 2))
    with pytest.raises(RecipeError, match="no layer of this model can be pruned"):
        Pruning().check(State(kd.keras.Model(inputs, layers.LSTM(3)(inputs))))


@pytest.mark.parametrize(
    "settings",
    [
        {"final_sparsity": 1.0},
        {"final_sparsity": -0.1},
        {"per_layer": {"c1": 1.5}},
        {"begin": 0.7, "end": 0.7},
        {"end": 1.1},
        {"frequency": 0},
        {"block_size": (0, 1)},
        {"n_of_m": (4, 4)},
        {"n_of_m": (0, 4)},
        {"n_of_m": (2, 4), "block_size": (1, 2)},
        {"schedule": "cubic"},
    ],
)
def test_values_out_of_range_are_refused(settings):
    with pytest.raises(ValidationError):
        Pruning(**settings)


@pytest.mark.parametrize("settings", [{"final_sparsity": 0.7, "per_layer": {"out": 0.25}}, {"n_of_m": (2, 4)}])
def test_without_epochs_the_masks_are_made_of_the_weights_as_they_are(settings):
    model, inputs = dense(), inputs_for(dense())
    step = Pruning(fit={"epochs": 0}, **settings)
    state = run(step, State(model), inputs, epochs=0)
    for layer in ("hidden", "out"):
        before, after = kernel_of(model, layer), kernel_of(state.model, layer)
        if step.n_of_m:
            rows = np.abs(before.T).reshape(-1, 4)
            kept = (rows >= np.sort(rows, axis=1)[:, 2:3]).reshape(before.T.shape).T
        else:
            zeros = int(np.ceil({"hidden": 0.7, "out": 0.25}[layer] * before.size))
            kept = np.abs(before) > np.sort(np.abs(before).ravel())[zeros - 1]
        np.testing.assert_array_equal(after, np.where(kept, before, 0))


def test_training_that_never_reached_the_end_is_refused():
    model = dense()
    inputs = inputs_for(model)
    step = Pruning(final_sparsity=0.9, fit={"epochs": 4})
    prepared = step.prepare(State(model), plan_for(inputs, epochs=4))
    train(prepared.model, inputs, 1, callbacks=step.callbacks(prepared))
    with pytest.raises(PromiseError, match=r"hidden/kernel must have zeros 0\.9, promised by pruning, but has 0"):
        step.finish(prepared)


def test_zeros_are_exact_though_the_optimizer_moved_them():
    model = dense()
    inputs = inputs_for(model)
    step = Pruning(final_sparsity=0.5, schedule="constant")
    prepared = step.prepare(State(model), plan_for(inputs))
    train(prepared.model, inputs, callbacks=step.callbacks(prepared))
    wrapper = prepared.model.layers[1]
    wrapper.layer.kernel.assign_add(kd.tf.ones_like(wrapper.layer.kernel))
    assert zeros_in(step.finish(prepared).model, "hidden") == (48, 96)


def test_an_interrupted_step_goes_on_as_if_it_had_not_been():
    model = dense()
    inputs = inputs_for(model)
    step = Pruning(final_sparsity=0.77, frequency=3, fit={"epochs": 2})

    def prepared():
        state = step.prepare(State(model), plan_for(inputs, epochs=2))
        loss = kd.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        state.model.compile(kd.keras.optimizers.Adam(1e-2), loss)
        state.model.optimizer.build(state.model.trainable_variables)
        return state

    def epoch(state, number):
        state.model.fit(
            inputs,
            np.arange(64) % 3,
            batch_size=16,
            shuffle=False,
            verbose=0,
            initial_epoch=number,
            epochs=number + 1,
            callbacks=step.callbacks(state),
        )

    def variables(state):
        return list({id(v): v for v in (*state.model.weights, *state.model.optimizer.variables)}.values())

    straight, stopped, resumed = prepared(), prepared(), prepared()
    epoch(straight, 0)
    epoch(straight, 1)
    epoch(stopped, 0)
    for variable, value in zip(variables(resumed), [v.numpy() for v in variables(stopped)], strict=True):
        variable.assign(value)
    epoch(resumed, 1)

    for a, b in zip(variables(straight), variables(resumed), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    assert fingerprint(step.finish(straight).model) == fingerprint(step.finish(resumed).model)
