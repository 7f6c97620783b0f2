import json
import os
import shutil
import time
from dataclasses import replace

import pytest

import granet_lab as gl
from granet_lab.experiments import files
from granet_lab.experiments.execution.tasks import result
from granet_lab.experiments.identity import identity
from granet_lab.experiments.results import Results
from granet_lab.experiments.trainings import train


@pytest.fixture
def trials(recipe):
    return gl.grid(recipe, epoch=[0, 2], rate=[0.5, 0.9], recovery_epochs=0)


@pytest.fixture
def results(lab):
    return Results(lab.path)


def put_trial(lab, trial):
    """A small trial file, written as the real ones are."""
    path = lab.run(trial.recipe).trial_path(identity(trial))
    files.write_json(path, {"row": {"rate": trial.pruning.rate}})
    return path


def put_history(lab, recipe, epochs):
    path = lab.run(recipe).path / "history.jsonl"
    rows = [json.dumps({"epoch": epoch}) + "\n" for epoch in range(epochs + 1)]
    files.write(path, "".join(rows).encode())
    return path


def spoil(path):
    path.write_bytes(path.read_bytes()[:-3])


def set_clock(path, nanoseconds):
    os.utime(path, ns=(nanoseconds, nanoseconds))


def test_an_empty_folder_holds_nothing(results, recipe, trials):
    assert not results.refresh([recipe])
    assert results.version == 0
    assert results.trial(trials[0]) is None
    assert results.history(recipe) == results.all_trials() == results.damaged == []


def test_what_is_measured_is_found_as_it_was_written(lab, results, recipe, trials):
    lab.measure(trials, workers=1, progress=False)
    assert results.refresh([recipe])
    assert [results.trial(trial) for trial in trials] == [result(lab.path, t) for t in trials]
    assert results.history(recipe) == lab.run(recipe).rows()
    assert len(results.all_trials()) == len(trials)


def test_a_run_in_training_is_followed_epoch_by_epoch(lab, results, recipe):
    for row in train(lab.run(recipe)):
        assert results.refresh([recipe])
        assert len(results.history(recipe)) == row["epoch"] + 1
        assert results.version == row["epoch"]


def test_the_version_goes_up_by_one_and_only_for_news(lab, results, recipe, trials):
    versions = []
    for change in (
        lambda: put_history(lab, recipe, 2),
        lambda: None,
        lambda: [put_trial(lab, trial) for trial in trials[:3]],
        lambda: None,
        lambda: put_trial(lab, trials[0]),
        lambda: (put_trial(lab, trials[3]), put_history(lab, recipe, 3)),
        lambda: put_history(lab, recipe, 3),
        lambda: None,
    ):
        change()
        before = results.version
        assert results.refresh([recipe]) == (results.version > before)
        versions.append(results.version)
    assert versions == [1, 1, 2, 2, 2, 3, 3, 3]


def test_a_trial_is_read_once_however_often_one_looks(lab, results, recipe, trials, monkeypatch):
    read, real = [], files.read_json
    monkeypatch.setattr(files, "read_json", lambda path: read.append(path.stem) or real(path))
    for trial in trials:
        put_trial(lab, trial)
        results.refresh([recipe])
        results.refresh([recipe])
    assert read == [identity(trial) for trial in trials]


def test_only_the_runs_asked_for_are_looked_at(lab, results, recipe, trials):
    other = replace(recipe, seed=1)
    for one in (recipe, other):
        put_history(lab, one, 1)
    assert results.refresh(iter([recipe]))
    assert results.history(other) == []
    assert results.refresh(one for one in (recipe, other))
    assert len(results.history(other)) == len(results.history(recipe)) == 2
    assert results.version == 2


def test_news_of_any_run_are_news(lab, results, recipe):
    runs = [replace(recipe, seed=seed) for seed in range(3)]
    for version, run in enumerate(runs, start=1):
        put_history(lab, run, 1)
        assert results.refresh(runs)
        assert results.version == version


def test_a_trial_that_was_removed_is_forgotten(lab, results, recipe, trials):
    paths = [put_trial(lab, trial) for trial in trials]
    results.refresh([recipe])
    paths[1].unlink()
    assert results.refresh([recipe])
    assert [results.trial(trial) is None for trial in trials] == [False, True, False, False]
    assert len(results.all_trials()) == 3
    assert results.damaged == []


def test_a_run_that_was_removed_is_forgotten(lab, results, recipe, trials):
    put_history(lab, recipe, 2)
    put_trial(lab, trials[0])
    results.refresh([recipe])
    shutil.rmtree(lab.run(recipe).path)
    assert results.refresh([recipe])
    assert results.history(recipe) == results.all_trials() == []
    assert results.trial(trials[0]) is None
    assert not results.refresh([recipe])
    assert results.version == 2


