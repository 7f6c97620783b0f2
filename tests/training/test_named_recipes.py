import re
from dataclasses import fields, replace

import pytest

import granet_lab as gl
from granet_lab.training.recipe import learning_rate
from granet_lab.training.recipes import RECIPES

CIFAR = {
    "epochs": 160,
    "batch_size": 128,
    "lr": 0.1,
    "milestones": (80, 120),
    "gamma": 0.1,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 5e-4,
    "warmup_epochs": 0,
    "label_smoothing": 0.0,
    "augment": "crop_flip",
    "precision": "fp32",
    "image_size": None,
    "norm_decay": True,
}
IMAGENET = {
    "epochs": 100,
    "batch_size": 256,
    "lr": 0.1,
    "milestones": (30, 60, 90),
    "gamma": 0.1,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 1e-4,
    "warmup_epochs": 5,
    "label_smoothing": 0.1,
    "augment": "resized_crop_flip",
    "precision": "bf16",
    "image_size": None,
    "norm_decay": False,
}
DIGITS = CIFAR | {"epochs": 60, "batch_size": 50, "milestones": (30, 45), "augment": None}
# Data set, network, and how they train.
NAMED = {
    "digits": ("digits", "convnet", DIGITS),
    "resnet20_cifar10": ("cifar10", "resnet20", CIFAR),
    "vgg19_cifar10": ("cifar10", "vgg19", CIFAR),
    "vgg19_cifar100": ("cifar100", "vgg19", CIFAR),
    "resnet50_cifar10": ("cifar10", "resnet50", CIFAR),
    "resnet50_cifar100": ("cifar100", "resnet50", CIFAR),
    "resnet50_imagenet": ("stream:imagenet", "torchvision:resnet50", IMAGENET),
}
USUAL = {"train_size": None, "method": gl.methods.dense(), "seed": 0, "threads": 1}
every_recipe = pytest.mark.parametrize("name", NAMED)


def test_every_named_recipe_is_looked_at():
    assert set(NAMED) == set(RECIPES)
    assert all(hasattr(gl.recipes, name) for name in NAMED)


@every_recipe
def test_a_named_recipe_is_what_its_name_says(name):
    dataset, model, training = NAMED[name]
    expected = {"dataset": dataset, "model": model, **training, **USUAL}
    found = RECIPES[name]()
    assert {field.name: getattr(found, field.name) for field in fields(found)} == expected


@every_recipe
def test_any_field_of_a_named_recipe_may_be_changed(name):
    found = RECIPES[name](epochs=7, milestones=(2,), seed=3, train_size=1000)
    assert found == replace(RECIPES[name](), epochs=7, milestones=(2,), seed=3, train_size=1000)


@every_recipe
def test_what_a_description_says_of_epochs_batch_and_decay_is_so(name):
    text, recipe = " ".join(RECIPES[name].__doc__.split()), RECIPES[name]()
    if "trained like :func:`resnet20_cifar10`" in text:
        like = gl.recipes.resnet20_cifar10(dataset=recipe.dataset, model=recipe.model)
        assert recipe == like
        return
    number = r"([\d.e-]+\d)"
    assert int(re.search(rf"{number} epochs", text)[1]) == recipe.epochs
    assert int(re.search(rf"[Bb]atch {number}", text)[1]) == recipe.batch_size
    assert float(re.search(rf"learning rate {number} / 10", text)[1]) == recipe.lr
    assert float(re.search(rf"weight decay {number}", text)[1]) == recipe.weight_decay


def test_imagenet_warms_up_for_five_epochs_and_decays_by_ten_at_30_60_and_90():
    recipe = gl.recipes.resnet50_imagenet()
    expected = {0: 0.02, 1: 0.04, 4: 0.1, 29: 0.1, 30: 0.01, 60: 1e-3, 89: 1e-3, 90: 1e-4, 99: 1e-4}
    assert {e: learning_rate(recipe, e) for e in expected} == pytest.approx(expected)


def test_cifar_decays_by_ten_at_80_and_120():
    recipe = gl.recipes.resnet20_cifar10()
    expected = {0: 0.1, 79: 0.1, 80: 0.01, 119: 0.01, 120: 1e-3, 159: 1e-3}
    assert {e: learning_rate(recipe, e) for e in expected} == pytest.approx(expected)


def test_making_a_recipe_reads_no_images(tmp_path, monkeypatch):
    monkeypatch.setenv("GRANET_LAB_DATASETS", str(tmp_path / "nowhere"))
    for name in NAMED:
        RECIPES[name]()
    assert not (tmp_path / "nowhere").exists()
