"""Students that listen to teachers: what they learn, that a kill changes nothing, and what is left of it."""

from dataclasses import replace

import numpy as np
import pytest
from fixtures.distillation import by_teacher, divergence, lesson_of, network, weights_equal

from tfcompress import keras_door as kd
from tfcompress.data.augmentation import Augmentation
from tfcompress.distillation.teachers import Network
from tfcompress.run_folder import RunFolder
from tfcompress.training import Training
from tfcompress.vocabulary.reporter import Reporter
from tfcompress.vocabulary.training import Fit

HARD = {
    "features": [{"student": "conv", "teacher": "bn"}, {"student": "hidden", "teacher": "hidden"}],
    "gradient_weight": 0.01,
    "temperature": {"begin": 8, "end": 2},
}
"""All there is: outputs, features of other widths, gradients."""


class InterruptAt(Reporter):
    """Stops a training as Ctrl-C would, in the middle of an epoch."""

    def __init__(self, done):
        self.done = done

    def progress(self, label, done, total, note=""):
        if done == self.done:
            raise KeyboardInterrupt


def test_a_distilled_student_is_nearer_to_its_teacher(digits, teacher, taught):
    alone, _ = taught(None)
    distilled, history = taught(by_teacher(weight=1.0, temperature=2))
    assert divergence(digits, distilled, teacher) < 0.7 * divergence(digits, alone, teacher)
    assert history[-1]["soft_target_loss"] < history[0]["soft_target_loss"]
    assert history[-1]["loss"] == pytest.approx(history[-1]["soft_target_loss"], rel=1e-5)


def test_the_loss_is_the_weighted_sum_of_its_parts(taught):
    _, history = taught(by_teacher(weight=0.3, feature_weight=2.0, **HARD), Fit(epochs=1))
    record = history[0]
    expected = (
        0.7 * record["task_loss"]
        + 0.3 * record["soft_target_loss"]
        + 2.0 * record["feature_loss"]
        + 0.01 * record["gradient_loss"]
    )
    assert record["loss"] == pytest.approx(expected, rel=1e-4)


def test_stored_outputs_follow_their_examples_through_the_shuffle(digits, teacher):
    lesson = lesson_of(by_teacher(), digits, Network("teacher", model=teacher))
    rows = lesson.rows(None)
    for inputs, _, scores in digits.training_batches(0, 1, 2, rows).take(2):
        expected = teacher.predict(inputs, verbose=0)
        np.testing.assert_allclose(np.exp(scores.numpy()[:, 0]), expected, rtol=1e-3, atol=1e-6)


def test_stored_outputs_teach_like_a_teacher_that_is_asked_at_every_batch(taught):
    stored, _ = taught(by_teacher(), Fit(epochs=1))
    # Gradients of no consequence make the teacher live, on the same batches.
    same, _ = taught(by_teacher(gradient_weight=1e-30), Fit(epochs=1))
    for one, other in zip(stored.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-3)


@pytest.mark.parametrize("settings", [by_teacher(temperature={"begin": 8, "end": 1}), by_teacher(**HARD)])
def test_an_interrupted_training_ends_bit_equal(digits, taught, tmp_path, settings):
    fit = Fit(epochs=3, learning_rate=0.01)

    def run(folder, **more):
        return taught(settings, fit, student=network(16, seed=2, dropout=0.3), folder=folder, **more)

    undisturbed, history = run(RunFolder(tmp_path / "a", {}))
    folder = RunFolder(tmp_path / "b", {})
    with pytest.raises(KeyboardInterrupt):
        run(folder, reporter=InterruptAt(digits.steps_per_epoch + 2))
    resumed, again = run(folder)
    assert weights_equal(undisturbed, resumed)
    assert [record["loss"] for record in history] == [record["loss"] for record in again]


class Counting(Network):
    """Knows about how many examples it was asked, however."""

    asked = 0

    def outputs(self, inputs):
        Counting.asked += len(inputs)
        return super().outputs(inputs)

    def outputs_in_graph(self, inputs):
        raise AssertionError("asked about a batch")


@pytest.fixture
def in_views(digits):
    """The digits, changed in one of two ways each."""
    augment = Augmentation(flip=True, crop=1, views=2)
    return replace(digits, settings=digits.settings.model_copy(update={"augment": augment}))


def test_a_teacher_is_asked_once_about_each_view(in_views, teacher, taught, tmp_path):
    Counting.asked = 0
    folder, train = RunFolder(tmp_path / "run", {}), in_views.dataset.train
    _, history = taught(
        by_teacher(), Fit(epochs=5), data=in_views, folder=folder, by=Counting("teacher", model=teacher)
    )
    assert len(history) == 5
    assert Counting.asked == 2 * train.count + in_views.settings.calibration_samples
    assert len(list(folder.file("teachers").iterdir())) == 2


