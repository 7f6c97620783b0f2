from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import granet_lab as gl
from granet_lab.experiments.comparison import COMPARED
from granet_lab.explorer import setting as settings
from granet_lab.explorer.setting import FIELDS, GRANULARITIES, Setting
from granet_lab.sparsity.criteria import CRITERIA
from granet_lab.sparsity.methods import SparseTraining
from granet_lab.sparsity.regrowths import REGROWTHS

CHOSEN = {
    "rate": 0.9,
    "criterion": "magnitude",
    "scope": "global",
    "granularity": "weight",
    "regrow": None,
    "regrow_scope": "layer",
    "layers": "*",
    "dense": "",
    "lr": "frozen",
    "recovery_epochs": 1,
    "reestimate_batchnorm": False,
    "method": gl.methods.dense(),
}

SETTINGS = st.fixed_dictionaries(
    {
        "rate": st.floats(0, 1),
        "criterion": st.sampled_from(["magnitude", "random"]),
        "scope": st.sampled_from(["global", "uniform", "er", "erk"]),
        "granularity": st.sampled_from(GRANULARITIES),
        "regrow": st.sampled_from([None, "gradient", "random"]),
        "regrow_scope": st.sampled_from(["layer", "global"]),
        "layers": st.sampled_from(["*", "1.weight", "1.weight 3.weight"]),
        "dense": st.sampled_from(["", "last"]),
        "reestimate_batchnorm": st.booleans(),
        "lr": st.sampled_from(["frozen", "remaining"]),
        "recovery_epochs": st.integers(0, 9),
        "method": st.builds(
            SparseTraining,
            initial_sparsity=st.floats(0, 1),
            criterion=st.sampled_from(["random", "magnitude"]),
            scope=st.sampled_from(["global", "erk"]),
        ),
    }
).map(Setting.of)
RECIPE = gl.recipes.digits(model="mlp", epochs=4, milestones=(2,), train_size=200)


def chosen(**values):
    return Setting.of(CHOSEN | values)


def offered(lab_results, recipe, kin=(), **values):
    return settings.choices(recipe, kin, lab_results, settings.asked(recipe, values))


def asks(setting):
    return setting.trial(RECIPE, 2, 1)


def test_there_is_a_choice_in_every_field_of_a_pruning():
    assert {field.name for field in fields(gl.Pruning)} < set(FIELDS)
    assert set(FIELDS) == CHOSEN.keys()


def test_a_setting_with_a_frozen_learning_rate_asks_for_its_recovery_epochs(recipe):
    asked = chosen(rate=0.5, regrow="random", recovery_epochs=3).trial(recipe, 2, 7)
    pruning = gl.Pruning(rate=0.5, regrow="random")
    seeded = replace(recipe, seed=7)
    assert asked == gl.Trial(recipe=seeded, epoch=2, pruning=pruning, recovery_epochs=3)


def test_under_the_remaining_schedule_recovery_goes_on_to_the_end_of_the_run(recipe):
    asked = chosen(lr="remaining", recovery_epochs=3).trial(recipe, 1, 0)
    assert (asked.lr, asked.recovery_epochs) == ("remaining", 3)
    asked = chosen(lr="remaining", recovery_epochs=3).trial(recipe, 4, 0)
    assert (asked.lr, asked.recovery_epochs) == ("remaining", 0)


def test_without_recovery_epochs_they_are_those_of_a_trial(recipe):
    assert chosen(recovery_epochs=None).trial(recipe, 2, 0).recovery_epochs == 1


def test_the_method_and_the_seed_are_the_settings_and_nothing_else_of_the_recipe(sparse_recipe):
    found = chosen(method=gl.methods.dense()).recipe(sparse_recipe, 3)
    assert found == replace(sparse_recipe, method=gl.methods.dense(), seed=3)


def test_a_frozen_learning_rate_measures_plasticity_and_a_remaining_schedule_the_final_gap():
    assert chosen(lr="frozen").measures == "plasticity"
    assert chosen(lr="remaining").measures == "final_gap"


