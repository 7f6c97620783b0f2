import contextlib
import functools
import re
import threading
import time
from dataclasses import replace
from importlib import import_module

import notes
import pytest
import waiting
from notes import amend, pages, telling

import granet_lab as gl

watching = import_module("granet_lab.explorer.watch")  # its function has the same name
NOTHING = "Nothing is under way."


def watchers():
    return [thread for thread in threading.enumerate() if thread.name == "granet-lab watch"]


@pytest.fixture
def shown(lab):
    """The table as it is now: the text of its cells, row by row, and what stands below it."""

    def shown():
        with contextlib.closing(gl.watch(lab)) as watch:
            html = watch.widget.value.rpartition("</style>")[2]
        table, below = html.rpartition("</table>")[::2]
        rows = [re.findall("<td>(.*?)</td>", row) for row in re.findall("<tr>(.*?)</tr>", table)]
        cells = [[re.sub("<[^>]+>", "", cell) for cell in row] for row in rows if row]
        return cells, re.sub("<[^>]+>", "", below)

    yield shown
    until(lambda: not watchers())


until = functools.partial(waiting.until, within=20)


def test_an_empty_lab_says_so(lab, shown):
    assert shown() == ([], f"{lab.path} holds no run yet.")


def test_a_trained_run_has_its_accuracy_and_its_trials(shown, put_history, put_trial, recipe):
    put_history(recipe, [10.0, 50.0, 80.0, 90.0, 95.25])
    for trial in gl.grid(recipe, epoch=[0, 2], rate=0.5):
        put_trial(trial)
    name = "digits, mlp, dense, seed 0"
    assert shown() == ([[name, "", "trained", "95.2%", "2"]], NOTHING)


@pytest.mark.parametrize(
    ("accuracies", "diverged", "state", "accuracy"),
    [
        ([10.0], False, "stopped at epoch 0 of 4", "10.0%"),
        ([10.0, 20.0, 30.0], False, "stopped at epoch 2 of 4", "30.0%"),
        ([10.0, 20.0, 30.0], True, "diverged after epoch 2", ""),
        ([10.0], True, "diverged after epoch 0", ""),
    ],
)
def test_a_run_that_is_not_trained_to_its_end_says_why(
    shown, put_history, recipe, accuracies, diverged, state, accuracy
):
    put_history(recipe, accuracies, diverged)
    (row,), below = shown()
    assert row[2:] == [state, accuracy, "0"]
    assert below == NOTHING


def test_a_run_whose_training_has_just_been_prepared_stopped_at_its_beginning(
    lab, shown, put_history, recipe
):
    put_history(recipe, [10.0])
    (lab.run(recipe).path / "history.jsonl").unlink()
    (row,), _ = shown()
    assert row[2:4] == ["stopped at epoch 0 of 4", ""]


def test_runs_are_told_apart_by_method_and_seed(shown, put_history, recipe, sparse_recipe):
    put_history(replace(recipe, seed=3), [10.0])
    put_history(sparse_recipe, [10.0])
    rows, _ = shown()
    assert [row[0] for row in rows] == [
        "digits, mlp, dense, seed 3",
        "digits, mlp, static 0.8, seed 0",
    ]


def test_a_training_is_under_way_while_its_process_is_there(lab, shown, put_history, recipe):
    put_history(recipe, [10.0, 20.0])
    with telling(lab.run(recipe), recipe) as task:
        task.tell(1, 4)
        (row,), below = shown()
        assert row[2:] == ["training, epoch 1 of 4", "20.0%", "0"]
        assert below == ""
        amend(*pages(lab.run(recipe).path), pid=4194999)
        (row,), below = shown()
        assert row[2] == "stopped at epoch 1 of 4"
        assert below == NOTHING


def test_trials_under_way_are_told_beside_those_that_are_measured(
    lab, shown, put_history, put_trial, recipe
):
    put_history(recipe, [10.0] * 5)
    measured, first, second = gl.grid(recipe, epoch=[1, 2, 3], rate=0.5, recovery_epochs=6)
    put_trial(measured)
    with telling(lab.run(recipe), first) as task, telling(lab.run(recipe), second) as other:
        task.tell(2, 6)
        other.tell(0, 6)
        (row,), below = shown()
    count, *under_way = row[4].split(", ")
    assert count == "1"
    assert sorted(under_way) == ["epoch 0 of 6 of another", "epoch 2 of 6 of another"]
    assert row[2] == "trained"
    assert below == ""


def test_files_that_are_no_trials_are_not_counted(lab, shown, put_history, put_trial, recipe):
    put_history(recipe, [10.0] * 5)
    trial = put_trial(gl.grid(recipe, epoch=1, rate=0.5)[0])
    trial.with_name(f".{trial.name}.tmp").touch()
    trial.with_name(f".{trial.name}").touch()
    trial.with_name(f"{trial.name}.damaged-0a1b").touch()
    (row,), _ = shown()
    assert row[4] == "1"


