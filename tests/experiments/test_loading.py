import os
from dataclasses import replace

import pytest
import torch

import granet_lab as gl
from granet_lab.experiments import checkpoints
from granet_lab.experiments.loading import Loader
from granet_lab.training import loop


@pytest.fixture(params=["dense", "granet"])
def recipe(request, recipe):
    method = {"dense": gl.methods.static(0.0), "granet": gl.methods.granet(0.9)}[request.param]
    return replace(recipe, method=method)


@pytest.fixture
def thinned(lab, recipe):
    """A run with the first and the last checkpoint."""
    return thinly(lab, recipe)


def thinly(lab, recipe):
    run = lab.train(recipe, checkpoints=[0, 4], progress=False)
    os.utime(run.path / "history.jsonl", (1e9, 1e9))  # what is young may still change
    return run


@pytest.fixture
def trained(monkeypatch):
    """The epochs to which networks are trained, in their order."""
    found, fit = [], loop.fit

    def counted(state, recipe, images, until, *rest, **more):
        found.append(until)
        return fit(state, recipe, images, until, *rest, **more)

    monkeypatch.setattr(loop, "fit", counted)
    return found


def alike(one, other):
    return all(
        torch.equal(tensor, checkpoints._tensors(other)[name])
        for name, tensor in checkpoints._tensors(one).items()
    ) and (one.epoch, one.step) == (other.epoch, other.step)


def test_what_is_loaded_again_is_the_same_and_is_trained_once(thinned, trained):
    expected, loader = thinned.load(3), Loader()
    trained.clear()
    states = [loader.load(thinned, 3, "cpu") for _ in range(3)]
    assert trained == [1, 2, 3]
    assert all(alike(state, expected) for state in states)


def test_what_becomes_of_one_does_not_show_in_the_next(thinned, recipe):
    loader, expected = Loader(), thinned.load(3)
    for _ in range(2):
        state = loader.load(thinned, 3, "cpu")
        assert alike(state, expected)
        list(loop.fit(state, recipe, recipe.images(), 4))
        for mask in state.masks.values():
            mask.zero_()


def test_another_epoch_or_run_is_not_mixed_up(lab, thinned, recipe):
    other = thinly(lab, replace(recipe, seed=7))
    loader = Loader()
    for run, epoch in ((thinned, 3), (other, 3), (thinned, 2), (thinned, 3), (other, 0)):
        assert alike(loader.load(run, epoch, "cpu"), run.load(epoch))


def test_what_was_trained_before_the_run_was_trained_anew_is_forgotten(thinned, trained):
    loader = Loader()
    loader.load(thinned, 3, "cpu")
    trained.clear()
    os.utime(thinned.path / "history.jsonl", (1.1e9, 1.1e9))
    loader.load(thinned, 3, "cpu")
    assert trained == [1, 2, 3]


def test_a_checkpoint_is_read_from_its_file(thinned, recipe):
    loader = Loader()
    loader.load(thinned, 4, "cpu")
    thinned.checkpoint_path(4).write_bytes(thinned.checkpoint_path(0).read_bytes()[:100])
    assert alike(loader.load(thinned, 4, "cpu"), thinned.load(4))
    assert list(thinned.path.glob("checkpoints/*.damaged-*"))


@pytest.mark.parametrize("stack", [1, None])
def test_trials_of_a_checkpoint_that_is_gone_train_it_once_and_say_the_same(
    lab, tmp_path, recipe, trained, stack
):
    trials = gl.grid(recipe, epoch=3, rate=[0.2, 0.5, 0.8, 0.9], recovery_epochs=1)
    whole = lab.measure(trials, workers=1, progress=False, stack=stack)
    other = gl.Lab(tmp_path / "other", device="cpu")
    thinly(other, recipe)
    trained.clear()
    table = other.measure(trials, workers=1, progress=False, stack=stack)
    assert trained.count(2) == 1
    assert table.drop(columns="seconds").equals(whole.drop(columns="seconds"))
