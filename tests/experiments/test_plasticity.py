from dataclasses import replace

import pytest
import torch

import granet_lab as gl
from granet_lab import datasets
from granet_lab.experiments.plasticity import measure_trial, operate_, prune_once, sparsities
from granet_lab.experiments.store import Run
from granet_lab.experiments.trainings import train
from granet_lab.sparsity import prunable
from granet_lab.sparsity.criteria import CRITERIA
from granet_lab.sparsity.regrowths import REGROWTHS
from granet_lab.training import loop
from granet_lab.training.evaluation import evaluate

DIGITS = datasets.load("digits")


def trial(recipe, epoch, rate, lr="frozen", recovery_epochs=None, reestimate=False, **pruning):
    return gl.Trial(
        recipe=recipe,
        epoch=epoch,
        pruning=gl.Pruning(rate=rate, **pruning),
        lr=lr,
        recovery_epochs=recovery_epochs,
        reestimate_batchnorm=reestimate,
    )


@pytest.fixture
def measure(lab):
    def measure(asked):
        run = lab.train(asked.recipe, progress=False)
        return run, measure_trial(run, asked)

    return measure


@pytest.fixture
def convnet():
    """One epoch of the network that has BatchNorm, and filters."""
    return gl.recipes.digits(epochs=1, milestones=(), train_size=200)


@pytest.mark.parametrize("epoch", [0, 1, 3, 4])
def test_nothing_pruned_on_the_remaining_schedule_is_the_trunk(measure, recipe, epoch):
    run, found = measure(trial(recipe, epoch, 0.0, lr="remaining"))
    trunk = run.history.set_index("epoch")
    assert found["row"]["final_gap"] == 0
    for point in found["curve"]:
        row = trunk.loc[epoch + point["recovery_epoch"]]
        assert point["test_acc"] == row.test_acc
        if point["recovery_epoch"]:
            assert point["train_loss"] == row.train_loss
            assert point["lr"] == row.lr


def test_nothing_pruned_at_the_frozen_rate_follows_the_trunk_to_its_decay(measure, recipe):
    run, found = measure(trial(recipe, 0, 0.0, recovery_epochs=4))
    trunk = run.history.train_loss.tolist()
    losses = [point.get("train_loss") for point in found["curve"]]
    assert losses[1:3] == trunk[1:3]
    assert losses[3] != trunk[3]
    assert [point["lr"] for point in found["curve"][1:]] == [recipe.lr] * 4


@pytest.mark.parametrize(("epoch", "lr"), [(0, 0.1), (1, 0.1), (2, 0.01), (3, 0.01), (4, 0.01)])
def test_the_frozen_rate_is_that_of_the_next_epoch(recipe, epoch, lr):
    assert trial(recipe, epoch, 0.5).learning_rate == pytest.approx(lr)


def test_plasticity_is_accuracy_after_minus_before(measure, recipe):
    run, found = measure(trial(recipe, 2, 0.9, recovery_epochs=2))
    row, curve = found["row"], found["curve"]
    trunk = run.history.test_acc
    assert row["acc_before"] == trunk[2]
    assert row["acc_trunk"] == trunk[4]
    assert row["acc_final_unpruned"] == trunk[4]
    assert row["acc_pruned"] == curve[0]["test_acc"]
    assert row["acc_after"] == curve[2]["test_acc"]
    assert row["plasticity"] == row["acc_after"] - row["acc_before"]
    assert row["final_gap"] is None


def test_final_gap_is_accuracy_at_the_end_minus_that_of_the_trunk(measure, recipe):
    run, found = measure(trial(recipe, 1, 0.9, lr="remaining"))
    row = found["row"]
    assert len(found["curve"]) == 4
    assert row["final_gap"] == found["curve"][-1]["test_acc"] - run.history.test_acc[4]
    assert row["plasticity"] is None


def test_the_trunk_column_is_empty_where_the_trunk_has_ended(measure, recipe):
    _, found = measure(trial(recipe, 3, 0.5, recovery_epochs=2))
    assert found["row"]["acc_trunk"] is None


def test_pruning_sets_the_sparsity_and_regeneration_takes_it_back(measure, sparse_recipe):
    _, found = measure(trial(sparse_recipe, 2, 0.5, regrow="gradient"))
    total = 64 * 100 + 100 * 100 + 100 * 10
    active = total - round(0.8 * total)
    assert found["row"]["sparsity"] == 1 - (active - round(0.5 * active)) / total
    assert found["row"]["sparsity_after"] == 1 - active / total
    assert found["row"]["pretrained_sparsity"] == 0.8
    assert found["row"]["method"] == "static"


