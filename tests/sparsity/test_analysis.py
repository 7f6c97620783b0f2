import math

import pandas as pd
import pytest
import torch
from drawing import some_masks
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from granet_lab.sparsity import Masks
from granet_lab.sparsity.analysis import (
    by_layer,
    exploration,
    layer_table,
    overlap,
    overlaps,
    regrown,
    survival,
)
from granet_lab.sparsity.cost import LayerCost, inference_flops, layer_costs

SHAPES = {"conv": (3, 2, 1, 2), "linear": (4, 5), "tiny": (1, 1)}  # 12 + 20 + 1 = 33
quick = settings(max_examples=25, deadline=None)


def masks(**rows):
    return Masks({name: torch.tensor([flags]).bool() for name, flags in rows.items()})


def places(masks):
    """The active weights, as a set."""
    found = set()
    for name, mask in masks.items():
        found |= {(name, *index) for index in mask.nonzero().tolist()}
    return found


def jaccard(a, b):
    a, b = places(a), places(b)
    return len(a & b) / len(a | b) if a | b else 1.0


A = masks(one=[1, 1, 0, 0], two=[1, 0])
B = masks(one=[1, 0, 1, 0], two=[0, 0])
NONE = masks(one=[0, 0, 0, 0], two=[0, 0])


def test_overlap_is_what_both_share_of_what_either_has():
    assert overlap(A, B) == 1 / 4
    assert overlap(A, A) == 1
    assert overlap(A, NONE) == 0
    assert overlap(NONE, NONE) == 1


@quick
@given(found=st.lists(some_masks(SHAPES), min_size=1, max_size=4))
def test_overlaps_are_those_of_sets(found):
    table = overlaps(found)
    assert table.dtype == torch.float64
    assert table.shape == (len(found), len(found))
    for i, a in enumerate(found):
        for j, b in enumerate(found):
            assert table[i, j] == jaccard(a, b)
            assert overlap(a, b) == table[i, j]


@quick
@given(found=st.lists(some_masks(SHAPES), min_size=1, max_size=6))
def test_overlaps_are_symmetric_with_ones_in_the_diagonal(found):
    table = overlaps(found)
    assert torch.equal(table, table.T)
    assert (table.diagonal() == 1).all()
    assert ((table >= 0) & (table <= 1)).all()


def test_layers_larger_than_what_is_compared_at_once_are_counted_whole():
    size = 2**18 + 5
    first, last = torch.zeros(1, size, dtype=torch.bool), torch.ones(1, size, dtype=torch.bool)
    first[0, -3:] = True
    assert overlap(Masks({"a": first}), Masks({"a": last})) == 3 / size


def test_a_number_for_each_layer_is_that_of_the_layer_alone():
    assert by_layer(overlap, A, B) == {"one": 1 / 3, "two": 0}
    assert by_layer(lambda one: one.sparsity, A) == {"one": 1 / 2, "two": 1 / 2}


@quick
@given(a=some_masks(SHAPES), b=some_masks(SHAPES))
def test_overlap_by_layer_is_that_of_sets(a, b):
    for name, found in by_layer(overlap, a, b).items():
        assert found == jaccard(Masks({name: a[name]}), Masks({name: b[name]}))


def test_by_layer_refuses_no_masks():
    with pytest.raises(ValueError, match="there are no masks"):
        by_layer(overlap)


def test_regrown_is_what_was_not_kept():
    found = regrown(A, masks(one=[1, 0, 1, 1], two=[1, 0]))
    assert found == masks(one=[0, 0, 1, 1], two=[0, 0])


@quick
@given(kept=some_masks(SHAPES), regenerated=some_masks(SHAPES))
def test_regrown_is_a_difference_of_sets(kept, regenerated):
    assert places(regrown(kept, regenerated)) == places(regenerated) - places(kept)


def test_survival_is_the_fraction_that_is_still_there():
    assert survival(A, B) == 1 / 3
    assert survival(A, A) == 1
    assert survival(A, NONE) == 0
    assert math.isnan(survival(NONE, A))


