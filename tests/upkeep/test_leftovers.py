import os
import subprocess
import sys
import time

import pytest
from notes import pages, sweep, telling

import granet_lab as gl
from granet_lab.experiments.execution.claims import Claims, path_of
from granet_lab.upkeep.leftovers import take_away
from granet_lab.upkeep.repairing import repair
from granet_lab.upkeep.verification import LEFTOVER, verify

LONG_AGO = time.time() - 7200


@pytest.fixture
def run(lab, recipe):
    """Of a whole lab."""
    lab.measure(gl.grid(recipe, epoch=2, rate=0.5, recovery_epochs=1), workers=1, progress=False)
    return lab.run(recipe)


def left(lab):
    seen = list(verify(lab.path))
    assert {one.kind for one in seen} <= {LEFTOVER}
    return [one.path for one in seen]


def contents(lab):
    return {path for path in lab.path.rglob("*") if path.is_file()}


def aged(path):
    os.utime(path, (LONG_AGO, LONG_AGO))


FILES = [
    *(f"RUN/{name}/.0123.json.deadbeef.tmp" for name in ("trials", "checkpoints", "failures")),
    "RUN/progress/.0123.json.deadbeef.tmp",
    "progress/.0123.json.deadbeef.tmp",
    ".deadbeef.stop",
    ".deadbeef.probe",
    "RUN/progress/.claim",
    "RUN/progress/0123456789abcdef.notes",
    "progress/0123456789abcdef.notes",
    "RUN/progress/0123456789abcdef.json",
    "RUN/progress/training.json",
    "progress/sweep.json",
    "progress/0123456789abcdef.definitions",
]


@pytest.mark.parametrize("name", FILES)
def test_what_somebody_left_is_found_once_it_is_old_and_can_be_taken_away(lab, run, name):
    before, path = contents(lab), lab.path / name.replace("RUN", run.path.name)
    path.parent.mkdir(exist_ok=True)
    path.write_text("{}")
    assert left(lab) == []
    aged(path)
    assert left(lab) == [path]
    assert take_away(path)
    assert contents(lab) == before
    assert not take_away(path)


def test_an_import_that_was_killed_is_found_once_all_in_it_is_old(lab, run):
    before, path = contents(lab), lab.path / ".import-abcdef"
    inside = path / run.path.name / "recipe.json"
    inside.parent.mkdir(parents=True)
    inside.write_text("{}")
    for folder in (path, inside.parent):
        aged(folder)
    assert left(lab) == []
    aged(inside)
    assert left(lab) == [path]
    take_away(path)
    assert contents(lab) == before


def test_what_was_set_aside_is_left_over_at_once(lab, run):
    path = min(run.path.glob("checkpoints/*"))
    path.write_text("{")
    assert [repair(one) for one in verify(lab.path)] == ["set aside"]
    (aside,) = left(lab)
    assert aside.name.startswith(f"{path.name}.damaged-")
    take_away(aside)
    assert left(lab) == []


@pytest.mark.parametrize("name", ["mine.damaged-in-the-mail", "mine.damaged-"])
def test_what_only_sounds_like_it_is_not(lab, run, name):
    (run.path / name).write_text("mine")
    assert left(lab) == []


def test_what_a_process_at_work_uses_is_not_left_over(lab, run, recipe):
    with Claims().claimed(run), telling(run, recipe) as task:
        task.tell(1, 4)
        assert path_of(run.path).exists()
        assert pages(run.path)
        assert left(lab) == []


SWEEPS = """
import sys, granet_lab as gl
lab = gl.Lab(sys.argv[1], device="cpu")
for seed in range(8):
    recipe = gl.recipes.digits(model="mlp", epochs=4, milestones=(), train_size=100, seed=seed)
    table = lab.measure(gl.grid(recipe, epoch=[0, 2], rate=0.5), workers=2, progress=False)
    assert (table.status == "ok").all()
"""


def test_what_a_sweep_of_days_carries_is_not_left_over(lab, run):
    path = lab.path / "progress/0123456789abcdef.definitions"
    path.parent.mkdir(exist_ok=True)
    path.touch()
    aged(path)
    going_on = sweep(lab)
    going_on.tell(1, 9)
    assert left(lab) == []
    going_on.end()
    assert left(lab) == [path]


def test_nothing_is_taken_from_a_sweep_that_goes_on(lab):
    sweeps = subprocess.Popen([sys.executable, "-c", SWEEPS, str(lab.path)])
    while sweeps.poll() is None:
        assert [one for one in verify(lab.path) if one.kind == LEFTOVER] == []
    assert sweeps.returncode == 0


def test_a_link_is_taken_away_and_not_what_it_points_to(lab, tmp_path):
    (tmp_path / "precious").mkdir()
    link = lab.path / ".import-link"
    link.symlink_to(tmp_path / "precious")
    assert take_away(link)
    assert (tmp_path / "precious").is_dir()
