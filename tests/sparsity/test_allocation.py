import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from granet_lab.sparsity.allocation import SCHEMES, active_counts, allocate, scheme

SHAPES = st.dictionaries(
    st.sampled_from(["stem", "conv", "deep", "head"]),
    st.one_of(
        st.tuples(st.integers(1, 8), st.integers(1, 8)),
        st.tuples(st.integers(1, 8), st.integers(1, 8), st.just(3), st.just(3)),
    ),
    min_size=1,
)
RESNET = {
    "stem": (16, 3, 3, 3),
    "stage1": (16, 16, 3, 3),
    "stage2": (32, 16, 3, 3),
    "shortcut": (32, 16, 1, 1),
    "stage3": (64, 32, 3, 3),
    "deep": (64, 64, 3, 3),
    "head": (10, 64),
}
BY_HAND = {"a": (2, 2, 3, 3), "b": (4, 2, 1, 1)}  # 36 and 8 weights


def kept(shapes, sparsities):
    return {name: round((1 - s) * math.prod(shapes[name])) for name, s in sparsities.items()}


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        # 22 of 44 weights. In proportion to the sizes, 36 : 8.
        ("uniform", {"a": 18, "b": 4}),
        # (2 + 2) 9 : (4 + 2) 1 = 36 : 6 gives 18.86 and 3.14.
        ("er", {"a": 19, "b": 3}),
        # 10 : 8 gives 12.22 and 9.78, more than b has: b is filled, a holds the other 14.
        ("erk", {"a": 14, "b": 8}),
    ],
)
def test_a_scheme_divides_half_of_the_weights_as_by_hand(scheme, expected):
    assert kept(BY_HAND, allocate(BY_HAND, 0.5, scheme)) == expected


def test_erk_leaves_a_layer_dense_that_it_would_overfill():
    # 52 of 104 in proportion 4 : 20 would put 8.67 into 4 weights.
    found = allocate({"small": (2, 2), "large": (10, 10)}, 0.5, "erk")
    assert found == {"small": 0, "large": pytest.approx(0.52)}


# Sums of the dimensions 5, 9 and 20, sizes 6, 20 and 100: ERK's densities are in proportion
# 5/6 : 9/20 : 1/5.
THREE = {"a": (2, 3), "b": (4, 5), "c": (10, 10)}


def test_erk_densities_are_those_of_a_solution_by_hand():
    # 34 of 126 weights, so that the common factor is 1.
    found = allocate(THREE, 92 / 126, "erk")
    densities = {name: 1 - sparsity for name, sparsity in found.items()}
    assert densities == pytest.approx({"a": 5 / 6, "b": 9 / 20, "c": 1 / 5})


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        # 40 in proportion 5 : 9 : 20 are 5.88, 10.59 and 23.53: the largest remainders go up.
        (40, {"a": 6, "b": 11, "c": 23}),
        # 68: a would get 10 and holds 6. Of the other 62 b gets 9/29, 19.24, and c 42.76.
        (68, {"a": 6, "b": 19, "c": 43}),
        # 85: a is full. Of the other 79 b would get 24.52 and holds 20. The rest is c's.
        (85, {"a": 6, "b": 20, "c": 59}),
    ],
)
def test_what_erk_would_put_beyond_a_layers_size_goes_to_the_others(keep, expected):
    assert kept(THREE, allocate(THREE, 1 - keep / 126, "erk")) == expected


def test_erk_of_convolutions_by_hand():
    # Sums 2 + 1 + 3 + 3 = 9 and 4 + 2 + 3 + 3 = 12, sizes 18 and 72: 14 are 6 and 8.
    shapes = {"a": (2, 1, 3, 3), "b": (4, 2, 3, 3)}
    found = allocate(shapes, 76 / 90, "erk")
    assert found == pytest.approx({"a": 2 / 3, "b": 8 / 9})


@pytest.mark.parametrize(
    ("dense", "expected"),
    [
        # 63 of 126 have to go.
        ("first", {"a": 6, "b": 9.5, "c": 47.5}),
        ("last", None),  # a and b have 26
        ("b", {"a": 43 * 6 / 106, "b": 20, "c": 43 * 100 / 106}),
        ("a b", {"a": 6, "b": 20, "c": 37}),
        (lambda name: name < "c", {"a": 6, "b": 20, "c": 37}),
        ("", {"a": 3, "b": 10, "c": 50}),
    ],
)
def test_the_other_layers_make_up_for_dense_ones(dense, expected):
    if expected is None:
        with pytest.raises(ValueError, match=r"63 weights have to go, .* not left dense have 26"):
            allocate(THREE, 0.5, "uniform", dense=dense)
        return
    found = kept(THREE, allocate(THREE, 0.5, "uniform", dense=dense))
    assert sum(found.values()) == 63
    for name, count in found.items():
        assert abs(count - expected[name]) < 1


def test_erk_shares_out_among_the_layers_that_are_not_dense():
    # Of 126 are 50 to stay, 6 of them in a: b and c share 44 in proportion 9 : 20.
    found = allocate(THREE, 76 / 126, "erk", dense="first")
    assert kept(THREE, found) == {"a": 6, "b": 14, "c": 30}
    assert found["a"] == 0