@pytest.mark.parametrize(
    ("value", "culprit"),
    [
        ({"rate": 1.5}, r"rate must lie in \[0, 1\], not 1.5"),
        ({"criterion": "size"}, "unknown criterion 'size': choose from fisher, "),
        ({"scope": "all"}, "unknown scope 'all': choose from global, "),
        ({"granularity": "row"}, "unknown granularity 'row': choose from weight"),
        ({"regrow": "luck"}, "unknown regrowth 'luck': choose from None, "),
        ({"lr": "cosine"}, "unknown continuation 'cosine': choose from frozen, remaining"),
        ({"lr": 0.1}, "unknown continuation 0.1: choose from frozen, remaining"),
    ],
    ids=str,
)
def test_a_setting_refuses_what_a_trial_would_in_one_line(recipe, value, culprit):
    with pytest.raises(ValueError, match=rf"\A{culprit}.*\Z"):
        chosen(**value)
    with pytest.raises(ValueError, match=rf"\A{culprit}.*\Z"):
        settings.asked(recipe, value)


@pytest.mark.parametrize(
    ("value", "culprit"),
    [
        ({"rat": 0.5}, "unknown field 'rat': choose from rate, .*, seed, epoch"),
        ({"rate": "much"}, "rate must be a number, not 'much'"),
        ({"rate": None}, "rate must be a number, not None"),
        ({"rate": []}, "rate needs at least one value"),
        ({"rate": [0.5, 2]}, r"rate must lie in \[0, 1\], not 2"),
        ({"recovery_epochs": -1}, "recovery_epochs must be at least 0, not -1"),
        ({"method": "static"}, "method must be one of .*, not 'static'"),
        ({"seed": "a"}, "seed must be a whole number, not 'a'"),
        ({"seed": [0, -1]}, "seed must be at least 0, not -1"),
        ({"seed": ()}, "seed needs at least one value"),
        ({"epoch": 5}, "epoch 5 is not in this run: choose 0 to 4"),
        ({"epoch": [2, 5]}, "epoch 5 is not in this run: choose 0 to 4"),
        ({"lr": []}, "lr needs at least one value"),
        ({"lr": "remaining", "recovery_epochs": -1}, "recovery_epochs must be at least 0"),
    ],
    ids=str,
)
def test_what_makes_no_trial_is_refused_in_one_line_that_names_the_culprit(recipe, value, culprit):
    with pytest.raises(ValueError, match=rf"\A{culprit}.*\Z"):
        settings.asked(recipe, value)


def test_what_is_asked_for_is_a_list_of_what_trials_keep(recipe):
    found = settings.asked(
        recipe,
        {
            "rate": (rate for rate in ("0.5", 1, 0.5)),
            "regrow": None,
            "recovery_epochs": [3, None],
            "lr": ("remaining", "frozen"),
            "seed": range(2),
            "epoch": 3,
        },
    )
    assert found == {
        "rate": [0.5, 1.0],
        "regrow": [None],
        "recovery_epochs": [3, 1],
        "lr": ["remaining", "frozen"],
        "seed": [0, 1],
        "epoch": [3],
    }


def test_a_pattern_is_asked_at_its_own_rate_and_scope(results, recipe):
    found = offered(results(recipe), recipe, granularity="3:4", rate=0.9)
    assert found["granularity"] == ["weight", "filter", "2:4", "3:4"]
    assert 0.25 in found["rate"]
    start = settings.first(recipe, settings.asked(recipe, {"granularity": "3:4", "rate": 0.9}))
    pruning = Setting.of(start).pruning
    assert (pruning.rate, pruning.scope, pruning.granularity) == (0.25, "uniform", "3:4")


def test_what_few_ask_for_is_offered_once_it_is_given_or_measured(results, put_trial, recipe):
    values = {
        "regrow_scope": "global",
        "layers": "1.weight",
        "dense": "last",
        "reestimate_batchnorm": True,
    }
    found = offered(results(recipe), recipe, **values)
    assert {name: found[name] for name in values} == {
        "regrow_scope": ["layer", "global"],
        "layers": ["*", "1.weight"],
        "dense": ["", "last"],
        "reestimate_batchnorm": [False, True],
    }
    for trial in gl.grid(recipe, epoch=2, rate=0.5, regrow="random", **values):
        put_trial(trial)
    measured = offered(results(recipe), recipe)
    assert {name: measured[name] for name in values} == {name: found[name] for name in values}


