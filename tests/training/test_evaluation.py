import math

import numpy as np
import pytest
import torch

from granet_lab import datasets
from granet_lab.training import evaluation
from granet_lab.training.evaluation import blocks, evaluate
from granet_lab.training.loop import fit, new_state
from granet_lab.training.stacked import Stack

DIGITS = datasets.load("digits")
SMALL_BLOCKS = {"cpu": (7 * 64, 1, 7)}


@pytest.fixture
def state(recipe):
    """A network in the middle of its training."""
    found = new_state(recipe, DIGITS)
    list(fit(found, recipe, DIGITS, 2))
    return found


def everything(state):
    model = {name: t.clone() for name, t in state.model.state_dict().items()}
    return model | {f"mask of {name}": mask.clone() for name, mask in state.masks.items()}


def test_loss_and_accuracy_are_those_of_every_image_in_double_precision(state, recipe):
    found = evaluate(state, recipe, DIGITS)
    model = state.model.double()
    for name, split in (("val", DIGITS.validation), ("test", DIGITS.test)):
        ((images, targets),) = split.blocks(len(split))
        with torch.no_grad():
            scores = model(DIGITS.normalise(images).double()).numpy()
        logs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
        targets = targets.numpy()
        loss = -logs[np.arange(len(targets)), targets].mean()
        assert found[f"{name}_loss"] == pytest.approx(loss, rel=1e-5)
        assert found[f"{name}_acc"] == pytest.approx(100 * (logs.argmax(1) == targets).mean())


def test_in_parts_it_gives_the_same_numbers(state, recipe, monkeypatch):
    whole = evaluate(state, recipe, DIGITS)
    monkeypatch.setattr(evaluation, "_AT_ONCE", SMALL_BLOCKS)
    assert evaluate(state, recipe, DIGITS) == pytest.approx(whole, rel=1e-5)


def test_it_changes_nothing(state, recipe):
    before, place = everything(state), (state.epoch, state.step)
    evaluate(state, recipe, DIGITS)
    assert all(torch.equal(value, before[name]) for name, value in everything(state).items())
    assert (state.epoch, state.step) == place


@pytest.mark.parametrize("n", [1, 3, 16])
def test_blocks_are_all_the_images_and_a_pulse_for_each(monkeypatch, n):
    monkeypatch.setattr(evaluation, "_AT_ONCE", SMALL_BLOCKS)
    beats, split = [], DIGITS.test
    found = list(blocks(split, n, lambda: beats.append(1)))
    assert len(found) == len(beats) == math.ceil(len(split) / 7)
    assert torch.equal(torch.cat([targets for _, targets in found]), split.labels)


class Enough(Exception):
    pass


@pytest.mark.parametrize("how", ["alone", "in a stack"])
def test_who_is_told_to_stop_does_not_wait_for_the_last_image(state, recipe, monkeypatch, how):
    monkeypatch.setattr(evaluation, "_AT_ONCE", SMALL_BLOCKS)
    beats = []

    def beat():
        beats.append(1)
        if len(beats) == 3:
            raise Enough

    stack = Stack(recipe, DIGITS, 2)
    stack.enter(state, recipe)
    with pytest.raises(Enough):
        evaluate(state, recipe, DIGITS, beat) if how == "alone" else stack.evaluate(beat)
    assert len(beats) == 3


def test_epochs_pulse_for_steps_and_for_blocks(recipe, monkeypatch):
    monkeypatch.setattr(evaluation, "_AT_ONCE", SMALL_BLOCKS)
    beats, state = [], new_state(recipe, DIGITS)
    next(fit(state, recipe, DIGITS, 1, pulse=lambda: beats.append(1)))
    tested = [math.ceil(len(split) / 7) for split in (DIGITS.validation, DIGITS.test)]
    assert len(beats) == state.step + sum(tested)
