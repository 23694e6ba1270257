"""What can be done to a model, told for all its layers at once."""

import re

import numpy as np
import pytest
from fixtures.models import conv_bn, dense

import tfcompress
from tfcompress import feasibility
from tfcompress import keras_door as kd
from tfcompress.cli.main import main
from tfcompress.enabling import enabled
from tfcompress.feasibility import Report, lines, preflight
from tfcompress.models.loading import fingerprint
from tfcompress.recipe import load_recipe
from tfcompress.techniques.base import Verdict
from tfcompress.vocabulary.errors import ConversionError
from tfcompress.vocabulary.state import State


def eight_troubles():
    """Eight things that quantization-aware training does not take, of which the converter leaves one in float."""
    layers = kd.keras.layers
    x = inputs = layers.Input((8, 8, 4))
    x = layers.Conv2D(4, 3, padding="same", activation="elu", name="elu")(x)
    x = layers.BatchNormalization(name="behind_activation")(x)
    x = layers.SeparableConv2D(4, 3, name="separable")(x)
    x = layers.LayerNormalization(name="normalized")(x)
    x = layers.Lambda(lambda value: value * 2, name="own")(x)
    x = layers.PReLU(name="prelu")(x)
    inside = layers.Input((6, 6, 4))
    x = kd.keras.Model(inside, layers.Conv2D(4, 1, name="conv")(inside), name="nested")(x)
    x = layers.Activation("softplus", name="softplus")(x)
    x = layers.Flatten(name="flatten")(x)
    return kd.keras.Model(inputs, layers.Dense(2, name="out")(x), name="net")


EIGHT = ("elu", "normalized", "prelu", "softplus", "own", "einsum", "attention", "recurrent")


def eight_unsupported():
    """A layer of each of those names, of eight kinds that quantization-aware training does not take."""
    layers = kd.keras.layers
    x = inputs = layers.Input((4, 4, 4))
    x = layers.ELU(name="elu")(layers.Conv2D(4, 3, padding="same", name="conv")(x))
    x = layers.LayerNormalization(name="normalized")(x)
    x = layers.PReLU(name="prelu")(x)
    x = layers.Activation("softplus", name="softplus")(x)
    x = layers.Lambda(lambda value: value * 2, name="own")(x)
    x = layers.Reshape((8, 8), name="rows")(x)
    x = layers.EinsumDense("abc,cd->abd", output_shape=(8, 4), name="einsum")(x)
    x = layers.MultiHeadAttention(1, 2, name="attention")(x, x)
    x = layers.LSTM(3, name="recurrent")(x)
    return kd.keras.Model(inputs, layers.Dense(2, name="out")(x), name="net")


@pytest.fixture(scope="module")
def troubles():
    """That model and the report of it."""
    model = eight_troubles()
    before = fingerprint(model)
    report = preflight(model)
    assert fingerprint(model) == before
    return model, report


def test_eight_unsupported_things_are_listed_at_once(troubles):
    model, report = troubles
    assert [name for name, _ in report.layers] == [layer.name for layer in model.layers]
    graph, shared = {"blocks", "channels", "low_rank"}, {"clustering", "product_quantization"}
    assert set(report.columns) == {*graph, *shared, "adapters", "equalization", "pruning", "quantization", "int8"}
    found = {verdict.layer: verdict for column, verdict in report.findings if column == "quantization"}
    assert list(found) == [
        "elu",
        "behind_activation",
        "separable",
        "normalized",
        "own",
        "prelu",
        "nested",
        "softplus",
    ]
    assert all(verdict.reason and verdict.remedy for verdict in found.values())
    outcomes = {name: verdict.outcome for name, verdict in found.items()}
    rewritten = {"elu", "behind_activation", "separable", "nested"}
    assert {name for name, outcome in outcomes.items() if outcome == "by rewrite"} == rewritten
    assert set(outcomes.values()) == {"by rewrite", "by calibration"}
    assert "separable_convolutions has " in found["separable"].reason
    # What is not exact is offered as the remedy.
    assert "ReLU" in found["softplus"].remedy


def test_check_lists_all_of_eight_unsupported_things_as_preflight_does(tmp_path, capsys, monkeypatch):
    reports = []

    def kept(*args, **options):
        reports.append(preflight(*args, **options))
        return reports[0]

    monkeypatch.setattr(feasibility, "preflight", kept)
    eight_unsupported().save(tmp_path / "eight.h5")
    # Its Lambda is Python code.
    assert main(["check", str(tmp_path / "eight.h5"), "--unsafe", "--recipe=int8_qat"]) == 1
    printed = capsys.readouterr().out.splitlines()
    found = [line.partition(", quantization: by calibration. ") for line in printed]
    told = {layer: why for layer, _, why in found if why}
    assert tuple(told) == EIGHT
    assert all(re.fullmatch(r".+\. Remedy: .+", why) for why in told.values())
    assert set(lines(reports[0].findings)) <= set(printed)
    listed = [verdict.layer for column, verdict in reports[0].findings if column == "quantization"]
    assert tuple(listed) == EIGHT


