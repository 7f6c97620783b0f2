import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from granet_lab.sparsity.granularity import (
    best_filters,
    best_of_each,
    check,
    check_pattern,
    filters,
    of_filters,
    pattern,
)

quick = settings(max_examples=60, deadline=None)


def shapes(outputs=5, inputs=9):
    flat = st.tuples(st.integers(1, outputs), st.integers(1, inputs))
    square = st.tuples(
        st.integers(1, outputs), st.integers(1, inputs), st.integers(1, 2), st.integers(1, 3)
    )
    return st.one_of(flat, square)


@st.composite
def some_layer(draw, **sizes):
    """Whole numbers as scores, many of them equal, and active weights of any density."""
    shape = draw(shapes(**sizes))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    largest = draw(st.sampled_from([0, 1, 3, 1000]))
    density = draw(st.sampled_from([0, 0.3, 0.7, 1]))
    scores = torch.randint(-largest, largest + 1, shape, generator=generator).float()
    return scores, torch.rand(shape, generator=generator) < density


@pytest.mark.parametrize("granularity", ["weight", "filter", "2:4", "1:2", "3:5", "10:16"])
def test_known_granularities_are_returned(granularity):
    assert check(granularity) == granularity


UNKNOWN = [
    "",
    "weights",
    "Filter",
    "2:2",
    "4:2",
    "0:4",
    "2:04",
    "-1:4",
    "2:4 ",
    "2/4",
    None,
    (2, 4),
]


@pytest.mark.parametrize("granularity", UNKNOWN)
def test_other_granularities_are_refused_and_the_message_says_what_is_known(granularity):
    with pytest.raises(ValueError, match="choose from weight, filter, or N:M") as raised:
        check(granularity)
    assert str(raised.value).startswith(f"unknown granularity {granularity!r}")


def test_a_pattern_is_two_numbers_and_all_else_is_none():
    assert pattern("2:4") == (2, 4)
    assert pattern("10:16") == (10, 16)
    assert [pattern(other) for other in ["weight", "filter", *UNKNOWN]] == [None] * 14


@given(m=st.integers(2, 40), data=st.data())
def test_a_pattern_takes_the_sparsity_that_it_gives(m, data):
    n = data.draw(st.integers(1, m - 1))
    check_pattern(f"{n}:{m}", 1 - n / m, "rate", "uniform")
    check_pattern(f"{n}:{m}", float(f"{1 - n / m:.6g}"), "rate", "uniform")
    with pytest.raises(ValueError, match=f"removes {m - n} of every {m} weights: it needs rate="):
        check_pattern(f"{n}:{m}", 1 - n / m + 1e-5, "rate", "uniform")


@pytest.mark.parametrize(
    ("granularity", "sparsity", "scope", "needed"),
    [
        ("2:4", 0.4, "uniform", "0.5"),
        ("2:4", 0.5, "global", "0.5"),
        ("2:4", 0.5, "erk", "0.5"),
        ("1:3", 0.33, "uniform", "0.666667"),
        ("3:5", 0.6, "uniform", "0.4"),
    ],
)
@pytest.mark.parametrize("name", ["rate", "sparsity"])
def test_a_pattern_refuses_another_sparsity_or_scope(name, granularity, sparsity, scope, needed):
    with pytest.raises(ValueError, match=f'{granularity} .* {name}={needed} and scope="uniform"$'):
        check_pattern(granularity, sparsity, name, scope)


@pytest.mark.parametrize("granularity", ["weight", "filter"])
def test_what_is_no_pattern_takes_any_sparsity_and_scope(granularity):
    assert check_pattern(granularity, 0.123, "rate", "erk") is None


def test_a_filters_sum_is_over_inputs_and_kernel_positions():
    weight = torch.tensor([[[[1.0, 2]], [[3, 4]]], [[[5, 6]], [[7, 8]]]])
    sums = filters({"conv": weight, "linear": torch.tensor([[1, -1], [2, 3]])})
    assert sums["conv"].tolist() == [10, 26]
    assert sums["linear"].tolist() == [0, 5]


