"""What the tests of masks draw: small networks, and masks of any density."""

import math

import pytest
import torch
from hypothesis import strategies as st
from torch import nn

from granet_lab.sparsity import Masks

SHAPES = {"0.weight": (4, 3), "2.weight": (5, 4), "4.weight": (2, 5)}  # 12 + 20 + 10 = 42
BATCH = (torch.linspace(-1, 1, 18).reshape(6, 3), torch.tensor([0, 1, 1, 0, 1, 0]))
EMPTY = Masks({name: torch.zeros(shape, dtype=torch.bool) for name, shape in SHAPES.items()})
DENSE = Masks({name: torch.ones(shape, dtype=torch.bool) for name, shape in SHAPES.items()})
RATES = st.one_of(st.floats(0, 1), st.sampled_from([0, 0.2, 0.5, 0.9, 0.98, 1]))

quiet = pytest.mark.filterwarnings("ignore::granet_lab.sparsity.pruning.EmptyLayerWarning")


def make_net():
    """A network of the ``SHAPES``."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))


@st.composite
def some_masks(draw, shapes=SHAPES):
    """Masks of any density, layers that are empty or full included."""
    made = {}
    for name, shape in shapes.items():
        size = math.prod(shape)
        some = st.lists(st.booleans(), min_size=size, max_size=size)
        flags = draw(st.one_of(some, st.just([False] * size), st.just([True] * size)))
        made[name] = torch.tensor(flags).reshape(shape)
    return Masks(made)


def within(inner, outer):
    """Whether nothing is active in ``inner`` alone."""
    return all((inner[name] <= outer[name]).all() for name in outer)


def linear(*rows):
    """A linear layer with those weights."""
    net = nn.Linear(len(rows[0]), len(rows), bias=False)
    net.weight.data = torch.tensor(rows, dtype=torch.float32)
    return net
