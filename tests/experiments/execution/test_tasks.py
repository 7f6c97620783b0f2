import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from notes import later

import granet_lab as gl
from granet_lab.experiments import plasticity
from granet_lab.experiments.execution import definitions, progress, tasks
from granet_lab.experiments.execution.progress import named
from granet_lab.experiments.execution.tasks import Place, carry_out
from granet_lab.experiments.execution.telling import Teller
from granet_lab.experiments.plasticity import Measurement
from granet_lab.experiments.trained import train_together
from granet_lab.experiments.trainings import Training
from granet_lab.training.stacked import Stack
from granet_lab.training.state import TrainState


@pytest.fixture
def asked(lab, recipe):
    """Trials of a trained run."""
    lab.train(recipe, progress=False)
    return tuple(gl.grid(recipe, epoch=[0, 1, 2], rate=[0.5, 0.9], recovery_epochs=1))


@pytest.fixture
def place(lab):
    return Place(lab.path, "cpu", definitions.own())


@pytest.fixture
def begun(monkeypatch):
    """The trials that were begun, in their order."""
    seen, begin = [], Measurement.begin

    def noted(self):
        seen.append(self.trial)
        return begin(self)

    monkeypatch.setattr(Measurement, "begin", noted)
    return seen


def test_what_is_done_before_its_turn_comes_is_not_begun(lab, asked, place, begun, monkeypatch):
    train, elsewhere = Stack.train_epoch, gl.Lab(lab.path, device="cpu")

    def meanwhile(self, *pulse):
        if len(begun) == 2:  # the first stack is full, and somebody else measures the last trials
            with monkeypatch.context() as patched:
                patched.setattr(tasks, "_TURN", threading.Lock())
                carry_out(place, asked[4:], 2, {})
        return train(self, *pulse)

    monkeypatch.setattr(Stack, "train_epoch", meanwhile)
    assert carry_out(place, asked, 2, {}) == {}
    assert sorted(map(asked.index, begun)) == list(range(6))
    assert (elsewhere.measure(asked, workers=1, progress=False).status == "ok").all()


def test_nor_is_it_where_trials_are_measured_one_after_the_other(asked, place, begun, monkeypatch):
    found = Measurement.found

    def meanwhile(self, stacked):
        if len(begun) == 2:  # somebody else measures the last trials
            with monkeypatch.context() as patched:
                patched.setattr(tasks, "_TURN", threading.Lock())
                carry_out(place, asked[4:], 1, {})
        return found(self, stacked)

    monkeypatch.setattr(Measurement, "found", meanwhile)
    assert carry_out(place, asked, 1, {}) == {}
    assert sorted(map(asked.index, begun)) == list(range(6))


@pytest.mark.parametrize("stack", [1, 2])
def test_the_word_to_stop_is_heard_while_a_checkpoint_is_reached_again(
    lab, recipe, place, tmp_path, stack
):
    recipe = replace(recipe, epochs=40, milestones=())
    asked = gl.grid(recipe, epoch=[30, 31], rate=0.5, recovery_epochs=1)
    carry_out(place, [recipe], stack, {recipe: (0, 40)})
    assert lab.run(recipe).checkpoints == [0, 40]
    stop, steps = tmp_path / ".stop", []
    step = Teller.check

    def heard(self):
        steps.append(1)
        stop.touch()
        self._looked = 0.0
        step(self)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Teller, "check", heard)
        assert carry_out(replace(place, stop=stop), asked, stack, {}) == {}
    assert len(steps) == 1
    assert not list(lab.path.glob("*/trials/*"))


def test_a_run_that_somebody_else_trains_meanwhile_is_gone_on_with(lab, recipe):
    run = lab.run(recipe)
    waiting = Training(run)
    lab.train(recipe, progress=False)
    expected = run.checkpoint_path(4).read_bytes(), run.rows()
    assert list(train_together([waiting], 2)) == [(waiting, None)]
    assert (run.checkpoint_path(4).read_bytes(), run.rows()) == expected