def test_the_sum_over_a_mask_counts_its_weights():
    assert filters({"a": torch.tensor([[True, True], [False, True]])})["a"].tolist() == [2, 1]


@quick
@given(layer=some_layer(), flags=st.lists(st.booleans(), min_size=5, max_size=5))
def test_a_filters_flag_is_that_of_each_of_its_weights(layer, flags):
    shape = layer[0].shape
    found = of_filters(torch.tensor(flags[: shape[0]]), shape)
    assert found.shape == shape
    for row, flag in zip(found, flags, strict=False):
        assert row.tolist() == torch.full(shape[1:], flag).tolist()


def naive_filters(scores, among, keep):
    """Every prefix of the ranking is tried, the shortest of the closest is taken."""
    ranked = []
    for name, mask in among.items():
        for i in range(len(mask)):
            pairs = zip(scores[name][i].flatten(), mask[i].flatten(), strict=True)
            active = [float(score) for score, flag in pairs if flag]
            if active:
                ranked.append((sum(active), name, i, len(active)))
    ranked.sort(key=lambda found: -found[0])
    distance, many = min(
        (abs(sum(count for *_, count in ranked[:k]) - keep), k) for k in range(len(ranked) + 1)
    )
    return {(name, i) for _, name, i, _ in ranked[:many]}, distance


@settings(max_examples=100, deadline=None)
@given(layers=st.lists(some_layer(), min_size=1, max_size=3), way=st.floats(0, 1))
def test_the_best_filters_are_those_of_the_closest_prefix_of_the_ranking(layers, way):
    scores = {str(i): layer[0] for i, layer in enumerate(layers)}
    among = {str(i): layer[1] for i, layer in enumerate(layers)}
    keep = round(way * sum(int(mask.sum()) for mask in among.values()))
    kept = best_filters(scores, among, keep)
    expected, distance = naive_filters(scores, among, keep)
    for name, mask in among.items():
        for i, row in enumerate(mask):
            wanted = row if (name, i) in expected else torch.zeros_like(row)
            assert torch.equal(kept[name][i], wanted)
    assert abs(sum(int(mask.sum()) for mask in kept.values()) - keep) == distance


@pytest.mark.parametrize(
    ("keep", "expected"),
    [(0, []), (1, []), (2, [1]), (3, [1]), (4, [1]), (5, [0, 1]), (6, [0, 1]), (7, [0, 1, 2])],
)
def test_as_many_filters_stay_as_come_closest_and_of_two_ways_the_fewer(keep, expected):
    # By their sums: filter 1 of three weights, 0 of three, 2 of one.
    scores = {"a": torch.tensor([[1.0, 1, 1], [2, 2, 2], [0, 9, 0]])}
    among = {"a": torch.tensor([[True] * 3, [True] * 3, [True, False, False]])}
    kept = best_filters(scores, among, keep)["a"]
    assert [i for i in range(3) if kept[i].any()] == expected


def test_scores_below_zero_are_summed_like_others():
    scores = {"a": torch.tensor([[5.0, -9], [1, -2], [-1, -1]])}
    kept = best_filters(scores, {"a": torch.ones(3, 2, dtype=torch.bool)}, 2)["a"]
    assert kept.tolist() == [[False, False], [True, True], [False, False]]


def test_the_scores_of_inactive_weights_are_no_part_of_a_filters_sum():
    scores = {"a": torch.tensor([[1.0, math.nan], [0.5, math.inf], [2, -50]])}
    among = {"a": torch.tensor([[True, False]] * 3)}
    assert best_filters(scores, among, 1)["a"].tolist() == [[False] * 2, [False] * 2, [True, False]]


