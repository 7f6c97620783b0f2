"""How good a network is: its loss and accuracy on images that it is not trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from granet_lab.datasets import Dataset, Split
from granet_lab.training.arithmetic import arithmetic, autocast
from granet_lab.training.recipe import Recipe
from granet_lab.training.state import Pulse, TrainState

# Pixels' values that are evaluated at once, on a CPU so many that its caches hold what comes of
# them; the fewest and the most images.
_AT_ONCE = {"cpu": (250 * 3 * 32 * 32, 32, 1000)}
_ELSEWHERE = (2000 * 3 * 32 * 32, 256, 2000)


def evaluate(
    state: TrainState, recipe: Recipe, data: Dataset, pulse: Pulse = None
) -> dict[str, float]:
    """Loss and accuracy in percent on the validation and test splits, and the sparsity.

    Args:
        state: of the network, which stays as it is, in evaluation mode.
        recipe: with which arithmetic.
        data: on the model's device.
        pulse: is called after every block of images; what it raises ends the evaluation.
    """
    row = {}
    with arithmetic(recipe, data.device):
        for name, split in (("val", data.validation), ("test", data.test)):
            row[f"{name}_loss"], row[f"{name}_acc"] = _on_split(state, recipe, data, split, pulse)
        row["sparsity"] = state.masks.sparsity
    return row


@torch.no_grad()
def _on_split(
    state: TrainState, recipe: Recipe, data: Dataset, split: Split, pulse: Pulse
) -> tuple[float, float]:
    """Loss and accuracy in percent; the device is asked for numbers only at the end."""
    state.model.eval()
    losses, hits = [], []
    for images, targets in blocks(split, pulse=pulse):
        with autocast(recipe, images.device):
            outputs = state.model(data.normalise(images)).float()
        losses.append(F.cross_entropy(outputs, targets, reduction="sum"))
        hits.append((outputs.argmax(1) == targets).sum())
    loss, correct = sum(torch.stack(losses).tolist()), int(torch.stack(hits).sum())
    return loss / len(split), 100 * correct / len(split)


def blocks(split: Split, networks: int = 1, pulse: Pulse = None) -> Iterator[tuple[Tensor, Tensor]]:
    """The images that so many networks are evaluated on at once, and their classes.

    Args:
        split: of a dataset.
        networks: how many share the device's memory.
        pulse: is called after every block.
    """
    for images, targets in split.blocks(_at_once(split, networks)):
        yield images, targets
        if pulse is not None:
            pulse()


def _at_once(split: Split, networks: int) -> int:
    """How many images; on a CPU always the same."""
    values, least, most = _AT_ONCE.get(split.device.type, _ELSEWHERE)
    together = 1 if split.device.type == "cpu" else networks
    return min(most, max(least, values // math.prod(split.shape) // together))
