from collections import Counter

import numpy as np
import pytest
import torch
from pictures import NUMBERED, numbered
from sklearn.datasets import load_digits

import granet_lab as gl
from granet_lab.datasets import DATASETS, Dataset, from_arrays, load

HERE = [name for name in DATASETS if not DATASETS[name].downloads]
every_dataset = pytest.mark.parametrize("name", HERE)


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


@pytest.mark.parametrize("file", ["nowhere/digits.csv.gz", "__init__.py"])
def test_digits_are_the_same_where_scikit_learn_keeps_them_elsewhere(monkeypatch, file):
    expected = DATASETS["digits"]()
    monkeypatch.setattr("granet_lab.datasets.digits._FILE", file)
    for one, other in zip(splits_of(DATASETS["digits"]()), splits_of(expected), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


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


@pytest.mark.parametrize("labels", [np.full(120, 0.5), np.full(120, -1)], ids=["half", "negative"])
def test_from_arrays_refuses_labels_that_do_not_count_classes(labels):
    with pytest.raises(ValueError, match="labels must be whole numbers, counted from 0"):
        from_arrays(numbered()[0], labels, 10, 10)
