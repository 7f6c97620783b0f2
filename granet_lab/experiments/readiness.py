"""Whether what is asked can be trained here: looked at before anything is begun."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from granet_lab import models
from granet_lab.training import loop
from granet_lab.training.arithmetic import emulated
from granet_lab.training.recipe import Recipe

logger = logging.getLogger(__name__)


def check(recipes: Iterable[Recipe], device: str, here: bool = True) -> None:
    """Do nothing if data and networks are there and every schedule fits its run.

    Data are loaded once in this process, so that what has to be downloaded or decoded first is not
    by every worker; but only if the work is done ``here``, not on somebody's executor. Networks are
    not built: one that takes its process with it takes a worker.

    Raises:
        ValueError: a schedule that does not fit its recipe.
    """
    recipes = list(recipes)
    if here:
        warn(recipes, device)
        for one in {(r.dataset, r.image_size, r.model): r for r in recipes}.values():
            one.images()
            models.factory(one.model)
    for recipe in recipes:
        if recipe.method.interval is not None or recipe.method.official:
            loop.plan(recipe, recipe.images())


def warn(recipes: Iterable[Recipe], device: str) -> None:
    """Say so where a recipe's precision makes it slower instead of faster."""
    if any(emulated(recipe, device) for recipe in recipes):
        logger.warning("bf16 takes several times as long as fp32 here: no instructions for it")
