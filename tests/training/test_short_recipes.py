from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import granet_lab as gl
from granet_lab.training.recipe import learning_rate, under
from granet_lab.training.recipes import RECIPES

methods = gl.methods
CIFAR = gl.recipes.resnet20_cifar10()
# Epochs, milestones and epochs of warm-up of a tenth of each recipe; halves round to even.
TENTHS = {
    "digits": (6, (3, 4), 0),
    "resnet20_cifar10": (16, (8, 12), 0),
    "vgg19_cifar10": (16, (8, 12), 0),
    "vgg19_cifar100": (16, (8, 12), 0),
    "resnet50_cifar10": (16, (8, 12), 0),
    "resnet50_cifar100": (16, (8, 12), 0),
    "resnet50_imagenet": (10, (3, 6, 9), 0),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_tenth_of_a_recipe_has_a_tenth_of_its_schedule_and_all_else_stays(name):
    recipe = RECIPES[name](seed=3)
    epochs, milestones, warmup = TENTHS[name]
    assert recipe.short() == replace(
        recipe, epochs=epochs, milestones=milestones, warmup_epochs=warmup
    )


@pytest.mark.parametrize(
    ("factor", "epochs", "milestones", "warmup"),
    [(1, 100, (30, 60, 90), 5), (2, 50, (15, 30, 45), 2), (2.5, 40, (12, 24, 36), 2)],
)
def test_a_factor_divides_epochs_decays_and_warm_up(factor, epochs, milestones, warmup):
    short = gl.recipes.resnet50_imagenet().short(factor)
    assert (short.epochs, short.milestones, short.warmup_epochs) == (epochs, milestones, warmup)


def test_a_factor_of_one_changes_nothing():
    for recipe in (CIFAR, replace(CIFAR, method=methods.granet(0.9, stop=100, interval=70))):
        assert recipe.short(1) == recipe


@settings(deadline=None)
@given(
    epochs=st.integers(1, 20),
    milestones=st.sets(st.integers(1, 20), max_size=3),
    warmup=st.integers(0, 5),
    factor=st.integers(1, 12),
)
def test_every_epoch_has_the_learning_rate_of_its_last_one_in_the_whole_schedule(
    epochs, milestones, warmup, factor
):
    whole = replace(
        CIFAR,
        epochs=epochs * factor,
        milestones=tuple(sorted(factor * milestone for milestone in milestones)),
        warmup_epochs=warmup * factor,
    )
    short = whole.short(factor)
    assert short.epochs == epochs
    for epoch in range(epochs):
        expected = learning_rate(whole, epoch * factor + factor - 1)
        assert learning_rate(short, epoch) == pytest.approx(expected)


METHODS = {
    "dense": (methods.dense(), methods.dense()),
    "static": (methods.static(0.8), methods.static(0.8)),
    "granet": (methods.granet(0.9), methods.granet(0.9)),
    "granet with a schedule": (
        methods.granet(0.9, start=20, stop=110, interval=1000),
        methods.granet(0.9, start=2, stop=11, interval=100),
    ),
    "gradual pruning": (methods.gmp(0.9, start=11, stop=114), methods.gmp(0.9, start=1, stop=11)),
    "an interval of few steps": (methods.rigl(0.9, interval=4), methods.rigl(0.9, interval=1)),
    "pruning at once": (methods.one_shot(0.9, 80), methods.one_shot(0.9, 8)),
    "pruning at once and early": (methods.one_shot(0.9, 3), methods.one_shot(0.9, 1)),
    "gsm": (methods.gsm(0.9, stop=120), methods.gsm(0.9, stop=12)),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_schedule_of_a_method_is_divided_too(name):
    method, expected = METHODS[name]
    short = replace(CIFAR, method=method).short()
    assert short == replace(CIFAR.short(), method=expected)
    short.method.plan(short.epochs, 352)  # it fits


@pytest.mark.parametrize("kind", [methods.lottery, methods.lr_rewinding])
def test_rounds_are_as_many_and_each_is_shorter(kind):
    rounds = methods.Rounds(count=3, rewind=10)
    short = under(CIFAR, kind(0.9, rounds)).short()
    expected = methods.Rounds(count=3, cycle=16, rewind=1)
    assert short.method == kind(0.9, expected)
    assert short.epochs == 16 + 3 * 15
    assert (short.milestones, short.lr) == ((8, 12), CIFAR.lr)


def test_a_recipe_of_rounds_is_that_of_the_short_recipe():
    method = methods.lottery(0.9, methods.Rounds(count=2, rewind=0))
    assert under(CIFAR, method).short() == under(CIFAR.short(), method)


@pytest.mark.parametrize("name", RECIPES)
def test_a_named_recipe_has_a_short_form_that_takes_changes(name):
    make = RECIPES[name]
    assert make.short() == make().short()
    assert make.short(4, seed=2, lr=0.3) == make(seed=2, lr=0.3).short(4)


@pytest.mark.parametrize("factor", [0, 0.5, -10, float("nan"), float("inf"), "ten", None, True])
def test_a_factor_below_one_or_that_is_no_number_is_refused_in_one_line(factor):
    with pytest.raises(ValueError, match=r"^factor must be ") as error:
        CIFAR.short(factor)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "recipe", [CIFAR, under(CIFAR, methods.lottery(0.9))], ids=["epochs", "rounds"]
)
def test_a_schedule_of_which_nothing_is_left_is_refused(recipe):
    with pytest.raises(ValueError, match="must"):
        recipe.short(1000)
