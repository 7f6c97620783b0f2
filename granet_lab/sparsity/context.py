"""What a criterion may look at, and the gradient most of them want."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from granet_lab.randomness import child, seeded
from granet_lab.sparsity.masks import Masks, prunable

Batch = tuple[Tensor, Tensor]


@dataclass
class Context:
    """A network about to be pruned, and all that a score may depend on.

    Scores are functions of the context: they leave weights, gradients, buffers, mode and
    generators as they are, and the same context gives the same scores.

    Attributes:
        model: the network; its inactive weights are taken as they stand.
        masks: which weights are active; by default all of them.
        batches: pairs (inputs, targets) on the model's device, for criteria that need data.
        loss_fn: (outputs, targets) -> mean loss, a scalar.
        generator: the source of random scores; by default one seeded with 0. It is not advanced.

    Raises:
        ValueError: the masks do not fit the model.
    """

    model: nn.Module
    masks: Masks | None = None
    batches: Sequence[Batch] = ()
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        masks = Masks.dense(self.model) if self.masks is None else Masks(self.masks)
        self.masks = masks.check(self.model)
        self.batches = tuple(self.batches)
        if self.generator is None:
            self.generator = torch.Generator().manual_seed(0)

    def weights(self) -> dict[str, Tensor]:
        """The prunable weights by name, detached."""
        return {name: p.detach() for name, p in prunable(self.model).items()}

    def gradients(self) -> dict[str, Tensor]:
        """dL/dw of every prunable weight, inactive ones included, L the mean loss of the batches.

        The network runs in training mode (BatchNorm with batch statistics), as it does in the
        training step whose gradient this is.

        Raises:
            ValueError: there are no batches.
        """
        if not self.batches:
            raise ValueError("gradients need data: pass Context(batches=[(inputs, targets), ...])")
        images = sum(len(targets) for _, targets in self.batches)
        total = {name: torch.zeros_like(w) for name, w in self.weights().items()}
        for inputs, targets in self.batches:
            for name, gradient in self._gradient(inputs, targets).items():
                total[name] += gradient * (len(targets) / images)
        return total

    def _gradient(self, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """One batch's gradient, computed on copies so that the model itself is not touched."""
        parameters = {n: p.detach().requires_grad_() for n, p in self.model.named_parameters()}
        buffers = {n: b.clone() for n, b in self.model.named_buffers()}
        modes = {module: module.training for module in self.model.modules()}
        dropout = child(self.generator, "dropout").initial_seed()
        self.model.train()
        try:
            with torch.enable_grad(), seeded("dropout", dropout):
                outputs = functional_call(self.model, (parameters, buffers), (inputs,))
                loss = self.loss_fn(outputs, targets)
        finally:
            for module, training in modes.items():
                module.training = training
        names = list(prunable(self.model))
        found = torch.autograd.grad(loss, [parameters[n] for n in names], allow_unused=True)
        return {
            n: torch.zeros_like(parameters[n]) if g is None else g
            for n, g in zip(names, found, strict=True)
        }
