import numpy as np
import pytest
import torch

from granet_lab.datasets.augmentation import AUGMENTATIONS, crop, crop_flip

every_augmentation = pytest.mark.parametrize("name", AUGMENTATIONS)
SHAPES = [(64, 1, 8, 8), (10, 3, 32, 32), (6, 2, 5, 9), (3, 1, 1, 1)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(shape, seed=1):
    return torch.randint(1, 256, shape, generator=seeded(seed)).to(torch.uint8)


def window(image, top, left, pad):
    """What a window of the image's size sees at (top, left) of the image in a black frame."""
    channels, height, width = image.shape
    seen = np.zeros_like(image)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                row, column = y + top - pad, x + left - pad
                if 0 <= row < height and 0 <= column < width:
                    seen[c, y, x] = image[c, row, column]
    return seen


def crop_one_by_one(images, generator):
    pad = max(1, images.shape[2] // 8)
    places = torch.randint(0, 2 * pad + 1, (2, len(images), 1), generator=generator)
    tops, lefts = places[0, :, 0].tolist(), places[1, :, 0].tolist()
    return np.stack(
        [window(i, t, k, pad) for i, t, k in zip(images.numpy(), tops, lefts, strict=True)]
    )


def crop_flip_one_by_one(images, generator):
    seen = crop_one_by_one(images, generator)
    mirrored = torch.rand(len(images), generator=generator).tolist()
    return np.stack([i[:, :, ::-1] if u < 0.5 else i for i, u in zip(seen, mirrored, strict=True)])


REFERENCES = {"crop": crop_one_by_one, "crop_flip": crop_flip_one_by_one}


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_augmentation
def test_it_equals_a_loop_over_images_and_pixels(name, shape):
    images = pictures(shape)
    found = AUGMENTATIONS[name](images, seeded(7))
    assert np.array_equal(found.numpy(), REFERENCES[name](images, seeded(7)))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@every_augmentation
def test_it_keeps_shape_and_type_and_leaves_the_input_alone(name, shape):
    images = pictures(shape)
    found = AUGMENTATIONS[name](images, seeded())
    assert found.shape == images.shape
    assert found.dtype == torch.uint8
    assert torch.equal(images, pictures(shape))


@every_augmentation
def test_it_is_a_function_of_the_generator(name):
    images = pictures((64, 1, 8, 8))
    augment = AUGMENTATIONS[name]
    assert torch.equal(augment(images, seeded(3)), augment(images, seeded(3)))
    assert not torch.equal(augment(images, seeded(3)), augment(images, seeded(4)))


@every_augmentation
def test_it_leaves_torchs_own_generator_alone(name):
    before = torch.get_rng_state()
    AUGMENTATIONS[name](pictures((64, 1, 8, 8)), seeded())
    assert torch.equal(torch.get_rng_state(), before)


@every_augmentation
def test_it_treats_every_image_on_its_own(name):
    same = pictures((1, 1, 8, 8)).expand(200, 1, 8, 8)
    assert len(AUGMENTATIONS[name](same, seeded()).unique(dim=0)) > 1


def test_crop_shows_each_of_the_nine_windows_on_eight_pixels_equally_often():
    image = pictures((1, 1, 8, 8))
    found = crop(image.expand(9000, 1, 8, 8), seeded())
    windows = {
        window(image[0].numpy(), top, left, 1).tobytes() for top in range(3) for left in range(3)
    }
    shown, counts = found.unique(dim=0, return_counts=True)
    assert {picture.numpy().tobytes() for picture in shown} == windows
    assert counts.min() > 850
    assert counts.max() < 1150


def test_crop_moves_by_up_to_four_pixels_on_32():
    found = crop(pictures((1, 1, 32, 32)).expand(2000, 1, 32, 32), seeded())
    rows = (found > 0).any(3).sum(2).flatten()
    assert set(rows.tolist()) == {28, 29, 30, 31, 32}


def test_crop_flip_mirrors_half_of_the_images():
    left = torch.zeros(4000, 1, 8, 8, dtype=torch.uint8)
    left[..., :4] = 255
    found = crop_flip(left, seeded())
    mirrored = (found[..., 4:].sum((1, 2, 3)) > found[..., :4].sum((1, 2, 3))).sum()
    assert 1850 < mirrored < 2150