def test_an_empty_lab_offers_the_usual_values(results, recipe):
    found = offered(results(recipe), recipe)
    assert (found["rate"][0], found["rate"][-1]) == (0.1, 0.99)
    assert found["criterion"] == list(CRITERIA)
    assert found["regrow"] == [None, *REGROWTHS]
    assert found["granularity"] == ["weight", "filter", "2:4"]
    assert all(len(found[name]) == 1 for name in ("regrow_scope", "layers", "dense"))
    assert found["reestimate_batchnorm"] == [False]
    assert found["lr"] == ["frozen", "remaining"]
    assert found["recovery_epochs"] == [1]
    names = [(method.name, method.end_sparsity) for method in found["method"]]
    assert names[:3] == [("dense", 0), ("static", 0.5), ("static", 0.8)]
    assert {name for name, end in names if end == 0.9} == {*COMPARED} - {"dense"}
    assert found["seed"] == [0, 1, 2]


def test_what_the_lab_holds_is_offered_in_its_place(results, put_trial, recipe):
    trials = gl.grid(recipe, epoch=2, rate=[0.33, 0.5], recovery_epochs=[0, 3])
    for trial in [*trials, *gl.grid(recipe, epoch=2, rate=0.5, lr="remaining")]:
        put_trial(trial)
    found = offered(results(recipe), recipe)
    assert found["rate"] == sorted({*settings.RATES, 0.33})
    assert found["recovery_epochs"] == [0, 1, 3]


def test_the_methods_and_seeds_of_other_runs_are_offered(results, recipe):
    er = gl.methods.static(0.85, scope="er")
    kin = [recipe, replace(recipe, seed=11), replace(recipe, method=er)]
    found = offered(results(*kin), recipe, kin)
    assert found["seed"] == [0, 1, 2, 11]
    assert er in found["method"]
    sparsities = [method.end_sparsity for method in found["method"]]
    assert sparsities == sorted(sparsities)


def test_what_is_given_is_offered_too_and_nothing_twice(results, recipe):
    own = gl.methods.static(0.5, criterion="magnitude")
    found = offered(
        results(recipe),
        recipe,
        rate=[0.05, 0.5],
        recovery_epochs=2,
        seed=[9, 1],
        method=own,
        regrow="random",
    )
    assert found["rate"] == sorted({*settings.RATES, 0.05})
    assert found["recovery_epochs"] == [1, 2]
    assert found["seed"] == [0, 1, 2, 9]
    assert found["regrow"] == [None, *REGROWTHS]
    assert own in found["method"]
    for values in found.values():
        assert len(values) == len(set(values))


def test_the_controls_start_with_what_is_offered(results, put_trial, recipe):
    odd = replace(recipe, method=gl.methods.static(0.85, scope="er"))
    put_trial(gl.grid(odd, epoch=2, rate=0.5, recovery_epochs=0)[0])
    found, start = offered(results(odd), odd), settings.first(odd, {})
    assert gl.methods.dense() in found["method"]
    assert start.keys() == set(FIELDS)
    assert all(start[name] in found[name] for name in FIELDS)


def test_without_a_wish_the_first_setting_is_the_usual_one(sparse_recipe):
    assert settings.first(sparse_recipe, {}) == CHOSEN | {"method": sparse_recipe.method}


def test_the_first_of_several_wishes_is_where_a_control_starts(recipe):
    wishes = settings.asked(recipe, {"rate": [0.7, 0.1], "lr": "remaining"})
    assert settings.first(recipe, wishes) == CHOSEN | {"rate": 0.7, "lr": "remaining"}


def test_the_first_seeds_are_up_to_five_that_were_measured(results, put_trial, recipe):
    kin = [replace(recipe, seed=seed) for seed in (9, 3, 5, 1, 8, 7)]
    for run in kin:
        put_trial(gl.grid(run, epoch=2, rate=0.5)[0])
    assert settings.first_seeds(recipe, results(*kin), {}) == [1, 3, 5, 7, 8]


def test_the_first_seeds_are_those_given_or_else_the_recipes(results, recipe):
    nothing = results(recipe)
    assert settings.first_seeds(replace(recipe, seed=4), nothing, {}) == [4]
    assert settings.first_seeds(recipe, nothing, {"seed": [6, 2]}) == [6, 2]