def test_a_damaged_trial_is_named_set_aside_and_found_again_once_it_is_measured(
    lab, results, recipe, trials, caplog
):
    paths = [put_trial(lab, trial) for trial in trials]
    spoil(paths[2])
    results.refresh([recipe])
    assert results.damaged == [str(paths[2])]
    assert str(paths[2]) in caplog.text
    assert [results.trial(trial) is None for trial in trials] == [False, False, True, False]
    assert len(list(paths[2].parent.glob(f"{paths[2].name}.damaged-*"))) == 1
    assert not results.refresh([recipe])
    put_trial(lab, trials[2])
    assert results.refresh([recipe])
    assert results.trial(trials[2]) == {"row": {"rate": 0.5}}
    assert len(results.damaged) == 1


def test_a_damaged_history_is_named_set_aside_and_found_again_once_it_is_made(lab, results, recipe):
    path = put_history(lab, recipe, 3)
    results.refresh([recipe])
    spoil(path)
    assert results.refresh([recipe])
    assert results.history(recipe) == []
    assert results.damaged == [str(path)]
    assert len(list(path.parent.glob("history.jsonl.damaged-*"))) == 1
    assert not results.refresh([recipe])
    put_history(lab, recipe, 4)
    assert results.refresh([recipe])
    assert len(results.history(recipe)) == 5
    assert len(results.damaged) == 1


@pytest.mark.parametrize(
    "name", [".{}.json.0a1b.tmp", ".{}.json", "{}.json.damaged-0a1b", "{}.txt"]
)
def test_files_that_are_no_trials_are_not_looked_into(lab, results, recipe, trials, name):
    path = put_trial(lab, trials[0])
    path.rename(path.with_name(name.format(path.stem)))
    assert not results.refresh([recipe])
    assert results.all_trials() == results.damaged == []


def test_a_trial_written_in_the_clock_tick_of_a_refresh_is_not_missed(lab, results, recipe, trials):
    soon = time.time_ns() + 10**10
    for count, trial in enumerate(trials, start=1):
        set_clock(put_trial(lab, trial).parent, soon)
        assert results.refresh([recipe])
        assert len(results.all_trials()) == count


def test_a_row_written_in_the_clock_tick_of_a_refresh_is_not_missed(lab, results, recipe):
    soon = time.time_ns() + 10**10
    path = put_history(lab, recipe, 0)
    for epoch in range(1, 4):
        set_clock(path, soon)
        assert results.refresh([recipe])
        assert len(results.history(recipe)) == epoch
        with path.open("a") as file:
            file.write(json.dumps({"epoch": epoch}) + "\n")


def test_what_was_written_long_ago_is_seen_to_be_replaced(lab, results, recipe):
    then = time.time_ns() - 10**12
    for epochs in (1, 2):
        set_clock(put_history(lab, recipe, epochs), then + epochs)
        assert results.refresh([recipe])
        assert len(results.history(recipe)) == epochs + 1
        assert not results.refresh([recipe])


def test_looking_something_up_reads_no_file(lab, results, recipe, trials):
    put_history(lab, recipe, 2)
    for trial in trials[:2]:
        put_trial(lab, trial)
    results.refresh([recipe])
    shutil.rmtree(lab.path)
    assert results.trial(trials[0]) == {"row": {"rate": 0.5}}
    assert results.trial(trials[2]) is None
    assert len(results.history(recipe)) == 3
    assert len(results.all_trials()) == 2


def test_what_was_changed_in_its_place_is_seen_by_a_thorough_look(lab, recipe, trials, results):
    path = put_trial(lab, trials[0])
    results.refresh([recipe])
    files.write_json(path.with_name("other"), {"row": {"rate": "another"}})
    path.write_bytes(path.with_name("other").read_bytes())
    path.with_name("other").unlink()
    results.refresh([recipe], thorough=True)
    assert results.trial(trials[0]) == {"row": {"rate": "another"}}
    path.write_text("damaged in its place")
    results.refresh([recipe], thorough=True)
    assert results.trial(trials[0]) is None
    assert results.damaged == [str(path)]


def test_a_thorough_look_reads_nothing_twice(lab, recipe, trials, results, monkeypatch):
    put_trial(lab, trials[0])
    results.refresh([recipe], thorough=True)
    read, seen = files.read_json, []
    monkeypatch.setattr(files, "read_json", lambda path: seen.append(path) or read(path))
    assert not results.refresh([recipe], thorough=True)
    put_trial(lab, trials[1])
    assert results.refresh([recipe], thorough=True)
    assert [path.stem for path in seen] == [identity(trials[1])]
