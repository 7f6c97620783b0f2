import json
from dataclasses import replace

import pytest

import granet_lab as gl
from granet_lab.experiments import estimate, files
from granet_lab.experiments.identity import identity
from granet_lab.experiments.results import Results


def trials(recipe, *recovery_epochs):
    """A trial for each length of recovery."""
    return [
        gl.Trial(recipe=recipe, epoch=0, pruning=gl.Pruning(rate=0.5), recovery_epochs=n)
        for n in recovery_epochs
    ]


def put_history(lab, recipe, seconds, diverged=False):
    """A run trained so far that it has a row for each of some times."""
    rows = [{"epoch": i, "seconds": s} for i, s in enumerate(seconds)]
    rows += [{"epoch": len(rows), "diverged": "training diverged"}] * diverged
    text = "".join(json.dumps(row) + "\n" for row in rows)
    files.write(lab.run(recipe).path / "history.jsonl", text.encode())


def put_trial(lab, trial, seconds, status="ok"):
    row = {"status": status, "recovery_epochs": trial.recovery_epochs, "seconds": seconds}
    path = lab.run(trial.recipe).trial_path(identity(trial))
    files.write_json(path, {"row": row, "curve": []})


@pytest.fixture
def results(lab):
    def results(*recipes):
        found = Results(lab.path)
        found.refresh(recipes)
        return found

    return results


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_is_known_before_anything_was_trained(results, recipe, workers):
    assert estimate.seconds_per_epoch(results(recipe), [recipe]) is None
    assert estimate.seconds(results(recipe), trials(recipe, 2), workers) is None


def test_an_epoch_takes_the_median_over_trials_each_one_epoch_longer_than_its_recovery(
    lab, results, recipe
):
    for trial, seconds in zip(trials(recipe, 0, 1, 3), (9.0, 4.0, 12.0), strict=True):
        put_trial(lab, trial, seconds)
    assert estimate.seconds_per_epoch(results(recipe), [recipe]) == 3.0


def test_a_trial_that_diverged_says_nothing_about_time(lab, results, recipe):
    quick, whole = trials(recipe, 1, 2)
    put_trial(lab, quick, 0.02, status="diverged")
    assert estimate.seconds_per_epoch(results(recipe), [recipe]) is None
    put_trial(lab, whole, 6.0)
    assert estimate.seconds_per_epoch(results(recipe), [recipe]) == 2.0


def test_without_trials_an_epoch_takes_the_median_of_training_the_first_row_left_out(
    lab, results, recipe
):
    put_history(lab, recipe, [0.0, 2.0, 4.0, 9.0], diverged=True)
    assert estimate.seconds_per_epoch(results(recipe), [recipe]) == 4.0


def test_only_the_runs_that_are_asked_about_are_looked_at_before_there_are_trials(
    lab, results, recipe
):
    other = replace(recipe, seed=1)
    put_history(lab, other, [0.0, 50.0])
    known = results(recipe, other)
    assert estimate.seconds_per_epoch(known, [recipe]) is None
    assert estimate.seconds_per_epoch(known, [recipe, other]) == 50.0


@pytest.mark.parametrize(("workers", "seconds"), [(1, 2 + 3 + 4), (2, 2 + 3), (3, 4), (9, 4)])
def test_trials_of_a_trained_run_are_dealt_longest_first(lab, results, recipe, workers, seconds):
    put_history(lab, recipe, [0.0, 1.0, 1.0, 1.0, 1.0])
    asked = trials(recipe, 1, 2, 3)
    assert estimate.seconds(results(recipe), asked, workers) == seconds


@pytest.mark.parametrize(("workers", "seconds"), [(1, 3 + 2 + 3), (2, 3 + 3), (3, 3 + 3)])
def test_trials_wait_for_what_is_left_of_their_runs_training(
    lab, results, recipe, workers, seconds
):
    put_history(lab, recipe, [0.0, 1.0])
    assert estimate.seconds(results(recipe), trials(recipe, 1, 2), workers) == seconds


@pytest.mark.parametrize(("workers", "seconds"), [(1, 5 + 3 + 2 + 2), (2, 5 + 2), (3, 5 + 2)])
def test_a_run_without_any_epoch_takes_one_more_for_its_beginning(
    lab, results, recipe, workers, seconds
):
    other = replace(recipe, seed=1)
    put_history(lab, recipe, [0.0, 1.0])
    asked = trials(recipe, 1) + trials(other, 1)
    assert estimate.seconds(results(recipe, other), asked, workers) == seconds


@pytest.mark.parametrize(("workers", "seconds"), [(1, 3 + 3 + 5 + 3), (2, 3 + 3 + 1), (3, 5 + 1)])
def test_the_longest_training_is_begun_first(lab, results, recipe, workers, seconds):
    runs = [replace(recipe, seed=seed) for seed in range(3)]
    for run in runs[:2]:
        put_history(lab, run, [0.0, 1.0])
    asked = [trial for run in runs for trial in trials(run, 0)]
    assert estimate.seconds(results(*runs), asked, workers) == seconds


