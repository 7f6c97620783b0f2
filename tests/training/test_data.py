from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

import granet_lab as gl
from granet_lab.training import data
from granet_lab.training.data import DATASETS, Dataset, batches, from_arrays, load

every_dataset = pytest.mark.parametrize("name", DATASETS)


def numbered(n=120, channels=3):
    """Random images, each of a class of its own, so that a label tells which image it is."""
    random = np.random.default_rng(5)
    images = random.integers(0, 256, (n, channels, 4, 6), dtype=np.uint8)
    return images, np.arange(n)


NUMBERED = from_arrays(*numbered(), validation_size=10, test_size=10)


def labels_of(dataset, size, seed, epoch, **options):
    return [targets.tolist() for _, targets in batches(dataset, size, seed, epoch, **options)]


def as_multiset(*splits):
    return Counter(
        (image.numpy().tobytes(), int(label))
        for split in splits
        for image, label in zip(split.images, split.labels, strict=True)
    )


def splits_of(dataset: Dataset):
    return dataset.train, dataset.validation, dataset.test


def test_digits_has_900_297_and_600_images():
    assert [len(split) for split in splits_of(load("digits"))] == [900, 297, 600]


def test_the_three_splits_of_digits_are_the_whole_of_sklearns():
    found = load_digits()
    images = np.round(found.images / 16 * 255).astype(np.uint8)
    whole = Counter((i.tobytes(), int(k)) for i, k in zip(images, found.target, strict=True))
    assert as_multiset(*splits_of(load("digits"))) == whole


def test_digits_has_every_class_in_every_split():
    for split in splits_of(load("digits")):
        assert set(split.labels.tolist()) == set(range(10))


@every_dataset
def test_making_a_dataset_twice_gives_the_same_splits(name):
    for one, other in zip(splits_of(DATASETS[name]()), splits_of(load(name)), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


@every_dataset
def test_images_are_uint8_and_labels_are_classes(name):
    dataset = load(name)
    for split in splits_of(dataset):
        assert split.images.dtype == torch.uint8
        assert split.images.shape == (len(split), *dataset.input_shape)
        assert 0 <= split.labels.min() <= split.labels.max() < dataset.classes


@every_dataset
def test_mean_and_std_are_those_of_the_training_pixels(name):
    dataset = load(name)
    pixels = dataset.train.images.numpy().astype(np.float64)
    np.testing.assert_allclose(dataset.mean, pixels.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(dataset.std, pixels.std(axis=(0, 2, 3)), rtol=1e-4)


@every_dataset
def test_normalised_training_images_have_zero_mean_and_unit_variance(name):
    dataset = load(name)
    values = dataset.normalise(dataset.train.images).double()
    assert values.mean((0, 2, 3)).abs().max() < 1e-5
    assert (values.var((0, 2, 3)) - 1).abs().max() < 1e-4


def test_normalised_images_are_float32_with_channels_last_in_memory():
    values = NUMBERED.normalise(NUMBERED.train.images)
    assert values.dtype == torch.float32
    assert values.is_contiguous(memory_format=torch.channels_last)


def test_every_channel_is_normalised_by_its_own_mean_and_std():
    images = np.zeros((4, 2, 1, 2), np.uint8)
    images[:, 0, 0] = [10, 30]
    images[:, 1, 0] = [100, 200]
    dataset = Dataset(
        *splits_of(from_arrays(images, np.zeros(4, int), 1, 1)), 1, (20.0, 150.0), (10.0, 25.0)
    )
    assert dataset.normalise(dataset.train.images)[0].tolist() == [[[-1, 1]], [[-2, 2]]]


def test_a_channel_that_never_varies_does_not_become_infinite():
    dataset = from_arrays(np.full((9, 1, 2, 2), 7, np.uint8), np.zeros(9, int), 2, 2)
    assert torch.equal(dataset.normalise(dataset.test.images), torch.zeros(2, 1, 2, 2))


def test_from_arrays_splits_colour_images_without_losing_or_repeating_one():
    images, labels = numbered()
    dataset = from_arrays(images, labels, validation_size=20, test_size=30)
    assert [len(split) for split in splits_of(dataset)] == [70, 20, 30]
    assert dataset.input_shape == (3, 4, 6)
    assert dataset.classes == 120
    together = torch.cat([split.labels for split in splits_of(dataset)])
    assert sorted(together.tolist()) == list(range(120))
    for split in splits_of(dataset):
        assert np.array_equal(split.images.numpy(), images[split.labels.numpy()])


def test_from_arrays_takes_its_own_copy_of_the_images():
    images, labels = numbered()
    dataset = from_arrays(images, labels, 10, 10)
    before = dataset.train.images.clone()
    images[:] = 0
    assert torch.equal(dataset.train.images, before)


def test_from_arrays_splits_otherwise_under_another_seed():
    one, other = (from_arrays(*numbered(), 10, 10, seed=seed) for seed in (0, 1))
    assert set(one.test.labels.tolist()) != set(other.test.labels.tolist())


@pytest.mark.parametrize("sizes", [(70, 70), (120, 10), (-10, 20), (10, -10)], ids=str)
def test_from_arrays_refuses_splits_that_do_not_fit(sizes):
    with pytest.raises(ValueError, match="size"):
        from_arrays(*numbered(), *sizes)


@pytest.mark.parametrize("n_labels", [110, 130])
def test_from_arrays_refuses_another_number_of_labels_than_images(n_labels):
    images, _ = numbered()
    with pytest.raises(ValueError, match="label"):
        from_arrays(images, np.zeros(n_labels, int), 10, 10)


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(5, 1, 2, 2),
        torch.zeros(5, 2, 2, dtype=torch.uint8),
        torch.zeros(5, 1, 2, 2, 1, dtype=torch.uint8),
    ],
    ids=["float", "three dimensions", "five dimensions"],
)
def test_a_split_refuses_malformed_images(images):
    with pytest.raises(ValueError, match=r"^images must be uint8 of shape .*not torch\.\w+ of"):
        gl.Split(images, torch.zeros(5, dtype=torch.int64))


