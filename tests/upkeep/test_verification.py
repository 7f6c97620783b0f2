import json
import os
import random
import shutil
import time
from dataclasses import replace

import pytest

import granet_lab as gl
from granet_lab.datasets import DATASETS
from granet_lab.experiments import checkpoints, files
from granet_lab.experiments.execution import failures
from granet_lab.experiments.identity import folder_name, identity
from granet_lab.sparsity.criteria import CRITERIA
from granet_lab.training import loop
from granet_lab.upkeep.repairing import repair
from granet_lab.upkeep.verification import (
    DAMAGED,
    LEFTOVER,
    ORPHANED,
    UNFINISHED,
    UNKNOWN,
    verify,
)

LONG_AGO = time.time() - 7200


@pytest.fixture
def trials(recipe):
    return gl.grid(recipe, epoch=[0, 2, 4], rate=[0.5, 0.9], recovery_epochs=1)


@pytest.fixture
def measured(lab, trials):
    """The table of a whole lab."""
    return lab.measure(trials, workers=1, stack=1, progress=False)


def found(lab):
    return {(one.kind, one.path.name) for one in verify(lab.path)}


def parts(lab, pattern):
    return sorted(lab.path.glob(pattern))


def numbers(table):
    return table.drop(columns="seconds")


def test_a_whole_lab_has_nothing_to_be_found(lab, measured):
    assert found(lab) == set()


def test_where_there_is_no_lab_it_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"there is no lab .*nothing"):
        list(verify(tmp_path / "nothing"))


def test_verifying_changes_nothing(lab, measured):
    damaged = parts(lab, "*/trials/*.json")[0]
    damaged.write_bytes(b"")
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in lab.path.rglob("*")}
    assert found(lab) == {(DAMAGED, damaged.name)}
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in lab.path.rglob("*")} == before


def cut(content, draw):
    return content[: draw.randrange(len(content))]


def flip(content, draw):
    place, bit = draw.randrange(len(content)), 1 << draw.randrange(8)
    return content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]


def empty(content, draw):
    return b""


def other(content, draw):
    return draw.randbytes(len(content))


FILES = ["*/checkpoints/*.safetensors", "*/trials/*.json", "*/recipe.json", "*/environment.json"]


@pytest.mark.parametrize("pattern", FILES)
@pytest.mark.parametrize("damage", [cut, flip, empty, other])
def test_damage_anywhere_in_a_file_is_found_and_named(lab, measured, pattern, damage):
    draw = random.Random(f"{pattern} {damage.__name__}")
    for _ in range(15):
        path = draw.choice(parts(lab, pattern))
        whole = path.read_bytes()
        path.write_bytes(damage(whole, draw))
        if not (pattern.endswith(".json") and same(path, whole)):
            seen = list(verify(lab.path))
            assert [(one.kind, one.path) for one in seen] == [(DAMAGED, path)]
            assert seen[0].why
        path.write_bytes(whole)
    assert found(lab) == set()


def same(path, whole):
    """Whether JSON says the same in other words: only a space was hit."""
    try:
        return json.loads(path.read_bytes()) == json.loads(whole)
    except ValueError:
        return False


@pytest.mark.parametrize("damage", [cut, flip, empty, other])
def test_what_was_repaired_is_computed_anew_to_the_same_numbers(lab, trials, measured, damage):
    draw = random.Random(damage.__name__)
    hit = [draw.choice(parts(lab, pattern)) for pattern in FILES[:2]]
    for path in hit:
        path.write_bytes(damage(path.read_bytes(), draw))
    assert [repair(one) for one in verify(lab.path)] == ["set aside"] * 2
    assert not any(path.exists() for path in hit)
    assert {kind for kind, _ in found(lab)} == {LEFTOVER}
    again = lab.measure(trials, workers=1, stack=1, progress=False)
    assert numbers(again).equals(numbers(measured))


def test_a_history_that_is_not_one_is_found(lab, recipe, measured):
    path = lab.run(recipe).path / "history.jsonl"
    path.write_text(path.read_text().replace('"epoch": 2', '"epoch": 7'))
    assert (DAMAGED, "history.jsonl") in found(lab)


@pytest.mark.parametrize("damage", [cut, flip, empty, other])
def test_a_damaged_history_makes_no_orphans_of_its_checkpoints(lab, recipe, measured, damage):
    run = lab.run(recipe)
    path = run.path / "history.jsonl"
    path.write_bytes(damage(path.read_bytes(), random.Random(3)))
    kept = run.checkpoints
    (seen,) = verify(lab.path)
    assert (seen.kind, seen.path) == (DAMAGED, path)
    assert repair(seen)
    assert {kind for kind, _ in found(lab)} == {UNFINISHED, LEFTOVER}
    assert run.checkpoints == kept
    lab.train(recipe, progress=False)
    assert {kind for kind, _ in found(lab)} == {LEFTOVER}


def test_a_trial_in_place_of_another_is_found(lab, measured):
    one, two, *_ = parts(lab, "*/trials/*.json")
    shutil.copy(one, two)
    (seen,) = verify(lab.path)
    assert (seen.kind, seen.path) == (DAMAGED, two)
    assert one.name in seen.why


def test_so_is_a_checkpoint_of_another_epoch(lab, recipe, measured):
    run = lab.run(recipe)
    shutil.copy(run.checkpoint_path(1), run.checkpoint_path(3))
    assert found(lab) == {(DAMAGED, run.checkpoint_path(3).name)}


