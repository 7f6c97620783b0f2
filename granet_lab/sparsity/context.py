"""What a criterion may look at: a network, and derivatives of its loss that leave it untouched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from granet_lab.randomness import child, seeded
from granet_lab.sparsity.exchange import is_wrapped
from granet_lab.sparsity.masks import Masks, prunable
from granet_lab.sparsity.modes import in_mode

Batch = tuple[Tensor, Tensor]
Weights = dict[str, Tensor]


@dataclass
class Context:
    """A network about to be pruned, and all that a score may depend on.

    Scores are functions of the context: they leave weights, gradients, buffers, mode and
    generators as they are, and the same context gives the same scores.

    Attributes:
        model: the network; its inactive weights are taken as they stand.
        masks: which weights are active; by default all of them.
        batches: pairs (inputs, targets) on the model's device, for criteria that need data; some
            are better off with several, as their ``batches`` attribute says.
        loss_fn: (outputs, targets) -> mean loss, a scalar.
        generator: the source of random scores; by default one seeded with 0. It is not advanced.
        known: the gradients of the batches, if somebody has them already, as a training step has.

    Raises:
        ValueError: the masks do not fit the model, torch.nn.utils.prune has wrapped it, or the
            batches are no pairs.
    """

    model: nn.Module
    masks: Masks | None = None
    batches: Sequence[Batch] = ()
    loss_fn: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    generator: torch.Generator | None = None
    known: Weights | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise ValueError(f"model must be an nn.Module, not {type(self.model).__name__}")
        if is_wrapped(self.model):
            raise ValueError(
                "the network is pruned by torch.nn.utils.prune: "
                "call granet_lab.sparsity.exchange.unwrap_(model), which returns its masks"
            )
        masks = Masks.dense(self.model) if self.masks is None else Masks(self.masks)
        self.masks = masks.check(self.model)
        self.batches = tuple(self.batches)
        if any(isinstance(b, Tensor) or len(b) != 2 for b in self.batches):
            raise ValueError("batches must be pairs: batches=[(inputs, targets), ...]")
        if self.generator is None:
            self.generator = torch.Generator().manual_seed(0)

    def weights(self) -> Weights:
        """The prunable weights by name, detached."""
        return {name: p.detach() for name, p in prunable(self.model).items()}

    def gradients(self) -> Weights:
        """dL/dw of every prunable weight, inactive ones included, L the mean loss of the batches.

        The network runs in training mode (BatchNorm with batch statistics), as it does in the
        training step whose gradient this is.

        Raises:
            ValueError: there are no batches.
        """
        if self.known is not None:
            return dict(self.known)
        return self._mean(self.batch_gradients())

    def batch_gradients(self) -> Iterator[Weights]:
        """dL/dw of each batch's own mean loss, otherwise like :meth:`gradients`.

        Raises:
            ValueError: there are no batches.
        """
        for batch in self._needed():
            with self.running(train=True):
                found = self._gradient(*batch)
            yield found

    def example_gradients(self) -> Iterator[Weights]:
        """dL/dw of each single example.

        The network runs in evaluation mode: one example has no batch statistics.

        Raises:
            ValueError: there are no batches.
        """
        for inputs, targets in self._needed():
            for i in range(len(targets)):
                with self.running(train=False):
                    found = self._gradient(inputs[i : i + 1], targets[i : i + 1])
                yield found

    def hessian_gradient_product(self) -> Weights:
        """H g over the active weights, g the gradient of the mean loss of the batches, H = dg/dw.

        The network runs in training mode. What the inactive weights contribute to g is left out:
        they are no part of the network.

        Raises:
            ValueError: there are no batches.
        """
        gradients = self.gradients()
        vector = {name: g * self.masks[name] for name, g in gradients.items()}
        return self._mean(self._hessian_products(vector))

    def call(self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], inputs: Tensor):
        """The outputs of the network with other values in it, by name."""
        return functional_call(self.model, ({**parameters}, {**buffers}), (inputs,))

    def _needed(self) -> Sequence[Batch]:
        if not self.batches:
            raise ValueError("gradients need data: pass Context(batches=[(inputs, targets), ...])")
        return self.batches

    def _mean(self, found: Iterator[Weights]) -> Weights:
        """The mean over all examples of what was found for each batch."""
        examples = [len(targets) for _, targets in self._needed()]
        total: Weights = {}
        for values, count in zip(found, examples, strict=True):
            share = count / sum(examples)
            for name, value in values.items():
                value = value if share == 1 else value * share
                total[name] = total[name].add_(value) if name in total else value
        return total

    @contextmanager
    def running(self, train: bool) -> Iterator[None]:
        """The network in training or evaluation mode, with the dropout that belongs to this
        context, inside the block; afterwards as it was."""
        dropout = child(self.generator, "dropout").initial_seed()
        with (
            in_mode(self.model, train),
            torch.enable_grad(),
            seeded("dropout", dropout),
            _differentiable(self.model),
        ):
            yield

    def _loss(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Weights]:
        """A batch's loss, and copies of the prunable weights that it depends on."""
        parameters = {n: p.detach().requires_grad_() for n, p in self.model.named_parameters()}
        buffers = {n: b.clone() for n, b in self.model.named_buffers()}
        loss = self.loss_fn(self.call(parameters, buffers, inputs), targets)
        return loss, {name: parameters[name] for name in self.masks}

    def _gradient(self, inputs: Tensor, targets: Tensor) -> Weights:
        loss, weights = self._loss(inputs, targets)
        return gradients_of(loss, weights)

    def _hessian_products(self, vector: Weights) -> Iterator[Weights]:
        for batch in self._needed():
            # The fused attention kernels cannot be differentiated twice.
            with self.running(train=True), sdpa_kernel(SDPBackend.MATH):
                loss, weights = self._loss(*batch)
                gradients = gradients_of(loss, weights, create_graph=True)
                product = sum((gradients[name] * vector[name]).sum() for name in vector)
                found = gradients_of(product, weights)
            yield found


@contextmanager
def _differentiable(model: nn.Module) -> Iterator[None]:
    """Without cuDNN's recurrent layers, which have no gradient in evaluation mode and no second
    one at all."""
    if not any(isinstance(module, nn.RNNBase) for module in model.modules()):
        yield
        return
    with torch.backends.cudnn.flags(enabled=False):
        yield


def gradients_of(value: Tensor, by: Weights, create_graph: bool = False) -> Weights:
    """d value / d each tensor, by name; zero where it does not depend on one."""
    if not value.requires_grad:
        return {name: torch.zeros_like(tensor) for name, tensor in by.items()}
    found = torch.autograd.grad(
        value, list(by.values()), create_graph=create_graph, allow_unused=True
    )
    return {
        name: torch.zeros_like(tensor) if gradient is None else gradient
        for (name, tensor), gradient in zip(by.items(), found, strict=True)
    }