@pytest.mark.parametrize(
    "labels",
    [
        torch.zeros(5),
        torch.zeros(5, dtype=torch.int32),
        torch.zeros(4, dtype=torch.int64),
        torch.zeros(5, 1, dtype=torch.int64),
    ],
    ids=["float", "int32", "one too few", "two dimensions"],
)
def test_a_split_refuses_malformed_labels(labels):
    with pytest.raises(ValueError, match=r"^labels must be int64, one for each image, not"):
        gl.Split(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), labels)


def test_a_dataset_is_loaded_once():
    assert load("digits") is load("digits")


def test_an_unknown_dataset_is_told_the_known_ones():
    with pytest.raises(ValueError, match=r"^unknown dataset 'mnist': choose from .*digits"):
        load("mnist")


@settings(deadline=None)
@given(seed=st.integers(0, 2**40), epoch=st.integers(0, 10**4), size=st.integers(1, 100))
def test_an_epoch_shows_each_image_at_most_once_in_full_batches(seed, epoch, size):
    found = labels_of(NUMBERED, size, seed, epoch)
    assert [len(labels) for labels in found] == [size] * (100 // size)
    flat = [label for labels in found for label in labels]
    assert len(set(flat)) == len(flat)
    assert set(flat) <= set(NUMBERED.train.labels.tolist())


def test_a_batch_holds_the_normalised_images_of_its_labels():
    images, _ = numbered()
    for inputs, targets in batches(NUMBERED, 30, seed=1, epoch=2):
        expected = NUMBERED.normalise(torch.from_numpy(images[targets.numpy()]))
        assert torch.equal(inputs, expected)


def test_batches_depend_on_seed_and_epoch_alone():
    before = labels_of(NUMBERED, 10, 3, 7)
    torch.rand(5)
    labels_of(NUMBERED, 10, 4, 8)
    assert labels_of(NUMBERED, 10, 3, 7) == before


def test_another_epoch_or_seed_gives_another_order():
    orders = [str(labels_of(NUMBERED, 10, *where)) for where in [(0, 0), (0, 1), (1, 0), (1, 1)]]
    assert len(set(orders)) == 4


def test_drawing_batches_leaves_torchs_own_generator_alone():
    before = torch.get_rng_state()
    list(batches(load("digits"), 50, 0, 0, augment="crop_flip"))
    assert torch.equal(torch.get_rng_state(), before)


def test_augmentation_keeps_the_order_and_changes_the_images():
    plain = list(batches(NUMBERED, 10, 0, 0))
    moved = list(batches(NUMBERED, 10, 0, 0, augment="crop"))
    assert [t.tolist() for _, t in plain] == [t.tolist() for _, t in moved]
    assert not any(torch.equal(a, b) for (a, _), (b, _) in zip(plain, moved, strict=True))


def test_augmentation_depends_on_seed_and_epoch_alone():
    images, labels = numbered()
    one_picture = from_arrays(np.repeat(images[:1], 120, axis=0), labels, 10, 10)

    def seen(seed, epoch):
        return next(batches(one_picture, 100, seed, epoch, augment="crop_flip"))[0]

    assert torch.equal(seen(0, 0), seen(0, 0))
    assert not torch.equal(seen(0, 0), seen(0, 1))
    assert not torch.equal(seen(0, 0), seen(1, 0))


def test_batches_do_not_depend_on_how_many_are_prepared_at_once(monkeypatch):
    before = list(batches(NUMBERED, 10, 0, 0))
    monkeypatch.setattr(data, "_BLOCK", 25)
    for (a, b), (c, d) in zip(batches(NUMBERED, 10, 0, 0), before, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


def test_train_size_trains_on_the_first_images():
    shown = [k for batch in labels_of(NUMBERED, 10, 0, 0, train_size=40) for k in batch]
    assert sorted(shown) == sorted(NUMBERED.train.labels[:40].tolist())


def test_a_train_size_above_the_split_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"^train_size must be at most 100, not 101$"):
        next(batches(NUMBERED, 10, 0, 0, train_size=101))


@pytest.mark.parametrize(("train_size", "images"), [(None, 100), (40, 40)])
def test_a_batch_size_above_the_images_is_refused_in_one_line(train_size, images):
    with pytest.raises(ValueError, match=rf"^batch_size must be at most {images}, .*101$"):
        next(batches(NUMBERED, 101, 0, 0, train_size=train_size))


@pytest.mark.parametrize("labels", [np.full(120, 0.5), np.full(120, -1)], ids=["half", "negative"])
def test_from_arrays_refuses_labels_that_do_not_count_classes(labels):
    with pytest.raises(ValueError, match="labels must be whole numbers, counted from 0"):
        from_arrays(numbered()[0], labels, 10, 10)
