import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfcompress.data.augmentation import Augmentation
from tfcompress.data.dataset import Dataset, Split, assemble
from tfcompress.data.settings import DataSettings
from tfcompress.vocabulary.errors import DataError
from tfcompress.vocabulary.preprocessing import NAMED

AUGMENTED = DataSettings(batch_size=8, augment={"flip": True, "crop": 2, "cutout": 2})


def numbered(count, first=0):
    """Images that are told apart by their label."""
    rng = np.random.default_rng(first)
    return Split(rng.integers(0, 256, (count, 5, 5, 1)).astype(np.uint8), np.arange(first, first + count))


@pytest.fixture(scope="module")
def data():
    return Dataset("numbered", numbered(30), numbered(5, 100), numbered(7, 200))


def epoch_of(data, settings=AUGMENTED, *, seed=0, step=0, epoch=0):
    batches = data.training_batches(preprocessing=NAMED["unit"], settings=settings, seed=seed, step=step, epoch=epoch)
    return [(x.numpy(), y.numpy()) for x, y in batches]


def joined(batches):
    return [np.concatenate(column) for column in zip(*batches, strict=True)]


def test_an_epoch_holds_every_training_example_once(data):
    batches = epoch_of(data)
    assert [len(x) for x, _ in batches] == [8, 8, 8, 6]
    assert len(batches) == data.steps_per_epoch(8) == 4
    labels = joined(batches)[1]
    assert sorted(labels) == list(range(30))
    assert labels.tolist() != list(range(30))


def test_inputs_stay_with_their_targets_and_are_preprocessed(data):
    x, y = joined(epoch_of(data, DataSettings(batch_size=8)))
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, data.train.inputs[y] / np.float32(255), rtol=1e-6)


def test_equal_places_give_equal_bits_whatever_was_drawn_before(data):
    first = joined(epoch_of(data, seed=3, step=1, epoch=4))
    np.random.seed(7)
    epoch_of(data, seed=1)
    fresh = Dataset("again", numbered(30), numbered(5, 100), numbered(7, 200))
    for again in (joined(epoch_of(data, seed=3, step=1, epoch=4)), joined(epoch_of(fresh, seed=3, step=1, epoch=4))):
        for left, right in zip(first, again, strict=True):
            assert left.tobytes() == right.tobytes()


def test_other_places_give_another_order_and_other_images(data):
    places = [{}, {"seed": 1}, {"step": 1}, {"epoch": 1}, {"seed": 1, "step": 1}, {"step": 1, "epoch": 1}]
    epochs = [joined(epoch_of(data, **place)) for place in places]
    assert len({y.tobytes() for _, y in epochs}) == len(places)
    by_label = [x[np.argsort(y)] for x, y in epochs]
    for i, left in enumerate(by_label):
        for right in by_label[:i]:
            assert np.mean(np.any(left != right, axis=(1, 2, 3))) > 0.5


def test_views_are_the_same_images_in_turn_in_every_step_and_in_other_orders(data):
    views = AUGMENTED.model_copy(update={"augment": Augmentation(flip=True, crop=2, cutout=2, views=2)})
    places = [(0, 0), (0, 1), (0, 2), (1, 0)]
    first, second, third, of_next_step = (joined(epoch_of(data, views, step=s, epoch=e)) for s, e in places)
    assert len({y.tobytes() for _, y in (first, second, third, of_next_step)}) == 4
    by_label = [x[np.argsort(y)] for x, y in (first, second, third, of_next_step)]
    np.testing.assert_array_equal(by_label[0], by_label[2])
    np.testing.assert_array_equal(by_label[0], by_label[3])
    assert np.mean(np.any(by_label[0] != by_label[1], axis=(1, 2, 3))) > 0.5
    for view in range(2):
        seen = data.seen_inputs(preprocessing=NAMED["unit"], settings=views, seed=0, view=view, batch_size=7)
        np.testing.assert_allclose(np.concatenate(list(seen)), by_label[view], rtol=1e-6)
    other_seed = joined(epoch_of(data, views, seed=1))
    assert np.any(by_label[0] != other_seed[0][np.argsort(other_seed[1])])


def test_images_are_mixed_anew_in_every_epoch_with_what_belongs_to_them(data):
    augment = {"flip": True, "views": 1}
    plain, mixing = (DataSettings(batch_size=10, augment=augment | more) for more in ({}, {"cutmix": 1.0}))
    rows = 10 * np.arange(30)

    def epoch(settings, number):
        batches = data.training_batches(
            preprocessing=NAMED["unit"], settings=settings, seed=0, step=0, epoch=number, rows=rows
        )
        return joined([part.numpy() for part in batch] for batch in batches)

    for number in (0, 1):
        (images, labels, _), (found, targets, beside) = epoch(plain, number), epoch(mixing, number)
        np.testing.assert_array_equal(beside, 10 * targets)
        other = np.concatenate([np.roll(images[i : i + 10], 1, axis=0) for i in (0, 10, 20)])
        assert np.all((found == images) | (found == other))
        assert np.any(found != images, axis=(1, 2, 3)).mean() > 0.5
        assert 0 < np.mean(targets != labels) < 0.8
    # The view is the same in both epochs; the rectangles, place by place, are others.
    first, second = (np.any(epoch(mixing, number)[0] != epoch(plain, number)[0], axis=-1) for number in (0, 1))
    assert np.mean(first != second) > 0.1


