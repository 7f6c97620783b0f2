"""Synaptic flow: what arrives at the outputs when every weight passes on its absolute value."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from granet_lab.sparsity.context import Context, Weights

# They would cut the flow off, or replace it by statistics of itself: it passes them unchanged.
_PASSED = (nn.Hardtanh, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def synaptic_flow(context: Context) -> tuple[Tensor, Weights]:
    """The sum of the outputs for an input of ones, and the absolute weights that it depends on.

    Parameters and buffers are taken with absolute values, inactive weights as zero, in double
    precision and evaluation mode; bounded activations and normalisations by the input's own
    statistics are left out.

    Returns:
        The flow, zero where no path of active weights leads to an output; the prunable weights'
        absolute values by name, from which it can be differentiated. Where the flow is too small
        for double precision, both are scaled, by one factor in each layer: only layers in a row
        get there, and what passes them is linear in each, so no order changes.

    Raises:
        ValueError: there is no batch to take the input's shape from, or the flow is infinite.
    """
    flow, weights = _flow(context, _absolute)
    if flow == 0:
        flow, weights = _flow(context, _scaled)
    if not torch.isfinite(flow):
        raise ValueError(f"the synaptic flow is beyond the range of double precision: {flow:g}")
    return flow, weights


def _absolute(weight: Tensor, mask: Tensor) -> Tensor:
    return weight.abs() * mask


def _scaled(weight: Tensor, mask: Tensor) -> Tensor:
    """So that a layer's outputs are on average as large as its inputs."""
    found = _absolute(weight, mask)
    return found / found.flatten(1).sum(1).mean().clamp_min(torch.finfo(found.dtype).tiny)


def _flow(
    context: Context, passed_on: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Weights]:
    """The flow with ``passed_on(weight, mask)`` in the place of each prunable weight."""
    if not context.batches:
        raise ValueError("the flow needs the inputs' shape: pass Context(batches=[...])")
    model, masks = context.model, context.masks
    parameters = {name: _positive(p) for name, p in model.named_parameters()}
    buffers = {name: _positive(b) for name, b in model.named_buffers()}
    weights = {n: passed_on(parameters[n], mask).requires_grad_() for n, mask in masks.items()}
    ones = torch.ones_like(context.batches[0][0][:1], dtype=torch.float64)
    with context.running(train=False), _open(model):
        outputs = context.call(parameters | weights, buffers, ones)
    while not isinstance(outputs, Tensor):  # a recurrent network returns its state, too
        outputs = outputs[0]
    return outputs.sum(), weights


def _positive(tensor: Tensor) -> Tensor:
    return tensor.detach().double().abs() if tensor.is_floating_point() else tensor


@contextmanager
def _open(model: nn.Module) -> Iterator[None]:
    """Nothing stops or rescales the flow inside the block."""
    closed = [module for module in model.modules() if isinstance(module, _PASSED)]
    for module in closed:
        module.forward = _identity  # a hook would come too late: some of them work in place
    try:
        yield
    finally:
        for module in closed:
            del module.forward


def _identity(values: Tensor) -> Tensor:
    return values
