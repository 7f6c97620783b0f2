import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

import granet_lab as gl
from granet_lab.experiments import checkpoints, store
from granet_lab.experiments.files import DamagedFile
from granet_lab.experiments.trainings import train
from granet_lab.sparsity.methods import METHODS
from granet_lab.training.state import Diverged

TRAIN = """
import sys, granet_lab as gl
from granet_lab.experiments.files import read_json
from granet_lab.experiments.identity import restore
from pathlib import Path
root = Path(sys.argv[1])
recipe = restore(gl.Recipe, read_json(next(root.glob("*/recipe.json")))["recipe"])
gl.Lab(root, device="cpu").train(recipe, progress=False)
"""


def tensors(state):
    named = dict(state.model.state_dict())
    for name, parameter in state.model.named_parameters():
        named[f"momentum of {name}"] = state.optimizer.state[parameter]["momentum_buffer"]
    kinds = {"mask": state.masks, "ever": state.tally.ever, "born": state.tally.born}
    for kind, masks in kinds.items():
        named |= {f"{kind} of {name}": mask for name, mask in masks.items()}
    return named


def assert_same(a, b):
    assert (a.epoch, a.step) == (b.epoch, b.step)
    found, expected = tensors(a), tensors(b)
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


def same_history(a, b):
    columns = a.history.columns.drop("seconds")
    return a.history[columns].equals(b.history[columns])


@pytest.fixture
def other(tmp_path):
    return gl.Lab(tmp_path / "other", device="cpu")


def interrupted(lab, recipe, epochs):
    """A run that stopped for good after some epochs."""
    run = lab.run(recipe)
    rows = train(run)
    for _ in range(epochs):
        next(rows)
    rows.close()
    return run


def test_a_run_keeps_a_checkpoint_and_a_row_for_every_epoch(lab, recipe):
    run = lab.train(recipe, progress=False)
    assert run.checkpoints == [0, 1, 2, 3, 4]
    assert list(run.history.epoch) == [0, 1, 2, 3, 4]
    assert run.history.lr.iloc[1:].tolist() == pytest.approx([0.1, 0.1, 0.01, 0.01])
    assert run.history.test_acc.iloc[-1] > run.history.test_acc.iloc[0] + 30


@pytest.mark.parametrize("sparsity", [0, 0.8])
@pytest.mark.parametrize("model", ["mlp", "convnet"])
def test_training_that_goes_on_in_a_new_process_ends_bit_for_bit_the_same(
    lab, other, recipe, model, sparsity
):
    recipe = replace(recipe, model=model, method=gl.methods.static(sparsity))
    whole = lab.train(recipe, progress=False)
    half = interrupted(other, recipe, 2)
    assert half.checkpoints == [0, 1, 2]
    subprocess.run([sys.executable, "-c", TRAIN, str(other.path)], check=True)
    for epoch in (3, 4):
        assert_same(half.load(epoch), whole.load(epoch))
    assert same_history(half, whole)


def test_an_epoch_that_was_not_kept_is_reached_again_bit_for_bit(lab, other, recipe):
    whole = lab.train(recipe, progress=False)
    thin = other.train(recipe, checkpoints=[0, 2], progress=False)
    assert thin.checkpoints == [0, 2]
    for epoch in range(5):
        assert_same(thin.load(epoch), whole.load(epoch))
    assert thin.checkpoints == [0, 2]


def test_checkpoints_asked_for_later_are_made_and_the_history_stays(lab, other, recipe):
    whole = lab.train(recipe, progress=False)
    thin = other.train(recipe, checkpoints=[4], progress=False)
    other.train(recipe, checkpoints=[1, 3], progress=False)
    assert thin.checkpoints == [1, 3, 4]
    assert_same(thin.load(3), whole.load(3))
    assert same_history(thin, whole)


def test_training_a_finished_run_once_more_leaves_thinned_checkpoints_alone(lab, recipe):
    run = lab.train(recipe, checkpoints=[0, 4], progress=False)
    lab.train(recipe, progress=False)
    lab.weights(gl.grid(recipe, epoch=2, rate=0.5))
    assert run.checkpoints == [0, 4]


