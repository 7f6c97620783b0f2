import itertools
import json
import time
from contextlib import closing
from dataclasses import replace

import pytest
from notes import CURVE, later, pages, telling

from granet_lab.experiments import files
from granet_lab.experiments.execution import progress
from granet_lab.experiments.execution.progress import TRAINING, named
from granet_lab.experiments.execution.telling import Stopped, Teller, is_set


def test_what_is_told_first_can_be_read_at_once(run, trial):
    Teller().tell(run.path, named(trial), 1, 3, CURVE)
    note = progress.note(run, trial, curve=True)
    assert (note.done, note.of, note.curve) == (1, 3, CURVE)


def test_tasks_of_one_process_in_one_folder_share_a_file(run, recipe, trial, tmp_path):
    teller, other = Teller(), replace(trial, epoch=3)
    for done, work in enumerate((recipe, trial, other)):
        teller.tell(run.path, named(work), done, 4)
    teller.tell(tmp_path / "elsewhere", TRAINING, 4, 4)
    later(teller)
    teller.check()
    assert [progress.note(run, work).done for work in (recipe, trial, other)] == [0, 1, 2]
    assert len(pages(run.path)) == len(pages(tmp_path / "elsewhere")) == 1


def test_what_was_told_a_moment_ago_is_written_a_moment_later_without_being_told_again(run, trial):
    """Those of a stack tell all at once, and then not for the length of an epoch."""
    teller, others = Teller(), [replace(trial, epoch=epoch) for epoch in range(4)]
    for other in others:
        teller.tell(run.path, named(other), 1, 3, CURVE)
    started = time.monotonic()
    while len(progress.notes(run)) < 4:
        assert time.monotonic() - started < 10
        teller.check()
    assert time.monotonic() - started > 0.1
    assert {note.done for note in progress.notes(run).values()} == {1}


def test_what_a_stack_tells_at_the_end_of_an_epoch_is_written_once(run, trial, monkeypatch):
    teller, others = Teller(), [replace(trial, epoch=epoch) for epoch in range(4)]
    sizes, write = [], files.write
    monkeypatch.setattr(
        files,
        "write",
        lambda path, content, **how: sizes.append(len(content)) or write(path, content, **how),
    )
    for done in range(3):
        for other in others:
            later(teller)
            teller.tell(run.path, named(other), done, 3)
        later(teller)
        for _ in range(100):
            teller.check()
        assert {note.done for note in progress.notes(run).values()} == {done}
    assert len(sizes) == 1 + 3  # the first of them is seen at once


def test_notes_are_told_often_and_written_now_and_then(run, trial, monkeypatch):
    monkeypatch.setattr("granet_lab.experiments.execution.telling._REST", 0)
    teller, seen, count = Teller(), [], 0
    started = time.monotonic()
    while (passed := time.monotonic() - started) < 0.5:
        count += 1
        teller.tell(run.path, named(trial), count, 10**6)
        seen.append(progress.note(run, trial).done)
    assert seen == sorted(seen)
    assert seen[0] == 1
    assert 1 < len(set(seen)) <= 1 + passed / 0.15
    assert count > 10


def test_writing_takes_a_small_part_of_the_time_however_slow_the_disk(run, trial, monkeypatch):
    """A stack's notes may be large, and its disk that of another machine."""
    times, write = [], files.write

    def slowly(*args, **kwargs):
        times.append(time.monotonic())
        time.sleep(0.02)
        write(*args, **kwargs)

    monkeypatch.setattr(files, "write", slowly)
    teller, done = Teller(), 0
    while len(times) < 3:
        done += 1
        teller.tell(run.path, named(trial), done, 10**9)
    assert all(b - a >= 20 * 0.02 for a, b in itertools.pairwise(times))


def left(run, trial, error):
    """Tasks that leave notes until one of them fails."""
    with closing(Teller()) as teller:
        teller.tell(run.path, named(trial), 0, 3)
        teller.tell(run.path, TRAINING, 0, 3)
        assert progress.notes(run)
        raise error


@pytest.mark.parametrize("error", [Stopped, ValueError, KeyboardInterrupt])
def test_notes_go_away_with_the_teller_however_that_ends(run, recipe, trial, error):
    with pytest.raises(error):
        left(run, trial, error)
    assert list((run.path / "progress").iterdir()) == []


