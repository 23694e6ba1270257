"""Counting parameters of networks too large to make for it."""

import pytest

from tfcompress import keras_door as kd
from tfcompress.models import zoo


@pytest.fixture
def counts():
    """`(spec, input_shape, classes, **options of build) -> (all parameters, trainable ones)`."""

    def count(spec, input_shape, classes, **options):
        # In a graph without a session no weight takes memory.
        with kd.tf.Graph().as_default():
            model = zoo.build(spec, input_shape, classes, **options)
            return model.count_params(), sum(w.shape.num_elements() for w in model.trainable_weights)

    return count