def test_augmentation_does_not_change_the_order(data):
    plain, augmented = joined(epoch_of(data, DataSettings(batch_size=8))), joined(epoch_of(data))
    np.testing.assert_array_equal(plain[1], augmented[1])
    assert np.any(plain[0] != augmented[0])


def test_batches_keep_the_order_and_are_not_augmented(data):
    x, y = joined((x.numpy(), y.numpy()) for x, y in data.batches(data.test, preprocessing=NAMED["raw"], batch_size=3))
    np.testing.assert_array_equal(y, data.test.targets)
    np.testing.assert_array_equal(x, data.test.inputs.astype(np.float32))


def test_unlabelled_batches_are_inputs_alone(data):
    split = Split(data.test.inputs)
    batches = list(data.batches(split, preprocessing=NAMED["raw"], batch_size=4))
    assert [batch.shape[0] for batch in batches] == [4, 3]


def test_training_needs_targets(data):
    unlabelled = Dataset("bare", Split(data.train.inputs), data.validation, data.test)
    with pytest.raises(DataError, match="bare has none"):
        epoch_of(unlabelled)


def test_augmentation_that_does_not_fit_is_refused(data):
    with pytest.raises(DataError, match="crop=5"):
        epoch_of(data, DataSettings(augment={"crop": 5}))


@given(count=st.integers(1, 60), seed=st.integers(0, 5))
def test_calibration_takes_different_training_examples_by_seed(count, seed):
    data = Dataset("numbered", numbered(30), numbered(5, 100), numbered(7, 200))
    found = data.calibration(preprocessing=NAMED["raw"], count=count, seed=seed)
    assert found.dtype == np.float32
    assert len(found) == min(count, 30)
    train = {image.astype(np.float32).tobytes() for image in data.train.inputs}
    chosen = [image.tobytes() for image in found]
    assert len(set(chosen)) == len(chosen)
    assert set(chosen) <= train
    np.testing.assert_array_equal(found, data.calibration(preprocessing=NAMED["raw"], count=count, seed=seed))


def test_calibration_differs_between_seeds(data):
    draws = [data.calibration(preprocessing=NAMED["raw"], count=10, seed=seed).tobytes() for seed in range(3)]
    assert len(set(draws)) == 3


@given(count=st.integers(3, 200), fraction=st.floats(0.01, 0.9), seed=st.integers(0, 3))
def test_cuts_are_disjoint_and_whole(count, fraction, seed):
    settings = DataSettings(validation_fraction=fraction)
    data = assemble("cut", {"train": numbered(count)}, settings=settings, seed=seed)
    labels = [split.targets for split in data.splits.values()]
    assert sorted(np.concatenate(labels)) == list(range(count))
    assert data.test.count == max(1, round(0.2 * count))
    for part in (data.validation, data.test):
        np.testing.assert_array_equal(part.inputs, numbered(count).inputs[part.targets])


def test_the_test_cut_is_the_same_for_every_seed_and_the_validation_cut_is_not():
    cuts = [assemble("cut", {"train": numbered(100)}, settings=DataSettings(), seed=seed) for seed in (0, 1, 1)]
    assert cuts[0].test.targets.tolist() == cuts[1].test.targets.tolist()
    assert cuts[0].validation.targets.tolist() != cuts[1].validation.targets.tolist()
    assert cuts[1].validation.targets.tolist() == cuts[2].validation.targets.tolist()


def test_given_splits_are_not_cut():
    train, validation, test = numbered(10), numbered(5, 100), numbered(7, 200)
    data = assemble("whole", {"train": train, "validation": validation, "test": test}, settings=DataSettings(), seed=0)
    assert (data.train, data.validation, data.test) == (train, validation, test)


def test_classes_come_from_names_then_labels_and_not_from_other_targets(data):
    assert data.classes == 207
    assert Dataset("named", numbered(3), numbered(3), numbered(3), ("a", "b", "c", "d")).classes == 4
    measured = Split(np.zeros((3, 2), np.float32), np.zeros(3, np.float32))
    assert Dataset("measured", measured, measured, measured).classes is None
    bare = Split(np.zeros((3, 2), np.float32))
    assert Dataset("bare", bare, bare, bare).classes is None


def test_a_split_needs_a_target_for_every_input():
    with pytest.raises(DataError, match="3 inputs and 2 targets"):
        Split(np.zeros((3, 2)), np.zeros(2))
