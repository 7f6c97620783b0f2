import logging

import numpy as np
import pytest
import torch
from trees import HEIGHT, WIDTH, pixels, plant

import granet_lab as gl
from granet_lab.datasets import load
from granet_lab.datasets.folder import folder
from granet_lab.datasets.tree import scan


@pytest.fixture
def pets(place):
    plant(place / "pets", {f"train/{c}": 20 for c in "ab"} | {f"val/{c}": 6 for c in "ab"})
    return place / "pets"


def test_the_splits_hold_the_images_of_the_tree_channels_first(pets):
    data, tree = load("folder:pets"), scan(pets)
    assert (data.input_shape, data.classes) == ((3, HEIGHT, WIDTH), 2)
    splits = (data.train, data.validation, data.test)
    assert [len(split) for split in splits] == [36, 4, 12]
    for split, files in zip(splits, tree.splits(), strict=True):
        theirs = np.stack([pixels(name).transpose(2, 0, 1) for name in files.names])
        assert np.array_equal(split.images.numpy(), theirs)
        assert split.labels.tolist() == files.labels.tolist()


def test_pixels_are_normalised_by_those_of_the_training_images(pets):
    data, tree = load("folder:pets"), scan(pets)
    whole = np.stack([pixels(name) for name in tree.train.names]).astype(float)
    np.testing.assert_allclose(data.mean, whole.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(data.std, whole.std(axis=(0, 1, 2), ddof=1), rtol=1e-12)


def test_images_get_the_size_that_is_asked_for(pets):
    assert load("folder:pets", image_size=4).input_shape == (3, 4, 4)
    assert load("folder:pets").input_shape == (3, HEIGHT, WIDTH)


def test_a_path_may_be_absolute_or_lie_deeper(place, pets):
    plant(place / "deep/down", {"a": 10, "b": 10})
    assert len(folder("deep/down").train) == 16
    assert torch.equal(folder(str(pets)).train.images, folder("pets").train.images)


@pytest.mark.parametrize("where", ["data/datasets", "."])
def test_a_relative_path_starts_at_data_datasets_or_else_from_here(place, monkeypatch, where):
    monkeypatch.delenv("GRANET_LAB_DATASETS")
    monkeypatch.chdir(place)
    plant(place / where / "birds", {"a": 20})
    assert len(folder("birds").train) == 16


def test_the_folder_of_all_datasets_comes_before_the_one_that_one_is_in(place, pets, monkeypatch):
    plant(place / "here/pets", {"a": 50})
    monkeypatch.chdir(place / "here")
    assert len(folder("pets").train) == 36


def test_the_home_directory_may_be_a_tilde(place, pets, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    assert len(folder("~/pets").train) == 36
    monkeypatch.setenv("GRANET_LAB_DATASETS", "~")
    assert len(folder("pets").train) == 36


@pytest.mark.parametrize("kind", ["folder", "stream"])
def test_a_folder_that_is_not_there_is_named_in_one_line(place, kind):
    with pytest.raises(
        ValueError, match=f"^there is no folder birds, neither in {place} "
    ) as error:
        load(f"{kind}:birds")
    assert "\n" not in str(error.value)


def test_a_file_is_no_folder(place):
    (place / "birds").touch()
    with pytest.raises(ValueError, match="there is no folder"):
        load("folder:birds")


def test_images_on_the_disk_are_not_changed_by_what_is_done_in_memory(pets):
    before = load("folder:pets").train.images.clone()
    folder("pets").train.images.zero_()
    assert torch.equal(folder("pets").train.images, before)


def test_a_damaged_image_is_left_out_with_a_warning(pets, caplog):
    (pets / "train/a/0.png").write_bytes(b"damaged")
    with caplog.at_level(logging.WARNING):
        data = load("folder:pets")
    assert len(data.train) + len(data.validation) == 39
    assert "1 files of" in caplog.text
    assert "train/a/0.png" in caplog.text


def test_a_network_is_trained_and_pruned_on_a_folder_of_images(pets, lab):
    recipe = gl.Recipe(
        dataset="folder:pets",
        image_size=8,
        model="convnet",
        epochs=3,
        batch_size=12,
        lr=0.1,
        augment="crop_flip",
    )
    table = lab.measure(gl.grid(recipe, epoch=[0, 3], rate=0.5), progress=False, workers=1)
    assert table.status.tolist() == ["ok", "ok"]
    assert lab.run(recipe).history.epoch.tolist() == [0, 1, 2, 3]


def test_another_image_size_trains_another_network(pets, lab):
    losses = []
    for size in (None, 4, 8):
        recipe = gl.Recipe(
            dataset="folder:pets", image_size=size, model="convnet", epochs=1, batch_size=12, lr=0.1
        )
        losses.append(lab.train(recipe, progress=False).history.test_loss.iloc[-1])
    assert len(set(losses)) == 3
