from dataclasses import FrozenInstanceError, replace
from itertools import product

import numpy as np
import pytest

import granet_lab as gl
from granet_lab import datasets
from granet_lab.experiments.identity import describe, identity
from granet_lab.sparsity import prunable
from granet_lab.training import loop
from granet_lab.training.recipe import learning_rate

RECIPE = gl.recipes.digits()
HALF = gl.Pruning(rate=0.5)


def trial(**values):
    return gl.Trial(**{"recipe": RECIPE, "epoch": 10, "pruning": HALF, **values})


def grid(**values):
    return gl.grid(RECIPE, **{"epoch": 10, "rate": 0.5, **values})


def test_a_recovery_takes_a_tenth_of_the_run_by_default():
    assert trial().recovery_epochs == 6
    assert trial(recipe=replace(RECIPE, epochs=160)).recovery_epochs == 16


def test_a_recovery_takes_at_least_one_epoch():
    assert trial(recipe=replace(RECIPE, epochs=4), epoch=2).recovery_epochs == 1


def test_a_recovery_may_have_any_length():
    assert [trial(recovery_epochs=n).recovery_epochs for n in (0, 1, 200)] == [0, 1, 200]


@pytest.mark.parametrize("epoch", [0, 10, 60])
def test_the_remaining_schedule_goes_to_the_end_of_the_run(epoch):
    assert trial(epoch=epoch, lr="remaining").recovery_epochs == 60 - epoch


def test_the_remaining_schedule_has_no_other_length():
    assert trial(lr="remaining", recovery_epochs=50) == trial(lr="remaining")
    with pytest.raises(ValueError, match=r"has 50 epochs, not 6: leave recovery_epochs out"):
        trial(lr="remaining", recovery_epochs=6)


@pytest.mark.parametrize("epoch", [-1, 61])
def test_an_epoch_beyond_the_run_is_refused(epoch):
    with pytest.raises(ValueError, match=r"^epoch .*(0 to 60|at least 0)"):
        trial(epoch=epoch)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epoch", 1.5),
        ("epoch", None),
        ("recovery_epochs", -1),
        ("recovery_epochs", 0.5),
        ("pruning", 0.5),
    ],
)
def test_a_bad_value_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        trial(**{field: value})


def test_an_unknown_continuation_is_told_the_known_ones():
    with pytest.raises(ValueError, match=r"'fast': choose from frozen, remaining$"):
        trial(lr="fast")


def test_a_trial_cannot_be_changed_and_hashes_by_value():
    with pytest.raises(FrozenInstanceError):
        trial().epoch = 3
    assert {trial(), trial(), trial(epoch=11)} == {trial(), trial(epoch=11)}


@pytest.mark.parametrize(("epoch", "lr"), [(0, 0.1), (29, 0.1), (30, 0.01), (45, 0.001)])
def test_frozen_is_the_learning_rate_of_the_epoch_that_comes_next(epoch, lr):
    assert trial(epoch=epoch).learning_rate == pytest.approx(lr)


def test_frozen_is_the_last_learning_rate_at_the_end_of_the_run():
    late = replace(RECIPE, milestones=(30, 60))
    assert trial(recipe=late, epoch=60).learning_rate == learning_rate(late, 59) == 0.1 * 0.1


def test_grid_makes_every_combination_once():
    epochs, rates, regrows, seeds = (0, 30), (0.2, 0.5), (None, "gradient"), (0, 1)
    found = grid(epoch=epochs, rate=rates, regrow=regrows, seed=seeds)
    expected = {
        trial(recipe=replace(RECIPE, seed=s), epoch=e, pruning=gl.Pruning(rate=r, regrow=g))
        for s, e, r, g in product(seeds, epochs, rates, regrows)
    }
    assert len(found) == 16
    assert set(found) == expected


def test_grid_keeps_the_order_of_values_and_a_runs_trials_together():
    found = grid(epoch=[30, 0], rate=[0.9, 0.2], seed=[1, 0])
    assert [(t.recipe.seed, t.epoch, t.pruning.rate) for t in found] == [
        (s, e, r) for s in (1, 0) for e in (30, 0) for r in (0.9, 0.2)
    ]


