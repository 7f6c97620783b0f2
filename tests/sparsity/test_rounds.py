from itertools import pairwise

import pytest

from granet_lab.sparsity.rounds import Rounds

ROUNDS = Rounds(count=3, cycle=10, rewind=4)


def test_trainings_lie_end_to_end():
    assert ROUNDS.epochs == 10 + 3 * 6
    assert [e for e in range(28) if ROUNDS.begins(e)] == [10, 16, 22]
    assert [ROUNDS.number(e) for e in (0, 9, 10, 15, 16, 27)] == [0, 0, 1, 1, 2, 3]
    assert [ROUNDS.position(e) for e in (0, 9, 10, 15, 16, 27)] == [0, 9, 4, 9, 4, 9]


def test_a_rewind_to_initialisation_repeats_the_whole_training():
    rounds = Rounds(count=1, cycle=5, rewind=0)
    assert [rounds.position(e) for e in range(rounds.epochs)] == [0, 1, 2, 3, 4] * 2
    assert [e for e in range(10) if rounds.begins(e)] == [5]


def test_each_round_takes_the_same_fraction_of_what_is_left():
    found = [ROUNDS.sparsity(number, 0.0, 0.875) for number in range(4)]
    assert found == pytest.approx([0, 0.5, 0.75, 0.875])
    found = [ROUNDS.sparsity(number, 0.2, 0.9) for number in range(4)]
    assert [found[0], found[-1]] == pytest.approx([0.2, 0.9])
    assert [(1 - b) / (1 - a) for a, b in pairwise(found)] == pytest.approx([0.5, 0.5, 0.5])


@pytest.mark.parametrize(
    ("values", "culprit"),
    [
        ({"cycle": 5, "rewind": 5}, "rewind 5 must lie before the end of cycle 5"),
        ({"count": 0}, "count must be"),
        ({"cycle": 0}, "cycle must be"),
        ({"rewind": -1}, "rewind must be"),
        ({"rewind_weights": "yes"}, "rewind_weights must be"),
    ],
    ids=str,
)
def test_what_makes_no_rounds_is_refused(values, culprit):
    with pytest.raises(ValueError, match=culprit):
        Rounds(**values)
