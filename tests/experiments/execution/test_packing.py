import collections
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

import granet_lab as gl
from granet_lab.experiments.execution.packing import packs, shard

works = st.integers(0, 2000)
rooms = st.integers(1, 64)
crews = st.integers(1, 16)


@given(works, rooms, st.none() | crews)
def test_everything_is_in_one_pack_in_its_order(n, room, workers):
    assert [one for pack in packs(range(n), room, workers) for one in pack] == list(range(n))


@given(works, rooms, crews)
def test_no_worker_has_nothing_to_do_where_there_is_enough_for_all(n, room, workers):
    assert len(packs(range(n), room, workers)) >= min(workers, n // min(room, 2))


@given(st.integers(2, 2000), st.integers(2, 64), crews)
def test_no_network_is_alone_that_could_share_a_stack(n, room, workers):
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
        (16, 1, 2, [4, 4, 2, 2, 1, 1, 1, 1]),
        (3, 1, 2, [1, 2]),
        (3, 1, 4, [1, 1, 1]),
    ],
)
def test_large_packs_come_first_and_the_last_end_together(n, room, workers, sizes):
    assert list(map(len, packs(range(n), room, workers))) == sizes


@given(n=st.integers(0, 40), parts=st.integers(1, 12), seed=st.randoms(use_true_random=False))
def test_shards_are_parts_of_equal_size_that_keep_a_checkpoint_together(n, parts, seed):
    recipe = gl.recipes.digits(model="mlp", epochs=8, milestones=())
    trials = gl.grid(recipe, epoch=range(5), rate=[0.1, 0.2, 0.5, 0.9], seed=[0, 1])[:n]
    seed.shuffle(trials)
    found = [shard(trials, i + 1, parts) for i in range(parts)]
    assert sorted(id(t) for part in found for t in part) == sorted(map(id, trials))
    assert max(map(len, found)) - min(map(len, found)) <= 1
    # A shard's trials of one checkpoint lie side by side, and one checkpoint in two shards at most
    # where it is not larger than a shard.
    for part in found:
        keys = [(t.recipe, t.epoch) for t in part]
        assert len([k for k, _ in itertools.groupby(keys)]) == len(set(keys))
    sizes = collections.Counter((t.recipe, t.epoch) for t in trials)
    shards = collections.Counter(
        key for part in found for key in {(t.recipe, t.epoch) for t in part}
    )
    smallest = min(map(len, found))
    assert all(shards[key] <= 2 for key, size in sizes.items() if size <= smallest)


@pytest.mark.parametrize(("part", "parts"), [(0, 3), (4, 3), (1, 0), (-1, 2), (1.5, 2)])
def test_a_shard_that_there_is_not_is_refused(part, parts):
    with pytest.raises(ValueError, match="part"):
        shard([], part, parts)
