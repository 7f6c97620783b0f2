import json
import logging
import multiprocessing

import loky  # noqa: F401  (it makes its way of starting processes known)
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from trees import pixels, plant

import granet_lab as gl
from granet_lab.datasets import batches, load, streaming
from granet_lab.datasets.pictures import NotAnImage
from granet_lab.datasets.streaming import stream
from granet_lab.randomness import derive_seed

COUNTS = {f"train/{c}": 20 for c in "ab"} | {f"val/{c}": 6 for c in "ab"}
# Mean and deviation of ImageNet's pixels, 0.485, 0.456, 0.406 and 0.229, 0.224, 0.225, times 255.
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@pytest.fixture
def root(place):
    """36 JPEGs of 24 by 18 pixels to train on, 4 for validation, 12 for testing."""
    plant(place / "wild", COUNTS, kind="jpg", size=(24, 18))
    return place / "wild"


@pytest.fixture
def train(root):
    return stream("wild", image_size=14).train


def images_of(split, size=5, order=None, **how):
    """What all blocks hold together."""
    order = None if order is None else torch.tensor(order)
    found = list(split.blocks(size, order, **how))
    return torch.cat([images for images, _ in found]), torch.cat([labels for _, labels in found])


def opened(split, place):
    return Image.open(split.root / split.files.names[place]).convert("RGB")


def as_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def middle(image, size):
    """As torchvision has it for testing on ImageNet."""
    return transforms.CenterCrop(size)(transforms.Resize(round(size * 8 / 7))(image))


