from dataclasses import replace

import pytest
import torch

import granet_lab as gl
from granet_lab.experiments.plasticity import measure_trial, sparsities
from granet_lab.experiments.store import Run


def trial(recipe, epoch, rate, lr="frozen", recovery_epochs=None, **pruning):
    return gl.Trial(
        recipe=recipe,
        epoch=epoch,
        pruning=gl.Pruning(rate=rate, **pruning),
        lr=lr,
        recovery_epochs=recovery_epochs,
    )


@pytest.fixture
def measure(lab):
    def measure(asked):
        run = lab.train(asked.recipe, progress=False)
        return run, measure_trial(run, asked)

    return measure


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
    next(run.train())
    with pytest.raises(ValueError, match=r"1 of .* epochs.* is not trained to its end"):
        measure_trial(run, trial(recipe, 1, 0.9))