def test_the_converter_is_asked_too(troubles):
    _, report = troubles
    conversion = {verdict.layer: verdict for verdict in report.columns["int8"]}
    assert conversion["elu"].outcome == "float only"
    assert "ELU: the converter has no integer form" in conversion["elu"].reason
    assert (conversion["flatten"].outcome, conversion["out"].outcome) == ("yes", "yes")


def test_a_report_is_a_table_and_lines(troubles):
    _, report = troubles
    assert report.rows[-1] == ("out", "Dense", "no", "-", "-", "-", "yes", "yes", "yes", "no", "yes", "yes")
    text = lines(report.findings)
    # Techniques that say the same of the nested model share a line.
    assert any(
        line.startswith("nested, blocks, channels, low_rank, pruning, clustering, quantization: by rewrite. ")
        for line in text
    )
    assert len(text) == len({verdict for _, verdict in report.findings})


def test_what_forbids_a_recipe_is_told(troubles):
    _, report = troubles
    assert any(problem.startswith("elu: ELU") for problem in report.problems(load_recipe("int8_qat")))
    allowed = load_recipe("int8_qat", ["conversion.allow_float=true"])
    assert report.problems(allowed) == ()
    unknown = load_recipe("int8_qat", ["conversion.allow_float=true", "quantization.per_layer={nothing: 4}"])
    assert "No match for: nothing" in "".join(report.problems(unknown))


def test_rewrites_are_made_for_the_steps_that_need_them_only(troubles):
    model, _ = troubles
    done = enabled(load_recipe("int8_qat"), State(model))
    assert {change.layer for change in done.changes} >= {"separable", "nested"}
    assert done.state.lineage.place("nested/conv/kernel") == "conv/kernel"
    inputs = np.random.default_rng(0).normal(size=(4, 8, 8, 4)).astype(np.float32)
    expected = model.predict(inputs, verbose=0)
    np.testing.assert_allclose(done.state.model.predict(inputs, verbose=0), expected, rtol=1e-3, atol=1e-4)
    state = State(conv_bn())
    assert enabled(load_recipe("int8_qat"), state).state is state
    assert enabled(load_recipe("ptq_int8"), State(model)).changes == ()


def test_a_refusal_of_the_converter_leaves_the_other_columns(monkeypatch):
    def refuse(*_):
        raise ConversionError("TensorFlow's converter refused the model:\n  Svd at net/hidden/Svd: no such operator")

    monkeypatch.setattr(feasibility, "quantized_tflite", refuse)
    model = dense()
    report = preflight(model)
    conversion = {verdict.layer: verdict for verdict in report.columns["int8"]}
    assert conversion["hidden"].outcome == "no"
    assert "Svd at net/hidden/Svd" in conversion["hidden"].reason
    assert conversion["out"].outcome == "-"
    assert [verdict.outcome for verdict in report.columns["pruning"]] == ["-", "yes", "yes"]
    assert "Svd" in report.problems(load_recipe("ptq_int8"))[0]


def test_a_refusal_that_names_no_layer_is_one_of_the_model(monkeypatch):
    def refuse(*_):
        raise ConversionError("The converter crashed.")

    monkeypatch.setattr(feasibility, "quantized_tflite", refuse)
    report = preflight(dense())
    assert report.of_model == ("The converter crashed.",)
    assert report.columns["quantization"][1] == Verdict("hidden", "yes")


def test_an_operator_without_a_form_in_tflite_is_the_layers():
    layers = kd.keras.layers
    inputs = layers.Input((4, 4))
    x = layers.Lambda(kd.tf.linalg.svd, name="svd", arguments={"compute_uv": False})(inputs)
    report = preflight(kd.keras.Model(inputs, layers.Dense(2, name="out")(x), name="net"))
    conversion = {verdict.layer: verdict.outcome for verdict in report.columns["int8"]}
    assert conversion["svd"] == "no"


def test_token_ids_are_fed_where_an_embedding_looks_them_up():
    layers = kd.keras.layers
    ids = layers.Input((None,), dtype="int32")
    x = layers.GlobalAveragePooling1D(name="pool")(layers.Embedding(3, 4, name="table")(ids))
    report = preflight(kd.keras.Model(ids, layers.Dense(2, name="out")(x), name="net"))
    assert {verdict.outcome for verdict in report.columns["int8"]} == {"-", "yes"}
    assert report.of_model == ()