def test_an_epoch_that_diverges_only_now_is_an_error_and_not_a_divergence(lab, recipe, monkeypatch):
    run = lab.train(recipe, checkpoints=[0, 4], progress=False)

    def other_numbers(*args, **kwargs):
        raise Diverged(2, float("nan"))

    monkeypatch.setattr(store.loop, "fit", other_numbers)
    with pytest.raises(RuntimeError, match=f"{run.path.name} cannot be brought back to epoch 3"):
        run.load(3)


@pytest.mark.parametrize(("dataset", "words"), [("birds/small", "small"), ("/data/big/", "big")])
@pytest.mark.parametrize("model", ["torchvision:resnet18", "os.path:join"])
def test_a_runs_folder_begins_with_the_ends_of_its_names(lab, recipe, dataset, model, words):
    run = lab.run(replace(recipe, dataset=f"folder:{dataset}", model=model))
    assert run.path.match(f"runs/{words}-{model.split(':')[1]}-????????????????")


def test_a_finished_run_is_not_trained_again(lab, recipe):
    run = lab.train(recipe, progress=False)
    written = {p: p.stat().st_mtime_ns for p in run.path.rglob("*")}
    lab.train(recipe, progress=False)
    assert {p: p.stat().st_mtime_ns for p in run.path.rglob("*")} == written


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "pickle"])
def test_a_damaged_checkpoint_is_named_set_aside_and_computed_anew(lab, recipe, caplog, damage):
    run = lab.train(recipe, progress=False)
    expected = run.load(3)
    path = run.checkpoint_path(3)
    content = path.read_bytes()
    if damage == "pickle":
        torch.save({"weights": torch.zeros(3)}, path)
    else:
        flipped = bytes([content[-9] ^ 1])
        path.write_bytes(
            {
                "truncated": content[:-10],
                "empty": b"",
                "flipped": content[:-9] + flipped + content[-8:],
            }[damage]
        )
    assert_same(run.load(3), expected)
    assert str(path) in caplog.text
    assert "damaged" in caplog.text
    assert len(list(path.parent.glob("0003.safetensors.damaged-*"))) == 1
    caplog.clear()
    assert_same(run.load(3), expected)
    assert caplog.text == ""


def test_every_checkpoint_may_be_gone(lab, recipe):
    run = lab.train(recipe, progress=False)
    expected = run.load(4)
    for epoch in run.checkpoints:
        run.checkpoint_path(epoch).unlink()
    assert_same(run.load(4), expected)


def test_a_damaged_history_is_set_aside_and_made_again(lab, recipe, caplog):
    run = lab.train(recipe, progress=False)
    before = run.history
    path = run.path / "history.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    assert not run.finished
    assert str(path) in caplog.text
    lab.train(recipe, progress=False)
    columns = before.columns.drop("seconds")
    assert run.history[columns].equals(before[columns])


def test_a_history_is_read_once_until_it_changes(lab, recipe, monkeypatch):
    run, read = lab.train(recipe, progress=False), []
    path = run.path / "history.jsonl"
    os.utime(path, (1e9, 1e9))  # what is a moment old is read again anyway
    really = store.read_rows
    monkeypatch.setattr(store, "read_rows", lambda folder: (read.append(folder), really(folder))[1])
    rows = run.rows()
    rows.append({"epoch": 99})
    rows[0]["test_acc"] = -1
    assert len(run.rows()) == recipe.epochs + 1
    assert run.rows()[0]["test_acc"] >= 0
    assert read == [run.path]
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    os.utime(path, (1e9 + 1, 1e9 + 1))
    assert [row["epoch"] for row in run.rows()] == [0, 1]
    assert len(read) == 2
    path.unlink()
    assert run.rows() == []


def test_a_longer_history_is_never_shortened(lab, recipe):
    slow = lab.run(recipe)
    rows = train(slow)
    next(rows)
    lab.train(recipe, progress=False)
    next(rows)
    assert len(slow.history) == 5


