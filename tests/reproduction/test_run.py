import re

import pytest

import granet_lab as gl
from granet_lab.reproduction import plan, reproduce


def small(**asked):
    usual = {"model": "mlp", "epochs": 4, "milestones": (2,), "train_size": 200, "rates": 0.5}
    usual |= {"prune_epochs": [1, 3], "methods": ["granet"], "sparsities": 0.8}
    return plan("digits", **{**usual, **asked})


def carry_out(lab, asked, folder, workers=1):
    return reproduce(lab, asked, folder, workers=workers, progress=False)


def undated(folder):
    """The texts and tables of a report without the lines that say when it was written."""
    found = {path.name: path.read_text() for path in folder.iterdir()}
    return {name: re.sub(r"^[#-] date: .*\n", "", text, flags=re.M) for name, text in found.items()}


def titles(path):
    return re.findall(r"^## (.*)$", path.read_text(), re.M)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "some" / "report"


def test_the_same_call_again_measures_nothing_and_writes_the_same(
    lab, folder, undrawn, monkeypatch
):
    path = carry_out(lab, small(), folder)
    assert path == folder / "report.md"
    first = undated(folder)
    tables = {"plasticity.csv", "regeneration.csv", "methods.csv", "history.csv"}
    assert set(first) == {"report.md", *tables}
    assert "date" not in first["report.md"]
    monkeypatch.setattr("granet_lab.training.loop.fit", None)
    carry_out(lab, small(), folder)
    assert undated(folder) == first


def test_a_stage_measures_what_an_earlier_one_left_and_keeps_no_other_checkpoints(
    lab, folder, undrawn
):
    asked = small(seeds=[0, 1])
    carry_out(lab, asked, folder)
    assert {*lab.recipes()} == {*asked.runs}
    assert [lab.run(run).checkpoints for run in asked.runs] == [[1, 3, 4]] * 4
    assert len(list(lab.path.glob("*/trials/*.json"))) == len(asked.all_trials) == 2 * 2 * 2
    alone = gl.read_table(folder / "plasticity.csv").set_index("trial")
    both = gl.read_table(folder / "regeneration.csv").set_index("trial")
    assert both.loc[alone.index].equals(alone)


def test_the_report_of_a_stage_is_there_when_the_next_is_interrupted(
    lab, folder, undrawn, monkeypatch
):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(gl.Lab, "compare", interrupted)
        with pytest.raises(KeyboardInterrupt):
            carry_out(lab, small(what=["methods", "plasticity"]), folder)
    sections = ["The dense network", "Pruning plasticity", "Measured with"]
    assert titles(folder / "report.md") == sections
    path = carry_out(lab, small(what=["methods", "plasticity"]), folder)
    assert titles(path) == [*sections[:2], "Training sparse", sections[2]]


def test_there_is_no_report_when_the_first_stage_is_interrupted(lab, folder, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(gl.Lab, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        carry_out(lab, small(), folder)
    assert not list(folder.iterdir())


def test_workers_and_bars_are_the_callers_choice(lab, folder, undrawn, monkeypatch, capsys):
    chosen = []

    def one(executor, workers, *_):
        chosen.append(workers)
        return gl.experiments.execution.pools.ThisProcess()

    monkeypatch.setattr("granet_lab.experiments.execution.pools.choose", one)
    carry_out(lab, small(what=["plasticity", "methods"]), folder, workers=3)
    assert chosen == [3, 3]
    assert "epoch" not in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_measured(lab, tmp_path):
    (tmp_path / "file").write_text("in the way\n")
    with pytest.raises(OSError, match=r"cannot write to .*file/report") as caught:
        carry_out(lab, small(), tmp_path / "file" / "report")
    assert "\n" not in str(caught.value)
    assert list(lab.path.iterdir()) == []
