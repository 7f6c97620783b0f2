import os
import subprocess
import sys
import time
from dataclasses import replace

import notes
import pytest
from notes import CURVE, Task, amend, later, pages, telling

import granet_lab as gl
from granet_lab.experiments.execution import progress
from granet_lab.experiments.execution.progress import SWEEP, TRAINING, News, named
from granet_lab.experiments.execution.telling import Teller


@pytest.fixture
def said(run, trial):
    """Change what a trial's note says."""
    Task(run.path, named(trial)).tell(1, 3, CURVE)
    (path,) = pages(run.path)
    plain = path.read_text()

    def said(**changes):
        path.write_text(plain)
        amend(path, **changes)
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
    assert progress.notes(run) == {}


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
    os.utime(said(where="elsewhere", pid=dead_pid), (then, then))
    note = progress.note(run, trial)
    assert (note.alive, note.own) == (alive, False)


def test_a_note_from_the_future_has_no_age(said, run, trial):
    soon = time.time() + 3600
    os.utime(said(where="elsewhere", began=soon), (soon, soon))
    note = progress.note(run, trial)
    assert (note.age, note.elapsed, note.alive) == (0, 0, True)


def test_a_note_tells_how_long_ago_its_task_began(run, trial, said):
    time.sleep(0.05)
    assert 0.05 <= progress.note(run, trial).elapsed < 60
    said(began=time.time() - 3600)
    assert progress.note(run, trial).elapsed == pytest.approx(3600, abs=60)


def test_a_task_began_when_it_told_of_itself_first(run, trial):
    with telling(run, trial) as task:
        task.tell(0, 3)
        time.sleep(0.05)
        task.tell(1, 3)
        assert 0.05 <= progress.note(run, trial).elapsed < 60


def test_a_task_is_own_in_this_process_and_in_its_children_alone(said, run, trial):
    me, init = os.getpid(), 1
    own = []
    for who in (
        {"pid": me, "parent": init},
        {"pid": init, "parent": me},
        {"pid": init, "parent": init},
        {"pid": me, "parent": me, "where": "elsewhere"},
    ):
        said(**who)
        own.append(progress.note(run, trial).own)
    assert own == [True, True, False, False]


def test_a_note_cut_off_anywhere_is_no_note(said, run, trial):
    path = said()
    whole = path.read_bytes()
    for length in range(len(whole) - 1):  # all but the last line's end
        path.write_bytes(whole[:length])
        assert progress.note(run, trial, curve=True) is None
        assert bool(progress.notes(run)) == (length >= whole.index(b"\n"))
    path.write_bytes(whole)
    assert progress.note(run, trial, curve=True) is not None


@pytest.mark.parametrize(
    "content",
    [b"null", b"3", b'"text"', b"[]", b"{}", b"\xff\xfe\x00", b"[" * 100_000, b'{"pid": 1e999}'],
    ids=lambda content: repr(content[:12]),
)
def test_what_is_no_note_is_none(said, run, trial, content):
    said().write_bytes(content + b"\n" + content)
    assert progress.notes(run) == {}
    assert list(News().of(run)) == []
    progress.tidy(run.path)


@pytest.mark.parametrize(
    "nonsense",
    [
        {"done": "many"},
        {"of": None},
        {"began": "yesterday"},
        {"pid": None},
        {"pid": "one"},
        {"tasks": 3},
        {"tasks": {"training": 3}},
        {"tasks": {"training": {"done": 1, "of": 2}}},
    ],
    ids=str,
)
def test_a_note_that_makes_no_sense_is_none(said, run, trial, nonsense):
    said(**nonsense)
    assert progress.notes(run) == {}


def test_of_two_notes_of_a_task_the_living_ones_counts_and_then_the_younger(run, trial, dead_pid):
    for done, pid, age in ((0, dead_pid, 5), (1, os.getpid(), 100), (2, os.getpid(), 200)):
        before = {*pages(run.path)}
        Task(run.path, named(trial)).tell(done, 3)
        (path,) = {*pages(run.path)} - before
        amend(path, pid=pid)
        os.utime(path, (time.time() - age, time.time() - age))
    assert progress.note(run, trial).done == 1


def test_news_is_what_a_task_told_since_the_last_look(run, trial, recipe):
    news, task = News(), Task(run.path, named(trial))
    assert list(news.of(run)) == []
    task.tell(0, 3, CURVE)
    Task(run.path, TRAINING).tell(1, 4)
    found = dict(news.of(run))
    assert {name: note.done for name, note in found.items()} == {named(trial): 0, TRAINING: 1}
    assert found[named(trial)].curve == []  # who counts epochs does not read it
    assert list(news.of(run)) == []
    task.tell(2, 3)
    assert [(name, note.done) for name, note in news.of(run)] == [(named(trial), 2)]


