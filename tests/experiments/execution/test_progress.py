import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

import granet_lab as gl
from granet_lab.experiments import files
from granet_lab.experiments.execution import progress
from granet_lab.experiments.execution.progress import News, Stopped, Sweep, Task, telling
from granet_lab.experiments.identity import describe

CURVE = [{"recovery_epoch": 0, "test_acc": 31.5}, {"recovery_epoch": 1, "test_acc": 90.0}]


@pytest.fixture
def run(lab, recipe):
    return lab.run(recipe)


@pytest.fixture
def trial(recipe):
    return gl.Trial(recipe=recipe, epoch=2, pruning=gl.Pruning(rate=0.5), recovery_epochs=3)


@pytest.fixture
def said(run, trial):
    """Change what a trial's note says."""
    Task(run, trial).tell(1, 3, CURVE)
    path = progress.note_path(run, trial)
    plain = json.loads(path.read_text())

    def said(**changes):
        path.write_text(json.dumps(plain | changes))
        return path

    return said


@pytest.fixture(scope="module")
def dead_pid():
    """Of a process that has ended and was waited for."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_nothing_is_under_way_in_a_run_that_is_not_there(run, recipe, trial):
    assert progress.note(run, recipe) is progress.note(run, trial) is None
    assert progress.notes(run) == []


def test_a_note_says_what_its_task_told(run, trial):
    Task(run, trial).tell(1, 3, CURVE)
    note = progress.note(run, trial)
    assert (note.trial, note.done, note.of, note.curve) == (describe(trial), 1, 3, CURVE)
    assert (note.own, note.alive) == (True, True)
    assert 0 <= note.age < 60


def test_a_training_and_the_trials_of_its_run_have_a_note_each(run, recipe, trial):
    other = replace(trial, epoch=3)
    for done, work in enumerate((recipe, trial, other)):
        Task(run, work).tell(done, 4)
    assert [progress.note(run, work).done for work in (recipe, trial, other)] == [0, 1, 2]
    found = {note.done: note.trial for note in progress.notes(run)}
    assert found == {0: None, 1: describe(trial), 2: describe(other)}


def test_a_task_tells_often_and_leaves_a_note_now_and_then(run, trial):
    task, seen, count = Task(run, trial), [], 0
    started = time.monotonic()
    while (passed := time.monotonic() - started) < 0.5:
        count += 1
        task.tell(count, 10**6)
        seen.append(progress.note(run, trial).done)
    assert seen == sorted(seen)
    assert seen[0] == 1
    assert 1 < len(set(seen)) <= 1 + passed / 0.15
    assert count > 10


def test_notes_of_several_tasks_do_not_wait_for_each_other(run, recipe, trial):
    for work in (recipe, trial):
        Task(run, work).tell(0, 4)
    assert len(progress.notes(run)) == 2


def left(run, trial, error):
    """A task that leaves a note and then fails."""
    with telling(run, trial) as task:
        task.tell(0, 3)
        assert progress.note(run, trial) is not None
        raise error


@pytest.mark.parametrize("error", [Stopped, ValueError, KeyboardInterrupt])
def test_a_note_goes_away_with_its_task_however_that_ends(run, trial, error):
    with pytest.raises(error):
        left(run, trial, error)
    assert list((run.path / "progress").iterdir()) == []


def test_a_task_whose_note_somebody_took_away_ends_quietly_and_may_leave_another(run, trial):
    with telling(run, trial) as task:
        task.tell(0, 3)
        progress.note_path(run, trial).unlink()
        time.sleep(0.16)
        task.tell(1, 3)
        assert progress.note(run, trial).done == 1
        progress.note_path(run, trial).unlink()
    assert progress.notes(run) == []


def test_the_word_to_stop_is_heard_at_the_next_tell_however_soon_that_comes(run, trial, tmp_path):
    stop = tmp_path / ".stop"
    with telling(run, trial, stop) as task:
        task.tell(0, 3)
        task.tell(1, 3)
        stop.touch()
        with pytest.raises(Stopped):
            task.tell(2, 3)
        assert progress.note(run, trial).done == 0


def test_a_task_that_is_to_stop_before_it_began_leaves_no_note(run, trial, tmp_path):
    with pytest.raises(Stopped):
        Task(run, trial, tmp_path).tell(0, 3)
    assert not run.path.exists()


def test_without_a_file_to_watch_nobody_asks_to_stop(tmp_path):
    assert not progress.is_set(None)
    assert not progress.is_set(tmp_path / ".stop")
    assert progress.is_set(tmp_path)


def test_work_goes_on_where_no_note_can_be_written(run, trial):
    run.path.write_text("in the way")
    with telling(run, trial) as task:
        task.tell(0, 3)
        assert progress.note(run, trial) is None
        assert progress.notes(run) == []


def test_a_note_is_not_flushed_to_the_disk(run, trial, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: pytest.fail("the disk was waited for"))
    Task(run, trial).tell(0, 3)
    assert progress.note(run, trial).done == 0


def test_a_process_that_is_gone_is_not_alive_however_young_its_note(said, run, trial, dead_pid):
    said(pid=dead_pid)
    note = progress.note(run, trial)
    assert (note.alive, note.done) == (False, 1)


def test_a_process_that_is_there_is_alive_however_old_its_note(said, run, trial):
    yesterday = time.time() - 86400
    os.utime(said(), (yesterday, yesterday))
    note = progress.note(run, trial)
    assert note.alive
    assert note.age == pytest.approx(86400, abs=60)


@pytest.mark.parametrize(("age", "alive"), [(0, True), (540, True), (660, False), (86400, False)])
def test_another_machines_process_is_alive_while_its_note_is_young(
    said, run, trial, dead_pid, age, alive
):
    then = time.time() - age
    os.utime(said(host="elsewhere", pid=dead_pid), (then, then))
    note = progress.note(run, trial)
    assert (note.alive, note.own) == (alive, False)


def test_a_note_from_the_future_has_no_age(said, run, trial):
    soon = time.time() + 3600
    os.utime(said(host="elsewhere", began=soon), (soon, soon))
    note = progress.note(run, trial)
    assert (note.age, note.elapsed, note.alive) == (0, 0, True)


def test_a_note_tells_how_long_ago_its_task_began(run, trial, said):
    task = Task(run, trial)
    time.sleep(0.05)
    for done in range(2):
        task._told = 0.0
        task.tell(done, 3)
        assert 0.05 <= progress.note(run, trial).elapsed < 60
    said(began=time.time() - 3600)
    assert progress.note(run, trial).elapsed == pytest.approx(3600, abs=60)


def test_a_task_is_own_in_this_process_and_in_its_children_alone(said, run, trial):
    me, init = os.getpid(), 1
    own = []
    for who in (
        {"pid": me, "parent": init},
        {"pid": init, "parent": me},
        {"pid": init, "parent": init},
        {"pid": me, "parent": me, "host": "elsewhere"},
    ):
        said(**who)
        own.append(progress.note(run, trial).own)
    assert own == [True, True, False, False]


def test_a_note_cut_off_anywhere_is_no_note(said, run, trial):
    path = said()
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert progress.note(run, trial) is None
    path.write_bytes(whole)
    assert progress.note(run, trial) is not None


@pytest.mark.parametrize(
    "content",
    [b"null", b"3", b'"text"', b"[]", b"{}", b"\xff\xfe\x00", b"[" * 100_000, b'{"host": 1e999}'],
    ids=lambda content: repr(content[:12]),
)
def test_what_is_no_note_is_none(said, run, trial, content):
    said().write_bytes(content)
    assert progress.note(run, trial) is None
    assert progress.notes(run) == []


@pytest.mark.parametrize(
    "nonsense",
    [
        {"done": "many"},
        {"of": None},
        {"curve": 3},
        {"began": "yesterday"},
        {"pid": None},
        {"pid": "1"},
        {"pid": 10**30},
    ],
    ids=str,
)
def test_a_note_that_makes_no_sense_is_none(said, run, trial, nonsense):
    said(**nonsense)
    assert progress.note(run, trial) is None


def test_news_is_what_a_task_told_since_the_last_look(run, trial, recipe):
    news, task = News(), Task(run, trial)
    assert news.of(run) == {}
    task.tell(0, 3)
    Task(run, recipe).tell(1, 4)
    assert sorted(note.done for note in news.of(run).values()) == [0, 1]
    assert news.of(run) == {}
    task._told = 0.0
    task.tell(2, 3)
    assert {name: note.done for name, note in news.of(run).items()} == {
        progress.note_path(run, trial).stem: 2
    }


def test_what_was_no_note_may_become_news(run, trial, said):
    news, path = News(), said(done="?")
    assert news.of(run) == {}
    said(done=2)
    assert [note.done for note in news.of(run).values()] == [2]
    path.unlink()
    assert news.of(run) == {}


def test_half_a_note_of_a_writer_that_was_killed_is_not_looked_at(said, run, trial):
    path = said()
    path.with_name(f".{path.name}.0a1b2c3d.tmp").write_text("{")
    assert len(progress.notes(run)) == 1


def test_a_note_is_replaced_whole(run, trial):
    task = Task(run, trial)
    for done in range(30):
        task._told = 0.0
        task.tell(done, 30, CURVE * done)
        assert progress.note(run, trial).curve == CURVE * done
    assert [path.name for path in (run.path / "progress").iterdir()] == [
        progress.note_path(run, trial).name
    ]
    assert files.canonical(progress.note(run, trial).trial) == files.canonical(describe(trial))


def test_sweeps_have_a_note_each_apart_from_those_of_runs(lab, run, recipe):
    sweeps = [Sweep(lab.path) for _ in range(2)]
    assert progress.sweeps(lab.path) == []
    for done, sweep in enumerate(sweeps):
        sweep.tell(done, 40)
    Task(run, recipe).tell(2, 4)
    found = progress.sweeps(lab.path)
    assert sorted((note.trial, note.done, note.of, note.own) for note in found) == [
        (None, 0, 40, True),
        (None, 1, 40, True),
    ]
    sweeps[0].end()
    assert [note.done for note in progress.sweeps(lab.path)] == [1]
    assert [note.done for note in progress.notes(run)] == [2]