@pytest.mark.parametrize("epoch", [-1, 5])
def test_an_epoch_beyond_the_run_is_refused(lab, recipe, epoch):
    run = lab.train(recipe, progress=False)
    with pytest.raises(ValueError, match=f"epoch {epoch} is not in this run: choose 0 to 4"):
        run.load(epoch)
    with pytest.raises(ValueError, match=f"epoch {epoch} is not in this run"):
        lab.train(recipe, checkpoints=[epoch], progress=False)


def test_divergence_is_recorded_and_the_run_is_not_trained_twice(lab, recipe, caplog):
    wild = replace(recipe, lr=1e12)
    run = lab.train(wild, progress=False)
    assert "diverged" in run.diverged
    assert run.finished
    assert "diverged" in caplog.text
    rows = list(train(run))
    assert rows == []


@pytest.mark.parametrize("epochs", [2, 6, 10])
def test_a_run_killed_in_the_middle_goes_on_to_the_same_end(lab, other, recipe, epochs):
    recipe = replace(recipe, epochs=12, model="convnet")
    whole = lab.train(recipe, progress=False)
    run = interrupted(other, recipe, 1)
    worker = subprocess.Popen([sys.executable, "-c", TRAIN, str(other.path)])
    while len(run.rows()) <= epochs and worker.poll() is None:
        time.sleep(0.002)
    worker.kill()
    worker.wait()
    assert len(run.rows()) > epochs
    other.train(recipe, progress=False)
    assert run.checkpoints == list(range(13))
    assert_same(run.load(12), whole.load(12))
    assert same_history(run, whole)


@pytest.fixture
def moving(lab, sparse_recipe):
    """A run whose masks move: after epoch e, weights 1000 e to 1000 e + 3000 of the first layer
    are active, and nothing else; after epoch 4 not even these."""
    run = lab.train(sparse_recipe, checkpoints=[0, 1, 2, 4], progress=False)
    for epoch in run.checkpoints:
        state = run.load(epoch)
        masks = {name: torch.zeros_like(mask) for name, mask in state.masks.items()}
        if epoch < 4:
            masks["1.weight"].view(-1)[1000 * epoch : 1000 * epoch + 3000] = True
        state.masks = gl.Masks(masks)
        checkpoints.write(run.checkpoint_path(epoch), state)
    return run


def test_masks_are_those_of_the_epochs_with_a_checkpoint(moving):
    found = moving.masks()
    assert list(found) == [0, 1, 2, 4]
    assert [masks.active for masks in found.values()] == [3000, 3000, 3000, 0]
    assert found[1]["1.weight"].flatten().nonzero().flatten().tolist() == [*range(1000, 4000)]


def test_masks_of_an_epoch_that_was_not_kept_are_reached_by_training_on(moving):
    found = moving.masks(iter([3, 1]))
    assert list(found) == [3, 1]
    assert found[3] == moving.load(2).masks
    assert moving.checkpoints == [0, 1, 2, 4]


def test_overlap_is_jaccards_index_of_any_two_epochs(moving):
    found = moving.overlap()
    assert found.index.tolist() == found.columns.tolist() == [0, 1, 2, 4]
    assert found.index.name == found.columns.name == "epoch"
    assert found.loc[0].tolist() == [1, 2000 / 4000, 1000 / 5000, 0]
    assert found.loc[[1, 2], 2].tolist() == [0.5, 1]
    assert found.equals(found.T)
    assert found.loc[4, 4] == 1  # nothing and nothing are alike


def test_overlap_of_chosen_epochs_comes_in_their_order(moving):
    found = moving.overlap([2, 0])
    assert found.index.tolist() == found.columns.tolist() == [2, 0]
    assert found.loc[2, 0] == 0.2


def test_exploration_is_the_share_of_weights_that_was_ever_active(moving):
    found = moving.exploration()
    assert found.index.tolist() == [0, 1, 2, 4]
    assert (found.index.name, found.name) == ("epoch", "exploration")
    assert found.tolist() == [3000 / 17400, 4000 / 17400, 5000 / 17400, 5000 / 17400]
    assert moving.exploration([1, 2]).tolist() == [3000 / 17400, 4000 / 17400]


def test_a_fixed_mask_explores_what_it_has_and_overlaps_itself(lab, sparse_recipe):
    run = lab.train(sparse_recipe, progress=False)
    assert (run.overlap() == 1).all(axis=None)
    assert run.exploration().tolist() == [3480 / 17400] * 5


