from functools import partial

import numpy as np
import pytest
from fixtures import models
from pydantic import ValidationError

from tfcompress import keras_door as kd
from tfcompress.callbacks._effective_weights import effective_weights
from tfcompress.callbacks._inference_model import inference_model
from tfcompress.callbacks.keep_promises import keep_promises
from tfcompress.convert.converter import quantized_tflite
from tfcompress.convert.flatbuffer import Flatbuffer
from tfcompress.convert.read_back import find_weight, read_promises
from tfcompress.convert.settings import ConversionSettings
from tfcompress.product_codes import encode, learn
from tfcompress.shipping import ship
from tfcompress.techniques.clustering import Clustering
from tfcompress.techniques.fine_tuning import FineTuning
from tfcompress.techniques.post_training import PostTraining
from tfcompress.techniques.product_quantization import ProductQuantization
from tfcompress.techniques.pruning import Pruning
from tfcompress.techniques.quantization import Quantization
from tfcompress.vocabulary.errors import ModelError, PromiseError, RecipeError
from tfcompress.vocabulary.preprocessing import Preprocessing
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import Lineage, State

RAW = Preprocessing.model_validate("raw")
FEW = partial(ProductQuantization, block=4, codewords=6)


def text(seed=0):
    """Embedding - Flatten - Dense, on eight tokens of thirty."""
    layers = kd.keras.layers
    inputs = layers.Input((8,), dtype="int32")
    x = layers.Flatten(name="flatten")(layers.Embedding(30, 8, name="words")(inputs))
    model = kd.keras.Model(inputs, layers.Dense(models.CLASSES, name="out")(x), name="net")
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(0, 0.3, w.shape) for w in model.get_weights()])
    return model, rng.integers(0, 30, (64, 8)).astype(np.int32)


def words_of(values, block=4, axis=-2):
    """The different sub-vectors of an array, counted with a Python set."""
    rows = np.moveaxis(values, axis, -1)
    return len({tuple(v) for v in rows.reshape(-1, block).tolist()})


@pytest.fixture(scope="module")
def coded():
    """A network with BN, its state of code words, and the state and the file of quantization-aware training."""
    model = models.conv_bn()
    inputs = models.inputs_for(model)
    state = models.run(FEW(per_layer={"out": 9}), State(model), inputs)
    done = models.run(Quantization(), state, inputs, rate=3e-2)
    return model, state, done, ship(done, ConversionSettings(strip_names=False), RAW, inputs)


def test_a_trained_and_finished_model_keeps_its_numbers(coded):
    model, state, *_ = coded
    assert all(np.array_equal(a, b) for a, b in zip(model.weights, models.conv_bn().weights, strict=True))
    assert [(la.name, type(la)) for la in state.model.layers] == [(la.name, type(la)) for la in model.layers]
    promise = partial(Promise, kind="codewords", group=4, made_by="product_quantization")
    assert state.promises == (
        promise("c1/kernel", bound=6),
        promise("c1_1/kernel", bound=6),
        promise("out/kernel", bound=9),
    )
    assert state.promises == FEW(per_layer={"out": 9}).promised(State(model))
    counts = {name: words_of(models.kernel_of(state.model, name)) for name in ("c1", "c1_1", "out")}
    assert counts == {"c1": 6, "c1_1": 6, "out": 9}
    assert not set(np.unique(models.kernel_of(state.model, "c1"))) & set(np.unique(models.kernel_of(model, "c1")))


def test_untrained_it_is_the_nearest_code_words_of_k_means():
    model = models.dense()
    state = models.run(FEW(layers=["hidden"]), State(model), models.inputs_for(model), epochs=0)
    kernel, done = (models.kernel_of(net, "hidden") for net in (model, state.model))
    codebook = np.unique(done.T.reshape(-1, 4), axis=0)[None]
    assert np.array_equal(encode(kernel, codebook, axis=0).decode(), done)
    error = FEW().reconstruction_errors(model, seed=5)
    assert error["hidden"] == learn(kernel, 4, 6, axis=0, seed=5).relative_error(kernel)
    assert list(error) == ["hidden", "out"]
    assert np.array_equal(models.kernel_of(model, "out"), models.kernel_of(state.model, "out"))


