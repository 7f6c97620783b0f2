import functools
import json
import os
import shutil
import threading
import time

import psutil
import pytest
import waiting
from notes import amend, pages, telling

import granet_lab as gl
from granet_lab.experiments import files, trainings
from granet_lab.experiments.execution import background, claims, progress
from granet_lab.experiments.execution.claims import Claims
from granet_lab.experiments.execution.pools import OwnProcesses
from granet_lab.models import MODELS
from granet_lab.sparsity.criteria import CRITERIA


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    """The model "gated", and a file: while it is there, who trains the model stands still by it."""
    closed = tmp_path_factory.mktemp("gate") / "closed"

    def gated(input_shape, classes):
        import time

        from torch import nn

        class Gated(nn.Module):
            def __init__(self):
                super().__init__()
                self.hidden, self.classifier = nn.Linear(64, 30), nn.Linear(30, classes)

            def forward(self, images):
                while self.training and closed.exists():
                    closed.with_name(f"{os.getpid()}.pid").touch()
                    time.sleep(0.01)
                return self.classifier(self.hidden(images.flatten(1)).relu())

        return Gated()

    gated.__module__ = "__main__"  # so that it travels by value, like a notebook's
    MODELS.register(gated)
    yield gated, closed
    MODELS._entries.pop("gated")


@pytest.fixture
def gate(gated):
    """A closed gate, open again after the test."""
    _, closed = gated
    for path in closed.parent.iterdir():
        path.unlink()
    closed.touch()
    yield closed
    closed.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def processes():
    made = OwnProcesses(2)
    yield made
    made.kill()


def asked(**values):
    recipe = gl.recipes.digits(model="mlp", epochs=4, milestones=(2,), train_size=200)
    return gl.grid(recipe, **{"epoch": [1, 3], "rate": [0.5, 0.9], "recovery_epochs": 2, **values})


def numbers(table):
    return table.drop(columns="seconds")


@pytest.fixture(scope="module")
def everything(gated):
    """Trials of a run that trains freely, then those of one that can be made to stand still."""
    return asked(model=["mlp", "gated"])


@pytest.fixture(scope="module")
def undisturbed(everything, tmp_path_factory):
    lab = gl.Lab(tmp_path_factory.mktemp("undisturbed"), device="cpu")
    return numbers(lab.measure(everything, workers=1, progress=False, stack=1))


@pytest.fixture
def held(everything):
    return [trial for trial in everything if trial.recipe.model == "gated"]


@pytest.fixture
def free(everything):
    return [trial for trial in everything if trial.recipe.model == "mlp"]


until = functools.partial(waiting.until, within=60)


def standing(gate, count=1):
    """Wait until so many processes stand at the gate."""
    until(lambda: len(list(gate.parent.glob("*.pid"))) == count)
    return {int(path.stem) for path in gate.parent.glob("*.pid")}


def measured(lab):
    return sorted(lab.path.glob("*/trials/*.json"))


def assert_sound(lab):
    """No word to stop, no note and nothing half written; what is there is what was written.

    What a killed process was writing stays under its temporary name, which nobody reads; what it
    had claimed belongs to nobody.
    """
    runs = [lab.run(recipe) for recipe in lab.recipes()]
    until(lambda: all(map(Claims().free, runs)), within=5)
    for run in runs:
        claims.tidy(run)
    found = [p for p in lab.path.rglob("*") if p.is_file() and p.suffix != ".tmp"]
    assert [p for p in found if p.name.startswith(".") or p.parent.name == "progress"] == []
    assert [p for p in found if "damaged" in p.name] == []
    for path in measured(lab):
        files.read_json(path)
    for path in lab.path.glob("*/history.jsonl"):
        assert all(json.loads(line) for line in path.read_text().splitlines())


def assert_goes_on(lab, everything, undisturbed):
    """What was not measured is measured now, to the same numbers."""
    assert numbers(lab.measure(everything, workers=1, progress=False, stack=1)).equals(undisturbed)
    assert_sound(lab)


def train(lab, *trials):
    for recipe in {trial.recipe for trial in trials}:
        lab.train(recipe, progress=False)


def test_a_job_measures_in_stacks_what_lab_measure_would_bit_for_bit(lab, processes, tmp_path):
    trials = asked(seed=[0, 1])
    assert lab.start(trials, processes).wait(60)
    found, other = lab.table(trials), gl.Lab(tmp_path / "other", device="cpu")
    assert found.stacked.all()
    expected = other.measure(trials, workers=1, progress=False)
    assert numbers(found).equals(numbers(expected))


