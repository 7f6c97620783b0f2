"""What several networks say of their images, and how they should change: one pass for all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from granet_lab.sparsity.context import Batch
from granet_lab.training.arithmetic import autocast
from granet_lab.training.lanes import Lanes
from granet_lab.training.recipe import Recipe
from granet_lab.training.skeleton import skeleton


class Networks:
    """The networks whose values are in a memory.

    Args:
        network: any of their architecture.
        memory: their values.
        recipe: of one of them.

    Attributes:
        network: what they have in common.
    """

    def __init__(self, network: nn.Module, memory: Lanes, recipe: Recipe) -> None:
        self.network, self._memory, self._recipe = skeleton(network), memory, recipe

    def train(self, mode: bool) -> None:
        """Whether they are in training mode."""
        self.network.train(mode)

    def gradient(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Let each look at a batch of its own, see :func:`side_by_side`.

        Returns:
            The sums of losses and of hits, shape (2, lanes); the gradient of each one's mean loss,
            flat as the weights.
        """
        outputs = self._outputs(images, lanes=1)
        losses = _losses(outputs, targets, self._recipe.label_smoothing).mean(1)
        (gradient,) = torch.autograd.grad(losses.sum(), self._memory.weights)
        hits = (outputs.detach().argmax(2) == targets).sum(1)
        return torch.stack([losses.detach() * targets.shape[1], hits]), gradient

    @torch.no_grad()
    def judge(self, images: Tensor, targets: Tensor) -> tuple[Tensor]:
        """The sums of losses and of hits, shape (2, lanes), where all look at the same images."""
        outputs = self._outputs(images, lanes=None)
        targets = targets.expand(len(outputs), -1)
        hits = (outputs.argmax(2) == targets).sum(1)
        return (torch.stack([_losses(outputs, targets).sum(1), hits]),)

    def _outputs(self, images: Tensor, lanes: int | None) -> Tensor:
        """What every network says, float32 of shape (lanes, images, classes).

        Args:
            images: of all lanes.
            lanes: the dimension of ``images`` that tells them apart; None: all see the same.
        """

        def one(weights: dict[str, Tensor], buffers: dict[str, Tensor], seen: Tensor) -> Tensor:
            return functional_call(self.network, (weights, buffers), (seen,))

        memory = self._memory
        with autocast(self._recipe, images.device):
            outputs = vmap(one, in_dims=(0, 0, lanes))(
                memory.blocks(memory.weights), memory.buffers, images
            )
        return outputs.float()


def _losses(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Of each image in each lane, shape (lanes, images)."""
    return F.cross_entropy(
        outputs.flatten(0, 1),
        targets.flatten(),
        reduction="none",
        label_smoothing=label_smoothing,
    ).view(targets.shape)


def side_by_side(batches: Sequence[Batch]) -> Batch:
    """A batch for each lane as one.

    Returns:
        Images of shape (images, lanes, channels, height, width), channels of all lanes last in
        memory, as a grouped convolution wants them; labels of shape (lanes, images).
    """
    images, targets = zip(*batches, strict=True)
    together = torch.stack([one.permute(0, 2, 3, 1) for one in images], 3)
    return together.permute(0, 3, 4, 1, 2), torch.stack(targets)