@pytest.mark.parametrize("codebook", ["layer", "subspace"])
def test_a_code_word_moves_by_the_gradients_of_all_its_sub_vectors(codebook):
    """One step of gradient descent, by hand."""
    model = models.dense()
    inputs = models.inputs_for(model)
    prepared = FEW(layers=["hidden"], codebook=codebook).prepare(State(model), models.plan_for(inputs)).model
    wrapper = prepared.get_layer("coded_hidden")
    before, codes = wrapper.words.numpy(), wrapper.codes.numpy()
    plain = inference_model(prepared)
    np.testing.assert_allclose(plain(inputs), prepared(inputs), rtol=1e-6)
    with kd.tf.GradientTape() as tape:
        loss = kd.tf.reduce_sum(plain(inputs) ** 2)
    of_kernel = tape.gradient(loss, plain.get_layer("hidden").kernel).numpy().T.reshape(12, 2, 4)
    expected = np.zeros_like(before)
    for output, place in np.ndindex(12, 2):
        expected[place % len(expected), codes[output, place]] += of_kernel[output, place]

    prepared.compile(kd.keras.optimizers.SGD(1e-3), lambda _, outputs: kd.tf.reduce_sum(outputs**2, -1))
    prepared.fit(inputs, inputs[:, :1], batch_size=64, verbose=0)
    np.testing.assert_allclose(
        (before - wrapper.words.numpy()) / 1e-3, expected / 64, rtol=1e-2, atol=1e-3 * np.abs(expected / 64).max()
    )
    assert np.array_equal(wrapper.codes.numpy(), codes)


def test_a_codebook_for_each_subspace_is_promised_so():
    model = models.conv_bn()
    state = models.run(FEW(codebook="subspace", layers=["c1_1"]), State(model), models.inputs_for(model), epochs=0)
    assert state.promises[0].scope == "subspace"
    kernel = models.kernel_of(state.model, "c1_1")
    assert [words_of(kernel[:, :, part]) for part in (slice(0, 4), slice(4, 8))] == [6, 6]
    assert state.promises[0].found_in(kernel) == 6
    assert words_of(kernel) == 12


def test_code_words_are_in_the_file(coded):
    _, state, done, shipment = coded
    assert shipment.proof.full_integer
    assert [(f.promise.kind, f.kept) for f in shipment.promises] == [("codewords", True)] * 3
    flat = Flatbuffer(shipment.content)
    for name, promised in {"c1": 6, "c1_1": 6, "out": 9}.items():
        stored = find_weight(flat, f"{name}/kernel", done.model)[0].data
        assert 4 <= words_of(stored, axis=-1) <= promised
        # They are where they were: training as integers has moved words, and no sub-vector to another.
        before = np.moveaxis(models.kernel_of(state.model, name), -1, 0).reshape(-1, 4)
        pairs = {(tuple(a), tuple(b)) for a, b in zip(before.tolist(), stored.reshape(-1, 4).tolist(), strict=True)}
        assert len(pairs) == promised


def test_training_as_integers_moves_code_words(coded):
    from tfcompress.techniques._fake_quant import weight_quantizers

    _, state, done, _ = coded
    for wrapper, weight, _ in weight_quantizers(done.model):
        before = models.kernel_of(state.model, wrapper.layer.name)
        assert not np.allclose(weight.numpy(), before, atol=1e-3)
        assert words_of(weight.numpy()) <= 9


def test_a_range_for_each_channel_would_break_them(coded):
    """What the converter does by itself, and the reason why post_training is refused."""
    _, state, *_ = coded
    flat = Flatbuffer(quantized_tflite(state.model, "int8", ConversionSettings(), models.inputs_for(state.model)))
    found = {f.promise.weight: f for f in read_promises(flat, state)}
    assert not found["c1_1/kernel"].kept
    with pytest.raises(RecipeError, match="post_training would break the promise of shared values"):
        PostTraining().check(state)
    assert PostTraining().problems_after([FEW()])
    assert PostTraining(number_format="float16").check(state) is None


def test_low_bits_and_a_codebook_for_each_subspace_in_the_file():
    model = models.dense()
    inputs = models.inputs_for(model)
    state = models.run(FEW(codebook="subspace", layers=["hidden"]), State(model), inputs, epochs=0)
    state = models.run(Quantization(per_layer={"hidden": 4}, fit={"epochs": 0}), state, inputs, epochs=0)
    shipment = ship(state, ConversionSettings(strip_names=False), RAW, inputs)
    assert {f.promise.kind: f.kept for f in shipment.promises} == {"codewords": True, "levels": True}
    stored = find_weight(Flatbuffer(shipment.content), "hidden/kernel", state.model)[0]
    assert stored.dtype == "INT4"