def test_kinds_of_regeneration_coincide_on_a_dense_network_and_differ_on_a_sparse_one(
    measure, recipe, sparse_recipe
):
    def curves(on):
        return [
            measure(trial(on, 2, 0.9, regrow=kind, recovery_epochs=2))[1]["curve"]
            for kind in ("gradient", "random")
        ]

    dense = curves(recipe)
    assert dense[0] == dense[1]
    sparse = curves(sparse_recipe)
    assert sparse[0] != sparse[1]


def test_regeneration_keeps_what_was_regrown_trainable(measure, recipe):
    recipe = replace(recipe, model="convnet", train_size=None)
    with_, without = (
        measure(trial(recipe, 1, 0.98, regrow=kind, recovery_epochs=2))[1]["row"]
        for kind in ("gradient", None)
    )
    assert with_["acc_pruned"] == without["acc_pruned"]
    assert with_["acc_after"] > without["acc_after"] + 20
    assert with_["sparsity_after"] == 0


def test_a_network_pruned_to_nothing_gives_a_true_row(measure, recipe):
    _, found = measure(trial(recipe, 2, 1.0))
    row = found["row"]
    assert row["status"] == "ok"
    assert row["sparsity"] == row["sparsity_after"] == 1
    assert row["acc_after"] < 20
    assert row["note"] == "pruning left no weight in 1.weight, 3.weight, 5.weight"


def test_a_recovery_that_diverges_is_recorded(measure, recipe):
    explosive = replace(recipe, milestones=(3,), gamma=1e15)
    run, found = measure(trial(explosive, 3, 0.5))
    row = found["row"]
    assert row["status"] == "diverged"
    assert "diverged" in row["note"]
    assert row["acc_before"] == run.history.test_acc[3]
    assert row["acc_pruned"] is not None
    assert row["acc_after"] is row["plasticity"] is None


def test_a_trial_on_a_run_that_diverged_before_its_epoch_is_recorded(measure, recipe):
    _, found = measure(trial(replace(recipe, lr=1e12), 4, 0.5))
    assert found["row"]["status"] == "diverged"
    assert found["curve"] == []


def test_measuring_leaves_torch_as_it_was(measure, recipe):
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    measure(trial(recipe, 2, 0.5, regrow="random", criterion="random"))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def column(found, name):
    return [layer[name] for layer in found["layers"]]


def test_layers_are_named_and_sized_in_the_networks_order(measure, recipe):
    _, found = measure(trial(recipe, 2, 0.5, scope="uniform"))
    assert column(found, "layer") == ["1.weight", "3.weight", "5.weight"]
    assert column(found, "size") == column(found, "before") == [6400, 10000, 1000]
    assert column(found, "after") == column(found, "regenerated") == [3200, 5000, 500]


@pytest.mark.parametrize("regrow", [None, "gradient", "random"])
@pytest.mark.parametrize("scope", ["global", "uniform", "erk"])
@pytest.mark.parametrize("model", ["mlp", "convnet"])
@pytest.mark.parametrize("method", [gl.methods.dense(), gl.methods.static(0.8)], ids=str)
def test_active_weights_of_the_layers_add_up_to_the_rows_sparsities_exactly(
    measure, recipe, method, model, scope, regrow
):
    recipe = replace(recipe, method=method, model=model, epochs=1, milestones=())
    run, found = measure(trial(recipe, 1, 0.5, scope=scope, regrow=regrow, recovery_epochs=0))
    row, size = found["row"], sum(column(found, "size"))
    assert column(found, "before") == list(run.load(1).masks.counts().values())
    assert sum(column(found, "before")) == size - round(method.initial_sparsity * size)
    assert row["sparsity"] == 1 - sum(column(found, "after")) / size
    assert row["sparsity_after"] == 1 - sum(column(found, "regenerated")) / size
    grown = column(found, "before" if regrow else "after")
    assert column(found, "regenerated") == grown


def test_sparsities_are_the_fractions_that_are_zero():
    layer = {"layer": "a", "size": 200, "before": 200, "after": 50, "regenerated": 150}
    assert sparsities(layer) == {
        "layer": "a",
        "size": 200,
        "sparsity_before": 0,
        "sparsity_pruned": 0.75,
        "sparsity_regenerated": 0.25,
    }