def test_a_job_measures_what_lab_measure_would_bit_for_bit(lab, processes, everything, undisturbed):
    job, seen = lab.start(everything, processes, stack=1), []
    while job.running:
        seen.append(job.progress())
        time.sleep(0.004)
    assert numbers(lab.table(everything)).equals(undisturbed)
    seen.append(job.progress())
    assert seen == sorted(seen)
    assert seen[0][0] < seen[-1][0]
    total = 2 * 5 + 8 * 2
    assert seen[-1] == (total, total)
    assert {of for _, of in seen} == {total}
    assert (job.failed, job.warnings, job.error, job.cancelled) == ({}, [], None, False)
    assert repr(job) == f"Job(8 trials, ended: {total} of {total} epochs)"
    assert_sound(lab)


def test_a_job_begins_at_once_and_leaves_this_process_free(
    lab, gate, processes, held, everything, undisturbed
):
    job = lab.start(held, processes, stack=1)
    assert job.running
    assert job.progress() == (0, 5 + 4 * 2)
    assert repr(job) == "Job(4 trials, running: 0 of 13 epochs)"
    assert not job.wait(0.01)
    note = until(lambda: progress.note(lab.run(held[0].recipe), held[0].recipe))
    assert (note.alive, note.own, note.done, note.of) == (True, True, 0, 4)
    (sweep,) = until(lambda: progress.sweeps(lab.path))
    assert (sweep.alive, sweep.own, sweep.of) == (True, True, 13)
    assert sweep.done in (0, 1)
    assert standing(gate) <= {child.pid for child in psutil.Process().children()}
    assert len(lab.table(held)) == 0
    gate.unlink()
    assert job.wait(60)
    assert_goes_on(lab, everything, undisturbed)


def test_a_job_does_only_what_is_missing_and_each_trial_once(lab, processes, free):
    lab.measure(free[:3], workers=1, progress=False)
    written = {path: path.stat().st_mtime_ns for path in measured(lab)}
    job = lab.start([*free, free[3]], processes, stack=1)
    assert job.trials == [free[3]]
    assert job.wait(60)
    assert job.progress() == (2, 2)
    assert len(measured(lab)) == 4
    assert written.items() <= {p: p.stat().st_mtime_ns for p in measured(lab)}.items()


class Refuses(OwnProcesses):
    def open(self):
        raise OSError("cannot start\na process")


def test_a_job_with_nothing_to_do_starts_no_process(lab, free):
    lab.measure(free, workers=1, progress=False)
    job = lab.start(free, Refuses(2))
    assert job.wait(20)
    assert (job.trials, job.failed, job.error) == ([], {}, None)
    assert job.progress() == (0, 0)
    assert_sound(lab)


def test_what_ends_a_whole_job_is_kept_in_one_line(lab, free, caplog):
    job = lab.start(free, Refuses(2))
    assert job.wait(20)
    assert job.error == "OSError: cannot start a process"
    assert job.error in caplog.text
    assert not job.running
    assert_sound(lab)


def test_cancelled_in_the_middle_of_an_epoch_a_job_ends_within_it(
    lab, gate, processes, held, everything, undisturbed
):
    job = lab.start(held, processes, stack=1)
    workers = standing(gate)
    time.sleep(0.2)  # it looks for the word every 0.15 s
    job.cancel()
    assert job.cancelled
    gate.unlink()
    assert job.wait(10)
    assert [row["epoch"] for row in lab.run(held[0].recipe).rows()] == [0]
    assert measured(lab) == []
    assert all(psutil.pid_exists(pid) for pid in workers)
    assert job.progress() == (1, 5 + 4 * 2)
    assert (job.failed, job.error) == ({}, None)
    assert_sound(lab)
    assert_goes_on(lab, everything, undisturbed)


def test_cancelled_in_the_middle_of_trials_a_job_keeps_those_that_are_done(
    lab, gate, processes, everything, held, free, undisturbed
):
    gate.unlink()
    train(lab, *everything)
    gate.touch()
    job = lab.start(everything, processes, stack=1)
    workers = standing(gate, 2)
    until(lambda: len(lab.table(free)) == len(free))
    job.cancel()
    gate.unlink()
    assert job.wait(10)
    assert len(measured(lab)) == len(lab.table(free)) == len(free)
    assert all(psutil.pid_exists(pid) for pid in workers)
    assert job.progress() == (4 * 2, 8 * 2)
    assert (job.failed, job.error) == ({}, None)
    assert_sound(lab)
    assert_goes_on(lab, everything, undisturbed)


def test_a_task_that_does_not_reach_the_end_of_its_epoch_is_killed(
    lab, gate, processes, held, everything, undisturbed, monkeypatch
):
    monkeypatch.setattr(background, "_GRACE", 0.2)
    job = lab.start(held, processes, stack=1)
    workers = standing(gate)
    job.cancel()
    assert job.wait(10)
    until(lambda: not any(psutil.pid_exists(pid) for pid in workers))
    assert (job.failed, job.warnings, job.error) == ({}, [], None)
    assert_sound(lab)
    gate.unlink()
    assert_goes_on(lab, everything, undisturbed)