def test_the_rows_of_an_embedding_are_in_the_file_too():
    model, tokens = text()
    step = FEW(layers=["words"], codewords=10)
    prepared = step.prepare(State(model), models.plan_for(tokens))
    models.train(prepared.model, tokens)
    state = step.finish(prepared)
    table = state.model.get_layer("words").embeddings.numpy()
    assert words_of(table, axis=-1) == 10
    assert not np.allclose(table, model.get_layer("words").embeddings.numpy())
    state = models.run(Quantization(fit={"epochs": 0}), state, tokens, epochs=0)
    shipment = ship(state, ConversionSettings(strip_names=False), RAW, tokens.astype(np.float32))
    assert shipment.promises[0].kept
    stored = find_weight(Flatbuffer(shipment.content), "words/embeddings", state.model)[0].data
    assert 5 <= words_of(stored, axis=-1) <= 10


def test_fine_tuning_behind_it_leaves_the_code_words():
    model = models.dense()
    inputs = models.inputs_for(model)
    state = models.run(FEW(layers=["hidden"]), State(model), inputs, epochs=0)
    prepared = FineTuning().prepare(state, models.plan_for(inputs))
    models.train(prepared.model, inputs, callbacks=keep_promises(prepared))
    done = FineTuning().finish(prepared)
    assert np.array_equal(models.kernel_of(done.model, "hidden"), models.kernel_of(state.model, "hidden"))
    assert not np.array_equal(models.kernel_of(done.model, "out"), models.kernel_of(state.model, "out"))


def test_training_goes_on_bit_equal_in_a_newly_prepared_model():
    model = models.dense()
    inputs, step = models.inputs_for(model), FEW()
    straight = models.train(step.prepare(State(model), models.plan_for(inputs)).model, inputs, epochs=2)
    first = models.train(step.prepare(State(model), models.plan_for(inputs)).model, inputs)
    second = step.prepare(State(model), models.plan_for(inputs)).model
    for new, old in zip(second.weights, first.weights, strict=True):
        new.assign(old.numpy())
    second.compile(kd.keras.optimizers.Adam(1e-2), first.loss)
    second.optimizer.build(second.trainable_variables)
    for new, old in zip(second.optimizer.variables, first.optimizer.variables, strict=True):
        new.assign(old.numpy())
    targets = np.random.default_rng(1).integers(0, models.CLASSES, len(inputs))
    second.fit(inputs, targets, batch_size=16, shuffle=False, verbose=0)
    assert all(np.array_equal(a, b) for a, b in zip(second.weights, straight.weights, strict=True))


def test_preparing_twice_gives_the_same_model_and_the_seed_decides():
    model = models.conv_bn()
    plans = [models.plan_for(models.inputs_for(model), seed=seed) for seed in (3, 3, 4)]
    first, again, other = (FEW().prepare(State(model), plan).model for plan in plans)
    assert [(w.name, w.shape) for w in first.weights] == [(w.name, w.shape) for w in again.weights]
    assert all(np.array_equal(a, b) for a, b in zip(first.weights, again.weights, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first.weights, other.weights, strict=True))


def test_the_weight_behind_the_code_words_is_not_trained_and_a_frozen_layer_not_at_all():
    model = models.dense()
    model.get_layer("out").trainable = False
    inputs = models.inputs_for(model)
    prepared = FEW().prepare(State(model), models.plan_for(inputs)).model
    assert [w.name for w in prepared.trainable_weights] == ["coded_hidden/words:0", "hidden/bias:0"]
    assert len(prepared.weights) == len({id(w) for w in prepared.weights}) == 8
    before = [w.numpy() for w in prepared.non_trainable_weights]
    models.train(prepared, inputs)
    assert all(np.array_equal(a, b) for a, b in zip(prepared.non_trainable_weights, before, strict=True))


def test_callbacks_see_the_model_as_it_would_be():
    model = models.dense()
    inputs = models.inputs_for(model)
    step = FEW()
    prepared = step.prepare(State(model), models.plan_for(inputs))
    models.train(prepared.model, inputs)
    seen = {weight.name: weight.values for weight in effective_weights(prepared.model)}
    outputs = inference_model(prepared.model)(inputs).numpy()
    done = step.finish(prepared)
    assert sorted(seen) == ["hidden", "out"]
    assert all(np.array_equal(values, models.kernel_of(done.model, name)) for name, values in seen.items())
    np.testing.assert_allclose(outputs, done.model(inputs), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs, prepared.model(inputs), rtol=1e-5, atol=1e-6)


