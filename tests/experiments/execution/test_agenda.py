import pytest

import granet_lab as gl
from granet_lab.experiments.execution.agenda import Agenda
from granet_lab.experiments.execution.packing import together
from granet_lab.experiments.execution.rooms import Question, Rooms
from granet_lab.experiments.execution.tries import Tries

RECIPE = gl.recipes.digits(model="mlp", epochs=8, milestones=())


@pytest.fixture
def trials():
    """Eight of each of six checkpoints."""
    rates = [i / 10 for i in range(1, 9)]
    return together(gl.grid(RECIPE, epoch=[1, 2, 3], rate=rates, seed=[0, 1], recovery_epochs=1))


def silent(_):
    pass


def agenda(works, workers=2, stack=1, tries=None, suspects=frozenset()):
    rooms = Rooms(stack, on_cpu=True, warn=silent)
    return Agenda(works, workers, rooms, tries or Tries(silent), suspects)


def tasks(agenda):
    found = []
    while agenda:
        found.append(agenda.next())
    return found


@pytest.mark.parametrize("workers", [1, 2, 3, 7, None])
def test_each_trial_is_in_one_task_and_in_its_order(trials, workers):
    assert [one for task in tasks(agenda(trials, workers)) for one in task] == trials


@pytest.mark.parametrize("workers", [2, 3])
def test_what_branches_from_one_checkpoint_goes_to_a_worker_together_though_it_shares_no_stack(
    trials, workers
):
    found = tasks(agenda(trials, workers))
    assert all(len({(t.recipe, t.epoch) for t in task}) == 1 for task in found)
    assert max(map(len, found)) >= 16 / workers - 1
    assert len(found[-1]) == 1  # so that all workers end together


@pytest.mark.parametrize("workers", [1, None])
def test_where_it_does_not_matter_each_trial_is_a_task(trials, workers):
    assert {len(task) for task in tasks(agenda(trials, workers))} == {1}


def test_runs_that_share_no_stack_are_tasks_of_their_own(trials):
    recipes = list(dict.fromkeys(t.recipe for t in trials))
    assert tasks(agenda(recipes)) == [(recipe,) for recipe in recipes]


def test_how_many_share_a_stack_is_asked_first(trials):
    (question,) = tasks(agenda(trials, stack=None))
    assert question == Question(trials)


def test_what_has_failed_and_what_is_suspected_goes_by_itself_the_latter_first(trials):
    tries = Tries(silent)
    tries.once_more(trials[5], "why")
    suspects = {trials[9]}
    found = tasks(agenda(trials, tries=tries, suspects=suspects))
    assert found[0] == (trials[9],)
    assert (trials[5],) in found
    assert sorted(map(id, trials)) == sorted(id(one) for task in found for one in task)


def test_what_comes_later_is_done_and_what_is_cleared_is_not(trials):
    one = agenda(trials[:8])
    one.next()
    one.add(trials[8:16])
    assert {t for task in tasks(one) for t in task} >= {*trials[8:16]}
    one.add(trials)
    one.clear()
    assert not one
    with pytest.raises(IndexError):
        one.next()
