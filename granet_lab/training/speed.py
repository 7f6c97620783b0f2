"""How fast a device trains a recipe, from a few steps of it."""

from __future__ import annotations

import time
from dataclasses import replace

from granet_lab.sparsity import methods
from granet_lab.training import loop
from granet_lab.training.evaluation import evaluate
from granet_lab.training.recipe import Recipe

_STEPS = 3
_IMAGES = 500


def seconds_per_epoch(recipe: Recipe, device: str = "cpu") -> float:
    """What an epoch of training and testing takes, from three steps and 500 test images.

    Measured on the dense network, after one round that is not counted.

    Raises:
        ValueError: the data set is smaller than a batch.
    """
    whole = recipe.images(device)
    steps = min(_STEPS, loop.steps_per_epoch(recipe, whole))
    if not steps:
        images = len(whole.train.first(recipe.train_size))
        raise ValueError(
            f"batch_size must be at most {images}, the images, not {recipe.batch_size}"
        )
    tested = min(_IMAGES, len(whole.test))
    few = replace(whole, validation=whole.validation.first(1), test=whole.test.first(tested))
    probe = replace(
        recipe,
        method=methods.dense(),
        epochs=2,
        milestones=(),
        train_size=steps * recipe.batch_size,
    )
    state = loop.new_state(probe, few)
    for row in loop.fit(state, probe, few, until=2):
        both = row["seconds"]
    started = time.perf_counter()
    evaluate(state, probe, few)
    testing = time.perf_counter() - started
    step = max(0.0, both - testing) / steps
    images = len(whole.validation) + len(whole.test)
    return step * loop.steps_per_epoch(recipe, whole) + testing * images / tested