def test_layers_are_there_if_the_recovery_diverges_and_not_if_the_run_did(measure, recipe):
    late = replace(recipe, milestones=(3,), gamma=1e15)
    assert len(measure(trial(late, 3, 0.5))[1]["layers"]) == 3
    assert measure(trial(replace(recipe, lr=1e12), 4, 0.5))[1]["layers"] == []


def test_the_curve_is_reported_epoch_by_epoch_as_it_grows(lab, recipe):
    run, seen = lab.train(recipe, progress=False), []
    asked = trial(recipe, 1, 0.9, lr="remaining")
    found = measure_trial(run, asked, report=lambda curve: seen.append(list(curve)))
    assert seen == [found["curve"][:n] for n in range(1, 5)]


def test_who_watches_may_end_a_measurement(lab, recipe):
    seen = []

    def enough(curve):
        seen.append(len(curve))
        if len(curve) == 2:
            raise KeyboardInterrupt

    run = lab.train(recipe, progress=False)
    with pytest.raises(KeyboardInterrupt):
        measure_trial(run, trial(recipe, 1, 0.9, recovery_epochs=9), report=enough)
    assert seen == [1, 2]


def test_being_watched_changes_no_number(lab, recipe):
    run, asked = lab.train(recipe, progress=False), trial(recipe, 1, 0.9, recovery_epochs=2)
    alone, watched = measure_trial(run, asked), measure_trial(run, asked, report=len)
    for found in (alone, watched):
        del found["row"]["seconds"]
    assert alone == watched


def test_a_run_that_is_not_finished_has_nothing_to_compare_with(tmp_path, recipe):
    run = Run(tmp_path, recipe)
    with pytest.raises(ValueError, match=r"0 of .* epochs.* is not trained to its end"):
        measure_trial(run, trial(recipe, 1, 0.9))
    next(train(run))
    with pytest.raises(ValueError, match=r"1 of .* epochs.* is not trained to its end"):
        measure_trial(run, trial(recipe, 1, 0.9))


# Sizes of the layers: mlp 6400, 10000, 1000; convnet 144, 4608, 9216, 320.
PARTS = {
    "one layer": ("mlp", {"layers": "3.weight"}, [6400, 5000, 1000]),
    "the first": ("mlp", {"layers": "first"}, [3200, 10000, 1000]),
    "all but the last": ("mlp", {"dense": "last", "scope": "uniform"}, [3200, 5000, 1000]),
    "two without one": (
        "mlp",
        {"layers": "first last", "dense": "1.*", "scope": "erk"},
        [6400, 10000, 500],
    ),
    "filters of one layer": (
        "convnet",
        {"layers": "block2.*", "granularity": "filter"},
        [144, 16 * 144, 9216, 320],
    ),
    "filters of each layer": (
        "convnet",
        {"dense": "last", "granularity": "filter", "scope": "uniform"},
        [8 * 9, 16 * 144, 16 * 288, 320],
    ),
    "2:4, where one input channel has no neighbours": (
        "convnet",
        {"granularity": "2:4", "scope": "uniform"},
        [144, 2304, 4608, 160],
    ),
    "2:4 without the last": (
        "mlp",
        {"granularity": "2:4", "scope": "uniform", "dense": "5.weight"},
        [3200, 5000, 1000],
    ),
}


@pytest.mark.parametrize("part", PARTS)
def test_half_of_the_layers_that_take_part_goes_and_the_others_stay(measure, convnet, part):
    model, pruning, expected = PARTS[part]
    recipe = replace(convnet, model=model)
    _, found = measure(trial(recipe, 1, 0.5, recovery_epochs=0, **pruning))
    sizes = column(found, "size")
    assert column(found, "before") == sizes
    assert column(found, "after") == column(found, "regenerated") == expected
    assert found["row"]["sparsity"] == 1 - sum(expected) / sum(sizes)
    assert found["row"]["status"] == "ok"


def operated(run, asked):
    """(masks before, after pruning, after regeneration, the network) of a trial."""
    state = run.load(asked.epoch)
    before, kept = operate_(state, asked, DIGITS)
    return before, kept, state.masks, state


def test_the_rate_is_of_the_weights_of_the_layers_that_take_part(measure, sparse_recipe):
    _, found = measure(trial(sparse_recipe, 1, 0.3, layers="1.* 3.*", recovery_epochs=0))
    before, after = column(found, "before"), column(found, "after")
    assert after[2] == before[2]
    assert sum(before) - sum(after) == round(0.3 * (before[0] + before[1]))


