from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st
from notes import amend, pages, telling

import granet_lab as gl
from granet_lab.experiments import estimate
from granet_lab.explorer.lookup import Answer, Line, Lookup, mean_curve
from granet_lab.explorer.setting import Setting

EMPTY = Line([], [], [], [], [])


def chosen(lr="frozen", regrow=None, method=None):
    pruning = gl.Pruning(rate=0.5, regrow=regrow)
    return Setting(pruning=pruning, lr=lr, recovery_epochs=1, method=method or gl.methods.dense())


A, B, REMAINING = chosen(), chosen(regrow="gradient"), chosen(lr="remaining")


@pytest.fixture
def runs(recipe):
    return [replace(recipe, seed=seed) for seed in range(4)]


@pytest.fixture
def found(results, runs):
    """What the lab holds, read anew by ``found.refresh(runs)``."""
    return results(*runs)


@pytest.fixture
def lookup(lab, recipe, found):
    return Lookup(lab.path, recipe, found)


@pytest.fixture
def put(put_trial, recipe, found, runs):
    """Measure a setting by hand: a value for each epoch and seed."""

    def put(setting, values, curves=None, **row):
        for (epoch, seed), value in values.items():
            trial, curve = setting.trial(recipe, epoch, seed), (curves or {}).get((epoch, seed), ())
            put_trial(trial, curve, **{setting.measures: value}, **row)
        found.refresh(runs)

    return put


def test_a_line_is_the_means_over_seeds_with_their_intervals(lookup, put):
    put(A, {(1, 0): 2.0, (1, 1): 4.0, (3, 0): -1.0})
    line = lookup.scene({"A": A}, [0, 1]).known[0].line
    assert line == Line([1, 3], [3.0, -1.0], [2.0, -1.0], [4.0, -1.0], [2, 1])
    assert line.at(1) == (3.0, 2.0, 4.0, 2)
    assert line.at(2) is None


def test_a_line_goes_from_the_first_epoch_to_the_last(lookup, put):
    put(A, {(4, 0): 1.0, (0, 0): 40.0})
    assert lookup.scene({"A": A}, [0]).known[0].line.x == [0, 4]


def test_only_the_chosen_seeds_count(lookup, put):
    put(A, {(1, 0): 2.0, (1, 1): 4.0, (1, 2): 100.0})
    assert lookup.scene({"A": A}, [0, 1]).known[0].line.mean == [3.0]
    assert lookup.scene({"A": A}, [2]).known[0].line.mean == [100.0]
    assert lookup.scene({"A": A}, [3]).known[0].line == EMPTY


def test_a_setting_has_a_line_of_its_own(lookup, put):
    put(A, {(1, 0): 2.0})
    put(B, {(1, 0): 5.0})
    put(REMAINING, {(1, 0): -3.0})
    scene = lookup.scene({"A": REMAINING, "B": B}, [0])
    assert [known.name for known in scene.known] == ["A", "B"]
    assert [known.setting for known in scene.known] == [REMAINING, B]
    assert [known.line.mean for known in scene.known] == [[-3.0], [5.0]]


def test_what_diverged_has_no_place_on_a_line(lookup, put):
    put(A, {(1, 0): 2.0})
    put(A, {(1, 1): None, (2, 0): None}, status="diverged")
    assert lookup.scene({"A": A}, [0, 1]).known[0].line == Line([1], [2.0], [2.0], [2.0], [1])


def test_the_difference_is_paired_by_seed(lookup, put):
    put(A, {(1, 0): 10.0, (1, 1): 20.0, (1, 2): 33.0})
    put(B, {(1, 2): 30.0, (1, 1): 18.0, (1, 0): 9.0})
    difference = lookup.scene({"A": A, "B": B}, [0, 1, 2]).difference
    assert (difference.x, difference.mean, difference.n) == ([1], [2.0], [3])
    assert (difference.low, difference.high) == ([1.0], [3.0])


def test_the_difference_is_over_seeds_and_epochs_that_both_have(lookup, put):
    put(A, {(1, 0): 10.0, (1, 1): 20.0, (2, 0): 5.0, (3, 0): 7.0, (4, 1): 1.0})
    put(B, {(1, 1): 18.0, (1, 2): 30.0, (2, 0): 8.0, (3, 1): 7.0})
    difference = lookup.scene({"A": A, "B": B}, [0, 1, 2]).difference
    assert difference == Line([1, 2], [2.0, -3.0], [2.0, -3.0], [2.0, -3.0], [1, 1])