def test_a_teacher_is_asked_about_views_as_they_are_before_they_are_mixed(in_views, teacher, taught, tmp_path):
    augment = in_views.settings.augment.model_copy(update={"cutmix": 0.5})
    mixed = replace(in_views, settings=in_views.settings.model_copy(update={"augment": augment}))
    folder = RunFolder(tmp_path / "run", {})
    taught(by_teacher(), Fit(epochs=2), data=in_views, folder=folder)
    # Without it, the next training is one that has ended.
    folder.file("checkpoints/01-step.npz").unlink()
    Counting.asked = 0
    _, history = taught(by_teacher(), Fit(epochs=2), data=mixed, folder=folder, by=Counting("teacher", model=teacher))
    assert len(history) == 2
    assert Counting.asked == mixed.settings.calibration_samples


def test_what_is_stored_of_a_view_is_about_the_images_that_are_trained_on(in_views, teacher):
    lesson = lesson_of(by_teacher(), in_views, Network("teacher", model=teacher))
    for epoch in (1, 2):
        rows = lesson.rows(None, 3, epoch % 2)
        for inputs, _, scores in in_views.training_batches(3, 1, epoch, rows).take(2):
            expected = teacher.predict(inputs, verbose=0)
            np.testing.assert_allclose(np.exp(scores.numpy()[:, 0]), expected, rtol=1e-3, atol=1e-6)


def test_outputs_are_computed_once_for_all_epochs_steps_and_resumes(digits, teacher, taught, tmp_path):
    Counting.asked = 0
    folder = RunFolder(tmp_path / "run", {})
    first, _ = taught(by_teacher(), Fit(epochs=2), folder=folder, by=Counting("teacher", model=teacher))
    assert Counting.asked == digits.dataset.train.count + digits.settings.calibration_samples
    folder.file("checkpoints/01-step.npz").unlink()
    Counting.asked = 0
    again, _ = taught(by_teacher(), Fit(epochs=2), folder=folder, by=Counting("teacher", model=teacher))
    assert Counting.asked == digits.settings.calibration_samples
    assert weights_equal(first, again)
    other = network(64, seed=9)
    lesson_of(by_teacher(), digits, Counting("other", model=other)).rows(folder)
    assert len(list(folder.file("teachers").iterdir())) == 2, "each teacher has its own"


def test_projections_are_trained_and_checkpointed_and_no_part_of_the_student(digits, teacher, tmp_path):
    settings = by_teacher(**HARD)
    student = network(16, seed=2)
    names = [weight.name for weight in student.weights]
    fit = Fit(epochs=1, learning_rate=0.01, distillation=settings)
    folder = RunFolder(tmp_path / "run", {})
    lesson = lesson_of(settings, digits, Network("teacher", model=teacher))
    training = Training("step", 1, fit, digits, seed=3, lesson=lesson, folder=folder)
    fitted = training.network(student)
    assert len(fitted.weights) == len(names) + 4
    assert len(fitted.trainable_variables) == len(student.trainable_variables) + 4
    assert not {id(w) for w in teacher.weights} & {id(w) for w in fitted.weights}
    before = teacher.get_weights()
    training.run(student)
    stored = folder.read_arrays("checkpoints/01-step.npz")
    assert sum(key.startswith("variable") for key in stored) == len(names) + 4
    kernels = [stored[key] for key in sorted(stored) if key.startswith("variable")][-4:]
    untrained = [layer.kernel.numpy() for layer in fitted.projections]
    assert not np.array_equal(kernels[0], untrained[0])
    assert [weight.name for weight in student.weights] == names
    kd.keras.models.clone_model(student)
    assert all(np.array_equal(a, b) for a, b in zip(before, teacher.get_weights(), strict=True))


def test_the_temperature_changes_without_another_trace(digits, teacher):
    settings = by_teacher(temperature={"begin": 8, "end": 2})
    fit = Fit(epochs=3, distillation=settings)
    lesson = lesson_of(settings, digits, Network("teacher", model=teacher))
    training = Training("step", 1, fit, digits, seed=3, lesson=lesson)
    fitted = training.network(network(16, seed=2))
    rows, temperatures = lesson.rows(None), []
    fitted.make_train_function()
    for epoch in range(3):
        fitted.begin_epoch(epoch)
        fitted.fit(digits.training_batches(0, 1, epoch, rows).take(1), verbose=0)
        temperatures.append(float(fitted.guide.temperature))
    assert temperatures == [8, 5, 2]
    assert fitted.train_tf_function.experimental_get_tracing_count() == 1


def test_two_teachers_of_the_same_mind_are_one(taught):
    twice = by_teacher().model_copy(update={"teacher": by_teacher().teacher * 2})
    one, _ = taught(by_teacher(), Fit(epochs=1))
    two, _ = taught(twice, Fit(epochs=1))
    for a, b in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_teachers_see_the_augmented_batch(digits, teacher):
    settings = digits.settings.model_copy(update={"augment": Augmentation(flip=True)})
    live = digits.__class__(digits.dataset, digits.preprocessing, settings, digits.task)
    lesson = lesson_of(by_teacher(), live, Network("teacher", model=teacher))
    assert lesson.is_live
    assert lesson.rows(None) is None
    assert not lesson_of(by_teacher(), digits, Network("teacher", model=teacher)).is_live
