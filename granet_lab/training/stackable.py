"""Whether networks can be trained in a stack, and how many: tried, not assumed."""

from __future__ import annotations

import functools
import logging
from collections.abc import Hashable
from dataclasses import replace

import torch
from torch import Tensor

from granet_lab import models
from granet_lab.datasets import Dataset
from granet_lab.sparsity import cost, methods
from granet_lab.training import distributed, loop
from granet_lab.training.arithmetic import arithmetic
from granet_lab.training.recipe import Recipe
from granet_lab.training.stacked import Stack

logger = logging.getLogger(__name__)

# How far a gradient in a stack may be from that of the network alone, in fp32, relative to its
# length: deep networks multiply what is rounded.
_TOLERANCE = 0.05

# A forward pass of so many operations keeps a CPU busy by itself; of fewer, stacks of so many
# networks train 1.2 to 2 times as many in the same time (benchmarks/README.md).
_CPU_STEP, _CPU_ROOM = 2e8, 16
# On a GPU a stack fills the memory, up to so many networks and that share of what is free: what a
# recording needs stays its own.
_GPU_ROOM, _GPU_SHARE = 128, 0.4


def room(recipe: Recipe, device: str = "cpu") -> int:
    """How many networks of a recipe a device should train at once; 1: each alone."""
    kind = torch.device(device).type
    if kind not in ("cpu", "cuda") or (kind == "cpu" and _step(recipe) > _CPU_STEP):
        return 1
    why = obstacle(recipe, device)
    if why is not None:
        logger.info("%s is trained one network at a time: %s", recipe.model, why)
        return 1
    return _CPU_ROOM if kind == "cpu" else _fitting(recipe, device)


def _step(recipe: Recipe) -> float:
    """Operations of the forward pass of a batch; infinite for layers of unknown cost."""
    try:
        one = cost.inference_flops(recipe.network(), recipe.images().input_shape)
    except ValueError:
        return float("inf")
    return recipe.batch_size * one


def _fitting(recipe: Recipe, device: str) -> int:
    """How many fit into the memory of a GPU, by what two take."""
    data = recipe.images(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    batch = next(loop.epoch_batches(recipe, data, 0))
    _in_stack([recipe, recipe], data, [batch, batch], 0)
    each = (torch.cuda.max_memory_allocated(device) - before) / 2
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info(device)[0]
    fitting = int(_GPU_SHARE * free / each)
    return max(1, min(_GPU_ROOM, fitting - fitting % 2))


def obstacle(recipe: Recipe, device: str = "cpu") -> str | None:
    """Why networks of a recipe cannot be trained in a stack; None if they can.

    Two stacks of its networks are made and differentiated once: the gradients must be those of the
    network alone, and on a CPU the same in both, bit for bit.
    """
    if distributed.ranks()[1] > 1:
        return "several processes train it together"
    plain = replace(recipe, method=methods.dense(), seed=0, epochs=1, milestones=())
    images = recipe.images(device)
    # A notebook may define both anew.
    meant = models.factory(recipe.model), images.input_shape, images.classes
    return _tried(plain, device, *meant)


@functools.lru_cache(maxsize=64)
def _tried(recipe: Recipe, device: str, *meant: Hashable) -> str | None:
    """The answer for a recipe whose names mean just that."""
    try:
        return _difference(recipe, recipe.images(device))
    except torch.OutOfMemoryError:  # another time there may be more
        raise
    except Exception as error:  # whatever a network of the user's may do under vmap
        return f"{type(error).__name__}: " + str(error).strip().partition("\n")[0]


def _difference(recipe: Recipe, data: Dataset) -> str | None:
    """What is wrong with the gradient of the first of several networks."""
    recipes = [replace(recipe, seed=seed) for seed in range(4)]
    batches = [next(loop.epoch_batches(one, data, 0)) for one in recipes]
    exact = [replace(one, precision="fp32") for one in recipes]
    together = _in_stack(exact[:2], data, batches[:2], 0)
    for name, gradient in _alone(exact[0], data, batches[0]).items():
        if gradient is None:
            return f"its parameter {name} has no gradient"
        distance = torch.linalg.vector_norm(together[name] - gradient)
        if not distance <= _TOLERANCE * torch.linalg.vector_norm(gradient):
            return f"the gradient of its parameter {name} is another one in a stack"
    if data.device.type != "cpu":
        return None
    first = _in_stack(recipes[:2], data, batches[:2], 0)
    last = _in_stack(recipes[::-1], data, batches[::-1], 3)
    for name, gradient in first.items():
        if not torch.equal(gradient, last[name]):
            return f"the gradient of its parameter {name} depends on its place in the stack"
    return None


def _alone(recipe: Recipe, data: Dataset, batch: loop.Batch) -> dict[str, Tensor | None]:
    model = loop.unmasked_state(recipe, data).model.train()
    with arithmetic(recipe, data.device):
        _, *gradients = loop.learn(model, recipe, *batch)
    return dict(zip(dict(model.named_parameters()), gradients, strict=True))


def _in_stack(
    recipes: list[Recipe], data: Dataset, batches: list[loop.Batch], place: int
) -> dict[str, Tensor]:
    stack = Stack(recipes[0], data, len(recipes))
    for recipe in recipes:
        stack.enter(loop.unmasked_state(recipe, data), recipe, follow=False)
    return {name: gradient[place] for name, gradient in stack.gradients(batches).items()}