def test_who_is_at_work_comes_first(lab, shown, put_history, recipe):
    runs = [replace(recipe, seed=seed) for seed in range(4)]
    for run in runs:
        put_history(run, [10.0])
    with telling(lab.run(runs[2]), runs[2]) as task:
        task.tell(0, 4)
        rows, _ = shown()
    assert [row[0][-1] for row in rows] == ["2", "0", "1", "3"]


@pytest.fixture
def sweep(lab):
    """A sweep that tells how far it is, and the path of its note."""
    made = notes.sweep(lab)

    def tell(done, of):
        made.tell(done, of)
        (path,) = pages(lab.path)
        return path

    yield tell
    made.end()


def test_a_sweep_says_whose_it_is_and_how_long_it_will_take(sweep, shown):
    path = sweep(5, 20)
    amend(path, began=time.time() - 100)
    ((name, _, state, *rest),), below = shown()
    assert name == "sweep in this notebook"
    assert state == "5 of 20 epochs, 5 min left"
    assert rest == ["", ""]
    assert below == ""
    amend(path, pid=1, parent=1)
    assert shown()[0][0][0] == "sweep in another process"
    amend(path, pid=4194999)
    assert shown()[0] == []


def test_a_sweep_that_has_just_begun_does_not_know_how_long_it_will_take(sweep, shown):
    sweep(0, 20)
    ((_, _, state, *_),), _ = shown()
    assert state == "0 of 20 epochs"


def test_bars_show_what_is_done(lab, put_history, recipe):
    put_history(recipe, [10.0, 20.0, 30.0])
    with contextlib.closing(gl.watch(lab)) as watch:
        assert '<progress max="4" value="2" title="2 of 4">' in watch.widget.value


def test_thirty_runs_are_shown_and_more_are_counted(shown, put_history, recipe):
    for seed in range(30):
        put_history(replace(recipe, seed=seed), [10.0])
    assert len(shown()[0]) == 30
    for seed in range(30, 33):
        put_history(replace(recipe, seed=seed), [10.0])
    rows, _ = shown()
    assert len(rows) == 31
    assert rows[-1] == ["", "", "and 3 more runs", "", ""]


def test_what_cannot_be_read_is_told_in_words(lab, shown, put_history, recipe):
    put_history(recipe, [10.0])
    path = lab.run(recipe).path / "history.jsonl"
    path.unlink()
    path.mkdir()
    rows, said = shown()
    assert rows == []
    assert said.startswith(f"cannot read {lab.path}: ")
    path.rmdir()
    assert len(shown()[0]) == 1


def test_names_cannot_become_part_of_the_page(tmp_path):
    lab = gl.Lab(tmp_path / "<b>runs", device="cpu")
    with contextlib.closing(gl.watch(lab)) as watch:
        assert "&lt;b&gt;runs" in watch.widget.value
        assert "<b>" not in watch.widget.value


def test_the_table_keeps_itself_up_to_date_until_it_is_closed(
    lab, put_history, recipe, monkeypatch
):
    monkeypatch.setattr(watching, "_GLANCE", 0.01)
    monkeypatch.setattr(watching, "_REST", 0.01)
    watch = gl.watch(lab)
    assert "holds no run yet" in watch.widget.value
    put_history(recipe, [10.0])
    until(lambda: "stopped at epoch 0" in watch.widget.value)
    put_history(recipe, [10.0] * 5)
    until(lambda: "trained" in watch.widget.value)
    watch.close()
    until(lambda: not watchers())
    put_history(replace(recipe, seed=1), [10.0])
    time.sleep(0.1)
    assert "stopped" not in watch.widget.value


def test_one_looks_more_often_while_something_is_under_way(lab, put_history, recipe, monkeypatch):
    monkeypatch.setattr(watching, "_GLANCE", 0.01)
    monkeypatch.setattr(watching, "_REST", 1000)
    put_history(recipe, [10.0])
    with telling(lab.run(recipe), recipe) as task, contextlib.closing(gl.watch(lab)) as watch:
        task.tell(0, 4)
        time.sleep(0.05)
        for epochs in range(2, 5):
            put_history(recipe, [10.0] * epochs)
            until(lambda done=epochs - 1: f"training, epoch {done} of 4" in watch.widget.value)


def test_what_cannot_be_read_for_a_moment_is_shown_again(lab, put_history, recipe, monkeypatch):
    monkeypatch.setattr(watching, "_GLANCE", 0.01)
    monkeypatch.setattr(watching, "_REST", 0.01)
    path = lab.run(recipe).path / "history.jsonl"
    put_history(recipe, [10.0] * 5)
    path.rename(path.with_name("aside"))
    path.mkdir()
    with contextlib.closing(gl.watch(lab)) as watch:
        assert "cannot read" in watch.widget.value
        path.rmdir()
        path.with_name("aside").rename(path)
        until(lambda: "trained" in watch.widget.value)


def test_a_page_without_a_kernel_gets_the_table_as_it_stands(lab, put_history, recipe):
    put_history(recipe, [10.0] * 5)
    with contextlib.closing(gl.watch(lab)) as watch:
        bundle = watch._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert watch.widget.value in bundle["text/html"]
    assert "As of now" in bundle["text/html"]
    assert bundle["text/plain"] == repr(watch) == f"Watch(Lab({str(lab.path)!r}: 1 run))"