def test_grid_takes_single_values():
    assert grid() == [trial()]


def test_grid_names_each_trial_once():
    assert grid(epoch=[10, 10], rate=[0.5, 0.5]) == [trial()]


def test_grid_keeps_the_recipes_other_fields():
    recipe = replace(RECIPE, seed=4, augment="crop", method=gl.methods.static(0.9))
    (found,) = gl.grid(recipe, epoch=10, rate=0.5)
    assert found.recipe == recipe


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("criterion", "random"),
        ("scope", "erk"),
        ("granularity", "weight"),
        ("regrow", "random"),
        ("layers", "block1.* last"),
        ("dense", "last"),
        ("reestimate_batchnorm", True),
        ("recovery_epochs", 3),
        ("model", "mlp"),
        ("weight_decay", 0.0),
        ("method", gl.methods.static(0.9)),
        ("train_size", None),
    ],
)
def test_grid_takes_fields_of_recipes_prunings_and_trials_by_name(name, value):
    (found,) = grid(**{name: value})
    assert [getattr(part, name) for part in _parts(found) if hasattr(part, name)] == [value]


def _parts(found):
    return found, found.pruning, found.recipe


@pytest.mark.parametrize(
    "make",
    [range, np.arange, lambda *words: list(range(*words)), lambda *words: iter(range(*words))],
    ids=["range", "array", "list", "iterator"],
)
def test_grid_takes_any_kind_of_sequence(make):
    assert [t.epoch for t in grid(epoch=make(0, 31, 10))] == [0, 10, 20, 30]


def test_numpys_numbers_make_the_same_trials_as_pythons():
    theirs = grid(epoch=np.arange(0, 21, 10), rate=np.array([0.25, 0.5]), seed=np.arange(2))
    ours = grid(epoch=[0, 10, 20], rate=[0.25, 0.5], seed=[0, 1])
    assert theirs == ours
    assert repr(theirs) == repr(ours)


def test_a_word_for_lr_is_the_continuation_and_a_number_the_recipes_learning_rate():
    words, numbers = grid(lr=["frozen", "remaining"]), grid(lr=[0.2, 0.05])
    assert [(t.lr, t.recipe.lr) for t in words] == [("frozen", 0.1), ("remaining", 0.1)]
    assert [(t.lr, t.recipe.lr) for t in numbers] == [("frozen", 0.2), ("frozen", 0.05)]


def test_recovery_epochs_apply_to_the_frozen_continuation_alone():
    found = grid(epoch=20, lr=["frozen", "remaining"], recovery_epochs=[2, 4])
    assert [(t.lr, t.recovery_epochs) for t in found] == [
        ("frozen", 2),
        ("frozen", 4),
        ("remaining", 40),
    ]


def test_a_milestones_tuple_is_one_value_and_a_list_of_them_several():
    (one,) = grid(milestones=(20, 40))
    assert one.recipe.milestones == (20, 40)
    assert grid(milestones=())[0].recipe.milestones == ()
    several = grid(milestones=[(20, 40), (), (50,)])
    assert [t.recipe.milestones for t in several] == [(20, 40), (), (50,)]


def test_the_epoch_is_checked_against_the_run_it_belongs_to():
    with pytest.raises(ValueError, match=r"^epoch 20 is not in this run: choose 0 to 10$"):
        grid(epoch=20, epochs=[60, 10])


def test_an_unknown_field_is_told_the_known_ones():
    with pytest.raises(ValueError, match=r"^unknown field 'rates': choose from .*rate, .*seed"):
        grid(rates=[0.5])


def test_a_pruning_itself_is_no_field_of_a_grid():
    with pytest.raises(ValueError, match="unknown field 'pruning'"):
        grid(pruning=HALF)


@pytest.mark.parametrize("name", ["epoch", "rate"])
def test_what_a_grid_needs_is_asked_for(name):
    values = {"epoch": 10, "rate": 0.5}
    del values[name]
    with pytest.raises(ValueError, match=f"^grid needs {name}, one value or several$"):
        gl.grid(RECIPE, **values)


