"""Masks that change while a network trains: what happens around an optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from granet_lab.sparsity import Context, cost, prunable
from granet_lab.sparsity.context import Batch, Weights
from granet_lab.sparsity.plan import Plan
from granet_lab.sparsity.updates import salient, update
from granet_lab.training import distributed
from granet_lab.training.state import TrainState, check_finite

# The layers whose gradients are masked, and their masks as factors.
Factors = list[tuple[nn.Parameter, Tensor]]


def factors_of(state: TrainState) -> Factors:
    """The layers that have inactive weights, and their masks as factors for the gradient."""
    weights = prunable(state.model)
    sparse = [name for name, mask in state.masks.items() if not mask.all()]
    return [(weights[n], torch.empty_like(weights[n]).copy_(state.masks[n])) for n in sparse]


def _gradients(state: TrainState) -> Weights:
    """Of every layer; zero where the loss does not depend on it."""
    return {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad.detach()
        for name, weight in prunable(state.model).items()
    }


@contextmanager
def shown(state: TrainState, gradients: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the network's parameters have these gradients inside the block."""
    if not gradients:
        yield
        return
    parameters = dict(state.model.named_parameters())
    for name, gradient in gradients.items():
        parameters[name].grad = gradient
    try:
        yield
    finally:
        for name in gradients:
            parameters[name].grad = None


class Dynamics:
    """Follows a plan with one network, in place.

    Args:
        state: the network; its masks and its tally change.
        plan: when the masks change, and how much.
        input_shape: of one image.
        seen: (batch, its gradient) -> what a score sees of the network after the step.
    """

    def __init__(
        self,
        state: TrainState,
        plan: Plan,
        input_shape: tuple[int, ...],
        seen: Callable[[Batch, Weights], Context],
    ) -> None:
        self._state, self._plan, self._seen = state, plan, seen
        self._noted: tuple[Batch, Weights] | None = None
        try:
            self._costs = cost.layer_costs(state.model, input_shape)
        except ValueError:  # layers of unknown cost
            self._costs = None
        self._each = self._flops = 0.0

    def begin_epoch(self) -> None:
        """Take the masks as they are now."""
        self._each = self._flops_per_image()

    def due(self) -> bool:
        """Whether the masks change after the step that comes next."""
        return self._plan.due(self._state.step + 1)

    @property
    def salient(self) -> bool:
        """Whether each step chooses by its own gradient which weights get it."""
        return self._plan.method.salient and self._state.step < self._plan.stop

    def before(self, batch: Batch, factors: Factors) -> Factors:
        """Between the gradient of a batch and the optimizer's step: the factors of that step."""
        state, plan = self._state, self._plan
        self._flops += self._each * len(batch[1])
        if self.due():
            noted = {name: gradient.clone() for name, gradient in _gradients(state).items()}
            self._noted = batch, noted
        if not self.salient:
            return factors
        count = state.masks.total - round(plan.method.final_sparsity * state.masks.total)
        weights, gradients = prunable(state.model), _gradients(state)
        values = {name: w.detach() for name, w in weights.items()}
        chosen = salient(values, gradients, state.masks, count)
        return [(w, chosen[name].to(w.dtype)) for name, w in weights.items()]

    def after(self, factors: Factors) -> Factors:
        """After the step: the factors of the next one."""
        state = self._state
        if not self._plan.due(state.step):
            return factors
        check_finite(state, self._noted[1])
        before = state.masks
        found = distributed.agreed(update(self._seen(*self._noted), self._plan, state.step))
        found.kept.apply_(state.model, state.optimizer)
        state.masks = found.masks
        state.tally.record(before, found)
        self._noted = None
        self._each = self._flops_per_image()
        return factors_of(state)

    def flops(self) -> float:
        """Operations since the last time this was asked."""
        found, self._flops = self._flops, 0.0
        return found

    def _flops_per_image(self) -> float:
        if self._costs is None:
            return float("nan")
        forward = cost.forward_flops(self._costs, self._state.masks.counts())
        return cost.FORWARD_AND_BACKWARD * forward
