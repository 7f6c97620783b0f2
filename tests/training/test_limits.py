import pytest
import torch
from torch import nn

import granet_lab as gl
from granet_lab import models
from granet_lab.training.limits import Limits, Needs, limits, needs

MLP = gl.recipes.digits(model="mlp", batch_size=20)


def test_what_a_step_has_to_do_by_hand():
    found = needs(MLP)
    assert found.flops == 20 * 3 * 2 * (64 * 100 + 100 * 100 + 100 * 10)
    # (in, out) of three linear layers and two ReLUs; an input is touched three times, an output
    # twice.
    layers = [(64, 100), (100, 100), (100, 100), (100, 100), (100, 10)]
    assert found.bytes == 20 * 4 * sum(3 * seen + 2 * said for seen, said in layers)


def test_bfloat16_halves_what_is_moved():
    recipe = gl.recipes.digits(model="mlp", batch_size=20, precision="bf16")
    assert needs(recipe) == Needs(needs(MLP).flops, needs(MLP).bytes / 2)


def test_layers_of_unknown_cost_are_refused(monkeypatch):
    monkeypatch.setattr(models.MODELS, "_entries", dict(models.MODELS._entries))

    class Scaled(nn.Linear):
        def __init__(self, classes):
            super().__init__(64, classes)
            self.scale = nn.Parameter(torch.ones(8, 8))

        def forward(self, images):
            return super().forward((images * self.scale).flatten(1))

    @gl.model
    def scaled(shape, classes):
        return Scaled(classes)

    with pytest.raises(ValueError, match="scale"):
        needs(gl.recipes.digits(model="scaled"))


def test_computing_or_moving_takes_longer():
    device = Limits(flops=100.0, bytes=10.0)
    assert device.seconds(Needs(flops=200.0, bytes=10.0)) == 2
    assert device.seconds(Needs(flops=200.0, bytes=30.0)) == 3


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_device_is_measured_and_left_as_it_was(precision):
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    found = limits(gl.recipes.digits(precision=precision))
    assert found.flops > 1e7
    assert found.bytes > 1e8
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
