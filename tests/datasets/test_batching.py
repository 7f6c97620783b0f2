import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import NUMBERED, numbered

from granet_lab.datasets import AUGMENTATIONS, batches, batching, from_arrays, load
from granet_lab.randomness import generator


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


def cropped_and_flipped(image, top, left, mirrored):
    """One image, seen through a window of its size in a frame of an eighth of its height."""
    _, height, width = image.shape
    pad = max(1, height // 8)
    framed = np.pad(image, [(0, 0), (pad, pad), (pad, pad)])
    seen = framed[:, top : top + height, left : left + width]
    return seen[:, :, ::-1] if mirrored else seen


def augmented_one_by_one(data, batch_size, at_once, seed, epoch):
    """Batches under crop_flip: images in the order of the epoch, draws for so many at once."""
    order = torch.randperm(len(data.train), generator=generator("order", seed, epoch))
    order = order[: len(order) // batch_size * batch_size]
    noise, images = generator("augmentation", seed, epoch), []
    for some in order.split(at_once // batch_size * batch_size):
        pad = max(1, data.input_shape[1] // 8)
        places = torch.randint(0, 2 * pad + 1, (2, len(some), 1), generator=noise)[..., 0]
        mirrored = torch.rand(len(some), generator=noise) < 0.5
        for i, top, left, flip in zip(some, *places.tolist(), mirrored.tolist(), strict=True):
            images.append(cropped_and_flipped(data.train.images[i].numpy(), top, left, flip))
    seen = data.normalise(torch.from_numpy(np.stack(images)))
    return zip(seen.split(batch_size), data.train.labels[order].split(batch_size), strict=True)


def coloured(n, side, channels=3):
    random = np.random.default_rng(side)
    images = random.integers(0, 256, (n, channels, side, side), dtype=np.uint8)
    return from_arrays(images, random.integers(0, 10, n), 10, 10)


@pytest.mark.parametrize(
    ("side", "n", "size", "at_once"),
    [(32, 4700, 128, 4096), (32, 4700, 500, 4096), (8, 4700, 500, 4096), (64, 1200, 50, 1024)],
)
def test_crop_flip_is_what_a_loop_over_images_draws_bit_for_bit(side, n, size, at_once):
    data = coloured(n, side)
    found = batches(data, size, seed=3, epoch=4, augment="crop_flip")
    expected = augmented_one_by_one(data, size, at_once, seed=3, epoch=4)
    for (images, labels), (theirs, their_labels) in zip(found, expected, strict=True):
        assert torch.equal(images, theirs)
        assert torch.equal(labels, their_labels)


@pytest.mark.parametrize(
    ("side", "channels", "n", "size", "sizes"),
    [
        (8, 1, 4700, 1000, [4000]),
        (32, 3, 4700, 1000, [4000]),
        (64, 3, 1200, 100, [1000, 100]),
        (128, 3, 300, 40, [240, 40]),
        (128, 3, 300, 140, [140, 140]),
        (128, 3, 300, 270, [270]),
    ],
)
def test_whole_batches_of_some_12_megabytes_are_augmented_at_once(
    define, side, channels, n, size, sizes
):
    seen = []

    def watching(images, generator):
        seen.append(len(images))
        return images

    define(AUGMENTATIONS, watching)
    found = [
        len(labels) for _, labels in batches(coloured(n, side, channels), size, 0, 0, "watching")
    ]
    assert seen == sizes
    assert found == [size] * (sum(sizes) // size)