def naive_best_of_each(scores, among, n, m):
    kept = torch.zeros_like(among)
    outputs, inputs, *kernel = scores.shape
    for place in [(o, *k) for o in range(outputs) for k in torch.ones(kernel).nonzero().tolist()]:
        for start in range(0, inputs, m):
            group = [(place[0], i, *place[1:]) for i in range(start, min(start + m, inputs))]
            active = [each for each in group if among[each]]
            for each in sorted(active, key=lambda each: -float(scores[each]))[:n]:
                kept[each] = True
    return kept


@settings(max_examples=100, deadline=None)
@given(layer=some_layer(outputs=3), m=st.integers(2, 6), data=st.data())
def test_the_best_of_each_group_are_those_of_a_loop_over_all_groups(layer, m, data):
    n = data.draw(st.integers(1, m - 1))
    scores, among = layer
    assert torch.equal(best_of_each(scores, among, n, m), naive_best_of_each(scores, among, n, m))


@quick
@given(layer=some_layer(), m=st.integers(2, 6), data=st.data())
def test_no_full_group_has_more_than_n_and_none_with_n_or_fewer_loses_one(layer, m, data):
    n = data.draw(st.integers(1, m - 1))
    scores, among = layer
    kept = best_of_each(scores, among, n, m)
    assert (kept <= among).all()
    for start in range(0, scores.shape[1], m):
        had, has = (mask[:, start : start + m].sum(1) for mask in (among, kept))
        assert torch.equal(has, had.clamp(max=n))


def test_two_of_four_by_hand():
    scores = torch.tensor([[4.0, 3, 2, 1, 1, 9, 1, 1, 7]])
    kept = best_of_each(scores, torch.ones(1, 9, dtype=torch.bool), 2, 4)
    # Of the three ones of the second group the first stays; the last group is smaller than two.
    assert kept.int().tolist() == [[1, 1, 0, 0, 1, 1, 0, 0, 1]]


def test_groups_are_made_for_each_output_and_kernel_position():
    scores = torch.tensor([[[[1.0, 9]], [[2, 8]], [[3, 7]]], [[[9, 1]], [[8, 2]], [[7, 3]]]])
    kept = best_of_each(scores, torch.ones(2, 3, 1, 2, dtype=torch.bool), 1, 3)
    assert kept[0, :, 0].int().tolist() == [[0, 1], [0, 0], [1, 0]]
    assert kept[1, :, 0].int().tolist() == [[1, 0], [0, 0], [0, 1]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_scores_of_every_type_are_ranked(dtype):
    scores = torch.tensor([[1, 4, 3, 2]]).to(dtype)
    everywhere = torch.ones(1, 4, dtype=torch.bool)
    assert best_of_each(scores, everywhere, 2, 4).int().tolist() == [[0, 1, 1, 0]]
    rows = best_filters({"a": scores.T.contiguous()}, {"a": everywhere.T}, 2)
    assert rows["a"].flatten().int().tolist() == [0, 1, 1, 0]


def test_scores_that_differ_in_the_last_place_alone_are_told_apart():
    scores = torch.tensor([[1, 1 + 2.0**-52, 1, 1]], dtype=torch.float64)
    kept = best_of_each(scores, torch.ones(1, 4, dtype=torch.bool), 1, 4)
    assert kept.int().tolist() == [[0, 1, 0, 0]]


@pytest.mark.parametrize(
    ("dtype", "rows"),
    [
        (torch.float16, [[30000.0] * 3, [40000.0] * 3]),  # sums beyond the largest number
        (torch.bfloat16, [[1.0, 1, 1], [1, 1, 1 + 2**-7]]),  # sums that round to the same
    ],
)
def test_sums_of_short_floats_are_not_short_themselves(dtype, rows):
    scores = {"a": torch.tensor(rows).to(dtype)}
    kept = best_filters(scores, {"a": torch.ones(2, 3, dtype=torch.bool)}, 3)["a"]
    assert kept.int().tolist() == [[0, 0, 0], [1, 1, 1]]
