"""Synaptic flow: what arrives at the outputs when every weight passes on its absolute value."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from granet_lab.sparsity.context import Context, Weights

# Bounded activations would cut the flow off.
_BOUNDED = (nn.Hardtanh, nn.Tanh, nn.Sigmoid, nn.Hardsigmoid)
# These divide it by statistics of itself.
_NORMALISING = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, _InstanceNorm)

# Flows whose derivatives are far from the ends of double precision.
_SMALLEST, _LARGEST = 1e-200, 1e200
# The search for a factor that brings the flow there: powers of two from 2^-64 to 2^64.
_STEPS, _REACH = 12, 64.0


def synaptic_flow(context: Context) -> tuple[Tensor, Weights]:
    """The sum of the outputs for an input of ones, and the absolute weights that it depends on.

    In double precision and evaluation mode: inactive weights are zero; other parameters and
    buffers have their absolute values, but biases and BatchNorm's means, on which no path from
    the input runs, are zero; bounded activations and normalisations by the input's own statistics
    pass everything on. So the flow is the sum over all paths of the products of their weights.

    Returns:
        The flow, zero where no path of active weights leads to an output; the prunable weights'
        absolute values by name, from which it can be differentiated. Where the flow leaves the
        range of double precision, all of them are multiplied by one factor that brings it back:
        between layers in a row this changes no order.

    Raises:
        ValueError: there is no batch to take the input's shape from, or its inputs are integers.
    """
    low, high, exponent = -_REACH, _REACH, 0.0
    for _ in range(_STEPS):
        flow, weights = _flow(context, 2.0**exponent)
        if flow < _SMALLEST:
            low = exponent
        elif not flow <= _LARGEST:  # NaN is infinity times zero
            high = exponent
        else:
            break
        exponent = (low + high) / 2
    return flow, weights


def _flow(context: Context, factor: float) -> tuple[Tensor, Weights]:
    if not context.batches:
        raise ValueError("the flow needs the inputs' shape: pass Context(batches=[...])")
    example = context.batches[0][0][:1]
    if not example.is_floating_point():
        raise ValueError(f"the flow needs inputs that are numbers, not {example.dtype}")
    model, masks = context.model, context.masks
    parameters = {name: _positive(name, p) for name, p in model.named_parameters()}
    buffers = {name: _positive(name, b) for name, b in model.named_buffers()}
    weights = {
        name: (parameters[name].masked_fill(~mask, 0) * factor).requires_grad_()
        for name, mask in masks.items()
    }
    with context.running(train=False), _open(model):
        outputs = context.call(parameters | weights, buffers, torch.ones_like(example).double())
    while not isinstance(outputs, Tensor):  # a recurrent network returns its state, too
        outputs = outputs[0]
    return outputs.sum(), weights


def _positive(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    own = name.rpartition(".")[2]
    shift = tensor.ndim < 2 and ("bias" in own or own == "running_mean")
    return torch.zeros_like(tensor).double() if shift else tensor.detach().double().abs()


@contextmanager
def _open(model: nn.Module) -> Iterator[None]:
    """Nothing stops or rescales the flow inside the block."""
    closed = [module for module in model.modules() if _is_closed(module)]
    own = {module: module.__dict__["forward"] for module in closed if "forward" in module.__dict__}
    for module in closed:
        module.forward = _identity  # a hook would come too late: some of them work in place
    try:
        yield
    finally:
        for module in closed:
            del module.forward
        for module, forward in own.items():
            module.forward = forward


def _is_closed(module: nn.Module) -> bool:
    without_history = isinstance(module, _BatchNorm) and not module.track_running_stats
    return without_history or isinstance(module, (*_BOUNDED, *_NORMALISING))


def _identity(values: Tensor) -> Tensor:
    return values
