"""What a network costs: parameters, and operations as the pruning literature counts them.

Only convolutions and linear maps count. One example through the network takes two operations
(multiply, add) for every non-zero weight at every position that it is used at; training takes three
times as much (forward, and backward for the inputs and for the weights).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils import _pytree as pytree

from granet_lab import checks
from granet_lab.operations import Operations
from granet_lab.randomness import seeded
from granet_lab.sparsity.masks import Masks, prunable
from granet_lab.sparsity.modes import in_mode

FORWARD_AND_BACKWARD = 3
_MULTIPLY_AND_ADD = 2
# Operations whose answer is a number for Python, or a tensor of a shape that numbers decide.
_BY_NUMBERS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


@dataclass(frozen=True)
class LayerCost:
    """One prunable parameter.

    Attributes:
        weights: how many it has.
        positions: at how many places one example uses each of them: the pixels of a convolution's
            output, the steps of a sequence; 1 for a linear map of a vector, 0 for a table that is
            only looked up (``nn.Embedding``).
    """

    weights: int
    positions: int

    def flops(self, active: float) -> float:
        """Operations of one example with so many non-zero weights."""
        return _MULTIPLY_AND_ADD * active * self.positions


def parameters(model: nn.Module, masks: Masks | None = None) -> int:
    """Non-zero parameters: the active weights, and all that cannot be pruned (biases, BatchNorm).

    Raises:
        ValueError: the masks do not fit the model.
    """
    everything = sum(p.numel() for p in model.parameters())
    if masks is None:
        return everything
    return everything - (masks.check(model).total - masks.active)


@torch.no_grad()
def layer_costs(model: nn.Module, input_shape: Sequence[int]) -> dict[str, LayerCost]:
    """Weights and positions of every prunable parameter, by name.

    One example of zeros goes through the network, in evaluation mode; it stays as it is. (Without
    numbers, on torch's ``meta`` device, each process would first load its compiler for seconds.)

    Args:
        model: made of torch's convolutions, linear, recurrent and attention layers, and of what
            has no weights of two dimensions.
        input_shape: of one example.

    Raises:
        ValueError: a parameter whose use is not known, because it belongs to another kind of
            layer, or to one that is not called; or what the network does depends on the numbers
            (as far as torch sees it: what goes through NumPy or ``tolist`` it does not).
    """
    weights = prunable(model)
    names = {id(parameter): name for name, parameter in weights.items()}
    positions: dict[str, int] = {}

    def note(
        module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any
    ) -> None:
        for parameter, places in _uses(module, inputs, named, output):
            # A weight that is made of others is none of them.
            name = names.get(owners.get((id(module), parameter)))
            if name is not None:
                positions[name] = positions.get(name, 0) + places

    owners = {
        (id(module), parameter): id(tensor)
        for module in model.modules()
        for parameter, tensor in module.named_parameters(remove_duplicate=False)
    }
    like = next(iter(weights.values()), torch.empty(0))
    example = torch.zeros(1, *input_shape, device=like.device, dtype=like.dtype)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    seen = [example, *model.parameters(), *buffers.values()]
    hooks = [module.register_forward_hook(note, with_kwargs=True) for module in model.modules()]
    try:
        with in_mode(model, train=False), seeded("costs"), _Blind(seen):
            functional_call(model, buffers, (example,))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ValueError(f"the network's costs cannot be counted: {error}") from None
    finally:
        for hook in hooks:
            hook.remove()
    for name in weights:
        if name not in positions:
            raise ValueError(f"cannot count how often {name} is used: no layer known here calls it")
    return {name: LayerCost(w.numel(), positions[name]) for name, w in weights.items()}


class _Blind(Operations):
    """Refuses inside the block what depends on the numbers of some tensors, or of what is made of
    them, and not on shapes alone; constants of the network may be looked at."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        # They stay, so that each has a name of its own.
        self._made = {id(tensor): tensor for tensor in tensors}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        used = [one for one in pytree.tree_leaves((args, kwargs)) if id(one) in self._made]
        if any(_decides(func, args, one) for one in used):
            raise RuntimeError(f"what it does depends on the numbers ({func})")
        found = func(*args, **kwargs)
        if used:
            made = [one for one in pytree.tree_leaves(found) if isinstance(one, Tensor)]
            self._made |= {id(tensor): tensor for tensor in made}
        return found


def _decides(operation: Any, args: tuple, tensor: Tensor) -> bool:
    """Whether the numbers of a tensor decide what an operation gives to Python, or its shape."""
    if operation is torch.ops.aten.index.Tensor:  # only a mask, and not what is looked up
        mask = tensor.dtype in (torch.bool, torch.uint8)
        return mask and any(tensor is index for index in args[1])
    return bool(_BY_NUMBERS & set(operation.tags))


def forward_flops(costs: Mapping[str, LayerCost], active: Mapping[str, float]) -> float:
    """Operations that one example takes with so many active weights in each layer."""
    return sum(cost.flops(active[name]) for name, cost in costs.items())


def inference_flops(
    model: nn.Module,
    input_shape: Sequence[int],
    masks: Masks | None = None,
    sparsity: Mapping[str, float] | None = None,
) -> float:
    """Operations that one example takes.

    Args:
        model: see :func:`layer_costs`.
        input_shape: of one example, without the batch's dimension.
        masks: which weights are active; all by default.
        sparsity: instead of masks, the sparsity of each layer, by name; 0 for one left out.

    Raises:
        ValueError: masks and sparsity are both given, or do not fit the model.
    """
    costs = layer_costs(model, input_shape)
    return forward_flops(costs, _active(model, costs, masks, sparsity))


def training_flops(
    model: nn.Module,
    input_shape: Sequence[int],
    images: Iterable[tuple[int, Masks | None]],
) -> float:
    """Operations of a whole training whose masks change.

    Args:
        model: see :func:`layer_costs`.
        input_shape: of one example.
        images: pairs (how many images were trained on, the masks meanwhile), None for dense.
    """
    costs = layer_costs(model, input_shape)
    total = 0.0
    for count, masks in images:
        forward = forward_flops(costs, _active(model, costs, masks, None))
        total += FORWARD_AND_BACKWARD * checks.count("images", count) * forward
    return total


def _active(
    model: nn.Module,
    costs: Mapping[str, LayerCost],
    masks: Masks | None,
    sparsity: Mapping[str, float] | None,
) -> dict[str, float]:
    """Active weights of each layer."""
    if masks is not None and sparsity is not None:
        raise ValueError("give masks or the sparsity of each layer, not both")
    if masks is not None:
        return masks.check(model).counts()
    given = sparsity or {}
    for name in given:
        checks.choice("layer", name, costs)
    zeros = {name: checks.fraction(f"sparsity of {name}", value) for name, value in given.items()}
    return {name: cost.weights * (1 - zeros.get(name, 0)) for name, cost in costs.items()}


def _uses(
    module: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any], output: Any
) -> Iterable[tuple[str, int]]:
    """The parameters of a layer that has just been called, and the positions of each."""
    if isinstance(module, _ConvTransposeNd):
        images = _given(module, inputs, named)["input"]
        return [("weight", _places(images, len(module.kernel_size)))]
    if isinstance(module, _ConvNd):
        return [("weight", _places(output, len(module.kernel_size)))]
    if isinstance(module, nn.Linear):
        return [("weight", output[..., 0].numel())]
    if isinstance(module, nn.Embedding):
        return [("weight", 0)]
    if isinstance(module, nn.RNNBase):
        steps = _given(module, inputs, named)["input"][..., 0].numel()
        return [(n, steps) for n, p in module.named_parameters(recurse=False) if p.ndim >= 2]
    if isinstance(module, nn.MultiheadAttention):
        given = _given(module, inputs, named)
        return _attention(module, given["query"], given["key"], given["value"])
    return []


def _given(
    module: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]
) -> Mapping[str, Any]:
    """What a layer was called with, by name."""
    return inspect.signature(module.forward).bind(*inputs, **named).arguments


def _places(images: Tensor, dimensions: int) -> int:
    return images.flatten(-dimensions)[..., 0, :].shape[-1]


def _attention(
    module: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor
) -> Iterable[tuple[str, int]]:
    """The projections; the products of queries and keys have no weights."""
    places = {name: x[..., 0].numel() for name, x in zip("qkv", (query, key, value), strict=True)}
    # It calls no linear layer for its last projection, only its weight.
    yield "out_proj.weight", places["q"]
    if module.in_proj_weight is None:
        yield from ((f"{name}_proj_weight", count) for name, count in places.items())
    else:
        # Three matrices in one: the mean of their positions.
        yield "in_proj_weight", sum(places.values()) // 3
