import pytest
from hypothesis import given
from hypothesis import strategies as st

from granet_lab.experiments.execution.packing import packs

works = st.integers(0, 2000)
rooms = st.integers(2, 64)
crews = st.integers(1, 16)


@given(works, rooms, st.none() | crews)
def test_everything_is_in_one_pack_in_its_order(n, room, workers):
    assert [one for pack in packs(range(n), room, workers) for one in pack] == list(range(n))


@given(works, rooms, crews)
def test_no_worker_has_nothing_to_do_where_there_is_enough_for_all(n, room, workers):
    assert len(packs(range(n), room, workers)) >= min(workers, n // 2)


@given(st.integers(2, 2000), rooms, crews)
def test_no_network_is_alone(n, room, workers):
    assert min(map(len, packs(range(n), room, workers))) >= 2


@given(works, rooms, crews)
def test_packs_are_full_stacks_as_long_as_each_worker_can_have_two_more(n, room, workers):
    left = n
    for pack in packs(range(n), room, workers):
        if left >= 2 * workers * room:
            assert len(pack) >= room
        left -= len(pack)


@pytest.mark.parametrize(
    ("n", "room", "workers", "sizes"),
    [
        (128, 8, 2, [32, 32, 16, 16, 8, 8, 8, 8]),
        (40, 8, 2, [10, 10, 10, 10]),
        (5, 8, 2, [2, 3]),
        (3, 8, 4, [3]),
        (1, 8, 2, [1]),
        (20, 8, None, [8, 8, 4]),
        (100, 8, 1, [100]),
    ],
)
def test_large_packs_come_first_and_the_last_end_together(n, room, workers, sizes):
    assert list(map(len, packs(range(n), room, workers))) == sizes
