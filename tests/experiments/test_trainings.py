from dataclasses import replace

import pytest
import torch

import granet_lab as gl
from granet_lab.experiments import checkpoints, files, trainings

SPARSE = {"dense": (), "granet": (0.8,)}


@pytest.fixture
def meanwhile(monkeypatch):
    """As on a GPU: the next epoch is trained while the last one is written down."""
    monkeypatch.setattr(trainings, "_meanwhile", lambda device: True)


def contents(lab):
    """Everything that a run consists of, seconds left out."""
    found = {}
    for path in lab.path.glob("*/checkpoints/*"):
        found[path.name] = checkpoints._digest(*checkpoints._verified(path))
    for path in lab.path.glob("*/recipe.json"):
        recipe = files.read_json(path)
        found[path.parent.name] = recipe
    (one,) = lab.recipes()
    return found, lab.run(one).history.drop(columns="seconds").to_csv()


@pytest.mark.parametrize("kept", [None, [2], [0, 4]])
@pytest.mark.parametrize("method", ["dense", "granet"])
def test_what_is_written_meanwhile_is_the_same(lab, tmp_path, request, method, kept):
    recipe = gl.recipes.digits(
        model="mlp",
        epochs=4,
        milestones=(2,),
        train_size=200,
        method=gl.methods.METHODS[method](*SPARSE[method]),
    )
    lab.train(recipe, kept, progress=False)
    request.getfixturevalue("meanwhile")
    other = gl.Lab(tmp_path / "other", device="cpu")
    other.train(recipe, kept, progress=False)
    assert contents(other) == contents(lab)


def test_stopped_in_between_it_goes_on_as_ever(lab, tmp_path, recipe, meanwhile):
    other = gl.Lab(tmp_path / "other", device="cpu")
    lab.train(recipe, progress=False)
    for _ in trainings.train(other.run(recipe)):
        break
    for _, _ in zip(range(2), trainings.train(other.run(recipe)), strict=False):
        pass
    other.train(recipe, progress=False)
    assert contents(other) == contents(lab)


def test_what_could_not_be_written_is_an_error(lab, recipe, meanwhile, monkeypatch):
    write = files.write

    def full(path, *rest, **how):
        if path.name == "0002.safetensors":
            raise OSError("cannot write to it: No space left on device")
        write(path, *rest, **how)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write", full)
        with pytest.raises(OSError, match="No space left"):
            lab.train(recipe, progress=False)
    run = lab.train(recipe, progress=False)
    assert run.checkpoints == [0, 1, 2, 3, 4]


def foreign(run):
    """Gives every checkpoint other numbers, as of another training."""
    for epoch in run.checkpoints:
        state = run.load(epoch)
        with torch.no_grad():
            for parameter in state.model.parameters():
                parameter += 1
        run.keep(state)


def lose_history(run):
    path = run.path / "history.jsonl"
    path.write_bytes(path.read_bytes()[:-30])


def digests(run):
    """What is in the checkpoints of a run."""
    return {
        epoch: checkpoints._digest(*checkpoints._verified(run.checkpoint_path(epoch)))
        for epoch in run.checkpoints
    }


@pytest.mark.parametrize("kept", [None, [2], [0, 4]])
@pytest.mark.parametrize("device", ["cpu", "meanwhile"])
def test_a_damaged_history_leaves_nothing_of_the_earlier_training(
    lab, tmp_path, request, recipe, kept, device
):
    if device == "meanwhile":
        request.getfixturevalue("meanwhile")
    whole = gl.Lab(tmp_path / "whole", device="cpu").train(recipe, kept, progress=False)
    run = lab.train(recipe, progress=False)
    foreign(run)
    lose_history(run)
    lab.train(recipe, kept, progress=False)
    assert digests(run) == digests(whole)
    assert run.history.drop(columns="seconds").equals(whole.history.drop(columns="seconds"))


def test_nor_does_one_that_was_cut_between_two_rows(lab, tmp_path, recipe):
    whole = gl.Lab(tmp_path / "whole", device="cpu").train(recipe, progress=False)
    run = lab.train(recipe, progress=False)
    own = {epoch: run.checkpoint_path(epoch).read_bytes() for epoch in (0, 1)}
    foreign(run)
    for epoch, content in own.items():
        run.checkpoint_path(epoch).write_bytes(content)
    path = run.path / "history.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    lab.train(recipe, progress=False)
    assert digests(run) == digests(whole)


def test_nor_where_it_ends_between_a_row_and_its_checkpoint(lab, tmp_path, recipe, monkeypatch):
    whole = gl.Lab(tmp_path / "whole", device="cpu").train(recipe, progress=False)
    run = lab.train(recipe, progress=False)
    foreign(run)
    lose_history(run)
    write = checkpoints.Snapshot.write

    def dies(snapshot, path):
        if path.name == "0002.safetensors":
            raise KeyboardInterrupt
        write(snapshot, path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.Snapshot, "write", dies)
        with pytest.raises(KeyboardInterrupt):
            lab.train(recipe, progress=False)
    assert len(run.rows()) == 3
    lab.train(recipe, progress=False)
    assert digests(run) == digests(whole)


def test_what_is_measured_after_it_is_of_the_new_training_alone(lab, tmp_path, recipe):
    trials = gl.grid(recipe, epoch=[0, 2, 4], rate=0.9, recovery_epochs=1)
    other = gl.Lab(tmp_path / "whole", device="cpu")
    tables = [one.measure(trials, workers=1, progress=False) for one in (lab, other)]
    run = lab.run(recipe)
    foreign(run)
    lose_history(run)
    for path in run.path.glob("trials/*.json"):
        path.unlink()
    tables[0] = lab.measure(trials, workers=1, progress=False)
    same = [table.drop(columns="seconds") for table in tables]
    assert same[0].equals(same[1])
    assert digests(run) == digests(other.run(recipe))


def test_what_somebody_ahead_has_written_stays(lab, recipe):
    slow = trainings.train(lab.run(recipe))
    next(slow)
    run = lab.train(recipe, progress=False)
    written = {epoch: run.checkpoint_path(epoch).stat().st_ino for epoch in run.checkpoints}
    list(slow)
    assert {epoch: run.checkpoint_path(epoch).stat().st_ino for epoch in written} == written


def test_a_run_that_diverges_when_trained_anew_keeps_nothing_of_before(lab, recipe):
    wild = replace(recipe, lr=1e12)
    run, calm = lab.run(wild), lab.train(recipe, progress=False)
    for epoch in calm.checkpoints:
        run.keep(calm.load(epoch))
    lab.train(wild, progress=False)
    assert run.diverged
    assert max(run.checkpoints) < len(run.rows())


def test_every_step_and_every_test_of_a_split_is_a_pulse(lab, recipe):
    beats = []
    one = trainings.Training(lab.run(recipe), pulse=lambda: beats.append(1))
    for _ in trainings.train_alone(one):
        pass
    steps = recipe.epochs * (200 // recipe.batch_size)
    assert len(beats) == steps + 2 * (recipe.epochs + 1)  # the splits are a block each
