import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from granet_lab.sparsity.schedules import cosine, cubic

SHARES = st.floats(0, 1)
both = pytest.mark.parametrize("schedule", [cubic, cosine])


@both
@given(SHARES, SHARES)
def test_a_schedule_starts_at_its_start_and_ends_at_its_end(schedule, start, end):
    assert schedule(0, start, end) == pytest.approx(start)
    assert schedule(1, start, end) == pytest.approx(end)


@both
@pytest.mark.parametrize("progress", [-3, -1e-9, 1 + 1e-9, 7])
def test_outside_its_span_a_schedule_is_held(schedule, progress):
    assert schedule(progress, 0.2, 0.9) == pytest.approx(0.2 if progress < 0 else 0.9)


@both
@given(SHARES, SHARES, SHARES, SHARES)
def test_a_schedule_never_turns_back(schedule, one, other, a, b):
    first, second = sorted((one, other))
    low, high = sorted((a, b))
    assert schedule(first, low, high) <= schedule(second, low, high) + 1e-12
    assert schedule(first, high, low) >= schedule(second, high, low) - 1e-12


def test_the_cubic_by_hand():
    # 1 - (1/2)^3 = 7/8 of the way; 1 - (3/4)^3 = 37/64.
    assert cubic(1 / 2, 0, 0.96) == pytest.approx(0.84)
    assert cubic(1 / 4, 0.5, 0.98) == pytest.approx(0.5 + 0.48 * 37 / 64)


def test_the_cosine_by_hand():
    assert cosine(1 / 2, 0.5, 0.005) == pytest.approx((0.5 + 0.005) / 2)
    assert cosine(1 / 3, 0.5, 0.1) == pytest.approx(0.1 + 0.4 * 0.75)
    assert cosine(1 / 4, 1, 0) == pytest.approx((1 + math.sqrt(0.5)) / 2)
