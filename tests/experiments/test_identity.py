import hashlib
import json
import os
import subprocess
import sys
from copy import copy
from dataclasses import dataclass, field, fields, make_dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes_drawn import RECIPES

import granet_lab as gl
from granet_lab.experiments.identity import describe, identity, restore

RECIPE = gl.recipes.digits()
SPARSE = replace(RECIPE, method=gl.methods.static(0.9))
TRIAL = gl.Trial(recipe=RECIPE, epoch=30, pruning=gl.Pruning(rate=0.5))

# Another value for every field. The identity looks at values only, so they need not be valid.
OTHER = {
    gl.Recipe: {
        "dataset": "other",
        "model": "mlp",
        "epochs": 61,
        "batch_size": 51,
        "lr": 0.2,
        "milestones": (30, 46),
        "gamma": 0.2,
        "momentum": 0.8,
        "nesterov": True,
        "weight_decay": 0.1,
        "warmup_epochs": 1,
        "label_smoothing": 0.1,
        "augment": "crop",
        "precision": "bf16",
        "train_size": 100,
        "method": gl.methods.static(0.9),
        "seed": 1,
        "threads": 2,
        "image_size": 16,
        "norm_decay": False,
    },
    gl.Pruning: {
        "rate": 0.6,
        "criterion": "random",
        "scope": "erk",
        "granularity": "filter",
        "regrow": "gradient",
        "regrow_scope": "global",
        "layers": "first",
        "dense": "last",
    },
    gl.Trial: {
        "recipe": SPARSE,
        "epoch": 31,
        "pruning": gl.Pruning(rate=0.6),
        "recovery_epochs": 7,
        "lr": "remaining",
        "reestimate_batchnorm": True,
    },
    type(gl.methods.dense()): {
        "initial_sparsity": 0.8,
        "criterion": "magnitude",
        "scope": "uniform",
        "final_sparsity": 0.95,
        "prune_criterion": "random",
        "prune_scope": "erk",
        "regrow": "gradient",
        "regrow_fraction": 0.3,
        "regrow_end": 0.01,
        "interval": 7,
        "start": 1,
        "stop": 2,
        "salient": True,
        "rounds": gl.methods.Rounds(rewind=1),
        "official": True,
    },
}
THINGS = {type(thing): thing for thing in (RECIPE, TRIAL, TRIAL.pruning, gl.methods.static(0.9))}
every_field = pytest.mark.parametrize(
    ("kind", "name"), [(kind, f.name) for kind in OTHER for f in fields(kind)]
)


def changed(thing, name, value):
    other = copy(thing)
    object.__setattr__(other, name, value)
    return other


def through_json(thing):
    return restore(type(thing), json.loads(json.dumps(describe(thing))))


def test_fields_at_their_default_are_left_out():
    assert describe(gl.Pruning(rate=0.5)) == {"rate": 0.5}
    assert describe(gl.Pruning(rate=0.5, scope="global", regrow=None)) == {"rate": 0.5}
    assert describe(gl.methods.dense()) == {}


def test_a_recipe_is_described_by_plain_json_values():
    assert describe(SPARSE) == {
        "dataset": "digits",
        "model": "convnet",
        "epochs": 60,
        "batch_size": 50,
        "lr": 0.1,
        "milestones": [30, 45],
        "weight_decay": 5e-4,
        "method": {"initial_sparsity": 0.9},
    }


def test_the_identity_is_the_start_of_a_sha256_over_canonical_json():
    text = b'{"Pruning":{"rate":0.5,"regrow":"gradient"},"schema":1}'
    expected = hashlib.sha256(text).hexdigest()[:16]
    assert identity(gl.Pruning(rate=0.5, regrow="gradient")) == expected


def test_a_trials_identity_holds_its_recipe_and_its_pruning():
    text = (
        b'{"Trial":{"epoch":30,"pruning":{"rate":0.5},"recipe":{"batch_size":50,"dataset":"digits",'
        b'"epochs":60,"lr":0.1,"milestones":[30,45],"model":"convnet","weight_decay":0.0005},'
        b'"recovery_epochs":6},"schema":1}'
    )
    assert identity(TRIAL) == hashlib.sha256(text).hexdigest()[:16]


@dataclass(frozen=True)
class Thing:
    size: int
    colour: str = "red"


def test_a_new_field_with_a_default_keeps_the_identity():
    newer = make_dataclass(
        "Thing",
        [
            ("shape", str, field(default="round")),
            ("size", int, 0),
            ("colour", str, "red"),
            ("parts", list, field(default_factory=list)),
        ],
    )
    for values in ({"size": 3}, {"size": 3, "colour": "blue"}):
        assert identity(newer(**values)) == identity(Thing(**values))
    assert identity(newer(size=3, parts=[1])) != identity(Thing(size=3))


def test_another_kind_of_thing_has_another_identity():
    twin = make_dataclass("Twin", [("size", int), ("colour", str, "red")])
    assert identity(twin(3)) != identity(Thing(3))


