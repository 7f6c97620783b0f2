import time

import pytest

from benchmarks.timing import in_turn, ratio, scaled, table


@pytest.mark.parametrize(("warm_up", "rounds"), [(True, 4), (False, 3)])
def test_ways_take_turns_and_the_first_round_may_not_count(warm_up, rounds):
    heard = []
    ways = {name: lambda name=name: heard.append(name) for name in "ab"}
    times = in_turn(ways, 3, warm_up)
    assert heard == ["a", "b"] * rounds
    assert [len(found) for found in times.values()] == [3, 3]


def test_what_is_done_before_each_way_is_not_timed():
    heard = []
    ways = {name: lambda name=name: heard.append(name) for name in "ab"}

    def before():
        heard.append("before")
        time.sleep(0.02)

    times = in_turn(ways, 1, before=before)
    assert heard == ["before", "a", "before", "b"] * 2
    assert max(map(max, times.values())) < 0.02


def test_what_takes_longer_is_timed_longer():
    times = in_turn({"short": lambda: None, "long": lambda: time.sleep(0.02)}, 3)
    assert min(times["long"]) >= 0.02 > max(times["short"])


def test_a_ratio_is_taken_in_each_round():
    assert ratio([2.0, 30.0, 4.0], [1.0, 10.0, 4.0]) == "2.00 (1.00 to 3.00)"


def test_a_table_says_how_many_times_as_fast_or_as_long():
    times = scaled({"plain": [2.0, 4.0, 3.0], "ours": [1.0, 2.0, 1.5]}, {"ours": 2 / 3})
    lines = table(times, "plain").splitlines()
    assert lines[0].split() == ["plain", "3.00", "s"]
    assert lines[1].split() == ["ours", "1.00", "s", "3.00", "(3.00", "to", "3.00)"]
    assert table(times, "ours", "ms", faster=False).splitlines()[0].split()[1:4] == [
        "3000.0",
        "ms",
        "3.00",
    ]
