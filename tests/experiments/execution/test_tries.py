import pytest

import granet_lab as gl
from granet_lab.experiments.execution.tries import Tries
from granet_lab.experiments.identity import identity

RECIPE = gl.recipes.digits(model="mlp", epochs=8, milestones=())
TRIALS = gl.grid(RECIPE, epoch=[1, 2, 3], rate=0.5, recovery_epochs=1)


@pytest.fixture
def said():
    return []


@pytest.fixture
def tries(said):
    return Tries(said.append)


def test_the_third_failure_is_the_last(tries):
    assert [tries.once_more(TRIALS[0], "why") for _ in range(3)] == [True, True, False]


def test_what_was_not_its_own_fault_does_not_count(tries):
    assert all(tries.once_more(TRIALS[0], "why", counts=False) for _ in range(5))
    assert TRIALS[0] in tries
    assert [tries.once_more(TRIALS[0], "why") for _ in range(3)] == [True, True, False]


def test_what_failed_for_the_same_reason_is_told_in_one_line(tries, said):
    for trial in TRIALS[:2]:
        tries.once_more(trial, "no room")
    tries.once_more(TRIALS[2], "no score")
    tries.once_more(RECIPE, "no room")
    assert said == []
    tries.tell()
    assert said == [
        "2 trials are tried again: no room",
        f"trial {identity(TRIALS[2])} is tried again: no score",
        f"run {identity(RECIPE)} is tried again: no room",
    ]
    tries.once_more(TRIALS[2], "no room")
    tries.tell()
    assert len(said) == 3


def test_a_reason_is_told_again_when_it_has_become_twice_as_many(tries, said):
    for _ in range(9):
        tries.once_more(TRIALS[0], "no room", counts=False)
        tries.tell()
    assert said == [
        f"trial {identity(TRIALS[0])} is tried again: no room",
        *(f"{n} trials are tried again: no room" for n in (2, 4, 8)),
    ]