def test_a_lottery_has_no_kin_of_another_length_and_starts_all_the_same(recipe):
    rounds = gl.methods.Rounds(cycle=recipe.epochs, rewind=1)
    ticket = replace(recipe, method=gl.methods.lottery(0.9, rounds), epochs=rounds.epochs)
    assert settings.family(ticket, [recipe, ticket]) == [ticket]
    assert settings.family(recipe, [ticket]) == [recipe]
    whole = replace(ticket, method=gl.methods.dense())
    assert settings.family(ticket, [recipe, whole]) == [ticket, whole]


def test_kin_differ_in_nothing_but_method_and_seed(recipe):
    seeded, sparse = replace(recipe, seed=3), replace(recipe, method=gl.methods.static(0.5))
    both = replace(seeded, method=sparse.method)
    strangers = [replace(recipe, lr=0.2), replace(seeded, epochs=5), gl.recipes.digits()]
    found = settings.family(recipe, [seeded, *strangers, sparse, both, recipe])
    assert found == [recipe, seeded, sparse, both]


def test_a_recipe_is_of_its_own_family_before_it_was_trained(recipe):
    assert settings.family(recipe, []) == [recipe]


@pytest.mark.parametrize(
    ("method", "label"),
    [
        (gl.methods.dense(), "dense"),
        (gl.methods.static(0.8), "static 0.8"),
        (gl.methods.static(0.8, scope="er"), "static 0.8 (random, er)"),
        (gl.methods.static(0.95, criterion="magnitude"), "static 0.95 (magnitude, erk)"),
    ],
)
def test_a_method_is_named_with_what_is_unusual_in_it(method, label):
    assert str(method) == label


def test_a_setting_is_told_in_words():
    assert str(chosen(recovery_epochs=6)) == (
        "rate 0.9 · magnitude, global · no regeneration · frozen learning rate for 6 epochs · dense"
    )
    assert str(chosen(regrow="gradient", lr="remaining", method=gl.methods.static(0.8))) == (
        "rate 0.9 · magnitude, global · gradient regeneration · remaining schedule · static 0.8"
    )
    assert "frozen learning rate · dense" in str(chosen(recovery_epochs=None))


def test_a_slug_has_nothing_that_a_file_name_cannot_have():
    assert chosen(rate=0.98, method=gl.methods.static(0.5, scope="er")).slug == (
        "rate-0.98-magnitude-global-no-regeneration-frozen-1-static-0.5-random-er"
    )


def test_the_longest_slugs_of_two_settings_fit_into_the_name_of_a_file():
    method = gl.methods.static(0.9999, criterion="magnitude", scope="uniform")
    usual = {"rate": 0.9999, "scope": "uniform", "regrow": "gradient", "recovery_epochs": 1000}
    slug = chosen(**usual, method=method).slug
    assert len(f"epoch1000-{slug}-vs-{slug}.png") < 255 - 30


def test_rates_that_differ_in_their_last_digit_have_different_names():
    near = [chosen(rate=0.3), chosen(rate=0.1 + 0.2)]
    assert len({str(setting) for setting in near}) == len({s.slug for s in near}) == 2


@given(SETTINGS, SETTINGS)
def test_settings_that_ask_for_different_trials_have_different_names(a, b):
    assert (str(a) == str(b)) == (asks(a) == asks(b))
    assert (a.slug == b.slug) == (asks(a) == asks(b))


@given(SETTINGS, st.sampled_from(["rate", "regrow", "lr", "recovery_epochs", "method"]), st.data())
def test_settings_that_differ_in_one_field_have_different_names(setting, name, data):
    other = data.draw(SETTINGS)
    setting = replace(setting, pruning=replace(setting.pruning, granularity="weight"))
    if name == "regrow" and other.pruning.regrow is None:
        setting = replace(setting, pruning=replace(setting.pruning, regrow_scope="layer"))
    if name in ("rate", "regrow"):
        pruning = replace(setting.pruning, **{name: getattr(other.pruning, name)})
        changed = replace(setting, pruning=pruning)
    else:
        changed = replace(setting, **{name: getattr(other, name)})
    same = asks(changed) == asks(setting)
    assert (str(changed) == str(setting)) == (changed.slug == setting.slug) == same
