import pytest

from benchmarks.targets import Target


@pytest.mark.parametrize(
    ("wanted", "found", "more", "met", "factor"),
    [
        (1.5, 1.5, False, True, None),
        (1.5, 1.2, False, True, None),
        (1.5, 3.0, False, False, "2.00"),
        (8.0, 8.0, True, True, None),
        (8.0, 9.0, True, True, None),
        (8.0, 2.0, True, False, "4.00"),
    ],
)
def test_a_target_is_met_or_says_by_how_much_it_is_not(wanted, found, more, met, factor):
    target = Target("an epoch", wanted, found, "s", more, why="memory")
    assert target.met is met
    line = str(target)
    assert line.splitlines()[0].endswith("met" if met else f"missed by a factor of {factor}")
    assert ("memory" in line) is not met
    assert ("at least" in line) is more