def test_the_difference_goes_from_the_first_epoch_to_the_last(lab, results, put_trial, recipe):
    run = replace(recipe, epochs=17)
    for setting in (A, B):
        for epoch in (16, 1, 8, 9):
            put_trial(setting.trial(run, epoch, 0), plasticity=float(epoch))
    difference = Lookup(lab.path, run, results(run)).scene({"A": A, "B": B}, [0]).difference
    assert (difference.x, difference.mean) == ([1, 8, 9, 16], [0.0] * 4)


@given(
    st.dictionaries(st.integers(0, 3), st.floats(-50, 50)),
    st.dictionaries(st.integers(0, 3), st.floats(-50, 50)),
)
def test_a_minus_b_is_b_minus_a_turned_round(left, right):
    """By the stand-in of a store that knows two settings at epoch 1."""
    known = {(A, s): v for s, v in left.items()} | {(B, s): v for s, v in right.items()}
    recipe = gl.recipes.digits(model="mlp", epochs=2)

    class Store:
        version = 0

        def trial(self, trial):
            setting = B if trial.pruning.regrow else A
            value = known.get((setting, trial.recipe.seed)) if trial.epoch == 1 else None
            return None if value is None else {"row": {"plasticity": value}, "curve": []}

        def history(self, recipe):
            return []

        def all_trials(self):
            return []

    lookup = Lookup(None, recipe, Store())
    there = lookup.scene({"A": A, "B": B}, range(4)).difference
    back = lookup.scene({"A": B, "B": A}, range(4)).difference
    assert (there.x, there.n) == (back.x, back.n)
    assert there.n == ([len(left.keys() & right.keys())] if left.keys() & right.keys() else [])
    assert there.mean == pytest.approx([-value for value in back.mean])


def test_there_is_no_difference_where_two_columns_are_measured(lookup, put):
    put(A, {(1, 0): 2.0})
    put(REMAINING, {(1, 0): -3.0})
    assert lookup.scene({"A": A, "B": REMAINING}, [0]).difference == EMPTY


def test_one_setting_has_no_difference(lookup):
    assert lookup.scene({"A": A}, [0]).difference is None


def test_the_trunk_is_the_mean_of_the_runs_as_far_as_each_has_come(
    lookup, found, put_history, runs
):
    put_history(runs[0], [10.0, 50.0, 70.0])
    put_history(runs[1], [20.0, 60.0], diverged=True)
    put_history(runs[2], [99.0])
    found.refresh(runs)
    trunk = lookup.scene({"A": A}, [0, 1]).known[0].trunk
    assert (trunk.x, trunk.mean, trunk.n) == ([0, 1, 2], [15.0, 55.0, 70.0], [2, 2, 1])


def test_the_trunk_is_that_of_the_settings_method(lab, put_history, results, recipe):
    sparse = replace(recipe, method=gl.methods.static(0.5))
    put_history(recipe, [10.0])
    put_history(sparse, [20.0])
    lookup = Lookup(lab.path, recipe, results(recipe, sparse))
    scene = lookup.scene({"A": A, "B": chosen(method=sparse.method)}, [0])
    assert [known.trunk.mean for known in scene.known] == [[10.0], [20.0]]


def test_the_lowest_accuracy_is_that_of_any_recovery_curve_of_the_chosen_seeds(lookup, put):
    curves = {(1, 0): [30.0, 80.0], (3, 1): [50.0, 20.0, 60.0], (2, 2): [5.0]}
    put(A, dict.fromkeys(curves, 1.0), curves)
    lowest = [lookup.scene({"A": A}, seeds).known[0].lowest for seeds in ([0, 1], [0], [3])]
    assert lowest == [20.0, 30.0, None]


def test_the_layers_are_named_by_any_trial_that_has_recorded_them(lookup, put, put_trial, recipe):
    assert lookup.scene({"A": A}, [0]).layers == []
    layers = [{"layer": name, "size": 4} for name in ("hidden.weight", "classifier.weight")]
    put_trial(B.trial(recipe, 2, 3), layers=layers)
    put(A, {(1, 0): 2.0})
    assert lookup.scene({"A": A}, [0]).layers == ["hidden.weight", "classifier.weight"]


def test_a_scene_is_the_same_object_until_the_results_change(lookup, put, found, runs):
    put(A, {(1, 0): 2.0})
    before = lookup.scene({"A": A}, [0])
    assert not found.refresh(runs)
    assert lookup.scene({"A": A}, [0]) is before
    other = lookup.scene({"A": A, "B": B}, [0])
    assert lookup.scene({"A": A}, [0]) is before
    assert lookup.scene({"A": A, "B": B}, [0]) is other
    put(A, {(2, 0): 3.0})
    after = lookup.scene({"A": A}, [0])
    assert after is not before
    assert after.known[0].line.x == [1, 2]
    assert after.asks_the_same(before)


