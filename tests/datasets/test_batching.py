import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import NUMBERED, numbered

from granet_lab.datasets import batches, batching, from_arrays, load


def labels_of(dataset, size, seed, epoch, **options):
    return [targets.tolist() for _, targets in batches(dataset, size, seed, epoch, **options)]


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
    monkeypatch.setattr(batching, "_IMAGES", 25)
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