@pytest.mark.parametrize("regrow_scope", ["layer", "global"])
@pytest.mark.parametrize("granularity", ["weight", "filter"])
def test_masks_of_other_layers_stay_whatever_comes_back(
    measure, sparse_recipe, granularity, regrow_scope
):
    recipe = replace(sparse_recipe, method=gl.methods.static(0.3))
    how = {"granularity": granularity, "regrow": "random", "regrow_scope": regrow_scope}
    asked = trial(recipe, 1, 0.5, layers="1.* 5.*", dense="first", recovery_epochs=0, **how)
    run, found = measure(asked)
    before, kept, regrown, _ = operated(run, asked)
    for name in ("1.weight", "3.weight"):
        assert torch.equal(kept[name], before[name])
        assert torch.equal(regrown[name], before[name])
    assert not torch.equal(kept["5.weight"], before["5.weight"])
    assert not torch.equal(regrown["5.weight"], kept["5.weight"])
    assert column(found, "regenerated") == list(regrown.counts().values())


@pytest.mark.parametrize("regrow", ["gradient", "random", "momentum"])
def test_regrowth_across_layers_keeps_the_total_and_not_each_layers_share(
    measure, sparse_recipe, regrow
):
    found = {
        scope: measure(trial(sparse_recipe, 2, 0.5, regrow=regrow, regrow_scope=scope))[1]
        for scope in ("layer", "global")
    }
    before = column(found["layer"], "before")
    assert column(found["layer"], "regenerated") == before
    across = column(found["global"], "regenerated")
    assert sum(across) == sum(before) == 3480
    assert across != before
    assert column(found["global"], "after") == column(found["layer"], "after")


def test_regrowth_across_layers_goes_where_the_scores_are_highest(measure, sparse_recipe, define):
    def onlylast(context):
        weights = context.weights()
        return {name: torch.full_like(w, name == "5.weight") for name, w in weights.items()}

    define(REGROWTHS, gl.regrowth(onlylast))
    asked = trial(sparse_recipe, 2, 0.05, regrow="onlylast", regrow_scope="global")
    _, found = measure(asked)
    after, lost = column(found, "after"), 174  # round(0.05 * 3480), fewer than are free there
    assert column(found, "regenerated") == [*after[:2], after[2] + lost]


def test_a_trial_of_an_unknown_layer_fails_by_its_name_and_the_others_are_measured(lab, recipe):
    trials = [trial(recipe, 1, 0.5, layers=name) for name in ("first", "block9.*", "last")]
    table = lab.measure(trials, workers=1, progress=False)
    assert table.status.tolist() == ["ok", "failed", "ok"]
    assert "no layer is named 'block9.*': choose from 1.weight, 3.weight" in table.note[1]
    assert table.note[[0, 2]].tolist() == ["", ""]
    assert table.layers.tolist() == ["first", "block9.*", "last"]


def test_a_trial_that_leaves_every_layer_dense_fails_in_words(lab, recipe):
    table = lab.measure(trial(recipe, 1, 0.5, dense="*"), workers=1, progress=False)
    assert table.status[0] == "failed"
    assert "no layer is left to prune" in table.note[0]


def watching(seen):
    """A score that notes what batches it is shown."""

    def watching(context):
        seen.append(context.batches)
        return {name: weight.abs() for name, weight in context.weights().items()}

    return watching


def assert_first_batches(shown, recipe, epoch, count):
    expected = list(loop.epoch_batches(recipe, DIGITS, epoch))[:count]
    assert len(shown) == len(expected) == count
    for (images, labels), (their_images, their_labels) in zip(shown, expected, strict=True):
        assert torch.equal(images, their_images)
        assert torch.equal(labels, their_labels)


# 200 images in batches of 50: an epoch has four.
@pytest.mark.parametrize(
    ("register", "count"),
    [(gl.criterion, 1), (gl.criterion(batches=3), 3), (gl.criterion(batches=100), 4)],
    ids=["by default", "three", "more than an epoch has"],
)
def test_a_criterion_sees_the_batches_that_it_registered(measure, recipe, define, register, count):
    seen = []
    define(CRITERIA, register(watching(seen)))
    measure(trial(recipe, 2, 0.5, criterion="watching"))
    (shown,) = seen
    assert_first_batches(shown, recipe, 2, count)


