import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from granet_lab.sparsity.selection import apportion, top_k_across

# Few values, so that most scores tie.
TIED = st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 0.5, 2.0, math.inf])


def top_k(scores, k):
    """Of one layer, every place of which may be chosen."""
    everywhere = torch.ones_like(scores, dtype=torch.bool)
    return top_k_across({"": scores}, {"": everywhere}, k)[""]


def best(scores, k):
    """The k highest, the lower index first where they tie."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return sorted(order[:k])


@given(st.data(), st.lists(TIED, max_size=12))
def test_top_k_marks_exactly_the_k_best_and_ties_go_to_the_lower_index(data, scores):
    k = data.draw(st.integers(0, len(scores)))
    chosen = top_k(torch.tensor(scores), k)
    assert chosen.dtype == torch.bool
    assert chosen.nonzero().flatten().tolist() == best(scores, k)


@pytest.mark.parametrize("k", range(6))
def test_of_equal_scores_top_k_marks_the_first(k):
    assert top_k(torch.full((5,), 0.3), k).tolist() == [True] * k + [False] * (5 - k)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64]
)
def test_top_k_ranks_numbers_of_any_type(dtype):
    scores = torch.tensor([3, 1, 4, 1, 5], dtype=dtype)
    assert top_k(scores, 3).tolist() == [True, False, True, False, True]


def test_top_k_leaves_the_scores_as_they_are():
    scores = torch.tensor([2.0, 1.0, 2.0])
    top_k(scores, 1)
    assert scores.tolist() == [2.0, 1.0, 2.0]


@st.composite
def layers(draw):
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    scores, among = {}, {}
    for i, size in enumerate(sizes):
        row = st.lists(TIED, min_size=size, max_size=size)
        flags = st.lists(st.booleans(), min_size=size, max_size=size)
        scores[f"layer{i}"] = torch.tensor(draw(row))
        among[f"layer{i}"] = torch.tensor(draw(flags))
    return scores, among


@given(st.data(), layers())
def test_top_k_across_marks_the_k_best_of_all_layers_among_the_allowed(data, drawn):
    scores, among = drawn
    allowed = [(n, i) for n, mask in among.items() for i in mask.nonzero().flatten().tolist()]
    k = data.draw(st.integers(0, len(allowed)))
    expected = best([float(scores[name][i]) for name, i in allowed], k)
    marked = top_k_across(scores, among, k)
    found = [(n, i) for n, mask in marked.items() for i in mask.nonzero().flatten().tolist()]
    assert found == [allowed[position] for position in expected]


def test_top_k_across_keeps_shapes_and_takes_positions_row_by_row():
    scores = {"a": torch.tensor([[1.0, 9.0], [8.0, 1.0]]), "b": torch.tensor([[7.0], [1.0]])}
    among = {name: torch.ones_like(s, dtype=torch.bool) for name, s in scores.items()}
    marked = top_k_across(scores, among, 4)
    assert marked["a"].tolist() == [[True, True], [True, False]]
    assert marked["b"].tolist() == [[True], [False]]


def test_top_k_across_does_not_depend_on_the_memory_format():
    scores = torch.arange(24.0).reshape(1, 2, 3, 4)
    among = (scores % 2 == 0).to(memory_format=torch.channels_last)
    marked = top_k_across({"w": scores.to(memory_format=torch.channels_last)}, {"w": among}, 3)
    assert scores[marked["w"]].tolist() == [18, 20, 22]


@st.composite
def portions(draw, least_share=1):
    names = "abcde"[: draw(st.integers(1, 5))]
    shares = {name: draw(st.integers(least_share, 20)) for name in names}
    capacity = {name: draw(st.integers(0, 20)) for name in names}
    return draw(st.integers(0, sum(capacity.values()))), shares, capacity


def filled(total, shares, capacity):
    """The parts as fractions: proportional, but for those that are full."""
    full = set()
    while True:
        rest = total - sum(capacity[name] for name in full)
        unit = Fraction(rest, sum(shares[n] for n in shares if n not in full) or 1)
        over = {n for n in shares if n not in full and shares[n] * unit > capacity[n]}
        if not over:
            return {n: capacity[n] if n in full else shares[n] * unit for n in shares}
        full |= over


@settings(max_examples=300)
@given(portions())
def test_apportion_is_exact_within_capacity_and_within_one_of_proportion(drawn):
    total, shares, capacity = drawn
    parts = apportion(total, shares, capacity)
    assert sum(parts.values()) == total
    for name, exact in filled(total, shares, capacity).items():
        assert 0 <= parts[name] <= capacity[name]
        assert abs(parts[name] - exact) < 1


def test_apportion_rounds_by_the_largest_remainder():
    # 7 in proportion 2 : 3 : 5 is 1.4, 2.1, 3.5: the one that is missing goes to the last.
    parts = apportion(7, {"a": 2, "b": 3, "c": 5}, {"a": 9, "b": 9, "c": 9})
    assert parts == {"a": 1, "b": 2, "c": 4}


def test_apportion_gives_equal_remainders_to_the_first_in_order():
    assert apportion(2, {"z": 1, "y": 1, "x": 1}, dict.fromkeys("xyz", 5)) == {
        "z": 1,
        "y": 1,
        "x": 0,
    }


def test_apportion_passes_on_what_a_full_part_cannot_hold():
    # 10 in halves would be 5 and 5; a holds 2, and b of b and c gets three quarters of the rest.
    parts = apportion(10, {"a": 4, "b": 3, "c": 1}, {"a": 2, "b": 9, "c": 9})
    assert parts == {"a": 2, "b": 6, "c": 2}


def test_apportion_is_exact_when_a_part_has_no_share():
    assert apportion(8, {"a": 1, "b": 0}, {"a": 2, "b": 10}) == {"a": 2, "b": 6}


def test_apportion_refuses_more_than_there_is_room_for():
    with pytest.raises(ValueError, match="8 does not fit: there is room for 7"):
        apportion(8, {"a": 1, "b": 1}, {"a": 3, "b": 4})