def test_a_trial_that_does_not_reach_the_end_of_its_epoch_is_killed(
    lab, gate, processes, held, everything, undisturbed, monkeypatch
):
    monkeypatch.setattr(background, "_GRACE", 0.2)
    gate.unlink()
    train(lab, *held)
    gate.touch()
    job = lab.start(held, processes, stack=1)
    standing(gate, 2)
    job.cancel()
    assert job.wait(10)
    assert (job.failed, job.warnings, job.error) == ({}, [], None)
    assert job.progress() == (0, 4 * 2)
    assert_sound(lab)
    gate.unlink()
    assert_goes_on(lab, everything, undisturbed)


def test_another_job_on_processes_that_a_cancelled_one_had_to_kill_goes_on(
    lab, tmp_path, gate, processes, held, everything, undisturbed, monkeypatch
):
    monkeypatch.setattr(background, "_GRACE", 0.2)
    other = gl.Lab(tmp_path / "other", device="cpu")
    jobs = [one.start(held, processes, stack=1) for one in (lab, other)]
    standing(gate, 2)
    jobs[0].cancel()
    assert jobs[0].wait(10)
    gate.unlink()
    assert jobs[1].wait(60)
    assert (jobs[1].failed, jobs[1].error) == ({}, None)
    assert len(other.table(held)) == len(held)
    assert_goes_on(other, everything, undisturbed)


def test_cancelled_where_the_word_to_stop_cannot_be_written_a_job_is_killed(
    lab, gate, processes, held, everything, undisturbed, monkeypatch
):
    def full(*_):
        raise OSError(28, "No space left on device")

    job = lab.start(held, processes, stack=1)
    standing(gate)
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", full)
        job.cancel()
    assert job.wait(4)
    assert (job.failed, job.error) == ({}, None)
    assert_sound(lab)
    gate.unlink()
    assert_goes_on(lab, everything, undisturbed)


def test_cancelling_twice_or_after_the_end_does_nothing(lab, gate, processes, held):
    job = lab.start(held, processes, stack=1)
    standing(gate)
    job.cancel()
    (word,) = lab.path.glob(".*.stop")
    written, threads = word.stat().st_mtime_ns, threading.active_count()
    job.cancel()
    (word,) = lab.path.glob(".*.stop")
    assert (word.stat().st_mtime_ns, threading.active_count()) == (written, threads)
    gate.unlink()
    assert job.wait(10)
    job.cancel()
    assert_sound(lab)


def test_a_job_that_has_ended_cannot_be_cancelled(lab, processes, free):
    job = lab.start(free[:1], processes, stack=1)
    assert job.wait(60)
    with processes.open() as executor:
        job.cancel()
        time.sleep(0.05)
        assert not job.cancelled
        assert_sound(lab)
    with processes.open() as again:
        assert again is executor


