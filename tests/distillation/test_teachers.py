"""Teachers asked for their outputs: Keras models and .tflite files, each fed what it expects."""

import numpy as np
import pytest
from fixtures.distillation import by_teacher, lesson_of, network

from tfcompress import keras_door as kd
from tfcompress.convert.converter import quantized_tflite
from tfcompress.convert.settings import ConversionSettings
from tfcompress.distillation.teachers import Network, engaged, read_network
from tfcompress.preprocessing_file import sidecar_of, sidecar_text
from tfcompress.vocabulary.distillation import Teacher
from tfcompress.vocabulary.preprocessing import NAMED, Preprocessing


@pytest.fixture(scope="module")
def tflite(teacher, digits, tmp_path_factory):
    """The teacher as a full-integer file."""
    samples = digits.dataset.calibration(preprocessing=digits.preprocessing, count=200, seed=0)
    path = tmp_path_factory.mktemp("files") / "teacher.tflite"
    path.write_bytes(quantized_tflite(teacher, "int8", ConversionSettings(), samples))
    return path


def test_a_tflite_teacher_says_what_its_keras_model_does_within_int8(digits, teacher, tflite):
    file = read_network(Teacher(model=str(tflite)), None, False)
    assert file.shapes == ((8, 8, 1), (10,))
    assert file.step == pytest.approx(1 / 256)
    settings = by_teacher()
    said = [lesson_of(settings, digits, one) for one in (file, Network("teacher", model=teacher))]
    assert not any(one.teachers[0].from_logits for one in said)
    by_file, by_keras = (np.exp(one.rows(None)) for one in said)
    by_file /= by_file.sum(-1, keepdims=True)
    assert np.abs(by_file - by_keras).mean() < 0.01
    assert np.mean(by_file.argmax(-1) == by_keras.argmax(-1)) > 0.95


def test_a_tflite_teacher_is_asked_in_the_graph_too(digits, tflite):

    file = read_network(Teacher(model=str(tflite)), None, False)
    inputs = digits.preprocessing.apply(digits.dataset.train.inputs[:5])
    found = kd.tf.function(file.outputs_in_graph)(kd.tf.constant(inputs))
    assert found.shape == (5, 10)
    assert np.array_equal(found, file.outputs(inputs))


def test_logits_of_a_teacher_are_told_apart_from_probabilities(digits, teacher):

    clone = kd.keras.models.clone_model(teacher)
    clone.set_weights(teacher.get_weights())
    clone.get_layer("out").activation = kd.keras.activations.linear
    scores = kd.keras.Model(clone.inputs, clone.get_layer("out")(clone.get_layer("hidden").output))
    for model, logits in ((scores, True), (teacher, False)):
        found = engaged(Teacher(model="t.h5"), Network("t", model=model), digits, is_student=False, seed=0)
        assert found.from_logits == logits
    one, other = (lesson_of(by_teacher(), digits, Network("t", model=m)).rows(None)[:, 0] for m in (scores, teacher))
    np.testing.assert_allclose(one - one.mean(-1, keepdims=True), other - other.mean(-1, keepdims=True), atol=1e-2)


@pytest.mark.parametrize(
    ("said", "written", "expected"),
    [(None, None, "custom"), (None, "signed", "signed"), ("raw", "signed", "raw")],
)
def test_what_a_teacher_is_fed_is_said_or_written_or_the_students(digits, tmp_path, said, written, expected):
    path = tmp_path / "net.h5"
    network(16, seed=0).save(path)
    if written:
        sidecar_of(path).write_text(sidecar_text(NAMED[written]))
    teacher = Teacher(model=str(path), preprocessing=said)
    found = engaged(teacher, read_network(teacher, None, False), digits, is_student=False, seed=0)
    assert found.preprocessing.name == expected


def test_what_the_student_is_fed_becomes_what_the_teacher_is_fed(digits):
    theirs = Preprocessing.model_validate({"mean": 100, "std": 50})
    teacher = Teacher(model="t.h5", preprocessing=theirs)
    found = engaged(teacher, Network("t", model=network(16, seed=0)), digits, is_student=False, seed=0)
    raw = digits.dataset.train.inputs[:4]

    again = found.refed(kd.tf.constant(digits.preprocessing.apply(raw)))
    np.testing.assert_allclose(again, theirs.apply(raw), atol=1e-5)
