import shutil

import pytest
from notes import telling

import granet_lab as gl
from granet_lab.experiments.execution.claims import Claims
from granet_lab.upkeep.repairing import repair
from granet_lab.upkeep.verification import DAMAGED, LEFTOVER, ORPHANED, UNFINISHED, verify


@pytest.fixture
def trials(recipe):
    return gl.grid(recipe, epoch=[0, 2], rate=0.5, recovery_epochs=1)


@pytest.fixture
def measured(lab, trials):
    """The run of a whole lab."""
    lab.measure(trials, workers=1, stack=1, progress=False)
    return lab.run(trials[0].recipe)


def found(lab):
    return {(one.kind, one.path.name) for one in verify(lab.path)}


def kinds(lab):
    return {kind for kind, _ in found(lab)}


def repaired(lab):
    return [done for one in verify(lab.path) if (done := repair(one))]


@pytest.mark.parametrize("content", [b"", b"{}", None])
def test_a_recipe_that_is_lost_is_taken_from_a_trial(lab, trials, measured, content):
    path = measured.path / "recipe.json"
    whole, table = path.read_bytes(), lab.table(trials)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    next(iter(measured.path.glob("trials/*.json"))).write_text("{}")
    assert repaired(lab) == ["its recipe is there again, as a trial tells it", "set aside"]
    assert path.read_bytes() == whole
    assert len(lab.recipes()) == 1
    assert kinds(lab) == {LEFTOVER}
    again = lab.measure(trials, workers=1, stack=1, progress=False)
    assert again.drop(columns="seconds").equals(table.drop(columns="seconds"))


def test_so_is_one_that_a_look_at_the_lab_has_set_aside(lab, measured):
    (measured.path / "recipe.json").write_text("{}")
    assert lab.recipes() == []
    assert found(lab) >= {(UNFINISHED, measured.path.name)}
    assert repaired(lab) == ["its recipe is there again, as a trial tells it"]
    assert lab.recipes() == [measured.recipe]
    assert kinds(lab) == {LEFTOVER}


def test_a_trial_of_another_run_tells_nothing(lab, recipe, measured, sparse_recipe):
    other = lab.train(sparse_recipe, progress=False)
    one = min(measured.path.glob("trials/*.json"))
    other.trial_path("0" * 16).parent.mkdir()
    other.trial_path("0" * 16).write_bytes(one.read_bytes())
    (other.path / "recipe.json").write_text("{}")
    assert repaired(lab) == ["set aside", "set aside"]  # the trial, too
    assert lab.recipes() == [recipe]


@pytest.mark.parametrize("how", ["trained", "measured"])
def test_a_run_whose_recipe_nobody_tells_is_kept_and_has_it_again_once_asked_for(
    lab, trials, measured, how
):
    for path in measured.path.glob("trials/*"):
        path.unlink()
    path, born = measured.path / "recipe.json", (measured.path / "environment.json").read_bytes()
    whole, history = path.read_bytes(), measured.rows()
    path.write_text("{}")
    assert repaired(lab) == ["set aside"]
    assert found(lab) >= {(UNFINISHED, measured.path.name)}
    assert not {DAMAGED, ORPHANED} & kinds(lab)
    assert repaired(lab) == []
    if how == "trained":
        lab.train(measured.recipe, progress=False)
    else:
        lab.measure(trials, workers=1, progress=False)
    assert path.read_bytes() == whole
    assert measured.rows() == history
    assert (measured.path / "environment.json").read_bytes() == born
    assert kinds(lab) == {LEFTOVER}


def test_a_run_of_which_nothing_is_left_is_set_aside_as_a_whole(lab, recipe, measured):
    for path in (*measured.path.glob("trials/*"), measured.path / "history.jsonl"):
        path.unlink()
    (measured.path / "recipe.json").write_text("{}")
    assert repaired(lab) == ["the folder is set aside, as nothing tells its recipe"]
    (aside,) = lab.path.glob("*.damaged-*")
    assert found(lab) == {(LEFTOVER, aside.name)}
    assert lab.recipes() == []
    assert len(lab.runs()) == 0
    assert len(list(aside.glob("checkpoints/*"))) == 5
    run = lab.train(recipe, progress=False)
    assert run.finished
    assert len(lab.runs()) == 1
    assert found(lab) == {(LEFTOVER, aside.name)}


@pytest.mark.parametrize("busy", ["training", "measuring"])
def test_nothing_is_set_aside_where_somebody_works(lab, recipe, measured, busy):
    for path in measured.path.glob("trials/*"):
        path.unlink()
    (measured.path / "recipe.json").write_text("{}")
    with Claims().claimed(measured) if busy == "training" else telling(measured, recipe) as task:
        if busy == "measuring":
            task.tell(1, 4)
        assert repaired(lab) == ["set aside"]
        assert found(lab) >= {(UNFINISHED, measured.path.name)}
        assert repaired(lab) == []
        assert measured.path.is_dir()


def test_a_folder_that_was_renamed_has_its_name_again(lab, measured):
    path = measured.path
    path.rename(lab.path / "mine")
    assert found(lab) == {(ORPHANED, "mine")}
    assert repaired(lab) == [f"it is {path.name} again"]
    assert found(lab) == set()
    assert measured.finished


def test_a_copy_beside_the_run_itself_stays(lab, measured):
    shutil.copytree(measured.path, lab.path / "copied")
    assert found(lab) == {(ORPHANED, "copied")}
    assert repaired(lab) == []
    assert (lab.path / "copied").is_dir()


def test_folders_that_are_no_runs_are_left_alone(lab):
    (lab.path / "notes").mkdir()
    (lab.path / "notes" / "mine.txt").write_text("mine")
    assert found(lab) == set()
    assert repaired(lab) == []


def test_a_damaged_environment_is_set_aside_and_in_nobodys_way(lab, trials, measured):
    path = measured.path / "environment.json"
    path.write_text("{")
    assert found(lab) == {(DAMAGED, path.name)}
    assert repaired(lab) == ["set aside"]
    assert kinds(lab) == {LEFTOVER}
    assert len(lab.measure(trials, workers=1, progress=False)) == 2
    assert len(lab.runs()) == 1


def test_what_is_gone_meanwhile_needs_no_repair(lab, measured):
    path = min(measured.path.glob("trials/*.json"))
    path.write_text("{")
    (seen,) = verify(lab.path)
    path.unlink()
    assert repair(seen) == ""
