import pytest
from hypothesis import given
from hypothesis import strategies as st

from granet_lab.experiments.execution.pace import Pace


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_nothing_is_foretold_too_early(clock):
    pace = Pace(clock)
    assert pace.left({"run": 10}) is None
    pace.begin()
    clock.now += 1
    pace.passed({"run": 1})
    assert pace.left({"run": 10}) is None
    clock.now += 1
    pace.passed({"run": 1})
    assert pace.left({"run": 10}) == pytest.approx(10)


def test_what_comes_before_the_first_work_is_not_counted(clock):
    pace = Pace(clock)
    clock.now += 60
    pace.passed({"run": 0})
    pace.begin()
    clock.now += 3
    pace.begin()
    clock.now += 3
    pace.passed({"run": 3})
    assert pace.left({"run": 10}) == pytest.approx(20)


def test_epochs_whose_beginning_nobody_saw_only_start_the_clock(clock):
    pace = Pace(clock)
    clock.now += 60
    pace.passed({"run": 7})
    assert pace.left({"run": 10}) is None
    clock.now += 4
    pace.passed({"run": 2})
    assert pace.left({"run": 10}) == pytest.approx(20)


def test_each_kind_has_its_own_pace(clock):
    pace = Pace(clock)
    pace.begin()
    clock.now += 30
    pace.passed({"run": 10})
    # Nobody knows yet what an epoch of a trial takes.
    assert pace.left({"run": 0, "trial": 10}) == pytest.approx(30)
    clock.now += 10
    pace.passed({"run": 0, "trial": 10})
    assert pace.left({"run": 1, "trial": 2}) == pytest.approx(3 + 2)


def test_time_in_which_nothing_ended_counts_for_what_ends_next(clock):
    pace = Pace(clock)
    pace.begin()
    for _ in range(5):
        clock.now += 2
        pace.passed({"run": 0})
    pace.passed({"run": 2})
    assert pace.left({"run": 1}) == pytest.approx(5)


@given(steps=st.lists(st.tuples(st.floats(2.5, 100), st.integers(1, 9)), min_size=1))
def test_what_is_left_is_linear_and_never_negative(steps):
    clock = Clock()
    pace = Pace(clock)
    pace.begin()
    for seconds, epochs in steps:
        clock.now += seconds
        pace.passed({"trial": epochs})
    one, ten = pace.left({"trial": 1}), pace.left({"trial": 10})
    assert one >= 0
    assert ten == pytest.approx(10 * one)
    assert pace.left({"trial": 0}) == 0
