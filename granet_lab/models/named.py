"""Networks by name."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable

import torch
from torch import nn

from granet_lab.randomness import seeded
from granet_lab.registry import Registry

MODELS: Registry = Registry("model")
model = MODELS.register

Shape = tuple[int, int, int]
Factory = Callable[[Shape, int], nn.Module]

_TORCHVISION = "torchvision"
# Those that score twice in training unless they are told not to.
_TWO_SCORES = ("googlenet", "inception_v3")


def check(name: str) -> str:
    """Return ``name`` if there may be a network of that name; nothing is imported to find out.

    Raises:
        ValueError: an unknown name.
    """
    if isinstance(name, str) and name in MODELS:
        return name
    where, colon, function = name.partition(":") if isinstance(name, str) else ("", "", "")
    if colon and all(part.isidentifier() for part in [*where.split("."), function]):
        return name
    known = ", ".join([*MODELS, f"{_TORCHVISION}:NAME", "package.module:function"])
    raise ValueError(f"unknown model {name!r}: choose from {known}")


def factory(name: str) -> Factory:
    """What makes the network of that name: (channels, height, width) and classes -> network.

    Args:
        name: a registered model; ``"torchvision:NAME"``, any classifier of torchvision's, without
            its weights; or ``"package.module:function"``, a function of one's own.

    Raises:
        ValueError: an unknown name, or nothing of that name to import.
    """
    if check(name) in MODELS:
        return MODELS[name]
    where, _, function = name.partition(":")
    return _torchvision(function) if where == _TORCHVISION else _imported(name, where, function)


def build(name: str, input_shape: Shape, classes: int, seed: int) -> nn.Module:
    """A freshly initialised network: the same one for the same seed.

    Args:
        name: see :func:`factory`.
        input_shape: (channels, height, width).
        classes: number of outputs.
        seed: of the initialisation. Torch's own generators are left as they were.

    Raises:
        ValueError: an unknown name, or something made that is no network.
    """
    make = factory(name)
    with seeded("initialisation", seed):
        network = make(input_shape, classes)
    if not isinstance(network, nn.Module):
        raise ValueError(f"{name} must return a torch.nn.Module, not {type(network).__name__}")
    return network.to(memory_format=torch.channels_last)


@functools.cache  # the same function each time: answers about it are kept
def _torchvision(name: str) -> Factory:
    from torchvision import models

    classifiers = models.list_models(module=models)
    if name not in classifiers:
        raise ValueError(
            f"torchvision has no classifier {name!r}: choose from {', '.join(classifiers)}"
        )

    def make(input_shape: Shape, classes: int) -> nn.Module:
        if input_shape[0] != 3:
            raise ValueError(f"torchvision:{name} takes 3 channels, not {input_shape[0]}")
        values = {"aux_logits": False, "init_weights": True} if name in _TWO_SCORES else {}
        return models.get_model(name, weights=None, num_classes=classes, **values)

    return make


def _imported(name: str, module: str, function: str) -> Factory:
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ImportError as error:
        raise ValueError(f"cannot import {module} for the model {name!r}: {error}") from None
    if not callable(found):
        raise ValueError(f"there is no function {function!r} in {module} for the model {name!r}")
    return found
