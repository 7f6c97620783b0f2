import time
from dataclasses import replace
from statistics import median

import pytest
import torch

import granet_lab as gl
from granet_lab.training import evaluation, loop
from granet_lab.training.speed import seconds_per_epoch


def an_epoch(recipe):
    """Seconds that the second epoch of a recipe really takes."""
    data = recipe.images()
    state = loop.new_state(recipe, data)
    started = time.perf_counter()
    (_, row) = loop.fit(state, recipe, data, until=2)
    assert row["seconds"] < time.perf_counter() - started
    return row["seconds"]


def test_an_epoch_takes_about_as_long_as_a_few_steps_say():
    recipe = gl.recipes.digits()
    # In turn, so that what else the machine does slows both.
    pairs = [(seconds_per_epoch(recipe), an_epoch(recipe)) for _ in range(5)]
    told, real = (median(times) for times in zip(*pairs, strict=True))
    assert real / 4 < told < real * 4


class Clock:
    """Time that goes on by a second for each batch that is trained on, and by a thousandth for
    each image that is tested."""

    def __init__(self, monkeypatch):
        self.now, self.steps, self.tested = 0.0, [], []
        train, test = loop._train_epoch, evaluation._on_split

        def train_epoch(state, recipe, data, *rest):
            self.steps.append(loop.steps_per_epoch(recipe, data))
            # The first round warms up: it must not count.
            self.now += self.steps[-1] * (1 if state.epoch else 100)
            return train(state, recipe, data, *rest)

        def evaluate(state, recipe, data, split, pulse):
            self.tested.append(len(split))
            self.now += len(split) / 1000
            return test(state, recipe, data, split, pulse)

        monkeypatch.setattr(loop, "_train_epoch", train_epoch)
        monkeypatch.setattr(evaluation, "_on_split", evaluate)
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


@pytest.mark.parametrize(
    ("train_size", "batch_size", "steps", "all_steps"),
    [(None, 50, 3, 18), (100, 50, 2, 2), (120, 50, 2, 2), (60, 60, 1, 1), (899, 10, 3, 89)],
)
def test_three_steps_stand_for_all_of_them_and_500_images_for_all_that_are_tested(
    monkeypatch, train_size, batch_size, steps, all_steps
):
    clock = Clock(monkeypatch)
    recipe = gl.recipes.digits(model="mlp", train_size=train_size, batch_size=batch_size)
    told = seconds_per_epoch(recipe)
    assert set(clock.steps) == {steps}
    assert max(clock.tested) == 500
    # 297 images for validation and 600 for testing; the one that it validates on makes the rest.
    assert told == pytest.approx(all_steps + 0.897, abs=0.002)


def test_neither_the_generators_nor_the_threads_nor_the_files_are_touched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = gl.recipes.digits(model="mlp", augment="crop_flip", seed=4, threads=2)
    torch.manual_seed(3)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    seconds_per_epoch(recipe)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", [0, 1])
def test_the_recipe_is_the_one_that_is_asked_about_but_dense(monkeypatch, seed):
    seen = []
    fit = loop.fit

    def watched(state, recipe, data, **more):
        seen.append((recipe, data.device, state.masks.sparsity))
        return fit(state, recipe, data, **more)

    monkeypatch.setattr(loop, "fit", watched)
    asked = gl.recipes.digits(method=gl.methods.static(0.9), warmup_epochs=5, seed=seed)
    seconds_per_epoch(asked, "cpu")
    ((recipe, device, sparsity),) = seen
    same = {"epochs": 60, "milestones": (30, 45), "train_size": None, "method": asked.method}
    assert replace(recipe, **same) == asked
    assert (device, sparsity) == (torch.device("cpu"), 0.0)


@pytest.mark.parametrize(("train_size", "images"), [(None, 900), (100, 100)])
def test_a_batch_that_is_larger_than_the_data_is_refused(train_size, images):
    recipe = gl.recipes.digits(model="mlp", batch_size=1000, train_size=train_size)
    with pytest.raises(ValueError, match=f"batch_size must be at most {images}, .*, not 1000"):
        seconds_per_epoch(recipe)