def test_what_is_wrong_with_the_model_as_a_whole_is_a_finding():
    layers = kd.keras.layers
    pair = layers.Input((2,), name="a"), layers.Input((2,), name="b")
    two = kd.keras.Model(pair, layers.Dense(2, name="out")(layers.Concatenate(name="both")(pair)))
    report = preflight(two)
    assert "several" in report.of_model[0]
    assert report.columns["quantization"][-1] == Verdict("out", "yes")
    assert report.problems(load_recipe("ptq_int8")) == report.of_model
    assert preflight("no_such_file.h5").layers == ()


def test_the_package_offers_it_by_name():
    assert tfcompress.preflight is preflight
    assert isinstance(Report((), {}), Report)


def test_the_command_prints_the_report_and_says_whether_the_recipe_can_be_carried_out(tmp_path, capsys, troubles):
    fine, bad = str(tmp_path / "fine.h5"), str(tmp_path / "bad.h5")
    dense().save(fine)
    layers = kd.keras.layers
    kd.keras.Sequential([layers.ELU(name="hidden", input_shape=(4,)), layers.Softmax()]).save(bad)
    assert main(["check", fine]) == 0
    assert "hidden" in capsys.readouterr().out
    assert main(["check", f"--model={fine}", "--recipe=prune_qat"]) == 0
    assert "The recipe prune_qat can be carried out" in capsys.readouterr().out
    assert main(["check", bad, "--recipe=int8_qat"]) == 1
    out, err = capsys.readouterr()
    assert "hidden, quantization: by calibration. this type of layer" in out
    assert "quantization-aware training needs a layer" in err
    assert "hidden: ELU" in err
    assert main(["check", str(tmp_path / "none.h5")]) == 1
    assert main(["check", fine, "more"]) == 2


def test_what_a_recipe_would_ship_is_converted_and_told(troubles):
    model, of_the_model_as_it_came = troubles
    assert of_the_model_as_it_came.converted == ("Converted for the column int8: the model as it came, to int8.",)
    report = preflight(model, load_recipe("int8_qat"))
    assert "after the exact rewrites that the recipe int8_qat begins with, to int8." in report.converted[0]
    assert any(line.startswith("flatten_models: 1 layer (nested); ") for line in report.converted)
    conversion = {verdict.layer: verdict for verdict in report.columns["int8"]}
    assert list(conversion) == [layer.name for layer in model.layers]
    # The activation is a layer of its own there, and the finding is the caller's layer's.
    assert conversion["elu"].outcome == "float only"
    assert conversion["elu"].reason.startswith("elu_elu in its place: ELU: ")
    assert preflight(model, load_recipe("ptq_int8")).converted[0].endswith("as it came, to int8.")


def test_a_finding_within_what_was_a_nested_model_is_the_nested_models():
    layers = kd.keras.layers
    inside = layers.Input((4,))
    nested = kd.keras.Model(inside, layers.Dense(4, activation="elu", name="deep")(inside), name="nested")
    relu = layers.Dense(4, activation="hard_sigmoid", name="gate")
    model = kd.keras.Sequential([layers.Input((4,)), nested, relu, layers.Dense(2, name="out")])
    report = preflight(model, load_recipe("int8_qat"))
    assert {v.layer: v.outcome for v in report.columns["int8"]} == {"nested": "float only", "gate": "yes", "out": "yes"}
    assert any("flatten_models" in line for line in report.converted)


def test_a_network_of_the_zoo_is_checked_for_its_data(capsys):
    report = preflight("lenet300", load_recipe("ptq_int8"), data="digits")
    assert report.problems(load_recipe("ptq_int8")) == ()
    assert report.state.model.output_shape == (None, 10)
    assert main(["check", "mobilenet_v1:width=0.25"]) == 1
    assert "Remedy: name the data set too, as in --dataset=digits." in capsys.readouterr().err
    assert main(["check", "lenet300:width=2", "--dataset=digits"]) == 1
    assert "option 'width'" in capsys.readouterr().err


def test_data_that_does_not_fit_the_model_is_a_finding(tmp_path):
    inputs, labels = np.zeros((40, 4), np.float32), np.arange(40) % 5
    report = preflight(dense(), data=(inputs[:, :3], labels))
    assert report.columns["int8"]
    assert len(report.of_model) == 1
    assert preflight(str(tmp_path)).layers == ()


def test_a_layer_that_only_gets_other_neighbours_is_one_by_rewrite():
    layers = kd.keras.layers
    x = inputs = layers.Input((6, 6, 3))
    x = layers.BatchNormalization(name="norm")(layers.SeparableConv2D(4, 3, name="separable")(x))
    model = kd.keras.Model(inputs, layers.Dense(2, name="out")(layers.Flatten()(x)))
    report = preflight(model, load_recipe("int8_qat"))
    found = {verdict.layer: verdict for verdict in report.columns["quantization"]}
    assert found["norm"].outcome == found["separable"].outcome == "by rewrite"
    assert "the layers around it" in found["norm"].reason
