import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import granet_lab as gl
from granet_lab.training.recipe import learning_rate
from granet_lab.training.recipes import RECIPES

digits = gl.recipes.digits
every_recipe = pytest.mark.parametrize("name", RECIPES)

REFUSED = [
    ("dataset", "mnist"),
    ("dataset", ["digits"]),
    ("model", "resnet"),
    ("epochs", 0),
    ("epochs", 1.5),
    ("epochs", None),
    ("batch_size", 0),
    ("batch_size", "50"),
    ("lr", -0.1),
    ("lr", float("nan")),
    ("lr", float("inf")),
    ("lr", "fast"),
    ("lr", None),
    ("lr", 10**400),
    ("milestones", (45, 30)),
    ("milestones", (30, 30)),
    ("milestones", (-1,)),
    ("milestones", (1.5,)),
    ("milestones", 30),
    ("milestones", None),
    ("gamma", -1),
    ("momentum", -0.9),
    ("momentum", float("nan")),
    ("nesterov", "false"),
    ("weight_decay", -1e-4),
    ("warmup_epochs", -1),
    ("warmup_epochs", 0.5),
    ("label_smoothing", 1.1),
    ("label_smoothing", -0.1),
    ("augment", "mixup"),
    ("precision", "fp16"),
    ("train_size", 0),
    ("train_size", 0.5),
    ("method", 0.9),
    ("method", "static"),
    ("seed", -1),
    ("seed", 0.5),
    ("threads", 0),
    ("image_size", 8),
    ("image_size", 0),
    ("image_size", 7.5),
    ("norm_decay", "false"),
    ("norm_decay", None),
]


@pytest.mark.parametrize(("field", "value"), REFUSED, ids=lambda x: str(x)[:20])
def test_a_bad_value_is_refused_in_one_line_that_names_the_field(field, value):
    with pytest.raises(ValueError, match=field) as error:
        digits(**{field: value})
    assert "\n" not in str(error.value)


def test_every_field_refuses_something():
    assert {field for field, _ in REFUSED} == {f.name for f in dataclasses.fields(gl.Recipe)}


@pytest.mark.parametrize(
    ("field", "known"),
    [("dataset", "digits"), ("model", "mlp"), ("augment", "crop_flip"), ("precision", "bf16")],
)
def test_an_unknown_name_is_told_the_known_ones(field, known):
    with pytest.raises(ValueError, match=f"choose from .*{known}"):
        digits(**{field: "nothing"})


def test_nesterov_without_momentum_is_refused():
    with pytest.raises(ValueError, match="nesterov needs a momentum"):
        digits(nesterov=True, momentum=0)


def test_numpys_numbers_are_accepted_and_become_pythons():
    ours = digits(epochs=4, lr=0.25, milestones=(1, 2), train_size=200, seed=3, nesterov=True)
    theirs = digits(
        epochs=np.int64(4),
        lr=np.float64(0.25),
        milestones=np.arange(1, 3),
        train_size=np.int32(200),
        seed=np.uint8(3),
        nesterov=np.True_,
        norm_decay=np.True_,
    )
    assert theirs == ours
    assert repr(theirs) == repr(ours)


def test_milestones_may_be_a_list():
    assert digits(milestones=[3, 4]) == digits(milestones=(3, 4))


def test_equal_recipes_hash_equal():
    one, other = (digits(seed=2, method=gl.methods.static(0.5)) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert one != digits(seed=2, method=gl.methods.static(0.6))


def test_a_recipe_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        digits().lr = 1.0


@every_recipe
def test_a_named_recipe_makes_a_recipe_and_takes_changes(name):
    recipe = RECIPES[name]()
    assert isinstance(recipe, gl.Recipe)
    assert RECIPES[name](seed=5) == dataclasses.replace(recipe, seed=5)
    assert all(0 < milestone < recipe.epochs for milestone in recipe.milestones)


def test_digits_is_the_recipe_of_60_epochs():
    recipe = digits()
    assert (recipe.dataset, recipe.model) == ("digits", "convnet")
    assert (recipe.epochs, recipe.batch_size, recipe.lr) == (60, 50, 0.1)
    assert (recipe.milestones, recipe.gamma) == ((30, 45), 0.1)
    assert (recipe.momentum, recipe.nesterov, recipe.weight_decay) == (0.9, False, 5e-4)
    assert (recipe.warmup_epochs, recipe.label_smoothing, recipe.augment) == (0, 0, None)
    assert (recipe.precision, recipe.train_size, recipe.seed) == ("fp32", None, 0)
    assert recipe.method == gl.methods.dense()


def rates(**changes):
    recipe = digits(epochs=6, **changes)
    return [learning_rate(recipe, epoch) for epoch in range(6)]


def test_without_milestones_the_learning_rate_is_constant():
    assert rates(lr=0.2, milestones=()) == [0.2] * 6


def test_the_learning_rate_is_multiplied_by_gamma_at_each_milestone():
    assert rates(lr=0.8, milestones=(2, 4), gamma=0.5) == [0.8, 0.8, 0.4, 0.4, 0.2, 0.2]


def test_a_milestone_at_zero_decays_from_the_first_epoch():
    assert rates(lr=0.8, milestones=(0,), gamma=0.5) == [0.4] * 6


def test_the_warm_up_rises_linearly_to_the_full_rate():
    found = rates(lr=0.8, milestones=(), warmup_epochs=4)
    assert found == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


def test_the_warm_up_and_a_decay_multiply():
    found = rates(lr=1.0, milestones=(1, 4), gamma=0.5, warmup_epochs=2)
    assert found == [0.5, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_digits_decays_by_ten_at_30_and_45():
    expected = {0: 0.1, 29: 0.1, 30: 0.01, 44: 0.01, 45: 0.001, 59: 0.001}
    assert {e: learning_rate(digits(), e) for e in expected} == pytest.approx(expected)


@settings(deadline=None)
@given(
    milestones=st.sets(st.integers(0, 20)).map(sorted),
    gamma=st.floats(0, 1),
    warmup=st.integers(0, 10),
)
def test_the_learning_rate_never_rises_after_the_warm_up(milestones, gamma, warmup):
    recipe = digits(milestones=milestones, gamma=gamma, warmup_epochs=warmup)
    found = [learning_rate(recipe, epoch) for epoch in range(max(warmup - 1, 0), 25)]
    assert found == sorted(found, reverse=True)
    assert all(0 <= rate <= recipe.lr for rate in found)
