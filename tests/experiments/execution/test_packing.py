import collections
import heapq
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

import granet_lab as gl
from granet_lab.experiments.execution.packing import packs, portions, shard, together

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
    ],
)
def test_large_packs_come_first_and_the_last_end_together(n, room, workers, sizes):
    assert list(map(len, packs(range(n), room, workers))) == sizes


RUN = gl.recipes.digits(model="mlp", epochs=30, milestones=())


@st.composite
def asked(draw):
    """Trials in the order of a sweep, some of them a hundred times as long as others."""
    lengths = draw(st.lists(st.sampled_from([0, 1, 3, 10, 100]), min_size=1, max_size=12))
    trials = []
    for epoch, length in enumerate(lengths):
        rates = [i / 20 for i in range(1, draw(st.integers(1, 12)) + 1)]
        trials += gl.grid(RUN, epoch=epoch, rate=rates, recovery_epochs=length)
    return sorted(together(trials), key=lambda t: -t.recovery_epochs)


def length_of(portion):
    return sum(t.recovery_epochs + 1 for t in portion)


@given(asked(), crews)
def test_portions_are_of_one_checkpoint_and_all_there_is_in_its_order(trials, workers):
    found = portions(trials, workers)
    assert [t for portion in found for t in portion] == trials
    assert all(len({t.epoch for t in portion}) == 1 for portion in found)


@given(asked(), crews)
def test_a_portion_of_several_is_at_most_half_of_a_workers_share(trials, workers):
    left = length_of(trials)
    for portion in portions(trials, workers):
        assert len(portion) == 1 or length_of(portion) <= left / (2 * workers)
        left -= length_of(portion)


@given(asked(), crews)
def test_portions_end_as_soon_as_trials_handed_over_alone_can_be_sure_to(trials, workers):
    """Graham's bound: a fair share, and the longest trial beside it. A portion of several that
    began with L left ends within a fair share, as it is at most L / 2 of one worker."""
    longest = max(length_of((t,)) for t in trials)
    assert makespan(portions(trials, workers), workers) <= length_of(trials) / workers + longest


def makespan(tasks, workers):
    """When the last worker ends, each taking the next task when it is done with the last."""
    ends = [0] * workers
    for task in tasks:
        heapq.heappush(ends, heapq.heappop(ends) + length_of(task))
    return max(ends)


def test_eight_of_each_checkpoint_stay_together_until_the_end_is_near():
    rates = [i / 20 for i in range(1, 9)]
    trials = together(gl.grid(RUN, epoch=range(6), rate=rates, recovery_epochs=1))
    assert list(map(len, portions(trials, 2))) == [8, 8, 8, 6, 2, 4, 3, 1, 2, 1, 1, 1, 1, 1, 1]


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
