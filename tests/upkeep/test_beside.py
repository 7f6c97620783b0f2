"""Verifying beside processes that train, import and measure."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
from notes import telling

import granet_lab as gl
from granet_lab.experiments.execution import claims
from granet_lab.experiments.execution.claims import Claims
from granet_lab.upkeep.sharing import merge, pack
from granet_lab.upkeep.verification import LEFTOVER, ORPHANED, UNFINISHED, verify

LONG_AGO = time.time() - 7200

TRAIN = """
import sys, granet_lab as gl
lab = gl.Lab(sys.argv[1], device="cpu")
for seed in range(60):
    recipe = gl.recipes.digits(model="mlp", epochs=6, milestones=(), train_size=100, seed=seed)
    lab.train(recipe, progress=False)
"""


def found(lab):
    return {(one.kind, one.path.name) for one in verify(lab.path)}


def test_what_a_training_is_writing_is_unfinished_and_nothing_worse(lab):
    training = subprocess.Popen([sys.executable, "-c", TRAIN, str(lab.path)])
    bad, looks = [], 0
    while training.poll() is None:
        bad += [one for one in verify(lab.path) if one.kind != UNFINISHED]
        looks += 1
    assert training.returncode == 0
    assert looks > 10
    assert bad == []
    assert list(verify(lab.path)) == []


def test_so_is_what_an_import_is_writing(lab, recipe, tmp_path):
    for seed in range(3):
        lab.train(replace(recipe, seed=seed), progress=False)
    pack(lab, tmp_path / "lab.tar")
    bad = []
    for time_ in range(5):
        other = gl.Lab(tmp_path / f"other {time_}", device="cpu")
        importing = threading.Thread(target=merge, args=(other, tmp_path / "lab.tar"))
        importing.start()
        while importing.is_alive():
            bad += [one for one in verify(other.path) if one.kind != UNFINISHED]
        assert list(verify(other.path)) == []
    assert bad == []


@pytest.fixture
def folder(lab, recipe):
    """Of a run that is claimed, and old by its date."""
    run = lab.run(recipe)
    with Claims().claimed(run):
        os.utime(run.path, (LONG_AGO, LONG_AGO))
        yield run.path


def test_a_folder_that_somebody_has_claimed_is_his(lab, folder):
    assert found(lab) == {(UNFINISHED, folder.name)}


def test_one_that_nobody_claims_any_more_is_an_orphan_once_it_is_old(lab, folder):
    claim = claims.path_of(folder)
    said = json.loads(claim.read_text())
    claim.write_text(json.dumps(said | {"pid": 2**22 + 1}))
    assert found(lab) == {(ORPHANED, folder.name)}
    folder.touch()
    assert found(lab) == {(UNFINISHED, folder.name)}


def test_a_claim_of_another_machine_holds_while_it_is_touched(lab, folder):
    claim = claims.path_of(folder)
    said = json.loads(claim.read_text())
    claim.write_text(json.dumps(said | {"where": "elsewhere"}))
    assert found(lab) == {(UNFINISHED, folder.name)}
    os.utime(claim, (LONG_AGO, LONG_AGO))
    assert found(lab) == {(ORPHANED, folder.name), (LEFTOVER, claim.name)}


def test_a_folder_in_which_something_was_made_without_a_recipe_is_not_new(lab, recipe):
    run = lab.train(recipe, progress=False)
    (run.path / "recipe.json").unlink()
    (run.path / "history.jsonl").unlink()
    assert found(lab) == {(ORPHANED, run.path.name)}


def test_unless_somebody_is_at_work_there(lab, recipe):
    run = lab.train(recipe, progress=False)
    (run.path / "recipe.json").unlink()
    with telling(run, recipe) as task:
        task.tell(1, 4)
        assert found(lab) == {(UNFINISHED, run.path.name)}


def test_checkpoints_beyond_the_history_are_his_who_trains_the_run(lab, recipe):
    run = lab.train(recipe, progress=False)
    (run.path / "history.jsonl").unlink()
    with Claims().claimed(run):
        assert found(lab) == {(UNFINISHED, run.path.name)}
    assert (ORPHANED, "0003.safetensors") in found(lab)