@every_field
def test_changing_any_field_changes_the_identity(kind, name):
    thing = THINGS[kind]
    assert getattr(thing, name) != OTHER[kind][name]
    assert identity(changed(thing, name, OTHER[kind][name])) != identity(thing)


@pytest.mark.parametrize("kind", OTHER)
def test_each_change_gives_an_identity_of_its_own(kind):
    found = {identity(changed(THINGS[kind], name, value)) for name, value in OTHER[kind].items()}
    assert len(found) == len(fields(kind))


@pytest.mark.parametrize("name", OTHER[gl.Recipe])
def test_a_trial_of_another_recipe_has_another_identity(name):
    recipe = changed(RECIPE, name, OTHER[gl.Recipe][name])
    assert identity(changed(TRIAL, "recipe", recipe)) != identity(TRIAL)


@pytest.mark.parametrize("name", OTHER[gl.Pruning])
def test_a_trial_of_another_pruning_has_another_identity(name):
    pruning = changed(TRIAL.pruning, name, OTHER[gl.Pruning][name])
    assert identity(changed(TRIAL, "pruning", pruning)) != identity(TRIAL)


def test_a_default_spelled_out_is_the_same_trial():
    spelled = replace(TRIAL, recovery_epochs=6, lr="frozen")
    assert identity(spelled) == identity(TRIAL)


@settings(deadline=None)
@given(recipe=RECIPES)
def test_a_recipe_is_restored_from_its_description(recipe):
    assert through_json(recipe) == recipe
    assert identity(through_json(recipe)) == identity(recipe)


@settings(deadline=None)
@given(recipe=RECIPES, data=st.data())
def test_a_trial_is_restored_from_its_description(recipe, data):
    pruning = gl.Pruning(
        rate=data.draw(st.floats(0, 1)),
        criterion=data.draw(st.sampled_from(["magnitude", "random"])),
        scope=data.draw(st.sampled_from(["global", "uniform", "erk"])),
        regrow=data.draw(st.sampled_from([None, "gradient", "random"])),
    )
    lr = data.draw(st.sampled_from(["frozen", "remaining"]))
    recovery = data.draw(st.none() | st.integers(0, 300)) if lr == "frozen" else None
    epoch = data.draw(st.integers(0, recipe.epochs))
    trial = gl.Trial(recipe=recipe, epoch=epoch, pruning=pruning, recovery_epochs=recovery, lr=lr)
    assert through_json(trial) == trial
    assert identity(through_json(trial)) == identity(trial)


@settings(deadline=None)
@given(one=RECIPES, other=RECIPES)
def test_identities_are_equal_where_recipes_are_and_only_there(one, other):
    assert (identity(one) == identity(other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (replace(RECIPE, gamma=0.0), replace(RECIPE, gamma=-0.0)),
        (gl.Pruning(rate=0.0), gl.Pruning(rate=-0.0)),
        (replace(RECIPE, lr=1), replace(RECIPE, lr=1.0)),
        (gl.Pruning(rate=1), gl.Pruning(rate=1.0)),
        (replace(RECIPE, seed=True), replace(RECIPE, seed=1)),
    ],
    ids=["-0.0 gamma", "-0.0 rate", "integer lr", "integer rate", "true seed"],
)
def test_equal_numbers_in_another_spelling_have_one_identity(one, other):
    assert one == other
    assert identity(one) == identity(other)


def test_dense_networks_are_one_however_their_mask_would_be_drawn():
    dense = replace(RECIPE, method=gl.methods.static(0.0, "magnitude", "uniform"))
    assert identity(dense) == identity(RECIPE)


def test_an_unknown_field_is_refused_by_name():
    with pytest.raises(ValueError, match=r"^Recipe has no field colour, size$"):
        restore(gl.Recipe, {**describe(RECIPE), "size": 3, "colour": "red"})


@pytest.mark.parametrize(
    ("part", "kind"), [("pruning", "Pruning"), ("recipe", "Recipe")], ids=["pruning", "recipe"]
)
def test_an_unknown_field_further_down_is_refused_by_name(part, kind):
    description = describe(TRIAL)
    with pytest.raises(ValueError, match=f"^{kind} has no field colour$"):
        restore(gl.Trial, {**description, part: {**description[part], "colour": "red"}})


def test_a_value_that_the_dataclass_refuses_is_refused_here():
    with pytest.raises(ValueError, match="unknown model 'resnet'"):
        restore(gl.Recipe, {**describe(RECIPE), "model": "resnet"})


IDENTITIES = """
import granet_lab as gl
from granet_lab.experiments.identity import identity
recipe = gl.recipes.digits(method=gl.methods.static(0.9))
things = [recipe, *gl.grid(recipe, epoch=[0, 30], rate=0.5, regrow=[None, "gradient"])]
print(*map(identity, things))
"""


def test_a_fresh_interpreter_with_another_hash_seed_finds_the_same_identities():
    found = subprocess.run(
        [sys.executable, "-c", IDENTITIES],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    trials = gl.grid(SPARSE, epoch=[0, 30], rate=0.5, regrow=[None, "gradient"])
    assert found == [identity(thing) for thing in (SPARSE, *trials)]