@pytest.mark.parametrize(
    ("register", "count"),
    [(gl.regrowth, 1), (gl.regrowth(batches=2), 2), (gl.regrowth(batches=100), 4)],
    ids=["by default", "two", "more than an epoch has"],
)
def test_a_regrowth_sees_the_batches_that_it_registered_and_not_the_criterions(
    measure, recipe, define, register, count
):
    by_criterion, by_regrowth = [], []
    define(CRITERIA, gl.criterion(batches=3)(watching(by_criterion)))
    define(REGROWTHS, register(watching(by_regrowth)))
    measure(trial(recipe, 1, 0.5, criterion="watching", regrow="watching"))
    (shown,) = by_regrowth
    assert_first_batches(shown, recipe, 1, count)
    # The second time it says what of the regrown connections it would prune after recovery.
    assert len(by_criterion) == 2
    assert_first_batches(by_criterion[0], recipe, 1, 3)
    assert_first_batches(by_criterion[1], recipe, 2, 3)


def test_a_regrowth_scores_weights_that_are_not_yet_zeroed(measure, recipe, define):
    seen = []

    def zeros(context):
        seen.append(sum(int((w == 0).sum()) for w in context.weights().values()))
        return context.weights()

    define(REGROWTHS, gl.regrowth(zeros))
    measure(trial(recipe, 1, 0.5, regrow="zeros"))
    assert seen == [0]


def buffers(state):
    return {name: value.clone() for name, value in state.model.named_buffers()}


