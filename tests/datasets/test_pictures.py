import numpy as np
import pytest
from PIL import Image
from trees import plant

from granet_lab.datasets.pictures import NotAnImage, opened, picture

KINDS = {
    "grey": ("L", [[0, 200]], [[(0, 0, 0), (200, 200, 200)]]),
    "grey with transparency": ("LA", [[(7, 0), (9, 255)]], [[(7, 7, 7), (9, 9, 9)]]),
    "black and white": ("1", [[False, True]], [[(0, 0, 0), (255, 255, 255)]]),
    "transparency": ("RGBA", [[(1, 2, 3, 0), (4, 5, 6, 9)]], [[(1, 2, 3), (4, 5, 6)]]),
    "16 bits": ("I;16", [[0x12FF, 0xFF00]], [[(0x12,) * 3, (0xFF,) * 3]]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_png_becomes_red_green_and_blue(tmp_path, kind):
    mode, values, wanted = KINDS[kind]
    dtype = {"1": bool, "I;16": np.uint16}.get(mode, np.uint8)
    Image.fromarray(np.array(values, dtype)).save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as stored:
        assert stored.mode == mode
    assert picture(tmp_path / "x.png").tolist() == [[list(pixel) for pixel in wanted[0]]]


@pytest.mark.parametrize("kind", ["bmp", "gif", "ppm", "tiff", "webp"])
def test_other_formats_are_read_too(tmp_path, kind):
    two = np.array([[[255, 0, 0], [0, 0, 255]]] * 2, np.uint8)
    Image.fromarray(two).save(tmp_path / f"x.{kind}", lossless=True)
    assert np.array_equal(picture(tmp_path / f"x.{kind}"), two)


def striped(width, height):
    """Every column, or every row of an upright image, has a grey of its own."""
    lines = np.arange(max(width, height), dtype=np.uint8) * 10
    grey = np.tile(lines, (height, 1)) if width >= height else np.tile(lines[:, None], (1, width))
    return np.repeat(grey[:, :, None], 3, axis=2)


@pytest.mark.parametrize(
    ("width", "height", "first"), [(9, 3, 3), (3, 9, 3), (8, 3, 2), (4, 3, 0), (3, 3, 0)]
)
def test_of_an_image_whose_shorter_side_fits_the_middle_is_kept(tmp_path, width, height, first):
    whole = striped(width, height)
    Image.fromarray(whole).save(tmp_path / "x.png")
    middle = whole[:, first : first + 3] if width >= height else whole[first : first + 3]
    assert np.array_equal(picture(tmp_path / "x.png", 3), middle)


@pytest.mark.parametrize("size", [5, 10, 20, 40])
@pytest.mark.parametrize("upright", [False, True])
def test_the_shorter_side_is_resized_and_the_middle_kept(tmp_path, size, upright):
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    whole = np.repeat(np.tile(colours, (20, 1, 1)), 20, axis=1)  # 60 x 20, in three squares
    whole = whole.swapaxes(0, 1) if upright else whole
    Image.fromarray(np.ascontiguousarray(whole)).save(tmp_path / "x.png")
    found = picture(tmp_path / "x.png", size)
    assert found.shape == (size, size, 3)
    inner = found[1:-1, 1:-1].reshape(-1, 3)  # at the rim a neighbour may shine through
    assert inner.tolist() == [[0, 255, 0]] * len(inner)


def test_resizing_is_pillows_bilinear(tmp_path):
    plant(tmp_path, {".": 1}, size=(8, 4))
    image = Image.open(tmp_path / "0.png").resize((4, 2), Image.Resampling.BILINEAR)
    assert np.array_equal(picture(tmp_path / "0.png", 2), np.asarray(image)[:, 1:3])


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "x.png").write_text("no picture")
    with pytest.raises(NotAnImage, match=f"^{tmp_path}/x.png is no image: "):
        opened(tmp_path / "x.png")


def test_a_file_that_cannot_be_read_at_all_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        opened(tmp_path / "x.png")
