"""Decoding that is interrupted, killed, or done by two processes at the same time."""

import contextlib
import itertools
import os
import signal
import time
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from multiprocessing import get_context

import loky
import numpy as np
import pytest
from PIL import Image
from trees import pixels, plant

from granet_lab.datasets import decoding
from granet_lab.datasets.decoding import decoded
from granet_lab.datasets.tree import scan

FORK = get_context("fork")


@pytest.fixture
def root(tmp_path):
    """36 images to train on, 4 for validation, 12 for testing."""
    plant(tmp_path / "pets", {f"train/{c}": 20 for c in "ab"} | {f"test/{c}": 6 for c in "ab"})
    return tmp_path / "pets"


@pytest.fixture
def home(root):
    return root.parent / "pets.decoded"


@contextlib.contextmanager
def instead(name, function):
    """Another function of the module for the length of a block."""
    before = getattr(decoding, name)
    setattr(decoding, name, function)
    try:
        yield
    finally:
        setattr(decoding, name, before)


def at_image(number, act):
    """In place of ``picture``: acts before it decodes the image of that number."""
    numbers, before = itertools.count(1), decoding.picture

    def picture(*words):
        if next(numbers) == number:
            act()
        return before(*words)

    return instead("picture", picture)


def is_right(root):
    tree = scan(root)
    return all(
        np.array_equal(images, np.stack([pixels(name) for name in files.names]))
        and np.array_equal(labels, files.labels)
        for (images, labels), files in zip(decoded(tree), tree.splits(), strict=True)
    )


def fail(error):
    raise error


@pytest.mark.parametrize("number", [1, 20, 39, 53])  # of the shape, and in each of the splits
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("the disk is gone")], ids=repr)
def test_an_error_in_the_middle_leaves_nothing_behind(root, home, number, error):
    with at_image(number, lambda: fail(error)), pytest.raises(type(error)):
        decoded(scan(root))
    assert list(home.iterdir()) == []
    assert is_right(root)


def test_after_an_error_no_more_images_are_decoded(root):
    seen = []

    def picture(path, size):
        seen.append(path)
        return fail(OSError("gone")) if len(seen) == 10 else pixels(path.name)

    with instead("picture", picture), pytest.raises(OSError, match=r"^gone$"):
        decoded(scan(root))
    assert len(seen) == 10


def killed_at(root, number):
    """Decode in a process that kills itself at the image of that number."""
    with at_image(number, lambda: os.kill(os.getpid(), signal.SIGKILL)):
        decoded(scan(root))


def killed_before(root, name):
    """Decode in a process that kills itself where it would call a function of the module."""
    with instead(name, lambda *words: os.kill(os.getpid(), signal.SIGKILL)):
        decoded(scan(root))


@pytest.mark.parametrize(
    ("work", "where"),
    [(killed_at, 2), (killed_at, 20), (killed_at, 53), (killed_before, "_to_disk")],
)
def test_what_a_killed_process_began_is_not_read(root, home, work, where):
    process = FORK.Process(target=work, args=(root, where))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    (begun,) = home.iterdir()
    assert begun.name.startswith(".begun-")
    assert is_right(root)


def decode_together(root, barrier, found):
    """Decode, the first image when the other process has come as far."""
    try:
        with at_image(1, lambda: barrier.wait(60)):
            found.put(is_right(root))
    except Exception as error:
        found.put(repr(error))


def test_two_processes_that_decode_at_once_both_get_the_right_arrays(root, home):
    barrier, found = FORK.Barrier(2), FORK.Queue()
    processes = [FORK.Process(target=decode_together, args=(root, barrier, found)) for _ in "ab"]
    for process in processes:
        process.start()
    assert [found.get(timeout=60) for _ in processes] == [True, True]
    for process in processes:
        process.join(60)
    assert [path.name[0] != "." for path in home.iterdir()] == [True]


def test_who_comes_second_takes_what_the_first_has_made(root, home):
    with at_image(30, lambda: decoded(scan(root))):  # by now another is as far
        assert is_right(root)
    assert len(list(home.iterdir())) == 1