def test_short_trials_that_can_start_do_not_wait_for_a_longer_one_that_cannot(lab, results, recipe):
    done, other = replace(recipe, seed=1), replace(recipe, seed=2)
    put_history(lab, done, [0.0, 1.0, 1.0, 1.0, 1.0])
    short = [replace(trial, epoch=epoch) for trial in trials(done, 0) for epoch in range(5)]
    asked = [*trials(other, 2), *short]
    assert estimate.seconds(results(done, other), asked, 2) == 5 + 3


@pytest.mark.parametrize(("workers", "seconds"), [(1, 2 + 3), (2, 3)])
def test_a_run_that_diverged_is_not_trained_on(lab, results, recipe, workers, seconds):
    put_history(lab, recipe, [0.0, 1.0], diverged=True)
    assert estimate.seconds(results(recipe), trials(recipe, 1, 2), workers) == seconds


def test_what_is_measured_takes_no_time(lab, results, recipe):
    put_history(lab, recipe, [0.0, 1.0, 1.0, 1.0, 1.0])
    done, missing = trials(recipe, 1, 2)
    put_trial(lab, done, 20.0)
    assert estimate.seconds(results(recipe), [done, missing], 1) == 30.0
    assert estimate.seconds(results(recipe), [done], 1) == 0.0


def test_a_trial_asked_twice_takes_its_time_once(lab, results, recipe):
    put_history(lab, recipe, [0.0, 1.0, 1.0, 1.0, 1.0])
    assert estimate.seconds(results(recipe), trials(recipe, 2, 2), 1) == 3.0


@pytest.mark.parametrize(("workers", "seconds"), [(1, 3 * 11), (2, 2 * 11), (3, 11)])
def test_runs_without_trials_take_their_epochs_and_one_for_their_beginning(
    results, recipe, workers, seconds
):
    runs = [replace(recipe, seed=seed, epochs=10) for seed in range(3)]
    assert estimate.seconds(results(*runs), [], workers, runs, each=1.0) == seconds
    # Asked for by a trial or twice, a run is trained once.
    assert estimate.seconds(results(*runs), [], workers, runs * 2, each=2.0) == 2 * seconds


def test_an_epoch_takes_what_is_said_whatever_they_have_taken_so_far(lab, results, recipe):
    put_history(lab, recipe, [0.0, 7.0, 7.0, 7.0, 7.0])
    put_trial(lab, trials(recipe, 0)[0], 9.0)
    assert estimate.seconds(results(recipe), trials(recipe, 2), 1) == 3 * 9.0
    assert estimate.seconds(results(recipe), trials(recipe, 2), 1, each=0.5) == 3 * 0.5


@pytest.mark.parametrize(("workers", "seconds"), [(1, 5 + 3 + 2), (2, 5 + 2), (3, 5 + 2)])
def test_a_run_that_a_trial_waits_for_is_trained_once_with_those_asked_for(
    lab, results, recipe, workers, seconds
):
    other = replace(recipe, seed=1)
    put_history(lab, other, [0.0, 1.0])
    asked = trials(recipe, 1)
    known = results(recipe, other)
    assert estimate.seconds(known, asked, workers, [other, recipe], each=1.0) == seconds


def test_missing_epochs_are_those_of_runs_and_recoveries_without_beginnings(lab, results, recipe):
    begun, done, lost, new = runs = [replace(recipe, seed=seed) for seed in range(4)]
    put_history(lab, begun, [0.0, 1.0])
    put_history(lab, done, [0.0, 1.0, 1.0, 1.0, 1.0])
    put_history(lab, lost, [0.0, 1.0], diverged=True)
    measured, missing = trials(done, 2, 3)
    put_trial(lab, measured, 1.0)
    known = results(*runs)
    left = {begun: 3, done: 0, lost: 0, new: 4}
    for run, epochs in left.items():
        assert estimate.missing_epochs(known, [], [run]) == epochs
        assert estimate.missing_epochs(known, trials(run, 5)) == epochs + 5
        assert estimate.missing_epochs(known, trials(run, 5), [run, run]) == epochs + 5
    assert estimate.missing_epochs(known, [measured]) == 0
    assert estimate.missing_epochs(known, [measured, missing, missing]) == 3
    everything = [measured, missing, *trials(begun, 0, 1), *trials(new, 2)]
    assert estimate.missing_epochs(known, everything, runs) == 3 + 4 + 3 + 0 + 1 + 2
    assert estimate.missing_epochs(known, []) == 0


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (0, "no time"),
        (0.0001, "under a second"),
        (0.949, "under a second"),
        (0.95, "1 s"),
        (1.4, "1 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (149, "2 min"),
        (3600, "60 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (86400, "24.0 h"),
    ],
)
def test_times_are_told_in_words_of_their_size(span, words):
    assert estimate.in_words(span) == words


@pytest.mark.parametrize(
    ("span", "told"),
    [
        (0, "no time"),
        (0.5, "under a second"),
        (1, "about 1 s"),
        (90, "about 2 min"),
        (5400, "about 1.5 h"),
    ],
)
def test_an_estimate_is_told_so_that_it_can_be_said(span, told):
    assert estimate.about(span) == told
