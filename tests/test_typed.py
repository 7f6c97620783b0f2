import pytest

import granet_lab as gl
from granet_lab import typed


@pytest.mark.parametrize(
    ("text", "name", "method"),
    [
        ("granet", "granet", gl.methods.granet(0.9)),
        ("set", "set", gl.methods.set_(0.9)),
        (
            "gentle:granet,regrow_fraction=0.1,interval=7",
            "gentle",
            gl.methods.granet(0.9, regrow_fraction=0.1, interval=7),
        ),
        (
            "static,criterion=snip,scope=global",
            "static,criterion=snip,scope=global",
            gl.methods.static(0.9, "snip", "global"),
        ),
        ("one_shot,epoch=3", "one_shot,epoch=3", gl.methods.one_shot(0.9, 3)),
        ("gmp,official=True", "gmp,official=True", gl.methods.gmp(0.9, official=True)),
    ],
)
def test_a_method_is_read_with_its_name(text, name, method):
    found, make = typed.method(text)
    assert found == name
    assert make(0.9) == method


def test_methods_are_told_apart_by_name_and_dense_is_there_anyway():
    found = typed.methods(("gmp", "dense", "soft:gmp,stop=3"))
    assert list(found) == ["gmp", "soft"]
    with pytest.raises(ValueError, match="two methods are called a: write other:a:granet"):
        typed.methods(("a:gmp", "a:granet"))


def test_rounds_take_the_epochs_of_the_recipe():
    (found,) = typed.recipes("digits", ("epochs=8", "milestones=4,6"), (0,), (0.9,), ("lottery",))
    assert found.method.rounds.cycle == 8
    assert found.epochs == 8 + 3 * 6


def test_a_method_without_a_sparsity_is_refused():
    with pytest.raises(ValueError, match="--method needs a --pretrained-sparsity above 0"):
        typed.recipes("digits", (), (0,), (0.0,), ("granet",))


def test_a_field_that_the_method_does_not_take_is_told():
    _, make = typed.method("static,regrow=random")
    with pytest.raises(ValueError, match=r"method static cannot be made so: .*'regrow'"):
        make(0.9)


@pytest.mark.parametrize(
    ("text", "value"),
    [("a=1", 1), ("a=0.5", 0.5), ("a=15,22", (15, 22)), ("a=None", None), ("a=b c", "b c")],
)
def test_a_setting_is_a_pair(text, value):
    assert typed.setting(text) == ("a", value)


def test_a_recipe_is_made_for_each_method_sparsity_and_seed_and_the_dense_one_once():
    found = typed.recipes(
        "digits", ("epochs=9", "milestones=3,6"), (0, 4), (0, 0.9), ("gmp", "set")
    )
    ways = [gl.methods.dense(), gl.methods.gmp(0.9), gl.methods.set_(0.9)]
    assert [(one.method, one.seed) for one in found] == [(w, s) for w in ways for s in (0, 4)]
    assert {(one.epochs, one.milestones) for one in found} == {(9, (3, 6))}


def test_a_part_is_one_of_several():
    assert typed.part("2/8") == (2, 8)
    assert typed.part("1/1") == (1, 1)


@pytest.mark.parametrize(
    "text", ["", "2", "0/8", "9/8", "1/0", "-1/2", "1/2/3", "a/b", "1.5/2", " 1/2"]
)
def test_what_is_no_part_is_refused(text):
    with pytest.raises(ValueError, match=r"written like 2/8, the second of eight, not '"):
        typed.part(text)
