from collections import Counter
from dataclasses import replace

import pytest
import torch

import granet_lab as gl
from granet_lab import datasets
from granet_lab.experiments.tidy import trial_columns
from granet_lab.sparsity import prunable
from granet_lab.training import loop

SIZES = {"1.weight": 6400, "3.weight": 10000, "5.weight": 1000}


def one(recipe, epoch=2, **values):
    (trial,) = gl.grid(recipe, **{"epoch": epoch, "rate": 0.5, **values})
    return trial


def flat(tensors):
    return torch.cat([tensors[name].flatten() for name in SIZES]).tolist()


def test_there_is_a_row_for_each_prunable_weight_with_its_value_before_pruning(lab, sparse_recipe):
    trial = one(sparse_recipe, regrow="random")
    found = lab.weights([trial])
    assert found.groupby("layer", sort=False).size().to_dict() == SIZES
    before = lab.run(sparse_recipe).load(2)
    values = {name: weight.detach() for name, weight in prunable(before.model).items()}
    assert found.weight.tolist() == flat(values)
    assert found.active.tolist() == flat(before.masks)
    assert found.active.dtype == bool


def test_the_fate_of_each_weight_is_what_the_masks_say(lab, sparse_recipe):
    trial = one(sparse_recipe, regrow="random")
    found = lab.weights([trial])
    state = lab.run(sparse_recipe).load(2)
    context = loop.context(state, sparse_recipe, datasets.load("digits"))
    kept = gl.prune(context, trial.pruning)
    regrown = gl.regenerate(context, state.masks, kept, "random")

    def fate(before, kept, after):
        if kept:
            return "kept"
        if after:
            return "regrown"
        return "removed" if before else "inactive"

    masks = [flat(state.masks), flat(kept), flat(regrown)]
    expected = [fate(*weight) for weight in zip(*masks, strict=True)]
    assert found.fate.tolist() == expected
    counts = Counter(expected)
    assert counts["kept"] == counts["regrown"] == 1740  # half of a fifth of 17400
    assert set(counts) == {"kept", "removed", "inactive", "regrown"}
    # Among what came back are weights that were removed a moment before, and others.
    assert set(found.active[found.fate == "regrown"]) == {False, True}


def test_magnitude_removes_the_smallest_of_the_layer_that_it_is_told_to_prune(lab, recipe):
    found = lab.weights([one(recipe, rate=0.3, layers="3.weight")])
    assert found.fate[found.layer != "3.weight"].eq("kept").all()
    layer = found[found.layer == "3.weight"]
    gone = layer.fate == "removed"
    assert gone.sum() == 3000
    assert set(layer.fate) == {"kept", "removed"}
    assert layer.weight[gone].abs().max() <= layer.weight[~gone].abs().min()
    assert layer.weight[gone].abs().min() > 0


def test_a_weight_that_was_inactive_all_along_is_neither_kept_nor_removed(lab, sparse_recipe):
    found = lab.weights([one(sparse_recipe, rate=0.25)])
    assert found.fate.value_counts().to_dict() == {"inactive": 13920, "kept": 2610, "removed": 870}
    assert (found.active == (found.fate != "inactive")).all()
    assert found.weight[~found.active].eq(0).all()


def test_on_a_dense_network_all_that_is_removed_comes_back(lab, recipe):
    found = lab.weights([one(recipe, regrow="gradient")])
    assert found.fate.value_counts().to_dict() == {"kept": 8700, "regrown": 8700}
    assert found.active.all()


def test_weights_say_what_was_asked(lab, recipe):
    trials = [one(recipe), one(replace(recipe, seed=1), epoch=4, criterion="snip", dense="last")]
    found = lab.weights(trials)
    assert len(found) == 2 * 17400
    assert list(found)[:4] == ["layer", "weight", "active", "fate"]
    for trial, rows in zip(trials, (found[:17400], found[17400:]), strict=True):
        for name, value in trial_columns(trial).items():
            assert (rows[name].isna() if value is None else rows[name] == value).all()
    assert found.regrow[0] is None
    assert found.index.tolist() == [*range(2 * 17400)]


def test_runs_are_trained_if_they_are_missing_and_nothing_is_measured(lab, recipe):
    trial = one(recipe)
    assert not lab.run(recipe).finished
    lab.weights([trial])
    run = lab.run(recipe)
    assert run.finished
    assert list(run.path.rglob("trials/*")) == []
    assert len(lab.table([trial])) == 0


def test_weights_change_nothing_on_the_disk_and_are_the_same_twice(lab, recipe):
    trials = [one(recipe, criterion="random", regrow="random", reestimate_batchnorm=True)]
    first = lab.weights(trials)
    written = {p: p.stat().st_mtime_ns for p in lab.path.rglob("*")}
    torch.rand(3)
    assert lab.weights(trials).equals(first)
    assert {p: p.stat().st_mtime_ns for p in lab.path.rglob("*")} == written


def test_fates_are_those_of_the_trial_when_it_is_measured(lab, sparse_recipe):
    trials = [one(sparse_recipe, criterion="snip", regrow="gradient", regrow_scope="global")]
    lab.measure(trials, workers=1, progress=False)
    found, layers = lab.weights(trials), lab.layers(trials).set_index("layer")
    for name, rows in found.groupby("layer"):
        kept = (rows.fate == "kept").mean()
        active = rows.fate.isin(["kept", "regrown"]).mean()
        assert kept == pytest.approx(1 - layers.sparsity_pruned[name], abs=1e-12)
        assert active == pytest.approx(1 - layers.sparsity_regenerated[name], abs=1e-12)


def test_weights_of_no_trial_are_refused(lab):
    with pytest.raises(ValueError, match="weights needs at least one trial"):
        lab.weights([])
