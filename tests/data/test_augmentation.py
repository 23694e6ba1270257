import numpy as np
import pytest
from pydantic import ValidationError

from tfcompress import keras_door as kd
from tfcompress.data.augmentation import Augmentation, _below
from tfcompress.vocabulary.errors import DataError
from tfcompress.vocabulary.preprocessing import NAMED


def seeds_for(count, seed=0):
    return np.random.default_rng(seed).integers(-(2**31), 2**31, (count, 2), dtype=np.int32)


def images_for(count, height=7, width=9, channels=2):
    return np.random.default_rng(1).random((count, height, width, channels), np.float32)


def apply(augmentation, images, seeds):
    return augmentation.apply(kd.tf.constant(images), kd.tf.constant(seeds)).numpy()


def test_off_changes_nothing():
    images = images_for(5)
    assert Augmentation().is_off
    np.testing.assert_array_equal(apply(Augmentation(), images, seeds_for(5)), images)


def test_an_image_depends_on_its_own_seed_alone():
    augmentation = Augmentation(flip=True, crop=2, cutout=3)
    images, seeds = images_for(40), seeds_for(40)
    together = apply(augmentation, images, seeds)
    np.testing.assert_array_equal(together, apply(augmentation, images, seeds))
    alone = np.concatenate([apply(augmentation, images[i : i + 1], seeds[i : i + 1]) for i in range(40)])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    others = apply(augmentation, images, seeds_for(40, seed=1))
    assert np.mean(np.any(others != together, axis=(1, 2, 3))) > 0.9


def test_flip_mirrors_half_of_the_images():
    images = images_for(2000, 4, 4, 1)
    found = apply(Augmentation(flip=True), images, seeds_for(2000))
    kept = np.all(found == images, axis=(1, 2, 3))
    mirrored = np.all(found == images[:, :, ::-1], axis=(1, 2, 3))
    assert np.all(kept ^ mirrored)
    assert 0.45 < mirrored.mean() < 0.55


def test_crop_is_a_window_of_the_reflected_image_and_takes_every_place():
    crop, images = 2, images_for(800, 5, 6, 1)
    found = apply(Augmentation(crop=crop), images, seeds_for(800))
    padded = np.pad(images, ((0, 0), (crop, crop), (crop, crop), (0, 0)), mode="reflect")
    windows = {
        (y, x): np.all(padded[:, y : y + 5, x : x + 6] == found, axis=(1, 2, 3))
        for y in range(2 * crop + 1)
        for x in range(2 * crop + 1)
    }
    assert np.all(np.any(list(windows.values()), axis=0))
    counts = np.array([matches.sum() for matches in windows.values()])
    assert counts.min() > 10
    assert counts.max() < 70


def test_cutout_sets_one_clipped_square_to_the_mean():
    side, images = 3, images_for(500)
    found = apply(Augmentation(cutout=side), images, seeds_for(500))
    means = images.mean(axis=(1, 2))
    areas = set()
    for image, cut, mean in zip(images, found, means, strict=True):
        erased = np.any(cut != image, axis=-1)
        rows, columns = np.flatnonzero(erased.any(1)), np.flatnonzero(erased.any(0))
        assert 1 < len(rows) <= side
        assert 1 < len(columns) <= side
        assert erased.sum() == len(rows) * len(columns)
        assert np.ptp(rows) == len(rows) - 1
        np.testing.assert_allclose(cut[erased], np.broadcast_to(mean, (erased.sum(), 2)), atol=1e-6)
        areas.add(int(erased.sum()))
    assert areas == {4, 6, 9}


def test_decisions_do_not_disturb_one_another():
    images, seeds = images_for(30), seeds_for(30)
    flipped = apply(Augmentation(flip=True), images, seeds)
    cropped = apply(Augmentation(crop=2), images, seeds)
    both = apply(Augmentation(flip=True, crop=2), images, seeds)
    was_flipped = np.any(flipped != images, axis=(1, 2, 3))
    np.testing.assert_array_equal(both, np.where(was_flipped[:, None, None, None], cropped[:, :, ::-1], cropped))


def test_it_commutes_with_preprocessing():
    augmentation, seeds = Augmentation(flip=True, crop=2, cutout=3), seeds_for(20)
    raw = images_for(20) * 255
    np.testing.assert_allclose(
        apply(augmentation, NAMED["signed"].apply(raw), seeds),
        NAMED["signed"].apply(apply(augmentation, raw, seeds)),
        atol=1e-5,
    )


