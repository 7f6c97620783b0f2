import math

import pytest

from granet_lab.sparsity import methods
from granet_lab.sparsity.methods import METHODS, SparseTraining


def due(plan):
    return [step for step in range(plan.steps + 1) if plan.due(step)]


def test_the_paper_updates_every_1000_steps_and_prunes_to_epoch_110():
    plan = methods.granet(0.95).plan(160, 390)
    assert (plan.interval, plan.start, plan.stop, plan.steps) == (1000, 0, 110 * 390, 62_400)
    assert due(plan) == list(range(1000, 62_401, 1000))
    # Progress is counted in whole updates: 42 of them before epoch 110.
    found = [plan.sparsity(step) for step in (1000, 21_000, 42_000, 43_000)]
    by_hand = [0.95 * (1 - (1 - k / 42) ** 3) for k in (1, 21, 42, 42)]
    assert found == pytest.approx(by_hand)


def test_a_short_run_has_the_same_schedule_in_proportion():
    plan = methods.granet(0.95).plan(60, 18)
    assert (plan.interval, plan.stop, plan.steps) == (17, 41 * 18, 1080)


def test_pruning_alone_ends_with_the_final_sparsity():
    plan = methods.gmp(0.9, interval=4, start=1, stop=3).plan(5, 5)
    assert due(plan) == [8, 12]
    found = [plan.sparsity(step) for step in (4, 5, 8, 12, 15, 20)]
    # Two whole updates lie between steps 5 and 15: progress 1/2 and 1.
    by_hand = [0, 0, 0.9 * (1 - 0.5**3), 0.9, 0.9, 0.9]
    assert found == pytest.approx(by_hand)


def test_where_no_whole_interval_ends_all_is_pruned_at_the_stop():
    plan = methods.gmp(0.9, interval=8, start=2, stop=3).plan(5, 5)  # steps 10 to 15
    assert due(plan) == [15]
    assert [plan.sparsity(step) for step in (10, 14, 15, 20)] == [0, 0, 0.9, 0.9]
    regrown = methods.granet(0.9, interval=8, start=2, stop=3).plan(5, 5)
    assert due(regrown) == [15, 16, 24]
    assert regrown.regrow_fraction(15) == 0 < regrown.regrow_fraction(16)


def test_nothing_changes_before_the_start():
    plan = methods.granet(0.9, interval=4, start=2, stop=4).plan(5, 5)
    assert due(plan) == [12, 16, 20, 24]


def test_regeneration_goes_on_to_the_end_of_training():
    plan = methods.granet(0.9, interval=4, stop=2).plan(5, 4)
    assert due(plan) == [4, 8, 12, 16, 20]
    found = [plan.regrow_fraction(s) for s in (0, 8, 12)]
    cosines = [1, math.cos(0.4 * math.pi), math.cos(0.6 * math.pi)]
    assert found == pytest.approx([0.005 + 0.495 * (1 + c) / 2 for c in cosines])
    assert plan.regrow_fraction(10) == 0  # between two updates
    assert plan.regrow_fraction(20) == 0  # nothing would train what comes back


def test_the_official_code_counts_whole_updates_and_stops_one_short():
    plan = methods.gmp(0.9, interval=4, stop=4, official=True).plan(5, 5)  # stop: step 20
    assert due(plan) == [4, 8, 12, 16, 20]
    found = [plan.sparsity(step) for step in (4, 8, 12, 16, 20)]
    by_hand = [0.9 * (1 - (1 - k / 5) ** 3) for k in (1, 2, 3, 4, 4)]
    assert found == pytest.approx(by_hand)


@pytest.mark.parametrize("name", METHODS)
def test_a_fixed_mask_is_never_updated_within_an_epoch_and_others_are(name):
    method = METHODS[name]()
    epochs = method.rounds.epochs if method.rounds else 60
    updated = bool(due(method.plan(epochs, 18)))
    assert updated == (method.changes and not method.rounds)


def test_the_official_code_needs_an_update_to_stop_short_of():
    with pytest.raises(ValueError, match="official needs two whole intervals of 10 steps"):
        methods.gmp(0.9, interval=10, stop=3, official=True).plan(5, 5)


def test_all_at_once_is_one_update():
    plan = methods.one_shot(0.9, epoch=3).plan(10, 7)
    effective = [step for step in due(plan) if plan.sparsity(step) > 0]
    assert effective == [21]
    assert plan.sparsity(21) == 0.9


@pytest.mark.parametrize(
    ("method", "culprit"),
    [
        (methods.gmp(0.9, stop=61), "stop 61 lies beyond the run of 60 epochs"),
        (methods.gmp(0.9, interval=2000), "interval 2000 is longer than the run of 1080 steps"),
        (methods.gmp(0.9, start=50), "start 50 lies beyond stop, epoch 41 of the run"),
    ],
    ids=str,
)
def test_a_schedule_that_does_not_fit_the_run_is_refused(method, culprit):
    with pytest.raises(ValueError, match=culprit):
        method.plan(60, 18)


