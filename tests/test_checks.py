import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from granet_lab import checks

NOT_NUMBERS = [None, "much", [0.5], 1j]


@given(st.floats(0, 1))
def test_fraction_returns_what_lies_between_0_and_1(value):
    assert checks.fraction("rate", value) == value


@given(st.floats().filter(lambda value: not 0 <= value <= 1))
def test_fraction_refuses_what_does_not(value):
    with pytest.raises(ValueError, match="rate"):
        checks.fraction("rate", value)


@pytest.mark.parametrize("value", NOT_NUMBERS)
def test_fraction_refuses_what_is_no_number(value):
    with pytest.raises(ValueError, match="rate must be a number"):
        checks.fraction("rate", value)


@pytest.mark.parametrize("value", [1, np.float32(0.5), np.float64(0.5), np.int64(1)])
def test_fraction_returns_a_plain_float(value):
    assert type(checks.fraction("rate", value)) is float


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_real_refuses_what_is_not_finite(value):
    with pytest.raises(ValueError, match="lr must be finite"):
        checks.real("lr", value)


def test_real_refuses_an_integer_beyond_every_float():
    with pytest.raises(ValueError, match="lr"):
        checks.real("lr", 10**400)


def test_real_takes_its_minimum_and_refuses_less():
    assert checks.real("lr", 2, minimum=2) == 2.0
    with pytest.raises(ValueError, match=r"lr must be finite and at least 2, not 1\.9"):
        checks.real("lr", 1.9, minimum=2)


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3)])
def test_count_returns_a_plain_int(value):
    found = checks.count("epochs", value)
    assert found == 3
    assert type(found) is int


@pytest.mark.parametrize("value", [*NOT_NUMBERS, 3.0, "3"])
def test_count_refuses_what_is_no_whole_number(value):
    with pytest.raises(ValueError, match="epochs must be a whole number"):
        checks.count("epochs", value)


def test_count_takes_its_minimum_and_refuses_less():
    assert checks.count("epochs", 1, minimum=1) == 1
    with pytest.raises(ValueError, match="epochs must be at least 1, not 0"):
        checks.count("epochs", 0, minimum=1)


@pytest.mark.parametrize("value", [None, "gradient"])
def test_choice_returns_a_valid_value(value):
    assert checks.choice("regrowth", value, (None, "gradient")) == value


def test_choice_lists_the_valid_values():
    with pytest.raises(ValueError, match="unknown regrowth 'magic': choose from None, gradient"):
        checks.choice("regrowth", "magic", (None, "gradient"))


@pytest.mark.parametrize("value", [0, -0.0, np.float64(-0.0)])
def test_zero_has_no_sign(value):
    assert math.copysign(1, checks.fraction("rate", value)) == 1


@pytest.mark.parametrize("value", [True, False, np.True_, np.False_])
def test_flag_returns_a_plain_bool(value):
    assert checks.flag("nesterov", value) is bool(value)


@pytest.mark.parametrize("value", [None, "True", "", 2, 0.5])
def test_flag_refuses_what_is_neither_true_nor_false(value):
    with pytest.raises(ValueError, match="nesterov must be True or False"):
        checks.flag("nesterov", value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.5, [0.5]),
        ("er", ["er"]),
        (None, [None]),
        ([0.5, 0.9], [0.5, 0.9]),
        (range(2), [0, 1]),
        ((), []),
        (np.array(0.5), [np.array(0.5)]),
        (np.array([0.5, 0.9]), [0.5, 0.9]),
    ],
    ids=str,
)
def test_a_value_or_several_become_a_list(value, expected):
    assert checks.several(value) == expected