@quick
@given(born=some_masks(SHAPES), later=some_masks(SHAPES))
def test_survival_is_that_of_sets(born, later):
    found, old = survival(born, later), places(born)
    if old:
        assert found == len(old & places(later)) / len(old)
    else:
        assert math.isnan(found)


def test_exploration_is_what_was_ever_active():
    assert exploration([A]) == 3 / 6
    assert exploration([A, B]) == 4 / 6
    assert exploration([NONE, NONE]) == 0


@quick
@given(course=st.lists(some_masks(SHAPES), min_size=1, max_size=4))
def test_exploration_is_that_of_a_union_of_sets(course):
    expected = len(set().union(*map(places, course))) / 33
    assert exploration(course) == expected
    assert exploration(iter(course)) == expected


def test_no_measure_changes_the_masks_it_is_given():
    a, b = (Masks({n: mask.clone() for n, mask in each.items()}) for each in (A, B))
    overlaps([a, b])
    regrown(a, b)
    survival(a, b)
    exploration([a, b])
    assert (a, b) == (A, B)


PAIRS = {
    "overlap": overlap,
    "overlaps": lambda a, b: overlaps([a, a, b]),
    "by_layer": lambda a, b: by_layer(overlap, a, b),
    "regrown": regrown,
    "survival": survival,
    "exploration": lambda a, b: exploration([a, a, b]),
}


@pytest.mark.parametrize("measure", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize(
    ("other", "message"),
    [
        (masks(one=[1, 1, 0, 0]), "not all have two"),
        (masks(one=[1, 1, 0, 0], two=[1, 0], three=[1]), "not all have three"),
        (masks(one=[1, 1, 0, 0], two=[1, 0, 1]), r"two has \(1, 2\) and \(1, 3\)"),
    ],
)
def test_masks_of_different_networks_are_refused_with_the_layer(measure, other, message):
    with pytest.raises(ValueError, match=f"different networks: {message}"):
        measure(A, other)


@pytest.mark.parametrize("measure", [overlaps, exploration, lambda found: exploration(iter(found))])
def test_no_masks_at_all_are_refused(measure):
    with pytest.raises(ValueError, match="there are no masks"):
        measure([])


def test_the_table_has_a_row_for_each_layer():
    assert layer_table(masks(one=[1, 0, 0, 0], two=[0, 0])) == [
        {"layer": "one", "shape": (1, 4), "size": 4, "active": 1, "sparsity": 0.75},
        {"layer": "two", "shape": (1, 2), "size": 2, "active": 0, "sparsity": 1.0},
    ]


def test_the_table_has_operations_if_it_is_given_costs():
    costs = {"one": LayerCost(4, 10), "two": LayerCost(2, 0)}
    rows = layer_table(masks(one=[1, 1, 1, 0], two=[1, 0]), costs)
    assert [row["flops"] for row in rows] == [2 * 3 * 10, 0]


def test_the_tables_operations_are_those_of_the_network():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    half = {
        n: torch.arange(m.numel()).reshape(m.shape) % 2 == 0 for n, m in Masks.dense(net).items()
    }
    frame = pd.DataFrame(layer_table(Masks(half), layer_costs(net, (1, 4, 4))))
    assert list(frame["layer"]) == ["0.weight", "3.weight"]
    assert list(frame["shape"]) == [(2, 1, 3, 3), (2, 8)]
    assert frame["flops"].sum() == inference_flops(net, (1, 4, 4), Masks(half))
    assert list(frame["flops"]) == [2 * 9 * 4, 2 * 8]


def test_costs_of_another_network_are_refused_with_the_layer():
    for other in ({"one": LayerCost(4, 10)}, {"one": LayerCost(4, 10), "two": LayerCost(99, 1)}):
        with pytest.raises(ValueError, match="the costs are those of another network: see two"):
            layer_table(A, other)


@quick
@given(found=some_masks(SHAPES))
def test_the_table_adds_up_to_the_network(found):
    frame = pd.DataFrame(layer_table(found))
    assert frame["active"].sum() == found.active
    assert frame["size"].sum() == found.total
    assert list(frame["sparsity"]) == pytest.approx(
        [1 - count / frame["size"][i] for i, count in enumerate(found.counts().values())]
    )