def crop(image, size, seed):
    """As torchvision has it for training on ImageNet."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        resized = transforms.RandomResizedCrop(size)(image)
        return transforms.RandomHorizontalFlip()(resized)


def test_the_splits_hold_the_files_of_the_tree(root):
    data = stream("wild")
    assert [len(split) for split in (data.train, data.validation, data.test)] == [36, 4, 12]
    assert {name.split("/")[0] for name in data.test.files.names} == {"val"}
    assert data.classes == 2


@pytest.mark.parametrize("size", [7, 14, 56])
def test_blocks_hold_the_middle_of_each_image(root, size):
    split = stream("wild", image_size=size).test
    images, labels = images_of(split)
    assert images.dtype == torch.uint8
    assert images.shape == (12, 3, size, size)
    expected = [as_tensor(middle(opened(split, i), size)) for i in range(12)]
    assert torch.equal(images, torch.stack(expected))
    assert [split.files.names[i].split("/")[1] for i in range(12)] == ["ab"[k] for k in labels]


def test_the_middle_of_an_image_whose_shorter_side_is_eight_sevenths_is_cut_out(place):
    plant(place / "sharp", {"a": 10}, size=(20, 8))  # as PNG, so that nothing is lost
    split = stream("sharp", image_size=7).train
    images, _ = images_of(split)
    # (20 - 7) / 2 = 6.5 and (8 - 7) / 2 = 0.5, rounded to even.
    expected = [pixels(name, 20, 8)[0:7, 6:13] for name in split.files.names]
    assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), np.stack(expected))


def test_blocks_come_in_the_size_and_order_asked_for(train):
    whole, labels = images_of(train)
    order = torch.tensor([5, 0, 35, 5, 7])
    found = list(train.blocks(2, order))
    assert [len(images) for images, _ in found] == [2, 2, 1]
    assert torch.equal(torch.cat([images for images, _ in found]), whole[order])
    assert torch.equal(torch.cat([classes for _, classes in found]), labels[order])


def test_random_crops_are_torchvisions_by_a_seed_for_each_image(train):
    images, _ = images_of(train, crops=11)
    seeds = [derive_seed("picture", 11, i) for i in range(len(train))]
    expected = [as_tensor(crop(opened(train, i), 14, seed)) for i, seed in enumerate(seeds)]
    assert torch.equal(images, torch.stack(expected))


def test_random_crops_depend_on_seed_and_image_alone(train):
    images, _ = images_of(train, crops=3)
    order = torch.randperm(36).tolist()
    assert torch.equal(images_of(train, 7, order, crops=3)[0], images[order])
    others = images_of(train, crops=4)[0]
    # What the draws leave too flat or too upright is cut out of the middle, whatever the seed.
    assert (images != others).flatten(1).any(1).sum() > 30


def test_images_that_are_alike_are_cropped_each_in_its_own_way(root):
    for name in stream("wild").train.files.names:
        Image.fromarray(pixels("same", 24, 18)).save(root / name)
    images, _ = images_of(stream("wild", 14).train, crops=0)
    assert len(images.unique(dim=0)) == 36


def test_another_process_crops_alike(train):
    def work(found):
        torch.manual_seed(99)
        found.put(images_of(train, 3, crops=8)[0].numpy())

    fork = multiprocessing.get_context("fork")
    found = fork.Queue()
    process = fork.Process(target=work, args=(found,))
    process.start()
    theirs = found.get(timeout=60)
    process.join(60)
    assert np.array_equal(theirs, images_of(train, crops=8)[0].numpy())


def test_a_process_that_starts_others_in_lokys_way_can_read_a_stream(train):
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("loky", force=True)  # as in the processes of a sweep
    try:
        assert len(images_of(train)[0]) == 36
    finally:
        multiprocessing.set_start_method(before, force=True)


@pytest.mark.parametrize("crops", [None, 5])
def test_torchs_own_generator_is_left_alone(train, crops):
    before = torch.get_rng_state()
    images_of(train, crops=crops)
    streaming._Pictures(train.root, train.files, 14, crops)[0]
    assert torch.equal(torch.get_rng_state(), before)


def test_the_usual_size_is_224(root):
    assert stream("wild").input_shape == (3, 224, 224)
    assert next(stream("wild").test.blocks(2))[0].shape == (2, 3, 224, 224)


def test_batches_are_normalised_by_imagenets_pixels(root):
    data = load("stream:wild", image_size=7)
    whole, labels = images_of(data.train)
    found = list(batches(data, 10, seed=0, epoch=0))
    assert len(found) == 3
    seen = []
    for images, classes in found:
        assert images.shape == (10, 3, 7, 7)
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)
        mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (MEAN, STD))
        pixel = (images.double() * std + mean).round().to(torch.uint8)
        places = [int((whole == one).flatten(1).all(1).nonzero()) for one in pixel]
        torch.testing.assert_close(images, ((whole[places] - mean) / std).float())
        assert torch.equal(classes, labels[places])
        seen += places
    assert len(set(seen)) == 30
    assert seen != sorted(seen)


def epoch_of(data, size, seed=0, epoch=0):
    found = batches(data, size, seed, epoch, augment="resized_crop_flip")
    return torch.cat([images for images, _ in found])


def test_augmented_batches_depend_on_seed_and_epoch_and_not_on_their_size(root):
    data = load("stream:wild", image_size=14)
    first = epoch_of(data, 12)
    torch.rand(3)
    assert torch.equal(epoch_of(data, 12), first)
    assert torch.equal(epoch_of(data, 36), first)
    assert not torch.equal(epoch_of(data, 36, epoch=1), first)
    assert not torch.equal(epoch_of(data, 36, seed=1), first)


def test_an_augmented_epoch_is_the_random_crops_of_its_order(root):
    data = load("stream:wild", image_size=14)
    crops = images_of(data.train, crops=derive_seed("augmentation", 2, 5))[0]
    found = {image.numpy().tobytes() for image in epoch_of(data, 36, seed=2, epoch=5)}
    assert found == {image.numpy().tobytes() for image in data.normalise(crops)}


def test_train_size_trains_on_the_first_images(root):
    data = load("stream:wild", image_size=7)
    shown = torch.cat([i for i, _ in batches(data, 5, 0, 0, train_size=10)])
    first = data.normalise(images_of(data.train.first(10))[0])
    assert {i.numpy().tobytes() for i in shown} == {i.numpy().tobytes() for i in first}
    assert data.train.first(None).files.names == data.train.files.names
    with pytest.raises(ValueError, match=r"^train_size must be at most 36, not 37$"):
        data.train.first(37)


def test_a_split_says_where_its_tensors_go(train):
    assert train.device == torch.device("cpu")
    assert train.to("meta").device == torch.device("meta")
    assert next(train.to("meta").blocks(2))[0].device == torch.device("meta")


def test_what_is_no_image_is_left_out_with_a_warning_and_noted_beside_the_tree(
    root, caplog, monkeypatch
):
    (root / "train/a/0.jpg").write_text("no picture")
    (root / "val/b/note.txt").write_text("birds")
    names = ["train/a/0.jpg", "val/b/note.txt"]
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            data = stream("wild")
        splits = (data.train, data.validation, data.test)
        assert [len(split) for split in splits] in ([35, 4, 12], [36, 3, 12])
        (record,) = caplog.records
        listed = record.getMessage().removeprefix(f"2 files of {root} are no images: ")
        assert sorted(listed.split(", ")) == names
        (note,) = (root.parent / "wild.decoded").iterdir()
        assert sorted(json.loads(note.read_text())) == names


def test_only_files_that_were_no_images_are_looked_at_again(root, monkeypatch):
    (root / "train/a/0.jpg").write_text("no picture")
    stream("wild")
    seen, before = [], Image.open
    monkeypatch.setattr(Image, "open", lambda path: seen.append(path) or before(path))
    stream("wild")
    assert seen == [root / "train/a/0.jpg"]


def test_a_file_that_was_mended_is_taken_again(root, caplog):
    content = (root / "train/a/0.jpg").read_bytes()
    (root / "train/a/0.jpg").write_text("no picture")
    stream("wild")
    (root / "train/a/0.jpg").write_bytes(content)
    caplog.clear()
    data = stream("wild")
    assert len(data.train) + len(data.validation) == 40
    assert not caplog.records


def test_a_note_that_is_damaged_is_written_anew(root):
    (root / "train/a/0.jpg").write_text("no picture")
    stream("wild")
    (note,) = (root.parent / "wild.decoded").iterdir()
    note.write_text("[")
    stream("wild")
    assert json.loads(note.read_text()) == ["train/a/0.jpg"]


def test_a_class_without_any_image_is_an_error_that_names_it(root):
    for path in (root / "val/a").iterdir():
        path.write_text("no picture")
    with pytest.raises(ValueError, match=f"^no file of the class {root}/val/a is an image$"):
        stream("wild")


def test_a_damaged_file_is_named_in_one_line_when_it_is_read(root):
    path = root / "val/a/3.jpg"
    path.write_bytes(path.read_bytes()[:-20])
    split = stream("wild", 7).test
    with pytest.raises(NotAnImage, match=f"^{path} is no image: ") as error:
        images_of(split)
    assert "\n" not in str(error.value)


def test_a_network_is_trained_on_a_stream(root, lab):
    recipe = gl.Recipe(
        dataset="stream:wild",
        image_size=14,
        model="convnet",
        epochs=2,
        batch_size=12,
        lr=0.1,
        augment="resized_crop_flip",
    )
    history = lab.train(recipe, progress=False).history
    assert history.epoch.tolist() == [0, 1, 2]
    assert history.iloc[1:][["train_loss", "val_loss", "test_loss"]].notna().all(axis=None)
    right = history.test_acc * 12 / 100  # of twelve images
    assert right.tolist() == pytest.approx(right.round())