def begun(home, name, hours):
    """A folder begun so many hours ago."""
    (home / name).mkdir(parents=True)
    (home / name / "train.npy").write_bytes(b"half")
    then = time.time() - 3600 * hours
    os.utime(home / name, (then, then))


def test_what_was_begun_a_day_ago_is_swept_and_what_was_begun_today_is_not(root, home):
    for name, hours in ((".begun-old", 25), (".begun-new", 23), ("whole", 99), (".other", 99)):
        begun(home, name, hours)
    decoded(scan(root))
    names = {path.name for path in home.iterdir()}
    assert names >= {".begun-new", "whole", ".other"}
    assert ".begun-old" not in names


def test_what_another_process_finishes_meanwhile_does_no_harm(root, home):
    home.mkdir()
    (home / ".begun-gone").symlink_to(home / "nowhere")  # is listed, and is not there
    assert is_right(root)


def refused(root):
    with pytest.raises(OSError, match=f"^cannot write {root}.decoded, where {root} is") as error:
        decoded(scan(root))
    assert "\n" not in str(error.value)


def test_where_nothing_can_be_written_one_line_says_so(root, home):
    home.write_text("in the way")
    refused(root)
    assert home.read_text() == "in the way"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_place_that_may_only_be_read_is_named(root):
    root.parent.chmod(0o555)
    try:
        refused(root)
    finally:
        root.parent.chmod(0o755)


def test_a_disk_that_is_full_is_an_error_and_leaves_nothing(root, home, monkeypatch):
    def full(file, start, length):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="No space left"):
        decoded(scan(root))
    assert list(home.iterdir()) == []


class Forked(ProcessPoolExecutor):
    """In place of loky's: processes that start in no time."""

    def __init__(self, workers):
        super().__init__(workers, mp_context=FORK)

    def shutdown(self, wait=True, kill_workers=False, cancel_futures=False):
        super().shutdown(wait, cancel_futures=kill_workers)


@pytest.fixture
def processes(monkeypatch):
    """All work is given to processes, three files at a time."""
    monkeypatch.setattr(decoding, "_ALONE", 0.0)
    monkeypatch.setattr(decoding, "_CHUNK", 3)
    monkeypatch.setattr(loky, "ProcessPoolExecutor", Forked)


@pytest.fixture
def alone():
    """Raises where a file is decoded in this process, beyond the one that tells the shape."""
    here, before, numbers = os.getpid(), decoding.picture, itertools.count(1)

    def picture(*words):
        if os.getpid() == here and next(numbers) > 1:
            raise AssertionError("decoded in this process")
        return before(*words)

    with instead("picture", picture):
        yield


def test_processes_give_the_right_arrays(root, home, processes, alone):
    assert is_right(root)
    assert len(list(home.iterdir())) == 1


def test_processes_leave_out_what_is_no_image(root, processes, alone, caplog):
    bad = {"train/a/1.png", "test/b/2.png"}
    for name in bad:
        (root / name).write_text("no picture")
    tree = scan(root)
    for (images, _), files in zip(decoded(tree), tree.without(bad).splits(), strict=True):
        assert np.array_equal(images, np.stack([pixels(name) for name in files.names]))
    assert "2 files of" in caplog.text


def test_an_error_in_one_of_the_processes_is_the_error_and_leaves_nothing(root, home, processes):
    Image.fromarray(pixels("x", 9, 4)).save(root / "test/b/3.png")
    with pytest.raises(ValueError, match=r"differ in size .*9x4: test/b/3\.png"):
        decoded(scan(root))
    assert list(home.iterdir()) == []


def test_a_process_that_dies_is_an_error_and_leaves_nothing(root, home, processes):
    here = os.getpid()

    def die():
        assert os.getpid() != here
        os.kill(os.getpid(), signal.SIGKILL)

    with at_image(2, die), pytest.raises(BrokenExecutor):
        decoded(scan(root))
    assert list(home.iterdir()) == []
    assert is_right(root)


@pytest.mark.slow  # real processes start
def test_lokys_processes_give_the_right_arrays(root, monkeypatch, alone):
    monkeypatch.setattr(decoding, "_ALONE", 0.0)
    monkeypatch.setattr(decoding, "_CHUNK", 3)
    assert is_right(root)