def test_a_job_that_ends_while_it_is_being_cancelled_leaves_no_word_behind(
    lab, gate, processes, held, monkeypatch
):
    job, write = lab.start(held, processes, stack=1), files.write
    standing(gate)

    def late(*args, **kwargs):
        gate.unlink()
        assert job.wait(60)
        write(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write", late)
        job.cancel()
    assert len(lab.table(held)) == len(held)
    until(lambda: not list(lab.path.glob(".*.stop")), within=10)


@pytest.mark.parametrize("trained", [False, True], ids=["in training", "among the trials"])
def test_a_job_whose_worker_is_killed_finishes_all_the_same(
    lab, gate, processes, held, everything, undisturbed, trained
):
    gate.unlink()
    train(lab, *held[: trained * len(held)])
    gate.touch()
    job = lab.start(held, processes, stack=1)
    workers = standing(gate, 1 + trained)
    psutil.Process(min(workers)).kill()
    until(lambda: not any(psutil.pid_exists(pid) for pid in workers))
    gate.unlink()
    assert job.wait(60)
    assert len(lab.table(held)) == len(held)
    assert (job.failed, job.error) == ({}, None)
    assert job.warnings == ["a worker process died; what it was doing is done again"]
    assert job.progress()[0] == job.progress()[1]
    assert_goes_on(lab, everything, undisturbed)


def test_two_jobs_asked_for_the_same_trials_lose_nothing(
    lab, gate, processes, everything, held, undisturbed
):
    jobs = [lab.start(everything, processes, stack=1) for _ in range(2)]
    standing(gate)  # one of them trains, the other waits
    gate.unlink()
    assert all(job.wait(60) for job in jobs)
    for job in jobs:
        assert (job.failed, job.error) == ({}, None)
        assert job.progress() == (26, 26)
    assert len(measured(lab)) == len(everything)
    assert numbers(lab.table(everything)).equals(undisturbed)
    assert_sound(lab)


def test_a_job_and_another_process_asked_for_the_same_trials_lose_nothing(
    lab, gate, gated, processes, everything, held, undisturbed
):
    def elsewhere(path, trials, model):
        gl.model(model)
        return gl.Lab(path, device="cpu").measure(trials, workers=1, progress=False, stack=1)

    with processes.open() as executor:
        theirs = executor.submit(elsewhere, lab.path, everything, gated[0])
    job = lab.start(everything, processes, stack=1)
    standing(gate)
    gate.unlink()
    assert numbers(theirs.result(60)).equals(undisturbed)
    assert job.wait(60)
    assert (job.failed, job.error) == ({}, None)
    assert len(measured(lab)) == len(everything)
    assert numbers(lab.table(everything)).equals(undisturbed)
    assert_sound(lab)


def test_a_trial_that_fails_is_told_and_the_others_are_measured(lab, processes, define):
    def moody(context):
        raise RuntimeError("not\ntoday")

    define(CRITERIA, moody)
    trials = asked(criterion=["magnitude", "moody"])
    job = lab.start(trials, processes, stack=1)
    assert job.wait(60)
    bad = [trial for trial in trials if trial.pruning.criterion == "moody"]
    assert job.failed == dict.fromkeys(bad, "RuntimeError: not today")
    assert job.error is None
    assert list(lab.table(trials).status) == ["ok", "failed"] * 4
    assert job.progress() == (5 + 4 * 2, 5 + 8 * 2)
    assert_sound(lab)


def test_a_run_that_diverges_is_the_end_of_its_job(lab, processes):
    trials = asked(lr=1e12)
    job = lab.start(trials, processes, stack=1)
    assert job.wait(60)
    assert job.progress() == (5 + 4 * 2, 5 + 4 * 2)
    assert list(lab.table(trials).status) == ["diverged"] * 4
    assert (job.failed, job.error) == ({}, None)
    assert_sound(lab)


@pytest.mark.parametrize("trained", [False, True], ids=["in training", "among the trials"])
def test_a_job_whose_folder_vanishes_under_it_ends_and_can_be_done_again(
    lab, gate, processes, held, everything, undisturbed, trained
):
    gate.unlink()
    train(lab, *held[: trained * len(held)])
    gate.touch()
    job = lab.start(held, processes, stack=1)
    standing(gate, 1 + trained)
    _, total = job.progress()
    until(lambda: not shutil.rmtree(lab.path, ignore_errors=True) and not lab.path.exists())
    assert job.progress() == (0, total)
    gate.unlink()
    assert job.wait(60)
    assert job.error is None
    assert (lab.table(held).status == "ok").sum() + len(job.failed) == len(held)
    assert_goes_on(lab, everything, undisturbed)


def test_a_job_that_cannot_write_its_trials_says_so(
    lab, gate, processes, held, everything, undisturbed
):
    gate.unlink()
    train(lab, *held)
    gate.touch()
    job = lab.start(held, processes, stack=1)
    standing(gate, 2)
    run = lab.run(held[0].recipe).path
    shutil.rmtree(run / "progress")
    for name in ("progress", "trials"):
        (run / name).write_text("in the way")
    assert job.progress() == (0, 8)
    gate.unlink()
    assert job.wait(60)
    assert job.failed.keys() == set(held)
    assert all(f"cannot write to {run / 'trials'}" in why for why in job.failed.values())
    assert job.progress() == (0, 8)
    for name in ("progress", "trials"):
        (run / name).unlink()
    assert_goes_on(lab, everything, undisturbed)


def test_epochs_left_are_those_of_runs_and_trials_less_what_their_notes_tell(lab, free):
    train(lab, *free)
    run, trial = lab.run(free[0].recipe), free[0]
    assert background.epochs_left(lab.path, free) == 4 * 2
    with telling(run, trial) as task:
        task.tell(1, 2)
        assert background.epochs_left(lab.path, free) == 4 * 2 - 1
        amend(*pages(run.path), pid=4194999)
        assert background.epochs_left(lab.path, free) == 4 * 2
    next(trainings.train(lab.run(asked(seed=1)[0].recipe)))
    assert background.epochs_left(lab.path, asked(seed=[0, 1])) == 4 * 2 + 3 + 4 * 2


def test_a_trial_that_ends_while_one_looks_does_not_set_the_count_back(lab, free, monkeypatch):
    trial, notes = free[0], progress.notes
    train(lab, trial)
    with telling(lab.run(trial.recipe), trial) as task:
        task.tell(2, 2)
        assert background.epochs_left(lab.path, [trial]) == 0

        def ends_first(*args):
            lab.measure([trial], workers=1, progress=False)
            task.end()
            return notes(*args)

        monkeypatch.setattr(progress, "notes", ends_first)
        assert background.epochs_left(lab.path, [trial]) == 0