@pytest.mark.parametrize(
    ("settings", "seeds"),
    [({"A": B}, [0]), ({"A": A}, [0, 1]), ({"A": A, "B": B}, [0]), ({"A": REMAINING}, [0])],
    ids=["setting", "seeds", "two", "continuation"],
)
def test_scenes_of_other_settings_or_seeds_ask_something_else(lookup, settings, seeds):
    scene = lookup.scene({"A": A}, [0])
    other = lookup.scene(settings, seeds)
    assert other is not scene
    assert not scene.asks_the_same(other)
    assert not other.asks_the_same(scene)


def test_missing_are_those_that_are_not_measured_in_their_order(lookup, put, recipe):
    put(A, {(1, 0): 2.0})
    put(A, {(2, 0): None}, status="diverged")
    asked = [A.trial(recipe, epoch, seed) for epoch in (3, 1, 2) for seed in (1, 0)]
    assert lookup.missing(asked) == (asked[0], asked[1], asked[2], asked[4])
    assert lookup.missing(iter(asked[3:4])) == ()


def test_a_question_is_made_once(lookup, recipe):
    trial = lookup.trial(A, 2, 1)
    assert trial == A.trial(recipe, 2, 1)
    assert lookup.trial(A, 2, 1) is trial


def test_the_time_it_takes_is_the_estimate_and_follows_the_results(lookup, put, found, recipe):
    asked = tuple(A.trial(recipe, epoch, 0) for epoch in (1, 2))
    assert lookup.seconds(asked, 1) is None
    put(A, {(3, 0): 2.0}, seconds=6.0)
    # 3 s an epoch: a run of four epochs and its beginning, and two trials of two epochs.
    assert lookup.seconds(asked, 1) == 3.0 * (5 + 2 + 2)
    assert lookup.seconds(asked[:1], 1) == 3.0 * (5 + 2)
    assert lookup.seconds(asked, 2) == 3.0 * (5 + 2) == estimate.seconds(found, asked, 2)
    put(A, {(1, 0): 2.0}, seconds=6.0)
    assert lookup.seconds(asked, 1) == 3.0 * (5 + 2)


def test_an_answer_has_what_was_found(lookup, put_trial, found, runs, recipe):
    trial = A.trial(recipe, 2, 1)
    put_trial(trial, [30.0, 80.0], [{"layer": "hidden.weight"}], plasticity=-1.5)
    found.refresh(runs)
    answer = lookup.answer(A, 2, 1)
    assert (answer.trial, answer.state, answer.note) == (trial, "measured", None)
    assert answer.row["plasticity"] == -1.5
    assert [point["test_acc"] for point in answer.curve] == [30.0, 80.0]
    assert answer.layers == [{"layer": "hidden.weight"}]


def test_a_trial_from_before_layers_were_recorded_is_an_answer_too(
    lookup, put_trial, found, runs, recipe
):
    put_trial(A.trial(recipe, 2, 1), layers=None, plasticity=-1.5)
    found.refresh(runs)
    answer = lookup.answer(A, 2, 1)
    assert (answer.state, answer.layers) == ("measured", [])
    assert lookup.scene({"A": A}, [1]).layers == []


def test_a_training_that_diverged_is_an_answer(lookup, put):
    put(A, {(2, 1): None}, {(2, 1): [30.0]}, status="diverged", note="loss is NaN")
    answer = lookup.answer(A, 2, 1)
    assert (answer.state, answer.row["note"], len(answer.curve)) == ("diverged", "loss is NaN", 1)


def test_what_nobody_has_measured_is_missing(lookup, recipe):
    assert lookup.answer(A, 2, 1) == Answer(A.trial(recipe, 2, 1), "missing")
    assert not lookup.at_work(lookup.answer(A, 2, 1))


def test_what_is_being_measured_is_under_way_with_its_curve_so_far(lab, lookup, recipe):
    trial, curve = A.trial(recipe, 2, 1), [{"recovery_epoch": 0, "test_acc": 31.5}]
    with telling(lab.run(trial.recipe), trial) as task:
        task.tell(0, 1, curve)
        answer = lookup.answer(A, 2, 1)
        assert (answer.state, answer.curve, answer.row) == ("under way", curve, {})
        assert (answer.note.done, answer.note.of, answer.note.own) == (0, 1, True)
        assert lookup.at_work(answer)
        assert lookup.answer(A, 2, 0).state == lookup.answer(B, 2, 1).state == "missing"
    assert lookup.answer(A, 2, 1).state == "missing"