def test_news_of_many_tasks_of_a_process_comes_at_once(run, trial):
    teller = Teller()
    for epoch in range(4):
        teller.tell(run.path, named(replace(trial, epoch=epoch)), epoch, 5)
    teller.tell(run.path, named(trial), 4, 5)
    later(teller)
    teller.check()
    assert sorted(note.done for _, note in News().of(run)) == [0, 1, 3, 4]


def test_what_was_no_note_may_become_news(run, trial, said):
    news, path = News(), said(done="?")
    assert list(news.of(run)) == []
    said(done=2)
    assert [note.done for _, note in news.of(run)] == [2]
    path.unlink()
    assert list(news.of(run)) == []


def test_half_a_note_of_a_writer_that_was_killed_is_not_looked_at(said, run, trial):
    path = said()
    path.with_name(f".{path.name}.0a1b2c3d.tmp").write_text("{")
    assert len(progress.notes(run)) == 1


def test_each_trial_has_its_own_curve_in_the_file_that_they_share(run, recipe, trial):
    teller, others = Teller(), [replace(trial, epoch=epoch) for epoch in range(4)]
    teller.tell(run.path, TRAINING, 1, 4)
    for other in others:
        teller.tell(run.path, named(other), 1, 3, CURVE * other.epoch)
    teller.end(run.path, named(others[1]))
    teller.tell(run.path, TRAINING, 2, 4)
    later(teller)
    teller.check()
    assert len(pages(run.path)) == 1
    for other in others[2:]:
        assert progress.note(run, other, curve=True).curve == CURVE * other.epoch
        assert progress.note(run, other).curve == []
    assert progress.note(run, others[1], curve=True) is None
    assert progress.note(run, recipe, curve=True).curve == []
    assert all(note.curve == [] for note in progress.notes(run).values())


def test_notes_of_the_dead_are_taken_away_and_those_of_the_living_stay(run, trial, said, dead_pid):
    said(pid=dead_pid)
    with telling(run, run.recipe) as task:
        task.tell(1, 4)
        progress.tidy(run.path)
        assert progress.notes(run).keys() == {TRAINING}
        assert len(pages(run.path)) == 1
        progress.tidy(run.path, [named(trial)])
        assert progress.notes(run).keys() == {TRAINING}
        progress.tidy(run.path, [named(trial), TRAINING])
        assert pages(run.path) == []
    progress.tidy(run.path.with_name("nowhere"))


def test_notes_about_something_else_as_well_stay(run, trial):
    """Another job of the same notebook measures one of the same trials."""
    teller, other = Teller(), replace(trial, epoch=3)
    for work in (trial, other):
        teller.tell(run.path, named(work), 1, 3)
    later(teller)
    teller.check()
    progress.tidy(run.path, [named(trial), TRAINING])
    assert progress.notes(run).keys() == {named(trial), named(other)}
    progress.tidy(run.path, [named(trial), named(other)])
    assert progress.notes(run) == {}


def test_a_younger_process_of_the_same_number_is_not_the_one_that_told(said, run, trial):
    said(born="1")
    assert not progress.note(run, trial).alive
    progress.tidy(run.path)
    assert pages(run.path) == []


@pytest.mark.parametrize("age", [0, 700])
def test_what_nobody_can_read_is_taken_away_once_it_is_old(said, run, age):
    path = said()
    path.write_text("")
    os.utime(path, (time.time() - age, time.time() - age))
    progress.tidy(run.path)
    assert path.exists() == (age == 0)


def test_what_a_killed_training_has_left_is_gone_after_the_next(lab, recipe, dead_pid):
    (trial,) = gl.grid(recipe, epoch=1, rate=0.5, recovery_epochs=1)
    run = lab.run(recipe)
    for work in (lambda: lab.train(recipe, progress=False), lambda: lab.measure(trial)):
        Task(run.path, TRAINING).tell(1, 4)
        notes.sweep(lab).tell(1, 4)
        for path in (*pages(run.path), *pages(lab.path)):
            amend(path, pid=dead_pid)
        work()
        assert [path for path in pages(run.path) if path.suffix == ".notes"] == []
    assert pages(lab.path) == []


def test_notes_of_another_living_process_stay_whoever_names_them(run, trial, said):
    said(pid=1, parent=1)
    progress.tidy(run.path, [named(trial)])
    assert progress.note(run, trial) is not None


def test_sweeps_have_a_note_each_apart_from_those_of_runs(lab, run, recipe):
    sweeps = [notes.sweep(lab) for _ in range(2)]
    assert progress.sweeps(lab.path) == []
    for done, sweep in enumerate(sweeps):
        sweep.tell(done, 40)
    with telling(run, recipe) as task:
        task.tell(2, 4)
        found = progress.sweeps(lab.path)
        assert sorted((note.done, note.of, note.own) for note in found) == [
            (0, 40, True),
            (1, 40, True),
        ]
        sweeps[0].end()
        assert [note.done for note in progress.sweeps(lab.path)] == [1]
        assert [note.done for note in progress.notes(run).values()] == [2]
    assert SWEEP not in progress.notes(run)
