import pytest
import torch
from torch import nn

import granet_lab as gl
from granet_lab import models
from granet_lab.training import stackable
from granet_lab.training.stackable import obstacle, room


def recipe(model="convnet", **values):
    return gl.recipes.digits(model=model, epochs=2, milestones=(), train_size=100, **values)


@pytest.fixture
def own(monkeypatch):
    """Registers networks for the length of a test."""
    monkeypatch.setattr(models.MODELS, "_entries", dict(models.MODELS._entries))
    stackable._tried.cache_clear()
    yield gl.model
    stackable._tried.cache_clear()


class Linear(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.inner = nn.Linear(64, classes)

    def forward(self, images):
        return self.inner(images.flatten(1))


@pytest.mark.parametrize("model", ["convnet", "mlp", "resnet20", "vgg19"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_networks_of_this_package_can_be_stacked(model, precision):
    if (model, precision) == ("vgg19", "bf16"):
        pytest.skip("as long as all the others")
    assert obstacle(recipe(model, precision=precision)) is None


def test_random_layers_cannot(own):
    @own
    def dropping(shape, classes):
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, classes))

    assert "random" in obstacle(recipe("dropping"))
    assert room(recipe("dropping")) == 1


def test_decisions_that_depend_on_values_cannot(own):
    class Deciding(Linear):
        def forward(self, images):
            found = super().forward(images)
            return found if found.sum() > 0 else -found

    @own
    def deciding(shape, classes):
        return Deciding(classes)

    assert "control flow" in obstacle(recipe("deciding"))


def test_parameters_that_nothing_depends_on_cannot(own):
    @own
    def unused(shape, classes):
        found = Linear(classes)
        found.other = nn.Linear(3, 3)
        return found

    assert obstacle(recipe("unused")) == "its parameter other.weight has no gradient"


def test_a_network_that_mixes_its_lanes_is_found_out(own, monkeypatch):
    def wrong(self, batches):
        return {name: block.flip(0) for name, block in right(self, batches).items()}

    right = stackable.Stack.gradients
    monkeypatch.setattr(stackable.Stack, "gradients", wrong)

    @own
    def mixed(shape, classes):
        return Linear(classes)

    assert "is another one in a stack" in obstacle(recipe("mixed"))


def test_a_lane_that_depends_on_its_place_is_found_out(own, monkeypatch):
    """Each place is rounded in its own way."""

    def off(self, batches):
        place = 1 + 1e-6 * torch.arange(len(batches))
        return {
            name: block * place.view(-1, *[1] * (block.ndim - 1))
            for name, block in right(self, batches).items()
        }

    right = stackable.Stack.gradients
    monkeypatch.setattr(stackable.Stack, "gradients", off)

    @own
    def placed(shape, classes):
        return Linear(classes)

    assert "depends on its place" in obstacle(recipe("placed"))


def test_a_network_that_is_defined_anew_is_tried_anew(own):
    @own
    def mine(shape, classes):
        return nn.Sequential(nn.Dropout(0.5), Linear(classes))

    assert obstacle(recipe("mine")) is not None

    @own
    def mine(shape, classes):  # noqa: F811
        return Linear(classes)

    assert obstacle(recipe("mine")) is None
    before = stackable._tried.cache_info().misses
    assert obstacle(recipe("mine", seed=3)) is None
    assert stackable._tried.cache_info().misses == before


def test_that_memory_was_short_is_no_lasting_obstacle(own, monkeypatch):
    def short(*_):
        raise torch.OutOfMemoryError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(stackable, "_difference", short)
        with pytest.raises(torch.OutOfMemoryError):
            obstacle(recipe())
    assert obstacle(recipe()) is None


def test_small_steps_are_stacked_on_a_cpu_and_large_ones_are_not():
    assert room(recipe("mlp")) > 1
    assert room(recipe("convnet")) % 2 == 0
    assert room(recipe("resnet20", batch_size=100)) == 1


def test_layers_of_unknown_cost_are_trained_alone(own):
    class Squaring(Linear):
        def __init__(self, classes):
            super().__init__(classes)
            self.scale = nn.Parameter(torch.ones(8, 8))

        def forward(self, images):
            return super().forward(images * self.scale)

    @own
    def squaring(shape, classes):
        return Squaring(classes)

    assert room(recipe("squaring")) == 1
