"""The digits, a teacher trained on them, and students."""

import pytest
from fixtures.distillation import lesson_of, network

from tfcompress.data import load_data
from tfcompress.data.settings import DataSettings
from tfcompress.distillation.teachers import Network
from tfcompress.training import Training
from tfcompress.training_data import TrainingData
from tfcompress.vocabulary.preprocessing import Preprocessing
from tfcompress.vocabulary.training import Fit, Task


@pytest.fixture(scope="session")
def digits():
    settings = DataSettings(batch_size=256)
    data = load_data("digits", settings=settings, input_shape=(8, 8, 1))
    return TrainingData(data, Preprocessing.model_validate({"scale": 1 / 255}), settings, Task())


@pytest.fixture(scope="session")
def teacher(digits):
    model = network(64, seed=1)
    Training("teacher", 0, Fit(epochs=4, learning_rate=0.01), digits, seed=0).run(model)
    # Doubts are what labels cannot teach.
    model.get_layer("out").set_weights([0.4 * values for values in model.get_layer("out").get_weights()])
    return model


@pytest.fixture(scope="session")
def taught(digits, teacher):
    """A function that trains a student as a step does; it gives the student and its history."""

    def taught(settings, fit=None, data=digits, student=None, by=None, **more):
        student = student or network(16, seed=2)
        fit = (fit or Fit(epochs=3, learning_rate=0.01)).model_copy(update={"distillation": settings})
        lesson = settings and lesson_of(settings, data, by or Network("teacher", model=teacher))
        return student, Training("step", 1, fit, data, seed=3, lesson=lesson, **more).run(student)

    return taught