def test_what_has_ended_is_not_told_any_more_and_the_others_are(run, recipe, trial):
    teller = Teller()
    for work in (trial, recipe):
        teller.tell(run.path, named(work), 1, 3)
    later(teller)
    teller.check()
    assert len(progress.notes(run)) == 2
    teller.end(run.path, named(trial))
    later(teller)
    teller.check()
    assert progress.notes(run).keys() == {TRAINING}
    teller.end(run.path, TRAINING)
    assert pages(run.path) == []
    for ended in (named(trial), TRAINING, "never told"):
        teller.end(run.path, ended)
    teller.end(run.path.with_name("nowhere"), TRAINING)
    later(teller)
    teller.check()
    assert pages(run.path) == []


def test_after_everything_has_ended_one_may_tell_again(run, trial):
    teller = Teller()
    for done in range(3):
        teller.tell(run.path, named(trial), done, 3)
        later(teller)
        teller.check()
        assert progress.note(run, trial).done == done
        teller.end(run.path, named(trial))
        assert pages(run.path) == []
        later(teller)


def test_a_note_that_somebody_took_away_is_written_again(run, trial):
    with telling(run, trial) as task:
        task.tell(0, 3)
        (path,) = pages(run.path)
        path.unlink()
        task.tell(1, 3)
        assert progress.note(run, trial).done == 1
        path.unlink()
    assert progress.notes(run) == {}


def test_what_could_not_be_written_is_written_once_it_can_be(run, trial, monkeypatch):
    teller, write = Teller(), files.write
    teller.tell(run.path, named(trial), 1, 3)
    later(teller)

    def full(*args, **kwargs):
        monkeypatch.setattr(files, "write", write)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write", full)
    teller.tell(run.path, named(trial), 2, 3)
    assert progress.note(run, trial).done == 1
    later(teller)
    teller.check()
    assert progress.note(run, trial).done == 2


def test_a_long_epoch_gives_a_sign_of_life_every_minute(run, trial):
    """On another machine nobody can see whether the process is there."""
    teller = Teller()
    teller.tell(run.path, named(trial), 1, 3)
    (path,) = pages(run.path)
    path.unlink()
    for passed, there in ((59, False), (61, True)):
        later(teller)
        teller._pages[run.path]._told = time.monotonic() - passed
        teller.check()
        assert path.exists() == there


def test_the_word_to_stop_is_heard_at_the_next_tell_however_soon_that_comes(run, trial, tmp_path):
    stop = tmp_path / ".stop"
    teller = Teller(stop)
    for done in range(2):
        teller.tell(run.path, named(trial), done, 3)
    stop.touch()
    with pytest.raises(Stopped):
        teller.tell(run.path, named(trial), 2, 3)
    assert progress.note(run, trial).done == 0


def test_the_word_to_stop_is_looked_for_now_and_then_between(tmp_path, monkeypatch):
    stop, looked = tmp_path / ".stop", []
    teller = Teller(stop)
    monkeypatch.setattr(
        "granet_lab.experiments.execution.telling.is_set",
        lambda path: looked.append(path) or is_set(path),
    )
    started = time.monotonic()
    while time.monotonic() - started < 0.4:
        teller.check()
    assert 2 <= len(looked) <= 3
    stop.touch()
    later(teller)
    with pytest.raises(Stopped):
        teller.check()


def test_a_task_that_is_to_stop_before_it_began_leaves_no_note(run, trial, tmp_path):
    with pytest.raises(Stopped):
        Teller(tmp_path).tell(run.path, named(trial), 0, 3)
    assert not run.path.exists()


def test_without_a_file_to_watch_nobody_asks_to_stop(tmp_path):
    assert not is_set(None)
    assert not is_set(tmp_path / ".stop")
    assert is_set(tmp_path)


def test_work_goes_on_where_no_note_can_be_written(run, trial):
    run.path.write_text("in the way")
    with telling(run, trial) as task:
        task.tell(0, 3)
        assert progress.notes(run) == {}


def test_a_note_is_not_flushed_to_the_disk(run, trial, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: pytest.fail("the disk was waited for"))
    Teller().tell(run.path, named(trial), 0, 3)
    assert progress.note(run, trial).done == 0


def test_notes_are_replaced_whole(run, trial):
    teller = Teller()
    for done in range(30):
        later(teller)
        teller.tell(run.path, named(trial), done, 30, CURVE * done)
        assert progress.note(run, trial, curve=True).curve == CURVE * done
    (path,) = pages(run.path)
    assert json.loads(path.read_text().splitlines()[1]) == CURVE * 29