def learnt(state):
    """Weights, biases and momenta."""
    found = dict(state.model.named_parameters())
    momenta = {f"momentum of {n}": state.optimizer.state[p] for n, p in found.items()}
    return found | {name: kept["momentum_buffer"] for name, kept in momenta.items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("regrow", [None, "gradient"])
def test_batchnorm_is_measured_anew_on_the_pruned_network_and_nothing_else_is_changed(
    lab, convnet, regrow
):
    run = lab.train(convnet, progress=False)
    with_, without = (
        operated(run, trial(convnet, 1, 0.7, reestimate=flag, regrow=regrow))
        for flag in (True, False)
    )
    assert with_[:3] == without[:3]
    state, expected = with_[3], without[3]
    assert same(learnt(state), learnt(expected))
    assert (state.epoch, state.step) == (expected.epoch, expected.step)
    assert not same(buffers(state), buffers(expected))
    loop.reestimate_batchnorm(expected, convnet, DIGITS)
    assert same(buffers(state), buffers(expected))


def test_accuracy_just_after_pruning_is_that_of_the_network_with_batchnorm_measured_anew(
    measure, convnet
):
    asked = {flag: trial(convnet, 1, 0.7, reestimate=flag) for flag in (False, True)}
    run, found = measure(asked[True])
    _, as_trained = measure(asked[False])
    state = operated(run, asked[False])[3]
    assert as_trained["row"]["acc_pruned"] == evaluate(state, convnet, DIGITS)["test_acc"]
    loop.reestimate_batchnorm(state, convnet, DIGITS)
    assert found["row"]["acc_pruned"] == evaluate(state, convnet, DIGITS)["test_acc"]
    assert found["row"]["acc_pruned"] != as_trained["row"]["acc_pruned"]
    assert found["row"]["acc_before"] == as_trained["row"]["acc_before"]


def test_without_batchnorm_measuring_it_anew_has_no_effect(measure, recipe):
    found = [measure(trial(recipe, 2, 0.9, reestimate=flag))[1] for flag in (False, True)]
    assert found[0]["curve"] == found[1]["curve"]
    assert found[0]["layers"] == found[1]["layers"]


TWICE = {
    "layers": {"layers": "block2.* last", "dense": "classifier.weight"},
    "filter": {"granularity": "filter", "regrow": "gradient", "dense": "last"},
    "2:4": {"granularity": "2:4", "scope": "uniform"},
    "across layers": {"regrow": "momentum", "regrow_scope": "global", "criterion": "taylor"},
    "random": {"regrow": "random", "criterion": "random", "layers": "block*"},
    "reestimate": {"reestimate": True, "regrow": "gradient"},
}


@pytest.mark.parametrize("how", TWICE)
def test_a_trial_measured_twice_gives_the_same_numbers_to_the_last_bit(measure, convnet, how):
    recipe = replace(convnet, method=gl.methods.static(0.5))
    asked = trial(recipe, 1, 0.5, **TWICE[how])
    found = []
    for _ in range(2):
        found.append(measure(asked)[1])
        del found[-1]["row"]["seconds"]
        torch.rand(3)
    assert found[0] == found[1]
    assert ("regrown_survival" in found[0]["row"]) == ("regrow" in TWICE[how])


def survivors(run, asked):
    """By hand: (regrown connections, those of them that magnitude would keep after recovery)."""
    _, kept, regrown, state = operated(run, asked)
    list(loop.fit(state, asked.recipe, DIGITS, asked.epoch + asked.recovery_epochs, lr=0.1))
    part = [name for name in regrown if name != "1.weight"]
    sizes = {n: w.detach().abs() for n, w in prunable(state.model).items() if n in part}
    active = torch.cat([sizes[name][regrown[name]] for name in part])
    gone = round(asked.pruning.rate * len(active))
    limit = active.sort().values[gone - 1]
    born = {name: regrown[name] & ~kept[name] for name in part}
    alive = sum(int((born[name] & (sizes[name] > limit)).sum()) for name in part)
    return sum(int(mask.sum()) for mask in born.values()), alive


@pytest.mark.parametrize("regrow_scope", ["layer", "global"])
def test_survival_is_the_share_of_what_came_back_that_would_be_kept_after_recovery(
    measure, sparse_recipe, regrow_scope
):
    recipe = replace(sparse_recipe, milestones=())
    how = {"regrow": "gradient", "regrow_scope": regrow_scope, "dense": "first"}
    asked = trial(recipe, 1, 0.3, recovery_epochs=2, **how)
    run, found = measure(asked)
    born, alive = survivors(run, asked)
    assert 0 < alive < born
    assert found["row"]["regrown_survival"] == alive / born


@pytest.mark.parametrize("criterion", ["magnitude", "snip", "random"])
@pytest.mark.parametrize("granularity", ["weight", "filter"])
def test_survival_lies_between_none_and_all(measure, sparse_recipe, criterion, granularity):
    how = {"criterion": criterion, "granularity": granularity, "regrow": "random"}
    recipe = replace(sparse_recipe, method=gl.methods.static(0.2))
    _, found = measure(trial(recipe, 2, 0.5, **how))
    assert 0 <= found["row"]["regrown_survival"] <= 1


def test_nothing_survives_that_had_no_time_to_grow(measure, recipe):
    _, found = measure(trial(recipe, 2, 0.4, regrow="gradient", recovery_epochs=0))
    assert found["row"]["regrown_survival"] == 0


def test_everything_survives_where_what_comes_back_always_scores_highest(
    measure, sparse_recipe, define
):
    def place(context):
        weights = context.weights()
        return {name: torch.arange(w.numel()).view(w.shape) for name, w in weights.items()}

    define(CRITERIA, gl.criterion(place))
    define(REGROWTHS, gl.regrowth(place))
    how = {"criterion": "place", "regrow": "place", "scope": "uniform"}
    _, found = measure(trial(sparse_recipe, 2, 0.1, **how))
    assert found["row"]["regrown_survival"] == 1


@pytest.mark.parametrize("how", [{}, {"regrow": "gradient", "rate": 0.0}], ids=str)
def test_where_nothing_came_back_there_is_no_survival(lab, measure, recipe, how):
    asked = trial(recipe, 2, **{"rate": 0.5, **how})
    assert measure(asked)[1]["row"].get("regrown_survival") is None
    table = lab.measure([asked], workers=1, progress=False)
    assert table.regrown_survival.isna().tolist() == [True]


def test_a_recovery_that_diverges_has_no_survival(measure, recipe):
    explosive = replace(recipe, milestones=(3,), gamma=1e15)
    _, found = measure(trial(explosive, 3, 0.5, regrow="gradient"))
    assert found["row"]["status"] == "diverged"
    assert found["row"].get("regrown_survival") is None


def test_pruning_once_more_leaves_the_network_as_it_is(measure, sparse_recipe):
    asked = trial(sparse_recipe, 2, 0.5, criterion="snip")
    run, _ = measure(asked)
    state, before = run.load(2), run.load(2)
    pruned = prune_once(state, asked, DIGITS)
    assert pruned.active == round(0.5 * before.masks.active)
    assert state.masks == before.masks
    assert same(learnt(state), learnt(before))


def test_weights_that_cannot_be_ranked_at_the_end_cost_nothing_but_the_survival(lab):
    explosive = gl.recipes.digits(model="mlp", epochs=4, milestones=(3,), gamma=1e60, train_size=50)
    trials = gl.grid(explosive, epoch=3, rate=0.5, regrow=[None, "random"], recovery_epochs=1)
    table = lab.measure(trials, workers=1, progress=False)
    assert list(table.status) == ["ok", "ok"]
    assert table.regrown_survival.isna().all()