@pytest.mark.parametrize("ask", ["masks", "overlap", "exploration"])
def test_what_masks_have_in_common_is_not_asked_of_epochs_that_are_not_there(moving, ask):
    with pytest.raises(ValueError, match="epoch 5 is not in this run: choose 0 to 4"):
        getattr(moving, ask)([0, 5])


def test_a_run_without_checkpoints_has_no_masks_to_compare(lab, recipe):
    run = lab.run(recipe)
    assert run.masks() == {}
    assert len(run.exploration()) == 0
    with pytest.raises(ValueError, match="there are no masks"):
        run.overlap()


@pytest.mark.parametrize("name", METHODS)
def test_every_method_taken_up_again_ends_where_the_unbroken_one_does(lab, other, recipe, name):
    short = {"one_shot": {"epoch": 3}}
    rounds = gl.methods.Rounds(cycle=3, rewind=1)
    short |= {key: {"rounds": rounds} for key in ("lottery", "lr_rewinding")}
    method = METHODS[name](**short.get(name, {}))
    last = method.rounds.epochs if method.rounds else 4
    asked = replace(recipe, method=method, epochs=last)
    whole = lab.train(asked, progress=False)
    for epochs in (2, last - 2):
        interrupted(other, asked, epochs)
    broken = other.train(asked, progress=False)
    assert_same(broken.load(last), whole.load(last))
    assert same_history(broken, whole)
    assert not list(other.path.rglob("*.damaged-*"))  # taken up again, not begun anew
    masks = broken.load(last).masks
    assert masks.total - masks.active == round(method.sparsity(last, last) * masks.total)


@pytest.fixture
def lines(lab, recipe):
    """The history's file, and its lines."""
    lab.train(recipe, checkpoints=[4], progress=False)
    path = lab.run(recipe).path / "history.jsonl"
    return path, path.read_text().splitlines()


def changed(lines, how):
    rows = [json.loads(line) for line in lines]
    if how == "a number":
        rows[2]["test_acc"] += 0.01
    elif how == "a name":
        rows[2]["test_accc"] = rows[2].pop("test_acc")
    elif how == "a seal":
        rows[2]["sha256"] = rows[1]["sha256"]
    elif how == "a seal gone":
        del rows[2]["sha256"]
    elif how == "two rows exchanged":
        for a, b in (("test_acc", "test_acc"), ("test_loss", "test_loss")):
            rows[1][a], rows[2][b] = rows[2][b], rows[1][a]
    elif how == "an epoch left out":
        del rows[2]
        for epoch, row in enumerate(rows):
            row["epoch"] = epoch
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    "how",
    ["a number", "a name", "a seal", "a seal gone", "two rows exchanged", "an epoch left out"],
)
def test_a_history_that_was_changed_is_damaged(lab, recipe, lines, how):
    path, before = lines
    path.write_text(changed(before, how))
    with pytest.raises(DamagedFile, match=r"history\.jsonl is damaged"):
        store.read_rows(lab.run(recipe).path)


def test_a_history_that_was_cut_between_epochs_is_a_shorter_one(lab, recipe, lines):
    path, before = lines
    path.write_text("".join(line + "\n" for line in before[:3]))
    assert len(store.read_rows(lab.run(recipe).path)) == 3


def test_a_history_of_an_earlier_version_is_read_and_gone_on_with(lab, other, recipe, lines):
    path, before = lines
    whole = lab.run(recipe).rows()
    assert all("sha256" not in row for row in whole)
    bare = [
        json.dumps({k: v for k, v in json.loads(line).items() if k != "sha256"}) for line in before
    ]
    path.write_text("".join(line + "\n" for line in bare))
    assert lab.run(recipe).rows() == whole
    path.write_text("".join(line + "\n" for line in bare[:3]))
    lab.train(recipe, progress=False)
    for row, old in zip(store.read_rows(lab.run(recipe).path), whole, strict=True):
        assert row | {"seconds": 0} == old | {"seconds": 0}
    assert "sha256" in path.read_text()
