import numpy as np
import pytest

from tfcompress import keras_door as kd
from tfcompress.models.rewrites import CAPACITY, rewrite
from tfcompress.models.rewrites._graph import Graph
from tfcompress.vocabulary.errors import PromiseError
from tfcompress.vocabulary.promises import Promise
from tfcompress.vocabulary.state import State


@pytest.fixture
def model(layers, randomised):
    """Gives a function that makes a network which ends in `head` on 3x2 pixels of 5 channels."""

    def make(*head):
        return randomised(kd.keras.Sequential([layers.Input((5, 4, 3)), layers.Conv2D(5, 3, name="conv"), *head]))

    return make


@pytest.mark.parametrize("kind", ["global", "kept axes", "window"])
def test_a_dense_has_the_kernel_of_the_average_for_every_pixel(layers, model, same_outputs, kind):
    between = [] if kind == "global" else [layers.Flatten(name="flat")]
    pool = (
        layers.AveragePooling2D((3, 2), name="pool")
        if kind == "window"
        else layers.GlobalAveragePooling2D(keepdims=kind != "global", name="pool")
    )
    before = model(pool, *between, layers.Dense(4, activation="relu", name="out"))
    done = rewrite(before, ["dense_over_pixels"])
    assert same_outputs(before, done.model)
    assert [change.layer for change in done.changes] == ["pool", *(layer.name for layer in between), "out"]
    kernel = done.model.get_layer("out").kernel.numpy()
    assert kernel.shape == (3 * 2 * 5, 4)
    # The kernel of one pixel, as it was computed for the average of six.
    expected = before.get_layer("out").kernel.numpy() / 6
    np.testing.assert_allclose(kernel.reshape(6, 5, 4), np.broadcast_to(expected, (6, 5, 4)), rtol=1e-6)
    kinds = [call.layer.__class__ for call in Graph(done.model).calls]
    assert kinds[1:] == [layers.Conv2D, layers.Flatten, layers.Dense]


def test_an_average_that_no_dense_takes_alone_stays(layers, model):
    assert rewrite(model(layers.GlobalAveragePooling2D()), CAPACITY).changes == ()
    assert rewrite(model(layers.GlobalAveragePooling2D(), layers.ReLU(), layers.Dense(4)), CAPACITY).changes == ()
    assert rewrite(model(layers.GlobalAveragePooling2D(keepdims=True), layers.Dense(4)), CAPACITY).changes == ()
    part = layers.AveragePooling2D((2, 2), name="part")
    assert rewrite(model(part, layers.Flatten(), layers.Dense(4)), CAPACITY).changes == ()
    unit = layers.Dense(4, kernel_constraint="unit_norm")
    assert rewrite(model(layers.GlobalAveragePooling2D(), unit), CAPACITY).changes == ()
    average = model(layers.GlobalAveragePooling2D(name="pool"))
    twice = [average.output, layers.Dense(4)(average.output)]
    assert rewrite(kd.keras.Model(average.input, twice), CAPACITY).changes == ()
    open_size = kd.keras.Sequential(
        [layers.Input((None, None, 3)), layers.Conv2D(5, 3), layers.GlobalAveragePooling2D(), layers.Dense(4)]
    )
    assert rewrite(open_size, CAPACITY).changes == ()


def test_promises_on_the_kernel_are_kept_or_refused(layers, model):
    before = model(layers.GlobalAveragePooling2D(), layers.Dense(4, name="out"))
    kernel = before.get_layer("out").kernel
    values = kernel.numpy()
    values[::2] = 0
    kernel.assign(values)
    done = rewrite(before, CAPACITY)
    zeros, distinct = (Promise("out/kernel", kind, bound) for kind, bound in (("zeros", 0.5), ("distinct", 9)))
    state = State(before, (zeros, distinct)).rewritten(done.model, done.lineage)
    found = done.model.get_layer("out").kernel.numpy()
    assert [promise.bound for promise in state.promises] == [0.5, 9]
    assert all(promise.is_kept_by(promise.found_in(found)) for promise in state.promises)
    groups = Promise("out/kernel", "group_zeros", bound=2, group=4)
    with pytest.raises(PromiseError, match="other inputs than one over channels"):
        State(before, (groups,)).rewritten(done.model, done.lineage)
