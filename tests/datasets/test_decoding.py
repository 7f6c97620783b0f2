import logging
import os
import re

import numpy as np
import pytest
from PIL import Image
from trees import HEIGHT, WIDTH, pixels, plant

from granet_lab.datasets import decoding
from granet_lab.datasets.decoding import decoded
from granet_lab.datasets.tree import scan

CLASSES = ("cat", "dog")
COUNTS = {f"{split}/{name}": n for split, n in (("train", 20), ("test", 6)) for name in CLASSES}


@pytest.fixture
def root(tmp_path):
    """A tree of 52 PNGs of the same size: 36 to train on, 4 for validation, 12 for testing."""
    plant(tmp_path / "pets", COUNTS)
    return tmp_path / "pets"


@pytest.fixture
def no_decoding(monkeypatch):
    """Call it, and from then on nothing can be decoded."""

    def refuse(path, size):
        raise AssertionError(f"{path} is decoded again")

    return lambda: monkeypatch.setattr(decoding, "picture", refuse)


def expected(files):
    return np.stack([pixels(name) for name in files.names])


def spoil(path):
    """Cut off the second half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_the_arrays_are_what_is_in_the_files(root):
    tree = scan(root)
    found = decoded(tree)
    assert [images.shape for images, _ in found] == [(n, HEIGHT, WIDTH, 3) for n in (36, 4, 12)]
    for (images, labels), files in zip(found, tree.splits(), strict=True):
        assert images.dtype == np.uint8
        assert np.array_equal(images, expected(files))
        assert labels.dtype == np.int64
        assert [CLASSES[k] for k in labels] == [name.split("/")[1] for name in files.names]


@pytest.mark.parametrize("chunk", [1, 7, 36, 1000])
def test_the_arrays_do_not_depend_on_how_many_files_are_decoded_at_once(root, monkeypatch, chunk):
    monkeypatch.setattr(decoding, "_CHUNK", chunk)
    for name in ("train/cat/3.png", "train/dog/0.png", "test/dog/5.png"):
        spoil(root / name)
    tree = scan(root)
    good = tree.without({"train/cat/3.png", "train/dog/0.png", "test/dog/5.png"})
    for (images, labels), files in zip(decoded(tree), good.splits(), strict=True):
        assert np.array_equal(images, expected(files))
        assert np.array_equal(labels, files.labels)


def test_a_jpeg_is_what_pillow_makes_of_it(tmp_path):
    plant(tmp_path / "t", {"a": 5, "b": 5}, kind="jpg", size=(33, 17))
    tree = scan(tmp_path / "t")
    for (images, _), files in zip(decoded(tree), tree.splits(), strict=True):
        theirs = [np.asarray(Image.open(tree.root / name)) for name in files.names]
        assert np.array_equal(images, np.stack(theirs))


def test_files_are_decoded_once(root, no_decoding):
    first = decoded(scan(root))
    no_decoding()
    for (images, labels), (again, also) in zip(first, decoded(scan(root)), strict=True):
        assert np.array_equal(images, again)
        assert np.array_equal(labels, also)


def test_each_size_is_decoded_on_its_own_and_kept(root, no_decoding):
    whole, small = decoded(scan(root)), decoded(scan(root), 3)
    assert (whole[0][0].shape[1:], small[0][0].shape[1:]) == ((HEIGHT, WIDTH, 3), (3, 3, 3))
    no_decoding()
    assert np.array_equal(decoded(scan(root), 3)[1][0], small[1][0])
    assert np.array_equal(decoded(scan(root))[1][0], whole[1][0])


@pytest.mark.parametrize("same", ["size", "time"])
def test_a_file_that_changed_is_decoded_anew(root, same):
    decoded(scan(root))
    path = root / "test/cat/2.png"
    before = path.stat()
    Image.fromarray(pixels("another")).save(path)
    with path.open("ab") as file:
        file.write(b"\0" * (same == "time"))
    os.utime(path, ns=(0, before.st_mtime_ns + (same == "size")))
    assert (path.stat().st_size == before.st_size) == (same == "size")
    tree = scan(root)
    place = tree.test.names.index("test/cat/2.png")
    assert np.array_equal(decoded(tree)[2][0][place], pixels("another"))


def test_a_new_file_is_decoded(root):
    decoded(scan(root))
    plant(root, {"test/cat": 7})
    assert len(decoded(scan(root))[2][0]) == 13


def test_what_is_decoded_lies_beside_the_tree_and_may_be_deleted(root):
    decoded(scan(root))
    assert sorted(p.name for p in root.parent.iterdir()) == ["pets", "pets.decoded"]
    (only,) = (root.parent / "pets.decoded").iterdir()
    assert only.name == scan(root).fingerprint(decoding._VERSION, None, contents=True)
    assert only.stat().st_mode & 0o777 == 0o755
    for path in only.iterdir():
        path.unlink()
    only.rmdir()
    assert np.array_equal(decoded(scan(root))[0][0], expected(scan(root).train))


def test_writing_to_the_arrays_does_not_change_the_files(root):
    images, labels = decoded(scan(root))[0]
    images[:], labels[:] = 0, 9
    again, also = decoded(scan(root))[0]
    assert np.array_equal(again, expected(scan(root).train))
    assert also.max() == 1


def test_images_of_different_sizes_get_the_one_that_is_asked_for(tmp_path):
    plant(tmp_path / "t", {"a": 10}, size=(9, 6))
    plant(tmp_path / "t", {"b": 10}, size=(4, 30))
    for images, _ in decoded(scan(tmp_path / "t"), 6):
        assert images.shape[1:] == (6, 6, 3)


@pytest.mark.parametrize("odd", ["train", "validation", "test"])
def test_different_sizes_and_no_size_is_an_error_that_names_two_files(root, odd):
    tree = scan(root)
    first, name = tree.train.names[0], getattr(tree, odd).names[-1]
    Image.fromarray(pixels("x", 9, 4)).save(root / name)
    message = f"the images of {root} differ in size (7x5: {first}, 9x4: {name}): give the recipe"
    with pytest.raises(ValueError, match="^" + re.escape(message) + " an image_size$"):
        decoded(scan(root))
    assert list((root.parent / "pets.decoded").iterdir()) == []
    assert decoded(scan(root), 4)[0][0].shape == (36, 4, 4, 3)


def broken(root):
    """Files that are no images, one of each kind: their names."""
    (root / "train/cat/note.txt").write_text("cats")
    (root / "test/dog/text.jpg").write_text("no picture")
    (root / "train/dog/empty.png").touch()
    Image.fromarray(pixels("x", 64, 64)).save(root / "train/dog/cut.jpg")
    spoil(root / "train/dog/cut.jpg")
    return {"train/cat/note.txt", "test/dog/text.jpg", "train/dog/empty.png", "train/dog/cut.jpg"}


def test_what_is_no_image_is_left_out_and_named_in_a_warning_each_time(root, caplog):
    names = broken(root)
    for _ in range(2):
        caplog.clear()
        found = decoded(scan(root))
        for (images, labels), files in zip(found, scan(root).without(names).splits(), strict=True):
            assert np.array_equal(images, expected(files))
            assert np.array_equal(labels, files.labels)
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        start, _, listed = record.getMessage().partition(": ")
        assert start == f"4 files of {root} are no images"
        assert set(listed.split(", ")) == names


def test_a_warning_names_five_files(root, caplog):
    for i in range(6):
        (root / f"train/cat/{i}.txt").touch()
    decoded(scan(root))
    message = caplog.records[0].getMessage()
    assert message.startswith("6 files of")
    assert message.count(".txt") == 5
    assert message.endswith(" ...")


def test_images_alone_are_nothing_to_warn_of(root, caplog):
    decoded(scan(root))
    assert not caplog.records


@pytest.mark.parametrize("folder", ["train/cat", "train/dog", "test/dog"])
def test_a_class_of_which_nothing_can_be_read_is_an_error_that_names_it(root, folder):
    for path in (root / folder).iterdir():
        path.write_text("no picture")
    with pytest.raises(ValueError, match=f"^no file of the class {root}/{folder} is an image$"):
        decoded(scan(root))
    assert list((root.parent / "pets.decoded").iterdir()) == []


def test_a_tree_without_any_image_is_an_error(tmp_path):
    for i in range(10):
        (tmp_path / "t/a").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"t/a/{i}.txt").touch()
    with pytest.raises(ValueError, match=f"^none of the 8 files in {tmp_path}/t is an image$"):
        decoded(scan(tmp_path / "t"))
