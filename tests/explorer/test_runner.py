import functools
import sys
import threading
import time
from dataclasses import replace

import pytest
import waiting

import granet_lab as gl
from granet_lab.experiments.execution import pools
from granet_lab.explorer.runner import Runner


class Job:
    """A job that is over when it is told to be."""

    def __init__(self, done=0, failed=None, warnings=(), error=None, cancelled=False):
        self.running, self.failed, self.warnings = True, {}, list(warnings)
        self.error, self.cancelled, self._done, self._fails = error, cancelled, done, failed or {}

    def progress(self):
        return self._done, 20

    def end(self):
        self.failed, self.running = self._fails, False


@pytest.fixture
def trial(recipe):
    return gl.grid(recipe, epoch=2, rate=0.5)[0]


class Witness:
    """Is called for every new picture; whether the job was over then, and what had failed."""

    def __init__(self):
        self.seen, self.runner, self.act = [], None, lambda: None

    def __call__(self):
        self.act()
        job = self.runner.job
        self.seen.append((job is not None and not job.running, dict(self.runner.failed)))


@pytest.fixture
def witness():
    return Witness()


@pytest.fixture
def runner(lab, trial, witness, monkeypatch):
    """A runner whose jobs are what ``runner.next`` says, and who looks often."""
    monkeypatch.setattr("granet_lab.explorer.runner._GLANCE", 0.01)
    made = Runner(lab, trial, witness)
    witness.runner = made
    made.asked, made.next = [], Job()
    lab.start = lambda trials, processes: made.asked.append(list(trials)) or made.next
    yield made
    if made.job is not None and made.job.running:
        made.job.end()
    quiet()


until = functools.partial(waiting.until, within=10)


def quiet():
    """Wait until nobody follows any more."""
    until(lambda: not followers())


def followers():
    return [thread for thread in threading.enumerate() if thread.name == "granet-lab explorer"]


def test_a_job_is_begun_with_the_trials(runner, trial):
    assert not runner.running
    runner.begin([trial])
    assert runner.running
    assert runner.asked == [[trial]]
    assert runner.job is runner.next


def test_one_job_at_a_time(runner, trial):
    runner.begin([trial])
    with pytest.raises(ValueError, match=r"\Aa measurement is under way: cancel it or wait\Z"):
        runner.begin([trial])
    assert len(runner.asked) == 1
    runner.job.end()
    runner.next = Job()
    runner.begin([trial])
    assert runner.job is runner.next
    assert len(runner.asked) == 2


def test_new_pictures_are_asked_for_while_a_job_runs_and_once_it_has_ended(runner, trial, witness):
    runner.begin([trial])
    until(lambda: len(witness.seen) >= 2)
    assert witness.seen == [(False, {})] * len(witness.seen)
    runner.job.end()
    quiet()
    assert witness.seen[-1] == (True, {})
    count = len(witness.seen)
    time.sleep(0.1)
    assert len(witness.seen) == count


def test_a_job_that_is_over_at_once_is_shown_too(runner, trial, witness):
    runner.next.end()
    runner.begin([trial])
    quiet()
    assert witness.seen[-1] == (True, {})


def test_what_failed_is_told_once_the_job_has_ended(runner, trial, witness):
    runner.next = Job(failed={trial: "RuntimeError: not today"})
    runner.begin([trial])
    until(lambda: witness.seen)
    assert runner.failed == {}
    runner.job.end()
    quiet()
    assert witness.seen[-1] == (True, {trial: "RuntimeError: not today"})


def test_what_failed_is_told_even_if_the_job_ends_while_a_picture_is_drawn(runner, trial, witness):
    runner.next = Job(failed={trial: "RuntimeError: not today"})
    witness.act = lambda: runner.job.end()
    runner.begin([trial])
    quiet()
    assert witness.seen[0] == (True, {})
    assert witness.seen[-1] == (True, {trial: "RuntimeError: not today"})


def test_failures_of_several_jobs_are_kept_until_they_are_tried_again(runner, trial, recipe):
    other = replace(trial, epoch=3)
    for one in (trial, other):
        runner.next = Job(failed={one: "RuntimeError: not today"})
        runner.begin([one])
        runner.job.end()
        quiet()
    assert runner.failed.keys() == {trial, other}
    runner.next = Job()
    runner.begin([trial])
    assert runner.failed.keys() == {other}


def test_a_job_that_cannot_be_begun_leaves_everything_as_it_was(runner, lab, trial):
    def start(trials, processes):
        raise OSError("cannot write")

    lab.start = start
    with pytest.raises(OSError, match="cannot write"):
        runner.begin([trial])
    assert runner.job is None
    assert not runner.running
    assert not followers()


def test_others_are_followed_while_they_are_at_work(runner, witness):
    at_work = [True]
    runner.follow(lambda: at_work[0])
    until(lambda: len(witness.seen) >= 2)
    assert len(followers()) == 1
    at_work.clear()
    at_work.append(False)
    count = len(witness.seen)
    quiet()
    assert len(witness.seen) > count


