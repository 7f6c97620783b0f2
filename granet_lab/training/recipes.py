"""The recipes that have a name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from granet_lab.registry import Registry
from granet_lab.training.recipe import Recipe

RECIPES: Registry = Registry("recipe")


def recipe(make: Callable[..., Recipe]) -> Callable[..., Recipe]:
    """Register a recipe under its own name; ``make.short()`` is ``make().short()``."""

    def short(factor: float = 10, **changes: Any) -> Recipe:
        """See :meth:`Recipe.short`."""
        return make(**changes).short(factor)

    make.short = short
    return RECIPES.register(make)


# What Liu et al. (2021) train with on CIFAR, the same for every network. Zero padding, plain
# momentum and a validation split for both data sets are this laboratory's: the official code has
# Nesterov momentum, and on CIFAR-10 reflected borders.
_CIFAR: dict[str, Any] = {
    "epochs": 160,
    "batch_size": 128,
    "lr": 0.1,
    "milestones": (80, 120),
    "weight_decay": 5e-4,
    "augment": "crop_flip",
}


@recipe
def digits(**changes: Any) -> Recipe:
    """A small convolutional network on scikit-learn's digits: seconds on a laptop.

    60 epochs, batch 50, SGD momentum 0.9, learning rate 0.1 / 10 at 30 and 45, weight decay 5e-4:
    the CIFAR recipe of the paper (160 epochs, decays at 80 and 120), its schedule shortened and
    the decays at one half and three quarters kept.
    """
    return Recipe(
        **{
            "dataset": "digits",
            "model": "convnet",
            "epochs": 60,
            "batch_size": 50,
            "lr": 0.1,
            "milestones": (30, 45),
            "weight_decay": 5e-4,
            **changes,
        }
    )


@recipe
def resnet20_cifar10(**changes: Any) -> Recipe:
    """ResNet-20 on CIFAR-10: the network of most plasticity figures of Liu et al. (2021).

    160 epochs, batch 128, SGD momentum 0.9, learning rate 0.1 / 10 at 80 and 120, weight decay
    5e-4, crops of padded images and flips. 92.4% is usual for the dense network on all 50,000
    training images; here 5,000 of them are for validation.
    """
    return Recipe(**{"dataset": "cifar10", "model": "resnet20", **_CIFAR, **changes})


@recipe
def vgg19_cifar10(**changes: Any) -> Recipe:
    """VGG-19 with batch normalisation on CIFAR-10, trained like :func:`resnet20_cifar10`.

    Liu et al. (2021) report 93.85% for the dense network.
    """
    return Recipe(**{"dataset": "cifar10", "model": "vgg19", **_CIFAR, **changes})


@recipe
def vgg19_cifar100(**changes: Any) -> Recipe:
    """VGG-19 with batch normalisation on CIFAR-100, trained like :func:`resnet20_cifar10`.

    Liu et al. (2021) report 73.43% for the dense network.
    """
    return Recipe(**{"dataset": "cifar100", "model": "vgg19", **_CIFAR, **changes})


@recipe
def resnet50_cifar10(**changes: Any) -> Recipe:
    """ResNet-50 with a 3x3 stem on CIFAR-10, trained like :func:`resnet20_cifar10`.

    Liu et al. (2021) report 94.75% for the dense network.
    """
    return Recipe(**{"dataset": "cifar10", "model": "resnet50", **_CIFAR, **changes})


@recipe
def resnet50_cifar100(**changes: Any) -> Recipe:
    """ResNet-50 with a 3x3 stem on CIFAR-100, trained like :func:`resnet20_cifar10`.

    Liu et al. (2021) report 78.23% for the dense network.
    """
    return Recipe(**{"dataset": "cifar100", "model": "resnet50", **_CIFAR, **changes})


@recipe
def resnet50_imagenet(**changes: Any) -> Recipe:
    """ResNet-50 on ImageNet, from the folder ``imagenet`` with ``train`` and ``val`` in it.

    100 epochs, learning rate 0.1 / 10 at 30, 60 and 90 after five epochs of warm-up, label
    smoothing 0.1, weight decay 1e-4 but none on BatchNorm, 224x224 pixels: the official code of
    Liu et al. (2021), who report 76.8% for the dense network. Batch 256 in bf16 is this
    laboratory's choice; a tenth of the training images is kept for validation.
    """
    return Recipe(
        **{
            "dataset": "stream:imagenet",
            "model": "torchvision:resnet50",
            "epochs": 100,
            "batch_size": 256,
            "lr": 0.1,
            "milestones": (30, 60, 90),
            "weight_decay": 1e-4,
            "norm_decay": False,
            "warmup_epochs": 5,
            "label_smoothing": 0.1,
            "augment": "resized_crop_flip",
            "precision": "bf16",
            **changes,
        }
    )
