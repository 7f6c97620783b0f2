import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from granet_lab.figures.statistics import interval, summarise

VALUES = st.lists(st.floats(-100, 100), min_size=1, max_size=8)


@pytest.mark.parametrize("value", [0.0, -3.5, 91.2345])
def test_the_interval_of_a_single_value_is_that_value(value):
    assert interval([value]) == (value, value)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_the_interval_of_equal_values_is_their_value(n):
    assert interval([85.3] * n) == pytest.approx((85.3, 85.3), rel=1e-12)


def test_the_interval_of_two_values_is_from_one_to_the_other():
    # Their resampled means are 0, 1/2 and 1 with probabilities 1/4, 1/2 and 1/4.
    assert interval([0, 1]) == (0, 1)
    assert interval([0, 1], level=0.4) == (0.5, 0.5)


def test_the_interval_of_many_values_is_that_of_the_normal_approximation():
    values = np.random.default_rng(7).normal(50, 10, size=400)
    low, high = interval(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(400), rel=0.1)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.1)


@settings(max_examples=30)
@given(VALUES)
def test_an_interval_lies_within_its_values(values):
    low, high = interval(values)
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9


@settings(max_examples=30)
@given(VALUES, st.floats(0.05, 0.9))
def test_a_wider_level_gives_no_narrower_an_interval(values, level):
    low, high = interval(values, level)
    wider_low, wider_high = interval(values, level + 0.09)
    assert wider_low <= low
    assert high <= wider_high


def test_a_wider_level_gives_a_wider_interval():
    values = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
    low, high = interval(values, 0.5)
    wider_low, wider_high = interval(values, 0.95)
    assert wider_low < low < high < wider_high


def test_the_same_values_give_the_same_interval():
    values = [1.3, 5.1, 2.2, 9.7, 4.4]
    first = interval(values)
    np.random.default_rng(1).random()
    np.random.rand()  # noqa: NPY002
    assert interval(values) == first


def test_an_interval_does_not_depend_on_the_order_of_its_values():
    values = [1.3, 5.1, 2.2, 9.7, 4.4]
    assert interval(values) == interval(values[::-1])


def frame(regrow, gain):
    return pd.DataFrame({"regrow": pd.Series(regrow, dtype=object), "gain": gain})


def test_means_and_numbers_are_those_by_hand():
    table = pd.DataFrame(
        {
            "rate": [0.9, 0.5, 0.5, 0.9, 0.5],
            "epoch": [10, 10, 10, 10, 30],
            "gain": [1.0, 2.0, 4.0, 3.0, 7.0],
        }
    )
    found = summarise(table, "gain", ["rate", "epoch"])
    assert found.drop(columns=["low", "high"]).to_dict("list") == {
        "rate": [0.5, 0.5, 0.9],
        "epoch": [10, 30, 10],
        "mean": [3.0, 7.0, 2.0],
        "n": [2, 1, 2],
    }
    assert found["low"].tolist() == [2, 7, 1]
    assert found["high"].tolist() == [4, 7, 3]


def test_columns_are_the_groups_then_the_numbers():
    found = summarise(frame(["random"], [1.0]), "gain", ["regrow"])
    assert list(found) == ["regrow", "mean", "low", "high", "n"]


def test_none_is_a_group():
    found = summarise(frame([None, "gradient", None], [1.0, 5.0, 2.0]), "gain", ["regrow"])
    assert dict(zip(found["regrow"].isna(), found["mean"], strict=True)) == {True: 1.5, False: 5}


def test_rows_without_the_value_are_left_out_and_not_counted():
    found = summarise(frame(["random"] * 4, [1.0, math.nan, 3.0, math.nan]), "gain", ["regrow"])
    assert found[["mean", "n"]].to_dict("list") == {"mean": [2.0], "n": [2]}


def test_a_group_without_any_value_has_no_row():
    found = summarise(frame(["random", "gradient"], [1.0, math.nan]), "gain", ["regrow"])
    assert found["regrow"].tolist() == ["random"]


def test_an_empty_table_gives_an_empty_summary_with_its_columns():
    found = summarise(frame([], []), "gain", ["regrow"])
    assert list(found) == ["regrow", "mean", "low", "high", "n"]
    assert found.empty
