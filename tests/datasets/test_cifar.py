import hashlib
import pickle
import tarfile
import threading
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from granet_lab.datasets import DATASETS, cifar, load

IMAGES = {True: 120, False: 30}
NAMES = {10: "cifar10", 100: "cifar100"}


def drawn(n, classes, seed):
    """Random images (n, 32, 32, 3) and labels, each class at least once."""
    random = np.random.default_rng(seed)
    return random.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), np.arange(n) % classes


class Pretended:
    """What torchvision's class has: constructor and attributes; where it lies is up to the test."""

    url, filename = "https://example.org/pretended.tar.gz", "pretended.tar.gz"
    n_classes = 10
    there, error = True, None
    calls: ClassVar = []

    def __init__(self, root, train=True, transform=None, target_transform=None, download=False):
        self.calls.append((str(root), train, download))
        if not self.there and not download:
            raise RuntimeError("Dataset not found or corrupted.")
        if not self.there and self.error is not None:
            raise self.error
        self.data, labels = drawn(IMAGES[train], self.n_classes, seed=int(train))
        self.targets = labels.tolist()
        self.classes = [f"class {i}" for i in range(self.n_classes)]


@pytest.fixture(params=NAMES)
def pretended(request, place, monkeypatch):
    """Torchvision's two data sets, replaced; validation takes 20 images."""

    class Here(Pretended):
        n_classes, calls = request.param, []

    monkeypatch.setattr(torchvision.datasets, f"CIFAR{request.param}", Here)
    monkeypatch.setattr(cifar, "_VALIDATION", 20)
    return Here


def made(pretended):
    return DATASETS[NAMES[pretended.n_classes]]()


def as_multiset(images, labels):
    return Counter((i.tobytes(), int(k)) for i, k in zip(images, labels, strict=True))


def of_splits(*splits):
    return sum(
        (as_multiset(s.images.permute(0, 2, 3, 1).numpy(), s.labels.numpy()) for s in splits),
        Counter(),
    )


def test_validation_is_taken_from_the_training_images_and_none_is_lost_or_changed(pretended):
    data = made(pretended)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [100, 20, 30]
    theirs = drawn(120, pretended.n_classes, seed=1)
    assert of_splits(data.train, data.validation) == as_multiset(*theirs)


def test_the_test_images_are_torchvisions_in_their_order(pretended):
    data = made(pretended)
    images, labels = drawn(30, pretended.n_classes, seed=0)
    assert np.array_equal(data.test.images.numpy(), images.transpose(0, 3, 1, 2))
    assert np.array_equal(data.test.labels.numpy(), labels)


def test_there_are_as_many_classes_as_torchvision_names(pretended):
    data = made(pretended)
    assert (data.input_shape, data.classes) == ((3, 32, 32), pretended.n_classes)


def test_the_split_is_the_same_each_time_and_a_sample(pretended):
    one, other = made(pretended), made(pretended)
    assert torch.equal(one.validation.images, other.validation.images)
    assert torch.equal(one.train.labels, other.train.labels)
    images, _ = drawn(120, pretended.n_classes, seed=1)
    places = {image.tobytes(): place for place, image in enumerate(images)}
    taken = one.validation.images.permute(0, 2, 3, 1).numpy()
    found = [places[image.tobytes()] for image in taken]
    assert min(found) < 40 < 80 < max(found)  # from the beginning and the end