def test_one_thread_follows_however_often_that_is_asked_for(runner, trial, witness):
    for _ in range(5):
        runner.follow(lambda: True)
    runner.begin([trial])
    assert len(followers()) == 1
    runner.job.end()
    quiet()


def test_others_who_are_still_at_work_when_the_job_ends_are_followed_on(runner, trial, witness):
    at_work = [True]
    runner.begin([trial])
    until(lambda: witness.seen)
    runner.follow(lambda: at_work[0])
    runner.job.end()
    until(lambda: witness.seen[-1][0])
    count = len(witness.seen)
    until(lambda: len(witness.seen) >= count + 2)
    at_work[0] = False
    quiet()


def test_a_job_begun_while_the_last_picture_is_drawn_is_followed_too(runner, trial, witness):
    first, drawing = Job(), threading.Event()
    runner.next = first

    def act():
        if not first.running and not drawing.is_set():
            drawing.set()
            runner.next = Job()
            runner.begin([trial])

    runner.begin([trial])
    first.end()
    witness.act = act
    until(drawing.is_set)
    until(lambda: len(witness.seen) >= 3)
    runner.job.end()
    quiet()
    assert witness.seen[-1] == (True, {})


def test_others_who_begin_while_the_last_picture_is_drawn_are_followed_too(runner, witness):
    asked = []

    def act():
        if not asked:
            asked.append(True)
            runner.follow(lambda: len(witness.seen) < 4)

    witness.act = act
    runner.follow(lambda: False)
    until(lambda: len(witness.seen) >= 4)
    quiet()


def test_a_picture_that_cannot_be_drawn_does_not_end_the_following_for_good(
    runner, trial, witness, monkeypatch
):
    monkeypatch.setattr(threading, "excepthook", lambda _: None)

    def act():
        raise RuntimeError("no picture")

    witness.act = act
    runner.begin([trial])
    until(lambda: not followers())
    witness.act = lambda: None
    runner.follow(lambda: False)
    until(lambda: witness.seen)


@pytest.fixture
def many_switches():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_whoever_asks_is_shown_something_new_at_whatever_moment(runner, witness, many_switches):
    for delay in range(1500):
        for _ in range(delay % 150):
            pass
        count = len(witness.seen)
        runner.follow(lambda: False)
        deadline = time.monotonic() + 5
        while len(witness.seen) == count:
            assert time.monotonic() < deadline


def test_there_is_a_pause_between_two_pictures(runner, witness, monkeypatch):
    monkeypatch.setattr("granet_lab.explorer.runner._GLANCE", 0.04)
    at_work = [True]
    runner.follow(lambda: at_work[0])
    time.sleep(0.1)
    at_work[0] = False
    quiet()
    assert len(witness.seen) <= 5


STARTING = "Starting."
CANCELLING = "Cancelling: epochs under way are ended."
CANCELLED = "Cancelled after 7 of 20 epochs. What was finished is kept."
ENDED = "Measuring ended: OSError: disk full. Run goes on from what was finished."


@pytest.mark.parametrize(
    ("job", "running", "ended"),
    [
        (Job(), [STARTING], []),
        (Job(done=1), [], []),
        (Job(done=7, cancelled=True), [CANCELLING], [CANCELLED]),
        (Job(cancelled=True, done=0), [CANCELLING], [CANCELLED.replace("7", "0")]),
        (Job(done=7, error="OSError: disk full"), [], [ENDED]),
        (Job(done=7, cancelled=True, error="OSError: disk full"), [CANCELLING], [ENDED]),
        (Job(done=7, warnings=["a worker died"]), ["A worker died."], ["A worker died."]),
        (
            Job(warnings=["a worker died", "again"], cancelled=True, done=7),
            ["A worker died.", "Again.", CANCELLING],
            ["A worker died.", "Again.", CANCELLED],
        ),
    ],
)
def test_what_becomes_of_a_job_is_told_in_sentences(runner, trial, job, running, ended):
    assert runner.result() == []
    runner.next = job
    runner.begin([trial])
    assert runner.result() == running
    job.end()
    assert runner.result() == ended


def test_what_was_read_is_told_once(runner, trial):
    runner.next = Job(done=7, cancelled=True)
    runner.begin([trial])
    runner.dismiss()
    assert runner.result() == [CANCELLING]
    runner.job.end()
    assert runner.result() == [CANCELLED]
    runner.dismiss()
    assert runner.result() == []
    runner.next = Job()
    runner.begin([trial])
    assert runner.result() == [STARTING]


def test_the_first_job_waits_for_its_processes(runner, trial):
    assert 1 < runner.head_start < 20
    runner.begin([trial])
    assert runner.head_start == 0


def test_there_are_as_many_workers_as_a_trial_like_these_leaves_room_for(lab, recipe, trial):
    wide = replace(trial, recipe=replace(recipe, threads=10_000))
    assert Runner(lab, wide, lambda: None).workers == 1
    assert Runner(lab, trial, lambda: None).workers == pools.worker_count([trial.recipe], "cpu")