@pytest.mark.parametrize("scheme", SCHEMES)
@settings(deadline=None)
@given(shapes=SHAPES, way=st.floats(0, 1), data=st.data())
def test_with_dense_layers_the_total_is_still_exact(scheme, shapes, way, data):
    names = data.draw(st.lists(st.sampled_from(list(shapes)), unique=True))
    assume(len(names) < len(shapes))
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    total, room = sum(sizes.values()), sum(sizes[name] for name in shapes if name not in names)
    sparsity = way * room / total
    found = allocate(shapes, sparsity, scheme, dense=" ".join(names))
    assert list(found) == list(shapes)
    assert all(found[name] == 0 for name in names)
    assert total - sum(kept(shapes, found).values()) == round(sparsity * total)


def test_unknown_dense_layers_are_refused_with_a_list_of_the_layers():
    with pytest.raises(ValueError, match="no layer is named 'stem': choose from a, b, c"):
        allocate(THREE, 0.5, "erk", dense="stem")
    with pytest.raises(ValueError, match="no layer is left to prune"):
        allocate(THREE, 0.5, "erk", dense="*")


def test_er_and_erk_agree_on_linear_layers():
    shapes = {"one": (30, 20), "two": (20, 30), "three": (5, 20)}
    assert allocate(shapes, 0.8, "er") == allocate(shapes, 0.8, "erk")


@pytest.mark.parametrize("scheme", SCHEMES)
@given(shapes=SHAPES, sparsity=st.floats(0, 1))
def test_a_scheme_is_exact_in_total_and_whole_in_every_layer(scheme, shapes, sparsity):
    total = sum(math.prod(shape) for shape in shapes.values())
    inactive = {n: s * math.prod(shapes[n]) for n, s in allocate(shapes, sparsity, scheme).items()}
    assert sum(round(count) for count in inactive.values()) == round(sparsity * total)
    for name, count in inactive.items():
        assert count == pytest.approx(round(count), abs=1e-6)
        assert 0 <= round(count) <= math.prod(shapes[name])


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("sparsity", [0, 1])
def test_sparsity_0_and_1_are_those_of_every_layer(scheme, sparsity):
    assert allocate(RESNET, sparsity, scheme) == dict.fromkeys(RESNET, sparsity)


@given(shapes=SHAPES, sparsity=st.floats(0, 1))
def test_uniform_gives_every_layer_the_same_sparsity_to_within_one_weight(shapes, sparsity):
    total = sum(math.prod(shape) for shape in shapes.values())
    met = round(sparsity * total) / total
    for name, found in allocate(shapes, sparsity, "uniform").items():
        assert abs(found - met) * math.prod(shapes[name]) < 1 + 1e-9


def erk_by_epsilon(shapes, active):
    """Expected active weights as RigL finds them: one epsilon, the densest layers made dense."""
    size = {name: np.float64(math.prod(shape)) for name, shape in shapes.items()}
    raw = {name: sum(shape) / size[name] for name, shape in shapes.items()}
    dense = set()
    while True:
        rest = active - sum(size[name] for name in dense)
        epsilon = rest / sum(raw[n] * size[n] for n in shapes if n not in dense)
        density = {n: 1.0 if n in dense else epsilon * raw[n] for n in shapes}
        if max(density.values()) <= 1:
            return {name: density[name] * size[name] for name in shapes}
        dense.add(max((n for n in shapes if n not in dense), key=raw.get))


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.8, 0.9, 0.95, 0.98])
def test_erk_is_within_one_weight_of_the_epsilon_iteration(sparsity):
    total = sum(math.prod(shape) for shape in RESNET.values())
    counts = kept(RESNET, allocate(RESNET, sparsity, "erk"))
    for name, exact in erk_by_epsilon(RESNET, total - round(sparsity * total)).items():
        assert abs(counts[name] - exact) < 1


def test_active_counts_pass_on_what_exceeds_a_capacity():
    # 22 as by hand, but a has only 10 weights left to keep.
    counts = active_counts(BY_HAND, 17, "uniform", capacity={"a": 10, "b": 8})
    assert counts == {"a": 10, "b": 7}


def test_active_counts_refuse_more_than_the_capacities_hold():
    with pytest.raises(ValueError, match="room for 3"):
        active_counts(BY_HAND, 4, "erk", capacity={"a": 3, "b": 0})


def test_a_users_scheme_is_used_by_its_name(monkeypatch):
    monkeypatch.setattr(SCHEMES, "_entries", dict(SCHEMES._entries))

    @scheme
    def even(shape):
        return 1.0

    assert kept(BY_HAND, allocate(BY_HAND, 34 / 44, "even")) == {"a": 5, "b": 5}


def test_an_unknown_scheme_raises_an_error_that_lists_the_valid_ones():
    with pytest.raises(ValueError, match=r"'best': choose from er, erk, uniform"):
        allocate(BY_HAND, 0.5, "best")


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, math.nan])
def test_a_sparsity_outside_0_to_1_is_refused(sparsity):
    with pytest.raises(ValueError, match="sparsity"):
        allocate(BY_HAND, sparsity, "uniform")


def test_no_layers_are_refused():
    with pytest.raises(ValueError, match="no layers"):
        allocate({}, 0.5, "uniform")


def test_masks_and_weights_are_shapes_too():
    shapes = {"a": (4, 3), "b": (2, 4, 3, 3)}
    tensors = {name: torch.ones(shape) for name, shape in shapes.items()}
    assert allocate(tensors, 0.5, "erk") == allocate(shapes, 0.5, "erk")