def test_pixels_are_normalised_by_the_training_images_alone(pretended):
    data = made(pretended)
    pixels = data.train.images.double()
    np.testing.assert_allclose(data.mean, pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(data.std, pixels.std((0, 2, 3), correction=1), rtol=1e-4)


def test_5000_images_are_for_validation():
    assert cifar._VALIDATION == 5000


def test_what_is_there_is_not_downloaded(pretended, place):
    load(NAMES[pretended.n_classes])
    assert pretended.calls == [(str(place), True, False), (str(place), False, False)]


def test_what_is_missing_is_downloaded_to_where_datasets_lie(pretended, place):
    pretended.there = False
    data = made(pretended)
    assert pretended.calls[:2] == [(str(place), True, False), (str(place), True, True)]
    assert len(data.train) == 100


@pytest.mark.parametrize(
    "error", [URLError("no network"), RuntimeError("File not found or corrupted."), OSError("full")]
)
def test_a_failed_download_is_one_line_that_says_what_to_put_where(pretended, place, error):
    pretended.there, pretended.error = False, error
    with pytest.raises(OSError, match=f"^CIFAR{pretended.n_classes} is not in {place} ") as caught:
        made(pretended)
    message = str(caught.value)
    assert "\n" not in message
    assert str(error) in message
    assert "put pretended.tar.gz there, from https://example.org/pretended.tar.gz" in message


@pytest.mark.parametrize("name", NAMES.values())
def test_a_recipe_is_told_beforehand_that_it_downloads(name):
    assert DATASETS[name].downloads
    assert not DATASETS["digits"].downloads


def written(folder, classes):
    """Small files in the format of the real ones, and their checksums by name."""
    key = "labels" if classes == 10 else "fine_labels"
    names = [f"data_batch_{i}" for i in range(1, 6)] if classes == 10 else ["train"]
    tests = ["test_batch" if classes == 10 else "test"]
    folder.mkdir()
    for number, name in enumerate([*names, *tests]):
        images, labels = drawn(60, classes, seed=number)
        content = {"data": images.transpose(0, 3, 1, 2).reshape(60, -1), key: labels.tolist()}
        (folder / name).write_bytes(pickle.dumps(content))
    meta = {
        ("label_names" if classes == 10 else "fine_label_names"): [str(i) for i in range(classes)]
    }
    last = "batches.meta" if classes == 10 else "meta"
    (folder / last).write_bytes(pickle.dumps(meta))
    sums = {p.name: hashlib.md5(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    return names, tests, last, sums


@pytest.fixture(params=NAMES)
def real(request, place, monkeypatch):
    """Torchvision's own class, in whose eyes our small files are the real ones; no network."""
    theirs = getattr(torchvision.datasets, f"CIFAR{request.param}")
    folder = place / theirs.base_folder
    names, tests, meta, sums = written(folder, request.param)
    monkeypatch.setattr(theirs, "train_list", [[name, sums[name]] for name in names])
    monkeypatch.setattr(theirs, "test_list", [[name, sums[name]] for name in tests])
    monkeypatch.setattr(theirs, "meta", {**theirs.meta, "md5": sums[meta]})
    monkeypatch.setattr(theirs, "url", (place / "elsewhere.tar.gz").as_uri())
    monkeypatch.setattr(cifar, "_VALIDATION", 20)
    theirs.folder = folder
    yield theirs
    del theirs.folder


def make(real):
    return DATASETS[real.__name__.lower()]()


def test_torchvisions_own_class_reads_the_files(real):
    data = make(real)
    parts = len(real.train_list)
    images = np.concatenate([drawn(60, data.classes, seed=i)[0] for i in range(parts)])
    labels = np.tile(np.arange(60) % data.classes, parts)
    assert of_splits(data.train, data.validation) == as_multiset(images, labels)
    theirs = drawn(60, data.classes, seed=parts)[0].transpose(0, 3, 1, 2)
    assert np.array_equal(data.test.images.numpy(), theirs)


@pytest.fixture
def server(place, monkeypatch):
    """The address under which this machine serves the folder of all datasets."""
    monkeypatch.setenv("no_proxy", "*")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=place)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def damage(real):
    path = real.folder / real.train_list[0][0]
    path.write_bytes(path.read_bytes() + b"\0")


def refused(real, place):
    with pytest.raises(OSError, match=f"^{real.__name__} is not in {place} and could not") as error:
        make(real)
    assert f"put {real.filename} there, from {real.url}" in str(error.value)
    assert "\n" not in str(error.value)


def test_files_with_a_wrong_checksum_name_what_to_fetch_and_the_folder(real, place):
    damage(real)
    refused(real, place)


def test_a_download_with_a_wrong_checksum_names_what_to_fetch_and_the_folder(
    real, place, server, monkeypatch
):
    damage(real)
    (place / "elsewhere.tar.gz").write_bytes(b"half of it")
    monkeypatch.setattr(real, "url", f"{server}/elsewhere.tar.gz")
    refused(real, place)
    assert (place / real.filename).read_bytes() == b"half of it"


def test_a_good_download_takes_the_place_of_damaged_files(real, place, server, monkeypatch):
    before = make(real)
    with tarfile.open(place / "elsewhere.tar.gz", "w:gz") as tar:
        tar.add(real.folder, real.base_folder)
    sums = hashlib.md5((place / "elsewhere.tar.gz").read_bytes()).hexdigest()
    monkeypatch.setattr(real, "tgz_md5", sums)
    monkeypatch.setattr(real, "url", f"{server}/elsewhere.tar.gz")
    damage(real)
    assert torch.equal(make(real).train.images, before.train.images)


def test_an_archive_that_was_put_there_is_unpacked(real, place, monkeypatch):
    archive = place / real.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(real.folder, real.base_folder)
    monkeypatch.setattr(real, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    for path in real.folder.iterdir():
        path.unlink()
    assert len(make(real).test) == 60


def test_an_image_of_cifar_is_the_picture_that_pillow_shows(real):
    data = make(real)
    theirs = real(real.folder.parent, train=False)
    image, label = theirs[7]
    assert isinstance(image, Image.Image)
    ours = data.test.images[7].permute(1, 2, 0).numpy()
    assert np.array_equal(ours, np.asarray(image))
    assert int(data.test.labels[7]) == label
