import math

import numpy as np
import pytest

import granet_lab as gl
from granet_lab.experiments.files import read_json, write_json
from granet_lab.experiments.identity import identity
from granet_lab.experiments.tidy import COLUMNS, answer_columns, tidy, trial_columns

LATE = ["regrow_scope", "layers", "dense", "reestimate_batchnorm", "regrown_survival", "stacked"]
LATE += ["precision"]


@pytest.fixture
def trials(recipe):
    """Two of old times, and three that ask for what is new."""
    asked = {"epoch": 1, "rate": 0.5}
    return [
        *gl.grid(recipe, regrow=[None, "random"], **asked),
        *gl.grid(recipe, layers="1.* last", dense="last 3.*", **asked),
        *gl.grid(recipe, regrow="gradient", regrow_scope="global", **asked),
        *gl.grid(recipe, reestimate_batchnorm=True, **asked),
    ]


@pytest.fixture
def table(lab, trials):
    return lab.measure(trials, workers=1, progress=False)


def test_later_columns_stand_at_the_end():
    assert COLUMNS[COLUMNS.index("trial") + 1 :] == [*LATE, "version", "trunk_version"]


def test_the_columns_say_what_a_trial_asks_for(table):
    assert table.regrow_scope.tolist() == ["layer", "layer", "layer", "global", "layer"]
    assert table.layers.tolist() == ["*", "*", "1.* last", "*", "*"]
    assert table.dense.tolist() == ["", "", "last 3.*", "", ""]
    assert table.reestimate_batchnorm.tolist() == [False, False, False, False, True]
    assert table.reestimate_batchnorm.dtype == bool
    assert table.regrown_survival.isna().tolist() == [True, False, True, False, True]
    assert table.regrown_survival.dtype == float
    assert (table.status == "ok").all()


def test_rows_from_before_a_column_existed_have_what_their_trials_ask_for(lab, trials, table):
    for trial in trials:
        path = lab.run(trial.recipe).trial_path(identity(trial))
        found = read_json(path)
        for name in LATE:
            found["row"].pop(name, None)
        write_json(path, found)
    again = lab.measure(trials, workers=1, progress=False)
    unknown = ["regrown_survival", "stacked"]
    assert again.drop(columns=unknown).equals(table.drop(columns=unknown))
    assert again.regrown_survival.isna().all()
    assert not again.stacked.any()
    assert list(again) == COLUMNS


def test_curves_and_layers_say_what_was_asked_too(lab, trials, table):
    for frame in (lab.curves(trials), lab.layers(trials)):
        assert list(dict.fromkeys(frame.layers)) == ["*", "1.* last"]
        assert set(frame.dense) == {"", "last 3.*"}
        assert set(frame.reestimate_batchnorm) == {False, True}
        assert set(frame.regrow_scope) == {"layer", "global"}


def test_a_table_is_written_and_read_with_its_later_columns(table, tmp_path):
    found = gl.read_table(gl.write_table(table, tmp_path / "t.csv"))
    assert list(found) == COLUMNS
    for name in set(LATE) - {"regrown_survival"}:
        assert found[name].tolist() == table[name].tolist()
    assert found.regrown_survival.tolist() == pytest.approx(
        table.regrown_survival.tolist(), rel=1e-5, nan_ok=True
    )


@pytest.mark.parametrize("rows", [[0], [2], [0, 2]], ids=["none", "some", "both"])
def test_dense_is_text_when_read_and_no_layers_an_empty_one(table, tmp_path, rows):
    found = gl.read_table(gl.write_table(table.loc[rows], tmp_path / "t.csv"))
    assert found.dense.tolist() == [{0: "", 2: "last 3.*"}[row] for row in rows]
    assert all(isinstance(words, str) for words in found.layers)


def test_a_row_without_answers_is_a_row_of_missing_numbers(trials):
    table = tidy([trial_columns(trials[1])])
    numbers = [n for n in COLUMNS if n.startswith("acc_")]
    numbers += ["sparsity", "sparsity_after", "plasticity", "final_gap", "regrown_survival"]
    assert table[numbers].isna().all(axis=None)
    assert table.dtypes[numbers].eq(np.float64).all()
    assert table.loc[0, ["layers", "dense", "regrow_scope"]].tolist() == ["*", "", "layer"]


def test_no_rows_are_a_table_without_any():
    assert list(tidy([])) == COLUMNS
    assert len(tidy([])) == 0
    assert tidy([]).dtypes[["plasticity", "regrown_survival"]].eq(np.float64).all()


def test_answers_are_read_off_the_trunk_and_the_curve(recipe):
    (frozen,) = gl.grid(recipe, epoch=1, rate=0.5, recovery_epochs=2)
    (remaining,) = gl.grid(recipe, epoch=1, rate=0.5, lr="remaining")
    trunk = [{"epoch": e, "test_acc": 10.0 * e} for e in range(5)]
    curve = [{"test_acc": 3.0}, {"test_acc": 7.0}, {"test_acc": 25.0}]
    for row, made in zip(trunk, [None, "one", "one", "two", "one"], strict=True):
        row |= {"version": made} if made else {}
    common = {"acc_before": 10, "acc_pruned": 3, "acc_after": 25, "acc_final_unpruned": 40}
    common["trunk_version"] = "one + two"
    assert answer_columns(trunk, frozen, curve, whole=True) == {
        **common,
        "acc_trunk": 30,
        "plasticity": 15,
        "final_gap": None,
    }
    assert answer_columns(trunk, remaining, curve, whole=True) == {
        **common,
        "acc_trunk": 40,
        "plasticity": None,
        "final_gap": -15,
    }
    broken = answer_columns(trunk[:2], frozen, curve[:1], whole=False)
    assert broken["acc_pruned"] == 3
    assert broken["acc_after"] is broken["acc_trunk"] is broken["plasticity"] is None


def test_survival_is_a_share_where_something_came_back(table):
    found = table.regrown_survival[[1, 3]]
    assert found.between(0, 1).all()
    assert not any(math.isnan(value) for value in found)
