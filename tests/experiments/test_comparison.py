import math
from dataclasses import replace

import pytest

import granet_lab as gl
from granet_lab import datasets
from granet_lab.experiments.comparison import COMPARED, comparison
from granet_lab.sparsity import cost
from granet_lab.sparsity.criteria import CRITERIA
from granet_lab.sparsity.methods import METHODS

DIGITS = datasets.load("digits")


@pytest.fixture
def other(tmp_path):
    return gl.Lab(tmp_path / "other", device="cpu")


def compare(lab, recipe, methods, **more):
    asked = {"sparsities": [0.8], "seeds": [0], "workers": 1, "progress": False, **more}
    return lab.compare(recipe, methods, **asked)


def test_every_method_that_is_compared_has_a_name():
    assert set(COMPARED) <= set(METHODS)


def test_there_is_a_run_for_every_method_sparsity_and_seed_and_a_dense_one_for_every_seed(recipe):
    asked = comparison(recipe, ["gmp", "set"], [0.8, 0.9], [0, 3])
    found = [(one.method, one.sparsity, one.recipe.seed) for one in asked]
    assert found == [
        ("dense", 0.0, 0),
        ("dense", 0.0, 3),
        *[(name, s, seed) for name in ("gmp", "set") for s in (0.8, 0.9) for seed in (0, 3)],
    ]
    assert asked[2].recipe == replace(recipe, method=gl.methods.gmp(0.8))


def test_methods_of_ones_own_are_functions_by_name(recipe):
    own = {"half": lambda s: gl.methods.granet(s, initial_sparsity=s / 2)}
    (_, one) = comparison(recipe, own, [0.8], [0])
    assert one.method == "half"
    assert one.recipe.method == gl.methods.granet(0.8, initial_sparsity=0.4)


def test_rounds_take_the_recipes_epochs_each(recipe):
    (_, one) = comparison(recipe, ["lottery"], [0.8], [0])
    assert one.recipe.method.rounds.cycle == recipe.epochs == 4
    assert one.recipe.epochs == 4 + 3 * (4 - 2)


def test_the_table_says_what_the_runs_say(lab, recipe):
    table = compare(lab, recipe, ["static", "granet"]).set_index("method")
    assert list(table.index) == ["dense", "static", "granet"]
    for name, method in (
        ("dense", gl.methods.dense()),
        ("static", gl.methods.static(0.8)),
        ("granet", gl.methods.granet(0.8)),
    ):
        run = lab.run(replace(recipe, method=method))
        last = run.history.iloc[-1]
        row = table.loc[name]
        assert row.test_acc == last.test_acc
        assert row.sparsity == last.sparsity
        assert row.exploration == last.exploration
        assert row.run == run.path.name
        assert row.status == "ok"
    dense = lab.run(recipe)
    granet = lab.run(replace(recipe, method=gl.methods.granet(0.8)))
    state, whole = granet.load(4), dense.load(4)
    flops = [cost.inference_flops(s.model, DIGITS.input_shape, s.masks) for s in (state, whole)]
    assert table.inference_flops["granet"] == pytest.approx(flops[0] / flops[1])
    training = [run.history.training_flops.iloc[-1] for run in (granet, dense)]
    assert table.training_flops["granet"] == pytest.approx(training[0] / training[1])
    assert table.training_flops["dense"] == table.inference_flops["dense"] == 1
    assert table.inference_flops["static"] < table.training_flops["granet"] < 1


def test_what_is_trained_is_not_trained_again(lab, recipe, monkeypatch):
    first = compare(lab, recipe, ["gmp"])
    monkeypatch.setattr("granet_lab.training.loop.fit", None)
    assert compare(lab, recipe, ["gmp"]).equals(first)


def test_processes_give_the_same_table(lab, other, recipe):
    alone = compare(lab, recipe, ["gmp", "rigl"])
    together = compare(other, recipe, ["gmp", "rigl"], workers=2)
    assert together.drop(columns="seconds").equals(alone.drop(columns="seconds"))


def test_a_method_that_cannot_be_trained_is_told_and_the_others_are(lab, recipe, define, caplog):
    def broken(context):
        raise ValueError("no score today")

    define(CRITERIA, broken)
    methods = {
        "broken": lambda s: gl.methods.gmp(s, prune_criterion="broken"),
        "gmp": gl.methods.gmp,
    }
    table = compare(lab, recipe, methods).set_index("method")
    assert "1 run failed: broken 0.8: ValueError: no score today" in caplog.text
    assert table.status.tolist() == ["ok", "failed", "ok"]
    assert "no score today" in table.note["broken"]
    assert math.isnan(table.test_acc["broken"])
    CRITERIA._entries["broken"] = CRITERIA["magnitude"]  # define forgets it afterwards
    assert compare(lab, recipe, methods).status.tolist() == ["ok"] * 3


def test_an_unknown_method_and_a_schedule_that_does_not_fit_are_refused_at_once(lab, recipe):
    with pytest.raises(ValueError, match=r"unknown method 'magic': choose from .*granet"):
        compare(lab, recipe, ["magic"])
    with pytest.raises(ValueError, match="stop 9 lies beyond the run of 4 epochs"):
        compare(lab, recipe, {"late": lambda s: gl.methods.gmp(s, stop=9)})
    with pytest.raises(ValueError, match="interval 17 is longer than the run of 16 steps"):
        compare(lab, recipe, {"rare": lambda s: gl.methods.rigl(s, interval=17)})
    for name in ("methods", "sparsities", "seeds"):
        with pytest.raises(ValueError, match=f"{name} needs at least one value"):
            compare(lab, recipe, **{"methods": ["gmp"], name: []})
    with pytest.raises(ValueError, match="dense is always compared"):
        compare(lab, recipe, {"dense": gl.methods.gmp})
    for wrong in (lambda s: "gmp", 0.9):
        with pytest.raises(ValueError, match="mine must be a function sparsity -> method"):
            compare(lab, recipe, {"mine": wrong})
    assert not list(lab.path.iterdir())


def test_one_value_will_do_and_what_is_said_twice_counts_once(recipe):
    one = comparison(recipe, "gmp", 0.8, 3)
    assert one == comparison(recipe, ["gmp", "gmp", "dense"], [0.8, 0.8], [3, 3])
    assert [(e.method, e.recipe.seed) for e in one] == [("dense", 3), ("gmp", 3)]


def test_a_comparison_needs_no_checkpoints(lab, other, recipe, monkeypatch):
    kept = compare(lab, recipe, ["granet"])
    few = compare(other, recipe, ["granet"], checkpoints=[2])
    assert few.drop(columns="seconds").equals(kept.drop(columns="seconds"))
    assert [other.run(one).checkpoints for one in other.recipes()] == [[2], [2]]
    monkeypatch.setattr("granet_lab.training.loop.fit", None)
    assert compare(other, recipe, ["granet"], checkpoints=[2]).equals(few)
    with pytest.raises(ValueError, match="epoch 5 is not in this run"):
        compare(other, recipe, ["gmp"], checkpoints=[5])


def test_a_network_that_lost_a_layer_says_so(lab, recipe, define):
    def not_the_last(context):
        last = list(context.masks)[-1]
        return {n: w.abs() - 99 * (n == last) for n, w in context.weights().items()}

    define(CRITERIA, not_the_last)
    own = {"own": lambda s: gl.methods.static(s, "not_the_last", "global")}
    table = compare(lab, recipe, own)
    assert table.note.tolist()[0] == ""
    assert table.note.tolist()[1].startswith("no weight is left in ")