@pytest.mark.parametrize(
    ("values", "culprit"),
    [
        ({"initial_sparsity": 0.9, "final_sparsity": 0.5}, "final_sparsity 0.5 lies below"),
        ({"final_sparsity": 0.9, "start": 5, "stop": 4}, "stop 4 comes before start 5"),
        ({"regrow": "gradient", "regrow_fraction": 1.5}, "regrow_fraction must lie in"),
        ({"regrow": "luck"}, "unknown regrowth 'luck'"),
        ({"salient": True}, "salient needs a final_sparsity"),
        ({"interval": 0}, "interval must be at least 1"),
        ({"final_sparsity": 0.9, "stop": 0}, "stop must be at least 1"),
        ({"final_sparsity": 0.9, "regrow_fraction": 0.3}, "regrow_fraction has no effect: nothing"),
        ({"final_sparsity": 0.9, "regrow_end": 0.1}, "regrow_end has no effect"),
        ({"initial_sparsity": 0.9, "interval": 7}, "interval has no effect: the masks never"),
        ({"initial_sparsity": 0.9, "prune_criterion": "lamp"}, "prune_criterion has no effect"),
        ({"initial_sparsity": 0.9, "regrow": "random", "stop": 3}, "stop has no effect"),
        ({"initial_sparsity": 0.9, "regrow": "random", "official": True}, "official has no"),
        ({"final_sparsity": 0.9, "salient": True, "start": 3}, "start has no effect: salient"),
        ({"final_sparsity": 0.9, "salient": True, "interval": 3}, "interval has no effect: all"),
        ({"final_sparsity": 0.9, "start": 3, "stop": 3, "interval": 3}, "interval has no effect"),
        ({"final_sparsity": 0.9, "rounds": methods.Rounds(), "start": 3}, "start has no effect"),
        ({"final_sparsity": 0.9, "rounds": methods.Rounds(), "interval": 3}, "rounds say when"),
    ],
    ids=str,
)
def test_values_that_contradict_one_another_are_refused(values, culprit):
    with pytest.raises(ValueError, match=culprit):
        SparseTraining(**values)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_knows_its_name(name):
    assert METHODS[name]().name == name.rstrip("_") or name == "one_shot"


def test_methods_that_do_the_same_are_the_same():
    assert methods.gmp(0.9) == methods.granet(0.9, regrow=None)
    assert methods.gmp(0.9) == methods.granet(0.9, regrow_fraction=0)
    assert methods.granet(0.9, regrow_fraction=0.001).regrow_end == 0.001
    assert methods.rigl(0.9) == methods.granet(0.9, initial_sparsity=0.9)
    assert methods.gmp(0, stop=3) == methods.dense()
    assert methods.one_shot(0.9, epoch=0) == methods.static(0.9, "magnitude", "global")


def test_the_sparsity_after_an_epoch_follows_the_cubic():
    method = methods.granet_st(0.98)
    assert method.sparsity(0, 60) == 0.5
    assert method.sparsity(41, 60) == method.sparsity(60, 60) == 0.98
    assert method.sparsity(20, 60) == pytest.approx(0.98 - 0.48 * (21 / 41) ** 3)


def test_rounds_set_the_sparsity_after_each_epoch():
    rounds = methods.Rounds(count=3, cycle=10, rewind=4)  # each halves what is left
    method = methods.lottery(0.875, rounds)
    # After epoch 10 the network is not pruned yet: that is how the next round begins.
    assert [method.sparsity(e, 28) for e in (0, 10, 11, 16, 17, 28)] == pytest.approx(
        [0, 0, 0.5, 0.5, 0.75, 0.875]
    )


@pytest.mark.parametrize(
    ("values", "culprit"),
    [
        ({"rounds": methods.Rounds()}, "rounds need a final_sparsity"),
        ({"rounds": methods.Rounds(), "final_sparsity": 0}, "above the initial one"),
        ({"rounds": 2, "final_sparsity": 0.9}, "rounds must be None or Rounds"),
        (
            {"rounds": methods.Rounds(), "regrow": "random", "final_sparsity": 0.9},
            "neither salient nor regrow",
        ),
    ],
    ids=str,
)
def test_rounds_that_contradict_the_rest_are_refused(values, culprit):
    with pytest.raises(ValueError, match=culprit):
        SparseTraining(**values)


def test_a_run_that_is_not_as_long_as_its_rounds_is_refused_with_the_right_length():
    with pytest.raises(ValueError, match="take epochs=28, not 30"):
        methods.lottery(0.9, methods.Rounds(count=3, cycle=10, rewind=4)).check(30)
