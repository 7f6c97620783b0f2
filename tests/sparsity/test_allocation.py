import math

import numpy as np
import pytest
from hypothesis import given
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