def test_every_layer_has_a_verdict():
    verdicts = {v.layer: (v.outcome, v.reason) for v in ProductQuantization().verdicts(models.depthwise())}
    assert verdicts["dw"] == ("no", "code words are for Dense, Conv1D, Conv2D and Embedding")
    assert verdicts["point"] == ("no", "its 8 sub-vectors are no more than 256 code words")
    assert verdicts["bn_dw"] == verdicts["pool"] == ("-", "")
    assert {v.outcome for v in FEW(codewords=5).verdicts(models.dense()) if v.layer != "input_1"} >= {"yes"}
    assert FEW().layers_with_values(models.conv_bn()) == ("c1", "c1_1", "out")


def test_layers_that_are_named_and_have_no_such_sub_vectors_are_refused_together():
    model = models.dense(10)
    with pytest.raises(RecipeError) as refusal:
        ProductQuantization(layers=["*"], codewords=9).check(State(model))
    assert str(refusal.value).splitlines() == [
        "product_quantization cannot give 2 layer(s) code words:",
        "  hidden: block 4 does not divide its 10 input channels. Remedy: another block, or leave it out",
        "  out: its 9 sub-vectors are no more than 9 code words. Remedy: fewer code words for it, by "
        "product_quantization.per_layer, or leave it out",
    ]
    # By itself it takes those that fit.
    assert [p.weight for p in FEW().promised(State(model))] == ["out/kernel"]
    with pytest.raises(RecipeError, match=r"no layer of this model is left(.|\n)*hidden: block 4(.|\n)*out: its 9"):
        FEW(codewords=9).check(State(model))
    text_model, _ = text()
    with pytest.raises(RecipeError, match=r"words: block 3 does not divide its 8 values in a row"):
        ProductQuantization(layers=["words"], block=3).check(State(text_model))
    with pytest.raises(RecipeError, match="out: its 3 sub-vectors in each subspace are no more than 6 code words"):
        FEW(codebook="subspace", layers=["out"]).check(State(models.dense()))


def test_promises_that_code_words_would_break_are_refused_together():
    model = models.dense()
    inputs = models.inputs_for(model)
    pruning, clustering = Pruning(layers=["hidden"], frequency=1), Clustering(clusters=4, layers=["out"])
    state = clustering.foreseen(pruning.foreseen(State(model)))
    with pytest.raises(RecipeError) as refusal:
        FEW().check(state)
    message = str(refusal.value)
    assert "hidden: pruning promised zeros 0.5, which code words would not keep. Remedy: leave it out of" in message
    assert "out: clustering promised distinct 4" in message
    with pytest.raises(RecipeError, match="2 layer"):
        FEW().prepare(state, models.plan_for(inputs))
    first = FEW(name="first").foreseen(State(model))
    with pytest.raises(RecipeError, match="hidden: first promised codewords 6"):
        FEW().check(first)
    with pytest.raises(RecipeError, match=r"cannot be clustered as well. Received: hidden \(first\), out \(first\)"):
        Clustering().check(first)


def test_promises_follow_the_callers_names():
    model = models.dense()
    state = State(model, lineage=Lineage({"head/kernel": "out/kernel"}))
    assert [p.weight for p in FEW().promised(state)] == ["hidden/kernel", "head/kernel"]


def test_more_code_words_than_promised_are_an_error():
    model = models.dense()
    step = FEW()
    prepared = step.prepare(State(model), models.plan_for(models.inputs_for(model)))
    with pytest.raises(
        PromiseError, match="hidden/kernel must have codewords 2, promised by product_quantization, but"
    ):
        FEW(codewords=2).finish(prepared)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": ["flatten"]}, "No match for: flatten"),
        ({"exclude": ["nothing*"]}, r"No match for: nothing\*"),
        ({"per_layer": {"bn_c1": 4}}, r"product_quantization\.per_layer.*No match for: bn_c1"),
    ],
)
def test_patterns_must_match(arguments, message):
    with pytest.raises(RecipeError, match=message):
        FEW(**arguments).check(State(models.conv_bn()))


def test_nested_models_are_refused():
    outer = kd.keras.Sequential([kd.keras.layers.Input((8,)), models.dense()])
    with pytest.raises(ModelError, match="nested"):
        FEW().check(State(outer))


@pytest.mark.parametrize("arguments", [{"block": 1}, {"codewords": 1}, {"codewords": 65_537}, {"codebook": "channel"}])
def test_values_out_of_range_are_refused(arguments):
    with pytest.raises(ValidationError):
        ProductQuantization(**arguments)