def test_what_is_done_is_not_told_any_more_while_the_rest_of_its_stack_goes_on(
    lab, asked, place, monkeypatch
):
    run, train, told = lab.run(asked[0].recipe), Stack.train_epoch, []
    short, long = asked[0], replace(asked[1], recovery_epochs=4)

    def seen(self, pulse):
        rows = train(self, pulse)
        later(pulse.__self__)
        pulse()
        told.append((*progress.notes(run),))
        return rows

    monkeypatch.setattr(Stack, "train_epoch", seen)
    assert carry_out(place, [short, long], 2, {}) == {}
    assert set(told[0]) == {named(short), named(long)}
    assert told[1:] == [(named(long),)] * 3
    assert progress.notes(run) == {}


def test_one_that_cannot_be_written_down_fails_alone(asked, place, monkeypatch):
    survival, calls = plasticity._survival, []

    def failing(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise RuntimeError("no such thing")
        return survival(*arguments)

    monkeypatch.setattr(plasticity, "_survival", failing)
    regrown = gl.grid(asked[0].recipe, epoch=[1, 2], rate=[0.5, 0.9], regrow="gradient")
    failed = carry_out(place, regrown, 4, {})
    assert list(failed.values()) == ["RuntimeError: no such thing"]
    assert len(calls) == 4
    (lost,) = failed
    for trial in regrown:
        assert (tasks.result(place.root, trial) is None) is (trial == lost)


@pytest.mark.parametrize("where", ["begin", "found"])
def test_memory_that_is_short_beside_a_stack_costs_no_trial(asked, place, monkeypatch, where):
    widths, right = [], getattr(Measurement, where)

    class Noted(Stack):
        def __init__(self, recipe, data, width):
            widths.append(width)
            super().__init__(recipe, data, width)

    def short(self, *words):
        if widths and widths[-1] > 2:
            raise torch.OutOfMemoryError("no room")
        return right(self, *words)

    monkeypatch.setattr("granet_lab.experiments.trained.Stack", Noted)
    monkeypatch.setattr(Measurement, where, short)
    assert carry_out(place, asked, 4, {}) == {}
    assert widths[0] == 4
    assert all(tasks.result(place.root, trial) is not None for trial in asked)


def test_the_networks_of_trials_and_runs_that_are_done_are_let_go(asked, place, recipe, lab):
    runs = tuple(gl.recipes.digits(model="mlp", epochs=1, milestones=(), seed=s) for s in range(6))
    for pack in (asked, runs):
        alive = []

        def look(alive=alive):
            gc.collect()
            alive.append(sum(type(one) is TrainState for one in gc.get_objects()))

        carry_out(place, pack, 2, {}, heard=look)
        assert max(alive) <= 3  # two in the stack, one that is being written down


def test_threads_of_one_process_take_turns(asked, place, monkeypatch):
    """Threads and precision are those of the whole process."""
    inside, most, right = [], [], tasks._Task._together

    def noted(*arguments):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.05)
        right(*arguments)
        inside.pop()

    monkeypatch.setattr(tasks._Task, "_together", noted)
    with ThreadPoolExecutor(3) as executor:
        packs = [asked[:2], asked[2:4], asked[4:]]
        found = list(executor.map(lambda pack: carry_out(place, pack, 2, {}), packs))
    assert found == [{}] * 3
    assert most == [1] * 3


def test_one_trial_alone_is_a_lane_on_a_cpu_and_none_on_a_gpu(lab, asked, place, monkeypatch):
    assert carry_out(place, asked[:1], 8, {}) == {}
    with monkeypatch.context() as patched:
        patched.setattr(Place, "on_cpu", False)
        assert carry_out(place, asked[1:2], 8, {}) == {}
        assert carry_out(place, asked[2:4], 8, {}) == {}
    assert list(lab.table(asked[:4]).stacked) == [True, False, True, True]
