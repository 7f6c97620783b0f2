"""Pruned networks from and for others: torch.nn.utils.prune, plain state dicts, 2:4 kernels."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from granet_lab.sparsity.granularity import best_of_each
from granet_lab.sparsity.masks import Masks, prunable

# What torch.nn.utils.prune appends to a parameter's name.
_ORIGINAL, _MASK = "_orig", "_mask"


def is_wrapped(model: nn.Module) -> bool:
    """Whether ``torch.nn.utils.prune`` has pruned a network: its weights have other names then."""
    return any(True for _ in _wrapped(model))


def from_torch(model: nn.Module) -> Masks:
    """The masks of a network that ``torch.nn.utils.prune`` has pruned, under the plain names.

    Raises:
        ValueError: a bias or another vector is pruned: masks are for parameters of two or more
            dimensions; or one use of a weight that several layers share.
    """
    wrapped = {name: getattr(module, f"{own}{_MASK}") for name, module, own in _wrapped(model)}
    plain = {f"{name}{_ORIGINAL}": name for name in wrapped}
    for original, name in plain.items():
        if wrapped[name].ndim < 2:
            raise ValueError(f"{name} is pruned, but has only one dimension: it has no mask here")
        for twin in _twins(model, original):
            if twin not in plain or not torch.equal(wrapped[plain[twin]], wrapped[name]):
                raise ValueError(f"{name} is pruned, but shared with {twin}, which is not")
    names = {plain.get(name, name): parameter for name, parameter in prunable(model).items()}
    return Masks({n: wrapped.get(n, torch.ones_like(p)).bool() for n, p in names.items()})


def unwrap_(model: nn.Module) -> Masks:
    """Make the pruning of ``torch.nn.utils.prune`` permanent, in place, and return its masks.

    The network is a plain one afterwards, whose masks fit it.

    Raises:
        ValueError: see :func:`from_torch`.
    """
    masks = from_torch(model)
    for module, own in {(module, own): None for _, module, own in _wrapped(model)}:
        torch_prune.remove(module, own)
    return masks.check(model)


def to_torch_(model: nn.Module, masks: Masks) -> None:
    """Prune a network in place as ``torch.nn.utils.prune`` does: ``weight_orig``, ``weight_mask``.

    Layers without inactive weights are left alone.

    Raises:
        ValueError: the masks do not fit the network, or a weight that several layers share is
            pruned, which torch cannot do. Nothing is pruned then.
    """
    sparse = {name: mask for name, mask in masks.check(model).items() if not mask.all()}
    for name in sparse:
        for twin in _twins(model, name):
            raise ValueError(f"torch cannot prune {name}: it is shared with {twin}")
    for name, mask in sparse.items():
        module, _, own = name.rpartition(".")
        torch_prune.custom_from_mask(model.get_submodule(module), own, mask)


def plain_state_dict(model: nn.Module, masks: Masks | None = None) -> dict[str, Tensor]:
    """A pruned network as the state dict of one that never was: its inactive weights are zeros.

    Args:
        model: plain, or pruned by ``torch.nn.utils.prune``.
        masks: of a plain network; none if its inactive weights are zero already.

    Returns:
        Copies, under the names that the plain network's ``state_dict`` has.

    Raises:
        ValueError: the masks do not fit the network.
    """
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    for name, _, _ in _wrapped(model):
        state[name] = state.pop(f"{name}{_ORIGINAL}") * state.pop(f"{name}{_MASK}")
    for name, mask in masks.check(model).items() if masks is not None else ():
        for each in (name, *_twins(model, name)):
            state[each].masked_fill_(~mask, 0)
    return state


def to_semi_structured_(model: nn.Module) -> list[str]:
    """Give linear layers whose weights are 2:4 sparse torch's kernels for that, in place.

    Args:
        model: in half precision or bfloat16 on a GPU of compute capability 8.0 or later, its
            inactive weights zero (``granularity="2:4"``). It can no longer be trained.

    Returns:
        The names of the weights that were converted: those of linear layers with at most two
        non-zeros in every four neighbours, of a shape that the kernels take.

    Raises:
        ValueError: the network is not on such a GPU, or has no such weight.
    """
    weights = [
        (f"{name}.weight" if name else "weight", module)
        for name, module in model.named_modules()
        if type(module) is nn.Linear and _is_two_of_four(module)
    ]
    if not weights:
        raise ValueError("no linear layer is 2:4 sparse: prune with granularity='2:4'")
    for _, module in weights:
        device = module.weight.device
        if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
            raise ValueError(f"2:4 kernels need a GPU of compute capability 8.0, not {device}")
    reasons = []
    converted = []
    for name, module in weights:
        try:
            sparse = torch.sparse.to_sparse_semi_structured(module.weight.detach())
        except RuntimeError as error:  # a shape or type that the kernels do not take
            reasons.append(f"{name}: {error}")
            continue
        module.weight = nn.Parameter(sparse, requires_grad=False)
        converted.append(name)
    if not converted:
        raise ValueError(f"the 2:4 kernels take none of the weights: {reasons[0]}")
    return converted


def _is_two_of_four(layer: nn.Linear) -> bool:
    weight = dict(layer.named_parameters()).get("weight")
    if weight is None or isinstance(weight, torch.sparse.SparseSemiStructuredTensor):
        return False  # wrapped by torch's pruning, or converted already
    active = weight != 0
    return not active.all() and torch.equal(best_of_each(active.float(), active, 2, 4), active)


def _wrapped(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Plain full name, module and plain own name of what torch.nn.utils.prune has wrapped."""
    for path, module in model.named_modules(remove_duplicate=False):
        buffers = dict(module.named_buffers(recurse=False))
        for own in [n.removesuffix(_MASK) for n in buffers if n.endswith(_MASK)]:
            if f"{own}{_ORIGINAL}" in dict(module.named_parameters(recurse=False)):
                yield (f"{path}.{own}" if path else own), module, own


def _twins(model: nn.Module, name: str) -> list[str]:
    """The other names of a parameter that several layers share."""
    tensor = model.get_parameter(name)
    everything = model.named_parameters(remove_duplicate=False)
    return [other for other, parameter in everything if parameter is tensor and other != name]
