from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recipes_drawn import CHANGES, FOLDERS, RECIPES, SCOPES

import granet_lab as gl
from granet_lab.experiments.spelling import recipe_code, trials_code
from granet_lab.experiments.trials import CONTINUATIONS
from granet_lab.sparsity.criteria import CRITERIA
from granet_lab.sparsity.regrowths import REGROWTHS
from granet_lab.training.recipes import RECIPES as NAMED

LAYERS = st.sampled_from(["first", "last", "block2.0.weight", "block* classifier.weight"])
PLAIN = {
    "rate": st.floats(0, 1),
    "criterion": st.sampled_from(list(CRITERIA)),
    "scope": SCOPES,
    "granularity": st.sampled_from(["weight", "filter"]),
    "layers": st.just("*") | LAYERS,
    "dense": st.just("") | LAYERS,
}
REGROWING = {
    "regrow": st.sampled_from(list(REGROWTHS)),
    "regrow_scope": st.sampled_from(["layer", "global"]),
}
PATTERN = {"granularity": st.just("2:4"), "rate": st.just(0.5), "scope": st.just("uniform")}
PRUNINGS = st.one_of(
    st.builds(gl.Pruning, **PLAIN),
    st.builds(gl.Pruning, **PLAIN, **REGROWING),
    st.builds(gl.Pruning, **{**PLAIN, **PATTERN}),
)


@st.composite
def trials(draw):
    """Trials that differ in their seed alone."""
    recipe, lr = draw(RECIPES), draw(st.sampled_from(CONTINUATIONS))
    asked = {
        "epoch": draw(st.integers(0, recipe.epochs)),
        "pruning": draw(PRUNINGS),
        "recovery_epochs": draw(st.none() | st.integers(0, 20)) if lr == "frozen" else None,
        "lr": lr,
        "reestimate_batchnorm": draw(st.booleans()),
    }
    assert asked.keys() | {"recipe"} == {field.name for field in fields(gl.Trial)}
    seeds = draw(st.lists(st.integers(0, 9), min_size=1, max_size=4))
    return [gl.Trial(recipe=replace(recipe, seed=seed), **asked) for seed in seeds]


def made(code):
    return eval(code, {"gl": gl})


def test_every_field_is_tried():
    assert CHANGES.keys() | FOLDERS.keys() == {field.name for field in fields(gl.Recipe)}
    assert PLAIN.keys() | REGROWING.keys() == {field.name for field in fields(gl.Pruning)}


@settings(deadline=None)  # the first one loads torchvision
@given(RECIPES)
def test_a_line_makes_the_recipe_that_it_spells(recipe):
    assert made(recipe_code(recipe)) == recipe


@settings(deadline=None)
@given(trials())
def test_a_line_makes_the_trials_that_it_spells(trials):
    code = trials_code(trials)
    assert made(code) == (trials if len(trials) > 1 else trials[0])
    assert "\n" not in code


def test_the_usual_recipe_is_one_name():
    assert recipe_code(gl.recipes.digits()) == "gl.recipes.digits()"


def test_only_what_differs_is_spelled():
    recipe = gl.recipes.digits(seed=3, method=gl.methods.static(0.8))
    expected = "gl.recipes.digits(method=gl.methods.static(0.8), seed=3)"
    assert recipe_code(recipe) == expected


def test_a_recipe_far_from_every_named_one_is_spelled_from_nothing():
    recipe = gl.Recipe(dataset="digits", model="mlp", epochs=5, batch_size=64, lr=0.5)
    expected = "gl.Recipe(dataset='digits', model='mlp', epochs=5, batch_size=64, lr=0.5)"
    assert recipe_code(recipe) == expected


def test_dense_is_spelled_where_the_nearest_named_recipe_is_sparse(define):
    def odd(**changes):
        usual = {"lr": 0.3, "gamma": 0.2, "momentum": 0.8, "method": gl.methods.static(0.5)}
        return gl.recipes.digits(**(usual | changes))

    define(NAMED, odd)
    dense = odd(method=gl.methods.dense())
    assert recipe_code(dense) == "gl.recipes.odd(method=gl.methods.dense())"


@pytest.mark.parametrize(
    ("method", "code"),
    [
        (gl.methods.static(0.9), "gl.methods.static(0.9)"),
        (gl.methods.static(0.9, scope="er"), "gl.methods.static(0.9, scope='er')"),
        (gl.methods.granet(0.9), "gl.methods.granet(0.9)"),
        (gl.methods.granet_st(0.9, interval=7), "gl.methods.granet_st(0.9, interval=7)"),
        (gl.methods.set_(0.98), "gl.methods.set_(0.98)"),
        (gl.methods.gsm(0.5), "gl.methods.gsm(0.5)"),
        (
            gl.methods.one_shot(0.9, 3),
            "gl.methods.SparseTraining(final_sparsity=0.9, start=3, stop=3)",
        ),
        (
            gl.methods.SparseTraining(initial_sparsity=0.3, regrow="momentum"),
            "gl.methods.SparseTraining(initial_sparsity=0.3, regrow='momentum')",
        ),
    ],
)
def test_a_method_is_spelled_by_its_name_while_nothing_in_it_is_unusual(method, code):
    assert recipe_code(gl.recipes.digits(method=method)) == f"gl.recipes.digits(method={code})"


def test_an_expression_stands_in_place_of_a_field():
    assert recipe_code(gl.recipes.digits(seed=4), seed="n") == "gl.recipes.digits(seed=n)"


def test_a_trial_says_its_continuation_and_what_is_unusual_in_its_pruning():
    recipe, pruning = gl.recipes.digits(), gl.Pruning(rate=0.5, regrow="gradient")
    start = "gl.Trial(recipe=gl.recipes.digits(), epoch=30, "
    start += "pruning=gl.Pruning(rate=0.5, regrow='gradient'), "
    frozen = gl.Trial(recipe=recipe, epoch=30, pruning=pruning)
    assert trials_code([frozen]) == f"{start}recovery_epochs=6)"
    remaining = gl.Trial(recipe=recipe, epoch=30, pruning=pruning, lr="remaining")
    assert trials_code([remaining]) == f"{start}lr='remaining')"


def test_seeds_are_a_comprehension():
    asked = gl.grid(gl.recipes.digits(), epoch=30, rate=0.5, seed=[0, 2])
    assert trials_code(asked) == (
        "[gl.Trial(recipe=gl.recipes.digits(seed=seed), epoch=30, pruning=gl.Pruning(rate=0.5), "
        "recovery_epochs=6) for seed in [0, 2]]"
    )


@pytest.mark.parametrize("differing", [{"epoch": [1, 2]}, {"rate": [0.5, 0.9]}, {"lr": [0.1, 0.2]}])
def test_trials_that_differ_in_more_than_the_seed_are_refused_in_one_line(differing):
    asked = gl.grid(gl.recipes.digits(), **{"epoch": 1, "rate": 0.5, "seed": [0, 1]} | differing)
    with pytest.raises(ValueError, match=r"\Aone line spells trials .* seed alone\Z"):
        trials_code(asked)


def test_no_trial_at_all_is_refused():
    with pytest.raises(ValueError, match="one line spells"):
        trials_code([])


def test_rounds_are_spelled_too():
    rounds = gl.methods.Rounds(count=2, cycle=9)
    recipe = gl.recipes.digits(method=gl.methods.lr_rewinding(0.9, rounds), epochs=23)
    code = recipe_code(recipe)
    assert eval(code, {"gl": gl}) == recipe
    assert "gl.methods.lr_rewinding(0.9, rounds=gl.methods.Rounds(" in code
