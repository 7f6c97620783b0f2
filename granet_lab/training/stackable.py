"""Whether networks can be trained in a stack: tried, not assumed."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
from torch import Tensor

from granet_lab.datasets import Dataset
from granet_lab.sparsity import methods
from granet_lab.training import distributed, loop
from granet_lab.training.recipe import Recipe
from granet_lab.training.stacked import Stack

# How far a gradient in a stack may be from that of the network alone, relative to its length.
_TOLERANCES = {"fp32": 0.05, "bf16": 0.3}


def obstacle(recipe: Recipe, device: str = "cpu") -> str | None:
    """Why networks of a recipe cannot be trained in a stack; None if they can.

    Two stacks of its networks are made and differentiated once: the gradients must be those of the
    network alone, and on a CPU the same in both, bit for bit.
    """
    if distributed.ranks()[1] > 1:
        return "several processes train it together"
    plain = replace(recipe, method=methods.dense(), seed=0, epochs=1, milestones=())
    return _tried(plain, device)


@functools.lru_cache(maxsize=64)
def _tried(recipe: Recipe, device: str) -> str | None:
    data = recipe.images(device)
    try:
        return _difference(recipe, data)
    except Exception as error:  # whatever a network of the user's may do under vmap
        return f"{type(error).__name__}: " + str(error).strip().partition("\n")[0]


def _difference(recipe: Recipe, data: Dataset) -> str | None:
    """What is wrong with the gradient of the first of several networks."""
    recipes = [replace(recipe, seed=seed) for seed in range(4)]
    batches = [next(loop.epoch_batches(one, data, 0)) for one in recipes]
    alone = _alone(recipe, data, batches[0])
    first = _in_stack(recipes[:2], data, batches[:2], 0)
    last = _in_stack(recipes[::-1], data, batches[::-1], 3)
    for name, gradient in alone.items():
        if gradient is None:
            return f"its parameter {name} has no gradient"
        distance = torch.linalg.vector_norm(first[name] - gradient)
        if not distance <= _TOLERANCES[recipe.precision] * torch.linalg.vector_norm(gradient):
            return f"the gradient of its parameter {name} is another one in a stack"
        if data.device.type == "cpu" and not torch.equal(first[name], last[name]):
            return f"the gradient of its parameter {name} depends on its place in the stack"
    return None


def _alone(recipe: Recipe, data: Dataset, batch: loop.Batch) -> dict[str, Tensor | None]:
    state, (images, targets) = loop.unmasked_state(recipe, data), batch
    state.model.train()
    with loop.threads(recipe.threads):
        with loop.precision(recipe, data.device):
            outputs = state.model(images)
        loop.loss_of(outputs, targets, recipe).backward()
    return {name: p.grad for name, p in state.model.named_parameters()}


def _in_stack(
    recipes: list[Recipe], data: Dataset, batches: list[loop.Batch], place: int
) -> dict[str, Tensor]:
    stack = Stack(recipes[0], data, len(recipes))
    for recipe in recipes:
        stack.enter(loop.unmasked_state(recipe, data), recipe, follow=False)
    return {name: gradient[place] for name, gradient in stack.gradients(batches).items()}