def test_a_pickle_in_place_of_a_checkpoint_is_damaged_and_its_code_does_not_run(
    lab, recipe, measured, tmp_path
):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    import pickle

    import torch

    path = lab.run(recipe).checkpoint_path(2)
    for write in (lambda: path.write_bytes(pickle.dumps(Code())), lambda: torch.save(Code(), path)):
        write()
        assert found(lab) == {(DAMAGED, path.name)}
        with pytest.raises(files.DamagedFile):
            checkpoints.read(path, loop.new_state(recipe, recipe.images()))
    assert not (tmp_path / "ran").exists()


def test_checkpoints_beyond_the_history_are_orphans(lab, recipe, measured):
    run = lab.run(recipe)
    path = run.path / "history.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    assert found(lab) == {
        (UNFINISHED, run.path.name),
        *((ORPHANED, run.checkpoint_path(epoch).name) for epoch in (3, 4)),
    }


def test_a_run_on_its_way_is_unfinished_and_left_alone(lab, recipe):
    lab.train(recipe, progress=False)
    path = lab.run(recipe).path
    longer = replace(recipe, epochs=6)
    run = lab.run(longer)
    run.describe("cpu")
    (seen,) = verify(lab.path)
    assert (seen.kind, seen.path) == (UNFINISHED, run.path)
    assert "0 of 6" in seen.why
    assert not repair(seen)
    assert path.exists()


def test_folders_that_nobody_will_look_into_are_orphans(lab, recipe, measured):
    run = lab.run(recipe)
    shutil.copytree(run.path, lab.path / "copied")
    assert found(lab) == {(ORPHANED, "copied")}
    assert [repair(one) for one in verify(lab.path)] == [""]
    assert (lab.path / "copied").is_dir()


def test_so_is_damage_in_what_says_why_a_trial_failed(lab, trials, measured):
    failures.write(lab.path, trials[0], "RuntimeError: not today")
    assert found(lab) == set()
    (path,) = parts(lab, "*/failures/*.json")
    path.rename(path.with_name("0123456789abcdef.json"))
    assert found(lab) == {(DAMAGED, "0123456789abcdef.json")}
    path.with_name("0123456789abcdef.json").write_text("{")
    (seen,) = verify(lab.path)
    assert repair(seen)
    assert lab.measure(trials, executor=None, progress=False).equals(measured)


@pytest.fixture
def unknown(lab, recipe, measured):
    """The file of a trial whose criterion is not defined here."""

    @gl.criterion
    def mine(context):
        return context.weights()

    (trial,) = gl.grid(recipe, epoch=2, rate=0.5, criterion="mine", recovery_epochs=1)
    lab.measure(trial, workers=1, progress=False)
    CRITERIA._entries.pop("mine")
    return lab.run(recipe).trial_path(identity(trial))


def test_what_a_notebook_has_defined_is_no_damage_where_it_is_not_defined(lab, unknown):
    (seen,) = verify(lab.path)
    assert (seen.kind, seen.path) == (UNKNOWN, unknown)
    assert "unknown criterion 'mine'" in seen.why
    assert not repair(seen)
    assert unknown.exists()


def test_its_name_has_to_fit_all_the_same(lab, unknown):
    moved = unknown.rename(unknown.with_name("0123456789abcdef.json"))
    (seen,) = verify(lab.path)
    assert (seen.kind, seen.path) == (DAMAGED, moved)
    assert unknown.name in seen.why


def test_so_has_its_run(lab, unknown, sparse_recipe):
    moved = lab.train(sparse_recipe, progress=False).trial_path(unknown.stem)
    moved.parent.mkdir()
    unknown.rename(moved)
    assert found(lab) == {(DAMAGED, moved.name)}


def test_so_has_all_that_it_asks(lab, unknown):
    asked = files.read_json(unknown)
    asked["trial"]["epoch"] = 3
    files.write_json(unknown, asked)
    assert found(lab) == {(DAMAGED, unknown.name)}


def own_network(lab, recipe):
    """The file of a recipe whose model is not known here, in the folder of another."""
    path = lab.train(recipe, progress=False).path / "recipe.json"
    asked = files.read_json(path)
    asked["recipe"]["model"] = "mine"
    files.write_json(path, asked)
    return path


def test_nor_is_a_run_of_ones_own_network(lab, recipe):
    path = own_network(lab, recipe)
    folder = path.parent.rename(lab.path / folder_name(files.read_json(path)["recipe"]))
    (seen,) = verify(lab.path)
    assert (seen.kind, seen.path) == (UNKNOWN, folder / path.name)
    assert not repair(seen)
    assert folder.exists()


def test_which_has_its_folder_all_the_same(lab, recipe):
    path = own_network(lab, recipe)
    assert found(lab) == {(ORPHANED, path.parent.name)}


@pytest.fixture(params=["lost", "damaged", "of a dataset that is not known here"])
def nameless(request, lab, recipe, measured, define):
    """A whole run whose recipe cannot be had."""
    if request.param.startswith("of"):

        def mine():
            return DATASETS["digits"]()

        define(DATASETS, mine)
        recipe = replace(recipe, dataset="mine")
        trials = gl.grid(recipe, epoch=1, rate=0.5, recovery_epochs=1)
        lab.measure(trials, workers=1, progress=False)
        del DATASETS._entries["mine"]
    run = lab.run(recipe)
    path = run.path / "recipe.json"
    if request.param == "lost":
        path.unlink()
    elif request.param == "damaged":
        path.write_text("{}")
    return run


@pytest.mark.parametrize("part", ["checkpoints/*", "trials/*", "history.jsonl", "environment.json"])
def test_a_run_is_read_whole_also_where_its_recipe_cannot_be_had(lab, nameless, part):
    path = max(nameless.path.glob(part))
    before = found(lab)
    assert not {name for kind, name in before if kind == DAMAGED} - {"recipe.json"}
    path.write_bytes(path.read_bytes()[:-20])
    assert found(lab) - before == {(DAMAGED, path.name)}
