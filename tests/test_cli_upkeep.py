import re

import pytest

import granet_lab as gl
from granet_lab.experiments.execution import failures
from granet_lab.sparsity.criteria import CRITERIA

SMALL = ("--set", "model=mlp", "epochs=3", "milestones=()", "train_size=100")


@pytest.fixture
def measured(run):
    asked = ("--epoch", "1", "--rate", "0.5", "0.9", "--recovery-epochs", "1", "--workers", "1")
    assert run("measure", *SMALL, *asked)[0] == 0


def test_a_damaged_file_is_named_and_set_aside_and_measured_anew(run, measured, tmp_path, caplog):
    assert run("verify")[:2] == (0, "0 damaged, 0 orphaned, 0 unfinished, 0 leftover, 0 unknown\n")
    path = next(tmp_path.glob("data/runs/*/trials/*.json"))
    path.write_text("{}")
    code, out, _ = run("verify")
    assert code == 1
    assert re.search(rf"damaged: .*{path.name}: ", out)
    assert path.exists()
    caplog.clear()
    code, out, err = run("verify", "--repair")
    assert (code, out.count(path.name), path.exists()) == (0, 1, False)
    assert "; set aside\n" in out
    assert caplog.text == err == ""
    assert "1 leftover" in run("verify")[1]


def test_what_is_left_over_is_named_and_taken_away(run, measured, tmp_path):
    path = next(tmp_path.glob("data/runs/*/trials/*.json"))
    path.write_text("{}")
    assert run("verify", "--repair", "--clean")[0] == 0
    (aside,) = path.parent.glob("*.damaged-*")
    code, out, _ = run("verify", "--clean")
    assert code == 0
    assert f"{aside.name}: it was set aside as damaged; taken away\n" in out
    assert not aside.exists()
    assert run("verify")[1] == "0 damaged, 0 orphaned, 0 unfinished, 0 leftover, 0 unknown\n"


@pytest.mark.parametrize("told", [True, False])
def test_a_run_that_lost_its_recipe_is_mended_or_given_up_once_and_for_all(
    run, measured, tmp_path, told
):
    next(tmp_path.glob("data/runs/*/recipe.json")).write_text("{}")
    if not told:
        for path in tmp_path.glob("data/runs/*/trials/*"):
            path.unlink()
    assert run("verify", "--repair")[0] == 0
    assert run("verify")[0] == 0
    assert ("digits-mlp" in run("runs")[1]) == told


def test_checkpoints_are_thinned_after_it_was_said_what_that_frees(run, measured, tmp_path):
    count = lambda: len(list(tmp_path.glob("data/runs/*/checkpoints/*")))  # noqa: E731
    code, out, _ = run("prune-store", "--unneeded")
    assert (code, count()) == (0, 4)
    assert ": 1 checkpoint less, 3 left, " in out
    assert "do it with --yes" in out
    code, out, _ = run("prune-store", "--unneeded", "--yes")
    assert (code, count()) == (0, 3)
    assert out.endswith("MB freed\n")
    for yes in ((), ("--yes",)):
        assert run("prune-store", "--unneeded", *yes)[:2] == (0, "there is nothing to free\n")


def test_a_lab_goes_to_a_colleague_and_comes_in_there(run, measured, tmp_path):
    code, out, _ = run("export", "sent.tar", "--no-checkpoints")
    assert code == 0
    assert re.match(r"sent\.tar: 1 run, [\d.]+ MB", out)
    code, out, _ = run("import", "sent.tar", "--lab", "there")
    assert (code, out) == (0, "5 files added, 0 were there, 0 left out\n")
    here, there = gl.Lab("data/runs", "cpu"), gl.Lab("there", "cpu")
    assert there.table(there.trials()).equals(here.table(here.trials()))
    assert len(there.trials()) == 2


