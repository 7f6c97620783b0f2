"""Masks: which weights of a network may be other than zero."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that pruning may touch, by name: those with two or more dimensions.

    Every convolution and linear weight is among them, first layer and classifier included;
    biases and BatchNorm are not. A tied weight appears once, under its first name.
    """
    return {name: p for name, p in model.named_parameters() if p.ndim >= 2}


class HasState(Protocol):
    """An optimizer, seen as what it remembers of each parameter."""

    state: Mapping[nn.Parameter, Mapping[str, Any]]


class Masks(Mapping[str, Tensor]):
    """A boolean tensor for every prunable parameter, by parameter name; True is active.

    The mapping is checked when it is made and does not change afterwards: an operation returns
    new masks. The tensors themselves are kept, not copied.

    Raises:
        ValueError: a mask is not a boolean tensor, or there is none at all.
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        if not isinstance(masks, Mapping):
            raise ValueError(f"masks must be tensors by name, not a {type(masks).__name__}")
        if not masks:
            raise ValueError("no masks: the network has no parameter of two or more dimensions")
        for name, mask in masks.items():
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
                found = getattr(mask, "dtype", type(mask).__name__)
                raise ValueError(f"mask of {name} must be a boolean tensor, not {found}")
        self._masks = dict(masks)

    @classmethod
    def dense(cls, model: nn.Module) -> Masks:
        """Masks under which every prunable weight of ``model`` is active."""
        return cls({n: torch.ones_like(p, dtype=torch.bool) for n, p in prunable(model).items()})

    @classmethod
    def nonzero(cls, model: nn.Module) -> Masks:
        """Masks under which the weights are active that are not zero: of a network that was
        pruned elsewhere."""
        return cls({name: p.detach() != 0 for name, p in prunable(model).items()})

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __repr__(self) -> str:
        return f"Masks({len(self)} layers, {self.active:,} of {self.total:,} weights active)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Masks):
            return NotImplemented
        return self.keys() == other.keys() and all(torch.equal(self[n], other[n]) for n in self)

    __hash__ = None  # type: ignore[assignment]

    def counts(self) -> dict[str, int]:
        """Active weights in each layer."""
        return {name: int(mask.count_nonzero()) for name, mask in self.items()}

    def sizes(self) -> dict[str, int]:
        """All weights in each layer, active or not."""
        return {name: mask.numel() for name, mask in self.items()}

    @property
    def active(self) -> int:
        """Active weights in the network."""
        return sum(self.counts().values())

    @property
    def total(self) -> int:
        """Prunable weights in the network."""
        return sum(self.sizes().values())

    @property
    def sparsity(self) -> float:
        """Fraction of the prunable weights that are inactive."""
        return 1 - self.active / self.total

    def sparsities(self) -> dict[str, float]:
        """Fraction of each layer's weights that are inactive."""
        return {name: 1 - active / self[name].numel() for name, active in self.counts().items()}

    def empty_layers(self) -> list[str]:
        """Names of the layers that have no active weight left."""
        return [name for name, active in self.counts().items() if active == 0]

    def check(self, model: nn.Module) -> Masks:
        """These masks in the order of ``model``'s parameters, if they fit it.

        Raises:
            ValueError: a mask is missing, one too many, or of another shape than its parameter.
        """
        shapes = {name: tuple(p.shape) for name, p in prunable(model).items()}
        for name in sorted(shapes.keys() ^ self.keys()):
            where = "the model" if name in self else "the masks"
            raise ValueError(f"masks do not fit the model: {name} is missing from {where}")
        for name, shape in shapes.items():
            if tuple(self[name].shape) != shape:
                found = tuple(self[name].shape)
                raise ValueError(f"mask of {name} has shape {found}, its parameter {shape}")
        return Masks({name: self[name] for name in shapes})

    @torch.no_grad()
    def apply_(self, model: nn.Module, optimizer: HasState | None = None) -> None:
        """Set every inactive weight of ``model`` to exactly zero, in place.

        With ``optimizer``, this project's or one of torch's, so is its state there (momentum): a
        weight that comes back later starts from rest.
        """
        self.check(model)
        for name, weight in prunable(model).items():
            inactive = ~self[name]
            weight.masked_fill_(inactive, 0)
            state = optimizer.state.get(weight, {}) if optimizer is not None else {}
            for value in state.values():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    value.masked_fill_(inactive, 0)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the masks to a safetensors file."""
        # Copies, as masks may share memory and safetensors refuses that.
        save_file({name: mask.cpu().contiguous().clone() for name, mask in self.items()}, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Masks:
        """Read what :meth:`save` wrote, onto the CPU."""
        return cls(load_file(path))
