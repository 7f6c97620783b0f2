"""How much sparsity each layer gets, before any weight is scored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from granet_lab import checks
from granet_lab.registry import Registry
from granet_lab.sparsity.naming import NONE, Layers, choose
from granet_lab.sparsity.selection import apportion

Shape = Sequence[int]

SCHEMES: Registry = Registry("allocation")
scheme = SCHEMES.register


@scheme
def uniform(shape: Shape) -> float:
    """The same sparsity in every layer: active weights in proportion to the layer's size."""
    return float(math.prod(shape))


@scheme
def er(shape: Shape) -> float:
    """Erdos-Renyi: density proportional to (n_in + n_out) / (n_in n_out).

    Mocanu et al. 2018, equation 1; kernel positions share their channel pair's density.
    """
    n_out, n_in, *kernel = shape
    return float((n_in + n_out) * math.prod(kernel))


@scheme
def erk(shape: Shape) -> float:
    """Erdos-Renyi kernel: density proportional to (n_in + n_out + kh + kw) / (n_in n_out kh kw).

    Evci et al. 2020 (RigL), section 3.
    """
    return float(sum(shape))


def active_counts(
    shapes: Mapping[str, Shape],
    total: int,
    scheme: str,
    capacity: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Active weights in each layer, ``total`` of them under an allocation scheme.

    Args:
        shapes: by layer name.
        total: active weights in the network.
        scheme: a name in ``SCHEMES``.
        capacity: the most that each layer can hold; by default its size. A layer that the scheme
            would overfill is filled, and the others share what it could not hold.
    """
    weigh = SCHEMES[scheme]
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    shares = {name: weigh(shape) for name, shape in shapes.items()}
    return apportion(total, shares, sizes if capacity is None else capacity)


def allocate(
    shapes: Mapping[str, Shape], sparsity: float, scheme: str, dense: Layers = NONE
) -> dict[str, float]:
    """The sparsity of each layer under an allocation scheme.

    Args:
        shapes: the layers' weight shapes, (out, in, ...), by name; masks or weights will do.
        sparsity: of the whole network, in [0, 1].
        scheme: "uniform", "er" or "erk".
        dense: layers that stay whole, see ``naming.choose``; the others make up for them.

    Returns:
        Sparsity by layer name. Each is a whole number of weights, and the total is
        ``round(sparsity * size)`` inactive weights exactly, also where ER or ERK would give a
        layer more weights than it has.

    Raises:
        ValueError: sparsity outside [0, 1], an unknown scheme or layer, no layers, or more has to
            go than the layers that are not dense have.
    """
    sparsity = checks.fraction("sparsity", sparsity)
    if not shapes:
        raise ValueError("there are no layers to allocate sparsity to")
    shapes = {name: tuple(getattr(shape, "shape", shape)) for name, shape in shapes.items()}
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    part = choose(list(shapes), dense=dense)
    room, remove = sum(sizes[name] for name in part), round(sparsity * sum(sizes.values()))
    if remove > room:
        raise ValueError(
            f"cannot allocate sparsity {sparsity:g}: {remove} weights have to go, "
            f"the layers that are not left dense have {room}"
        )
    counts = active_counts({name: shapes[name] for name in part}, room - remove, scheme)
    return {name: 1 - counts.get(name, size) / size for name, size in sizes.items()}
