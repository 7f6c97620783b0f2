import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import granet_lab as gl
from granet_lab.explorer import setting as settings
from granet_lab.explorer.board import Board
from granet_lab.explorer.controls import SeedControls, SettingControls, button
from granet_lab.explorer.setting import FIELDS, Setting

RARE = {"regrow_scope": ["layer"], "layers": ["*"], "dense": [""], "reestimate_batchnorm": [False]}
OFFERED = {
    "rate": [0.1, 0.5, 0.9],
    "criterion": ["magnitude", "random"],
    "scope": ["global", "uniform"],
    "granularity": ["weight"],
    "regrow": [None, "gradient"],
    **RARE,
    "lr": ["frozen", "remaining"],
    "recovery_epochs": [1, 6],
    "method": [gl.methods.dense(), gl.methods.static(0.8)],
    "seed": [0, 1, 4],
}
START = {name: values[-1] for name, values in OFFERED.items() if name != "seed"}


def controls(start=START, **changes):
    return SettingControls("A", OFFERED | changes, start, "#000")


def board(epochs=60, epoch=30, seeds=(0,), **changes):
    starts = {"A": START, "B": START | {"regrow": None}}
    return Board(epochs, epoch, OFFERED | changes, starts, list(seeds))


def every(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from every(child)


def counter():
    """A function, and how often it was called."""
    calls = []
    return lambda: calls.append(None), calls


def test_the_controls_start_where_they_are_told():
    assert controls().setting == Setting.of(START)
    first = {name: values[0] for name, values in OFFERED.items() if name != "seed"}
    assert controls(first).setting == Setting.of(first)


@pytest.mark.parametrize("name", [name for name in FIELDS if len(OFFERED[name]) > 1])
def test_each_value_that_is_offered_can_be_chosen_and_is_told(name):
    shown = controls()
    changed, calls = counter()
    shown.observe(changed)
    for i in range(len(OFFERED[name])):
        shown.fields[name].index = i
        assert shown.setting == Setting.of(START | {name: OFFERED[name][i]})
    assert len(calls) == len(OFFERED[name])


def test_what_is_offered_is_told_in_words():
    shown = controls().fields
    assert shown["rate"].options == ("0.1", "0.5", "0.9")
    assert shown["regrow"].options == ("none", "gradient")
    assert shown["method"].options == ("dense", "static 0.8")
    assert shown["recovery_epochs"].options == ("1", "6")


NEAR = [0.3, 0.1 + 0.2, 0.1234567, 0.12345671]


@pytest.mark.parametrize("start", NEAR)
def test_rates_that_differ_can_be_chosen_however_little_they_differ(start):
    shown = controls(START | {"rate": start}, rate=NEAR)
    assert shown.setting.pruning.rate == start
    assert len(set(shown.fields["rate"].options)) == len(NEAR)
    for i, rate in enumerate(NEAR):
        shown.fields["rate"].index = i
        assert shown.setting.pruning.rate == rate


def test_methods_that_differ_have_different_names():
    methods = [
        gl.methods.static(sparsity, criterion, scope)
        for sparsity in (0, 0.3, 0.1 + 0.2)
        for criterion in ("random", "magnitude")
        for scope in ("er", "erk")
    ]
    assert len({str(method) for method in methods}) == len(set(methods))


def test_a_field_with_one_value_has_no_control_and_keeps_its_value():
    shown = controls(rate=[0.9], lr=["remaining"])
    assert set(FIELDS) - shown.fields.keys() == {"rate", "granularity", "lr", *RARE}
    assert shown.setting == Setting.of(START)


def test_a_pattern_settles_rate_scope_and_regeneration_and_shows_it():
    shown = controls(granularity=["weight", "2:4"], rate=[0.5, 0.9])
    changed, calls = counter()
    shown.observe(changed)
    for field, value in (("rate", "0.9"), ("regrow", "gradient"), ("scope", "global")):
        shown.fields[field].value = value
    calls.clear()
    shown.fields["granularity"].value = "2:4"
    shown.enable()
    assert len(calls) == 1
    assert shown.setting.pruning == gl.Pruning(
        rate=0.5, criterion=shown.setting.pruning.criterion, scope="uniform", granularity="2:4"
    )
    told = {field: shown.fields[field].value for field in ("rate", "scope", "regrow")}
    assert told == {"rate": "0.5", "scope": "uniform", "regrow": "none"}
    assert [f for f in ("rate", "scope", "regrow", "criterion") if shown.fields[f].disabled] == [
        "rate",
        "scope",
        "regrow",
    ]
    shown.fields["granularity"].value = "weight"
    shown.enable()
    assert not shown.fields["rate"].disabled


def test_where_nothing_comes_back_it_is_not_shared_out():
    shown = controls(regrow_scope=["layer", "global"])
    shown.fields["regrow"].value = "gradient"
    shown.fields["regrow_scope"].value = "global"
    assert shown.setting.pruning.regrow_scope == "global"
    shown.fields["regrow"].value = "none"
    shown.enable()
    assert shown.setting.pruning.regrow_scope == "layer"
    assert shown.fields["regrow_scope"].disabled


def test_recovery_epochs_are_a_choice_only_where_the_learning_rate_is_frozen():
    shown = controls()
    for lr, disabled in (("remaining", True), ("frozen", False), ("remaining", True)):
        shown.fields["lr"].value = lr
        shown.enable()
        assert shown.fields["recovery_epochs"].disabled == disabled


def test_where_recovery_epochs_are_no_choice_there_is_nothing_to_disable():
    shown = controls(START | {"recovery_epochs": 1}, recovery_epochs=[1])
    shown.enable()
    assert shown.setting.recovery_epochs == 1


@pytest.mark.parametrize(("lr", "disabled"), [("frozen", False), ("remaining", True)])
def test_where_the_learning_rate_is_no_choice_recovery_epochs_fit_it(lr, disabled):
    shown = controls(START | {"lr": lr}, lr=[lr])
    shown.enable()
    assert shown.fields["recovery_epochs"].disabled == disabled


def test_seeds_are_pressed_and_let_go():
    shown = SeedControls([0, 1, 4], [1])
    changed, calls = counter()
    shown.observe(changed)
    shown.buttons[4].value = True
    assert shown.seeds == [1, 4]
    shown.buttons[1].value = False
    assert shown.seeds == [4]
    assert len(calls) == 2


def test_the_last_seed_cannot_be_let_go():
    shown = SeedControls([0, 1, 4], [1, 4])
    shown.observe(lambda: None)
    for seed in (4, 1, 1):
        shown.buttons[seed].value = False
    assert shown.seeds == [1]
    assert shown.buttons[1].value


@hypothesis_settings(max_examples=25)
@given(st.lists(st.sampled_from([0, 1, 4])))
def test_however_seeds_are_pressed_there_is_one_and_they_ascend(presses):
    shown = SeedControls([0, 1, 4], [0])
    seen = []
    shown.observe(lambda: seen.append(shown.seeds))
    for seed in presses:
        shown.buttons[seed].value = not shown.buttons[seed].value
    assert shown.seeds
    assert all(seeds and seeds == sorted(seeds) for seeds in seen)


def test_a_button_is_named_and_says_what_it_does():
    made = button("Run", "Measure what is missing", style="primary")
    assert (made.description, made.tooltip) == ("Run", "Measure what is missing")
    assert made.button_style == "primary"


def test_everything_that_can_be_moved_says_what_it_is():
    shown = board()
    moved = [w for w in every(shown.widget) if hasattr(w, "disabled") and hasattr(w, "tooltip")]
    assert len(moved) > 20
    for widget in moved:
        assert widget.tooltip, widget
        assert widget.description, widget
    assert shown.bar.tooltip


def test_a_and_b_start_each_where_they_are_told_and_so_do_the_seeds():
    shown = board(seeds=[1, 4])
    assert shown.controls["A"].setting == Setting.of(START)
    assert shown.controls["B"].setting == Setting.of(START | {"regrow": None})
    assert list(shown.seeds.buttons) == OFFERED["seed"]
    assert shown.seeds.seeds == [1, 4]


def test_controls_of_a_and_b_say_whose_they_are():
    shown = board()
    for name in "AB":
        for control in shown.controls[name].fields.values():
            assert control.tooltip.startswith(f"{name}: ")
        assert re.sub("<[^>]+>", "", shown.controls[name].title.value) == name


def test_everything_on_the_board_is_laid_out_once():
    shown = board()
    laid = list(every(shown.widget))
    assert len({id(widget) for widget in laid}) == len(laid)
    parts = [part for part in vars(shown).values() if hasattr(part, "layout")]
    assert all(any(part is widget for widget in laid) for part in parts)


def test_the_slider_goes_from_initialisation_to_the_end_of_the_run():
    slider = board(epochs=7, epoch=3).slider
    assert (slider.min, slider.value, slider.max) == (0, 3, 7)


@pytest.mark.parametrize(
    ("epochs", "step"), [(1, 1), (4, 1), (23, 1), (24, 2), (60, 5), (160, 10), (1000, 50)]
)
def test_a_whole_curve_begins_as_about_a_dozen_points(epochs, step):
    shown = board(epochs=epochs, epoch=0)
    assert shown.step.value == step
    assert all(value <= epochs for _, value in shown.step.options)
    assert shown.step.options[0] == ("each", 1)


def test_every_change_of_what_is_asked_is_told():
    shown = board(seeds=[0, 1])
    changed, calls = counter()
    shown.observe(changed)
    changes = [
        lambda: setattr(shown.slider, "value", 31),
        lambda: setattr(shown.compare, "value", True),
        lambda: setattr(shown.step, "value", 10),
        lambda: setattr(shown.controls["A"].fields["rate"], "index", 0),
        lambda: setattr(shown.controls["B"].fields["rate"], "index", 0),
        lambda: setattr(shown.seeds.buttons[1], "value", False),
    ]
    for number, change in enumerate(changes, start=1):
        change()
        assert len(calls) == number


def test_b_is_there_only_while_two_are_compared():
    shown = board()
    for comparing, display in ((True, "flex"), (False, "none"), (True, "flex")):
        shown.arrange(comparing, running=False, missing=False, curve=False)
        assert shown.controls["B"].box.layout.display == display
        assert shown.controls["A"].title.layout.display == display
        assert shown.controls["A"].box.layout.display != "none"


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("curve", [False, True])
def test_buttons_can_be_pressed_where_that_makes_sense(running, missing, curve):
    shown = board()
    shown.arrange(False, running, missing, curve)
    assert shown.run.disabled == (running or not missing)
    assert shown.run_all.disabled == (running or not curve)
    assert shown.cancel.disabled != running
    for part in (shown.bar, shown.bar_text):
        assert (part.layout.visibility == "visible") == running


def test_arranging_the_board_enables_what_can_be_chosen():
    shown = board()
    shown.controls["B"].fields["lr"].value = "frozen"
    shown.arrange(True, running=False, missing=False, curve=False)
    disabled = [shown.controls[name].fields["recovery_epochs"].disabled for name in "AB"]
    assert disabled == [True, False]


def test_the_bar_shows_what_is_done_of_what_there_is_to_do():
    shown = board()
    for done, total in ((3, 20), (20, 20), (1, 5), (0, 0)):
        shown.progress(done, total)
        assert (shown.bar.value, shown.bar.max) == (done, max(1, total))
        assert shown.bar_text.value == f"{done} of {total} epochs"


def test_the_board_of_a_real_recipe_starts_with_its_first_setting(results, sparse_recipe):
    recipe = replace(sparse_recipe, seed=5)
    offered = settings.choices(recipe, [recipe], results(recipe), {})
    start = settings.first(recipe, {})
    shown = Board(4, 2, offered, {"A": start, "B": start}, [5])
    assert shown.controls["A"].setting == Setting.of(start)
    assert shown.seeds.seeds == [5]