@pytest.fixture
def notebook(measured):
    """A trial more, of a criterion that is not known here."""

    @gl.criterion
    def mine(context):
        return context.weights()

    lab = gl.Lab("data/runs", "cpu")
    (recipe,) = lab.recipes()
    trials = gl.grid(recipe, epoch=1, rate=0.5, criterion="mine", recovery_epochs=1)
    lab.measure(trials, workers=1, progress=False)
    CRITERIA._entries.pop("mine")


def test_what_a_colleagues_notebook_defines_comes_in_and_is_said(run, notebook):
    assert run("export", "sent.tar")[0] == 0
    code, out, _ = run("import", "sent.tar", "--lab", "there")
    assert code == 0
    assert "1 trial let in that cannot be read here: unknown criterion 'mine'\n" in out
    code, out, _ = run("verify", "--lab", "there")
    assert code == 0
    assert "1 unknown" in out


def test_all_that_was_measured_is_one_table(run, measured):
    assert run("export", "all.csv")[0] == 0
    table = gl.read_table("all.csv")
    assert sorted(table.rate) == [0.5, 0.9]


def test_trials_of_a_notebook_are_in_it_all_the_same(run, notebook):
    code, _, err = run("export", "all.csv")
    assert (code, err) == (0, "")
    table = gl.read_table("all.csv")
    assert sorted(table.criterion) == ["magnitude", "magnitude", "mine"]
    assert table.notna().all()["acc_after"]
    (name,) = set(table.run)
    assert run("export", "one.csv", "--run", name)[0] == 0
    assert gl.read_table("one.csv").equals(table)


@pytest.mark.parametrize("name", ["all.csv", "all.tar"])
def test_what_is_there_is_not_written_over(run, measured, tmp_path, name):
    (tmp_path / name).write_text("mine")
    code, _, err = run("export", name)
    assert code == 1
    assert err == f"granet-lab: {name} is there already: choose another name or take it away\n"
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("verify --lab nothing", "there is no lab nothing"),
        ("prune-store --every 2 --lab nothing", "there is no lab nothing"),
        ("prune-store", "there is no lab data/runs"),
        ("export x.zip", "there is no lab data/runs"),
        ("verify --lab file", "there is no lab file"),
        ("runs --lab file", "there is no lab file"),
        ("import file", "file is not a whole tar file"),
        ("import nothing.tar", "nothing.tar: No such file or directory"),
        ("import .", ".: Is a directory"),
        ("import file/x.tar", "file/x.tar: Not a directory"),
    ],
)
def test_a_mistyped_command_names_the_culprit(run, words, why, tmp_path):
    code, _, err = run(*words.split())
    assert code == 1
    assert why in err
    assert "Errno" not in err
    assert len(err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("prune-store", "say what to keep: every n-th epoch"),
        ("export x.zip", r"x.zip must end in .tar, .tar.gz or .csv"),
        ("export x.tar --run nope", "there is no run 'nope'"),
        ("export x.csv --run nope", "there is no run 'nope'"),
        ("export file/x.tar", "cannot write file/x.tar: Not a directory"),
        ("export file/x.csv", "cannot write to file: Not a directory"),
        ("import file --lab file", "file is not a whole tar file"),
    ],
)
def test_so_does_one_that_asks_for_nothing_sensible(run, measured, words, why):
    code, _, err = run(*words.split())
    assert code == 1
    assert why in err
    assert "Errno" not in err


def test_runs_tells_how_many_trials_have_failed(run, measured, tmp_path):
    lab = gl.Lab("data/runs", "cpu")
    assert list(lab.runs().failed) == [0]
    failures.write(lab.path, lab.trials()[0], "RuntimeError: not today")
    assert list(lab.runs().failed) == [1]
    assert "failed" in run("runs")[1]


def test_a_terminal_sees_how_far_verifying_is(run, measured, monkeypatch, capsys):
    assert run("verify")[2] == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert "0/1 [" in run("verify")[2]
