import numpy as np
import pytest
import torch
from trees import plant

import granet_lab as gl
from granet_lab.datasets import AUGMENTATIONS, DATASETS, check, from_arrays, load, named


@pytest.fixture
def forgetful(monkeypatch):
    """Datasets that a test adds are forgotten after it."""
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))


@pytest.fixture
def pets(place):
    plant(place / "pets", {"cat": 10, "dog": 10})
    return place / "pets"


def made(seed=0, n=300, classes=3):
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, (n, 3, 8, 8), dtype=np.uint8)
    return from_arrays(images, random.integers(0, classes, n), 50, 50)


ALL = "cifar10, cifar100, digits, folder:PATH, stream:PATH"


@pytest.mark.parametrize(
    "name", ["mnist", "folder", "folder:", "stream:", ":pets", "disk:pets", "", None, 3, ["digits"]]
)
def test_an_unknown_name_is_told_the_known_ones(name):
    for ask in (check, load):
        with pytest.raises(ValueError, match=r"^unknown dataset .*: choose from ") as error:
            ask(name)
        assert str(error.value).endswith(f"{name!r}: choose from {ALL}")


@pytest.mark.parametrize(
    "name", ["digits", "cifar10", "folder:anything", "stream:a/b", "folder:/x"]
)
def test_a_name_is_checked_without_looking_at_files(name):
    check(name)


@pytest.mark.parametrize("name", ["digits", "cifar10", "cifar100"])
def test_a_size_is_refused_for_images_that_are_not_resized(name):
    with pytest.raises(ValueError, match=f"^image_size is for folders of images: {name} has one"):
        check(name, image_size=16)
    with pytest.raises(ValueError, match="image_size"):
        load(name, image_size=16)


@pytest.mark.parametrize("name", ["folder:pets", "stream:pets"])
def test_a_size_is_for_folders_of_images(name):
    check(name, image_size=16)


@pytest.mark.parametrize("name", ["digits", "cifar10", "folder:pets"])
@pytest.mark.parametrize("augment", [None, *AUGMENTATIONS])
def test_images_in_memory_have_the_registered_augmentations(name, augment):
    check(name, augment=augment)


@pytest.mark.parametrize("augment", [None, "resized_crop_flip"])
def test_a_stream_has_an_augmentation_of_its_own(augment):
    check("stream:pets", augment=augment)


@pytest.mark.parametrize(
    ("name", "augment", "known"),
    [
        ("digits", "resized_crop_flip", "None, crop, crop_flip"),
        ("folder:pets", "resized_crop_flip", "None, crop, crop_flip"),
        ("folder:pets", "mixup", "None, crop, crop_flip"),
        ("stream:pets", "crop_flip", "None, resized_crop_flip"),
    ],
)
def test_an_augmentation_that_a_dataset_has_not_is_told_those_that_it_has(name, augment, known):
    message = f"^unknown augmentation of {name} '{augment}': choose from {known}$"
    with pytest.raises(ValueError, match=message):
        check(name, augment=augment)
    recipe = {"dataset": name, "model": "mlp", "epochs": 1, "batch_size": 5, "lr": 0.1}
    with pytest.raises(ValueError, match=message):
        gl.Recipe(**recipe, augment=augment)


def test_an_augmentation_of_ones_own_is_for_images_in_memory(define):
    def darker(images, generator):
        return images // 2

    define(AUGMENTATIONS, darker)
    check("folder:pets", augment="darker")
    with pytest.raises(ValueError, match="choose from None, resized_crop_flip"):
        check("stream:pets", augment="darker")


@pytest.mark.parametrize("kind", ["folder", "stream"])
def test_images_on_the_disk_are_looked_for_once(pets, kind):
    first = load(f"{kind}:pets", image_size=4)
    assert load(f"{kind}:pets", image_size=4) is first
    assert load(f"{kind}:{pets}", image_size=4) is first
    assert load(f"{kind}:pets", image_size=3) is not first
    assert load(f"{kind}:pets", "meta", image_size=4) is not first


def test_where_datasets_lie_is_part_of_what_is_kept(place, pets, monkeypatch):
    plant(place / "other/pets", {"cat": 20, "dog": 20})
    assert len(load("folder:pets").train) == 16
    monkeypatch.setenv("GRANET_LAB_DATASETS", str(place / "other"))
    assert len(load("folder:pets").train) == 32
    monkeypatch.setenv("GRANET_LAB_DATASETS", str(place))
    assert len(load("folder:pets").train) == 16


@pytest.mark.parametrize("variable", ["here", ""])
def test_the_folder_that_one_is_in_is_part_of_what_is_kept(place, monkeypatch, variable):
    monkeypatch.setenv("GRANET_LAB_DATASETS", variable)
    for name, count in (("one", 10), ("other", 20)):
        plant(place / name / "pets", {"cat": count, "dog": count})
        monkeypatch.chdir(place / name)
        assert len(load("folder:pets").train) == 1.6 * count


def test_a_dataset_goes_to_the_device_that_is_named():
    assert load("digits", "meta").device == torch.device("meta")
    assert load("digits").device == torch.device("cpu")


def test_a_dataset_in_memory_gets_a_name_that_a_recipe_takes(forgetful):
    data = made()
    assert gl.add_dataset("mine", data) == "mine"
    recipe = gl.recipes.digits(dataset="mine", model="mlp")
    assert recipe.images().train.images is data.train.images
    assert not DATASETS["mine"].downloads


def test_the_name_that_comes_back_is_the_one_to_use(forgetful):
    assert gl.add_dataset("lambda_", made()) == "lambda"
    assert load("lambda").classes == 3


def test_a_name_may_be_given_anew(forgetful):
    gl.add_dataset("mine", made(classes=3))
    assert load("mine").classes == 3
    gl.add_dataset("mine", made(classes=5))
    assert load("mine").classes == 5


@pytest.mark.parametrize("name", ["digits", "cifar10"])
def test_a_name_of_the_packages_own_is_refused(forgetful, name):
    before = DATASETS[name]
    with pytest.raises(ValueError, match=f"^dataset '{name}' is already defined in granet_lab"):
        gl.add_dataset(name, made())
    assert DATASETS[name] is before


def test_a_dataset_defined_anew_is_loaded_anew(define):
    def mine():
        return made(classes=3)

    define(DATASETS, mine)
    assert load("mine") is load("mine")

    def mine():
        return made(classes=4)

    define(DATASETS, mine)
    assert load("mine").classes == 4


def test_the_last_four_are_kept():
    assert named._load.cache_info().maxsize == 4


@pytest.mark.slow  # two processes start
def test_the_processes_of_a_sweep_see_what_this_one_does(forgetful, pets, tmp_path):
    common = {"model": "convnet", "epochs": 1, "batch_size": 8, "lr": 0.1}
    # The processes may be those of an earlier sweep, with another folder of all datasets.
    recipes = [
        gl.Recipe(dataset=gl.add_dataset("mine", made()), **common),
        gl.Recipe(dataset=f"folder:{pets}", image_size=8, **common),
        gl.Recipe(dataset=f"stream:{pets}", image_size=8, **common),
    ]
    trials = [trial for recipe in recipes for trial in gl.grid(recipe, epoch=1, rate=0.5)]
    both = gl.Lab(tmp_path / "two").measure(trials, workers=2, progress=False)
    alone = gl.Lab(tmp_path / "one").measure(trials, workers=1, progress=False)
    assert both.status.tolist() == ["ok"] * 3
    assert both.plasticity.tolist() == alone.plasticity.tolist()