@pytest.mark.parametrize(
    ("name", "value"),
    [("rate", 1.5), ("rate", "half"), ("criterion", "loss"), ("scope", "layer"), ("seed", -1)],
)
def test_a_value_that_its_field_refuses_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=name):
        grid(**{name: value})


@pytest.mark.parametrize("value", ["yes", 2, None, "False"])
def test_batchnorm_is_measured_anew_or_not_and_nothing_between(value):
    with pytest.raises(ValueError, match="reestimate_batchnorm"):
        trial(reestimate_batchnorm=value)


def test_a_trial_is_described_without_what_it_does_not_ask_for():
    (found,) = gl.grid(gl.recipes.digits(model="mlp"), epoch=10, rate=0.5)
    # Older than layers, dense, regrow_scope and reestimate_batchnorm: its file has this name.
    assert describe(found) == {
        "recipe": {
            "dataset": "digits",
            "model": "mlp",
            "epochs": 60,
            "batch_size": 50,
            "lr": 0.1,
            "milestones": [30, 45],
            "weight_decay": 5e-4,
        },
        "epoch": 10,
        "pruning": {"rate": 0.5},
        "recovery_epochs": 6,
    }
    (spelt_out,) = gl.grid(
        gl.recipes.digits(model="mlp"),
        epoch=10,
        rate=0.5,
        layers="*",
        dense="",
        regrow_scope="layer",
        reestimate_batchnorm=False,
    )
    assert spelt_out == found
    assert identity(spelt_out) == identity(found) == "d8e0a5186fbbc06d"


@pytest.mark.parametrize(
    ("name", "value", "place"),
    [
        ("layers", "first", "pruning"),
        ("dense", "last", "pruning"),
        ("reestimate_batchnorm", True, None),
    ],
)
def test_what_a_trial_asks_for_is_in_its_description_and_its_identity(name, value, place):
    (plain,), (found,) = grid(), grid(**{name: value})
    described = describe(found)
    assert (described[place] if place else described)[name] == value
    assert identity(found) != identity(plain)


def test_layers_are_the_same_trial_however_they_are_spaced():
    assert grid(layers="  first   last ") == grid(layers="first last")
    assert identity(grid(dense=" last ")[0]) == identity(grid(dense="last")[0])


def test_grid_makes_every_combination_of_layers_and_batchnorm():
    found = grid(layers=["first", "block3.*", "*"], reestimate_batchnorm=[False, True])
    assert [(t.pruning.layers, t.reestimate_batchnorm) for t in found] == list(
        product(["first", "block3.*", "*"], [False, True])
    )


def test_one_string_of_layers_is_one_value():
    (found,) = grid(layers="first last", dense="block?.*")
    assert (found.pruning.layers, found.pruning.dense) == ("first last", "block?.*")


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("mlp", ["1.weight", "3.weight", "5.weight"]),
        (
            "convnet",
            ["block1.0.weight", "block2.0.weight", "block3.0.weight", "classifier.weight"],
        ),
    ],
)
def test_layer_names_are_those_of_the_prunable_weights_in_their_order(model, names):
    recipe = gl.recipes.digits(model=model)
    assert gl.layer_names(recipe) == names
    state = loop.new_state(recipe, datasets.load("digits"))
    assert list(prunable(state.model)) == list(state.masks) == names


def test_layer_names_make_a_trial_for_each_layer():
    names = gl.layer_names(RECIPE)
    assert [t.pruning.layers for t in grid(layers=names)] == names


def test_where_nothing_comes_back_a_grid_does_not_share_it_out(recipe):
    trials = gl.grid(recipe, epoch=1, rate=0.5, regrow=[None, "random"], regrow_scope="global")
    found = [(trial.pruning.regrow, trial.pruning.regrow_scope) for trial in trials]
    assert found == [(None, "layer"), ("random", "global")]
    with pytest.raises(ValueError, match="regrow_scope says where connections come back"):
        gl.grid(recipe, epoch=1, rate=0.5, regrow_scope="global")