def test_random_numbers_are_uniform_and_independent():
    count, bound = 20_000, 10
    for seeds in (seeds_for(count), np.stack([np.zeros(count), np.arange(count)], 1).astype(np.int32)):
        draws = np.stack([_below(kd.tf.constant(seeds), stream, bound).numpy()[:, 0] for stream in range(5)])
        for stream in draws:
            counts = np.bincount(stream, minlength=bound)
            # Chi-square of 9 degrees of freedom: above 33.7 once in 10,000.
            assert ((counts - count / bound) ** 2 / (count / bound)).sum() < 33.7
            assert abs(np.corrcoef(stream[1:], stream[:-1])[0, 1]) < 0.03
        assert np.abs(np.corrcoef(draws) - np.eye(5)).max() < 0.03


@pytest.mark.parametrize(
    ("augmentation", "shape", "message"),
    [
        (Augmentation(flip=True), (10,), "needs images"),
        (Augmentation(crop=8), (8, 9, 1), "crop=8"),
        (Augmentation(crop=9, cutout=9), (8, 9, 1), "(?s)crop=9.*cutout=9"),
    ],
)
def test_what_does_not_fit_is_refused(augmentation, shape, message):
    with pytest.raises(DataError, match=message):
        augmentation.apply(kd.tf.zeros((1, *shape)), kd.tf.zeros((1, 2), kd.tf.int32))


def test_views_of_images_that_do_not_change_are_refused():
    with pytest.raises(ValidationError, match=r"views=3 without flip.*Remedy"):
        Augmentation(views=3)


def test_negative_sizes_are_refused():
    with pytest.raises(ValidationError, match="crop"):
        Augmentation(crop=-1)


@pytest.fixture(scope="module")
def mixed():
    """3,000 images that are one number each, four of five to be mixed; what came, and what stood beside it."""
    count = 3000
    numbers = np.arange(count, dtype=np.float32)
    images = np.broadcast_to(numbers[:, None, None, None], (count, 6, 8, 2))
    tensors = [
        kd.tf.constant(value) for value in (images, seeds_for(count), numbers.astype(np.int32), images[:, 0, :2])
    ]
    found, targets, rows = (value.numpy() for value in Augmentation(cutmix=0.8).mixed(*tensors))
    return numbers, found, targets, rows


def test_cutmix_puts_a_rectangle_of_the_image_before_into_its_share_of_the_images(mixed):
    numbers, found, _, _ = mixed
    before = np.roll(numbers, 1)
    own, other = (found == values[:, None, None, None] for values in (numbers, before))
    assert np.all(own ^ other)
    pasted = other.all(-1)
    np.testing.assert_array_equal(pasted, other.any(-1))
    # Whole rows and columns of what is pasted: a rectangle.
    rows, columns = pasted.any(2), pasted.any(1)
    np.testing.assert_array_equal(pasted, rows[:, :, None] & columns[:, None, :])
    assert np.all(np.abs(np.diff(rows.astype(int), axis=1)).sum(1) <= 2)
    # A rectangle of less than a pixel is none: an area below 1 / 64 of one that is uniform, or a side below 1 / 6.
    assert 0.72 < pasted.any((1, 2)).mean() < 0.81
    assert pasted.all((1, 2)).mean() < 0.1


def test_cutmix_counts_an_image_as_either_with_the_probability_of_its_area(mixed):
    numbers, found, targets, rows = mixed
    before = np.roll(numbers, 1)
    area = (found == before[:, None, None, None]).mean((1, 2, 3))
    counted = targets == before
    assert np.all(counted | (targets == numbers))
    np.testing.assert_array_equal(rows, np.broadcast_to(targets[:, None, None], rows.shape))
    for low in (0.1, 0.3, 0.5, 0.7):
        among = (area > low) & (area <= low + 0.2)
        assert among.sum() > 50
        # Four standard errors of a share of so many.
        assert abs(counted[among].mean() - area[among].mean()) < 4 * np.sqrt(0.25 / among.sum())
    assert not counted[area == 0].any()


def test_cutmix_off_gives_back_what_came():
    images, labels = images_for(5), np.arange(5)
    given = [kd.tf.constant(value) for value in (images, seeds_for(5), labels)]
    found = Augmentation(flip=True).mixed(*given)
    assert found[0] is given[0]
    assert found[1] is given[2]


def test_cutmix_needs_images():
    with pytest.raises(DataError, match=r"needs images.*leave flip, crop, cutout and cutmix off"):
        Augmentation(cutmix=0.5).check((16,))
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        Augmentation(cutmix=1.5)