def test_a_result_is_an_answer_even_while_its_note_is_still_there(lab, lookup, put, recipe):
    trial = A.trial(recipe, 2, 1)
    with telling(lab.run(trial.recipe), trial) as task:
        task.tell(1, 1)
        put(A, {(2, 1): 2.0})
        assert lookup.answer(A, 2, 1).state == "measured"


def test_what_a_dead_process_was_measuring_is_missing(lab, lookup, recipe):
    trial = A.trial(recipe, 2, 1)
    with telling(lab.run(trial.recipe), trial) as task:
        task.tell(0, 1)
        amend(*pages(lab.run(trial.recipe).path), pid=4194999)
        assert lookup.answer(A, 2, 1).state == "missing"


def test_whoever_trains_the_run_is_at_work_for_its_trials(lab, lookup, put, runs):
    put(A, {(3, 1): 2.0})
    with telling(lab.run(runs[1]), runs[1]) as task:
        task.tell(1, 4)
        assert lookup.at_work(lookup.answer(A, 2, 1))
        assert not lookup.at_work(lookup.answer(A, 2, 0))
        assert not lookup.at_work(lookup.answer(A, 3, 1))
        amend(*pages(lab.run(runs[1]).path), pid=4194999)
        assert not lookup.at_work(lookup.answer(A, 2, 1))


@pytest.mark.parametrize(
    ("accuracies", "diverged", "words"),
    [
        ([], False, "its run is not trained either"),
        ([10.0], False, "its run stopped at epoch 0 of 4"),
        ([10.0, 20.0, 30.0], False, "its run stopped at epoch 2 of 4"),
        ([10.0, 20.0, 30.0, 40.0, 50.0], False, None),
        ([10.0, 20.0], True, None),
    ],
)
def test_the_state_of_a_run_is_told_in_words(
    lookup, found, put_history, recipe, accuracies, diverged, words
):
    if accuracies:
        put_history(recipe, accuracies, diverged)
    found.refresh([recipe])
    assert lookup.run_state(recipe) == words


def test_a_run_in_training_is_as_far_as_its_history_or_its_note(
    lab, lookup, found, put_history, recipe
):
    with telling(lab.run(recipe), recipe) as task:
        task.tell(1, 4)
        assert lookup.run_state(recipe) == "its run is training, epoch 1 of 4"
        put_history(recipe, [10.0, 20.0, 30.0, 40.0])
        found.refresh([recipe])
        assert lookup.run_state(recipe) == "its run is training, epoch 3 of 4"
        amend(*pages(lab.run(recipe).path), pid=1, parent=1)
        assert lookup.run_state(recipe) == "its run is training in another process, epoch 3 of 4"
        amend(*pages(lab.run(recipe).path), pid=4194999)
        assert lookup.run_state(recipe) == "its run stopped at epoch 3 of 4"


def test_a_run_that_is_done_is_not_in_training_whatever_its_note_says(
    lab, lookup, found, put_history, recipe
):
    with telling(lab.run(recipe), recipe) as task:
        task.tell(4, 4)
        put_history(recipe, [10.0] * 5)
        found.refresh([recipe])
        assert lookup.run_state(recipe) is None


def answers(recipe, *curves):
    trial = A.trial(recipe, 2, 0)
    return [Answer(trial, "measured", curve=[{"test_acc": y} for y in curve]) for curve in curves]


def test_the_mean_curve_goes_as_far_as_every_seed_has_come(recipe):
    known = answers(recipe, [10.0, 50.0, 90.0], [30.0, 70.0])
    assert mean_curve(known) == ([0, 1], [20.0, 60.0])


def test_seeds_without_a_curve_do_not_cut_the_others_short(recipe):
    assert mean_curve(answers(recipe, [], [30.0, 70.0])) == ([0, 1], [30.0, 70.0])
    assert mean_curve(answers(recipe, [])) == mean_curve([]) == ([], [])


CURVES = st.lists(st.lists(st.floats(0, 100), min_size=1, max_size=6), min_size=1, max_size=4)


@given(CURVES)
def test_a_mean_curve_is_the_mean_at_each_place(curves):
    x, y = mean_curve(answers(gl.recipes.digits(), *curves))
    assert x == list(range(min(map(len, curves))))
    assert y == pytest.approx([fmean(curve[k] for curve in curves) for k in x])
