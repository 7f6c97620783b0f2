from dataclasses import replace

import pytest
import torch
from torch import nn

import granet_lab as gl
from granet_lab import models
from granet_lab.training import profiling, stackable
from granet_lab.training.limits import Limits, Needs
from granet_lab.training.profiling import REST, Profile, amount, profile

RECIPE = gl.recipes.digits(train_size=200)
MADE = Profile(
    recipe=gl.recipes.digits(),
    device="cpu",
    networks=4,
    seconds=0.05,
    images=0.002,
    test=0.5,
    steps=18,
    parts={"convolutions, backward": 0.04, REST: 0.01},
    needs=Needs(flops=5e8, bytes=2e6),
    limits=Limits(flops=1e11, bytes=1e10),
)


@pytest.mark.parametrize("networks", [1, 4])
def test_the_parts_add_up_to_the_step(networks):
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    found = profile(RECIPE, networks=networks, steps=2)
    assert sum(found.parts.values()) == pytest.approx(found.seconds, rel=0.5)
    assert found.parts[REST] >= 0
    assert list(found.parts.values()) == sorted(found.parts.values(), reverse=True)
    assert {"convolutions, forward", "convolutions, backward"} <= found.parts.keys()
    assert 0 < found.images < found.seconds * networks
    assert found.test > 0
    assert (found.steps, found.networks) == (4, networks)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


def test_convolutions_are_most_of_a_network_of_convolutions():
    found = profile(gl.recipes.digits(model="resnet20", train_size=200), steps=2)
    convolutions = sum(found.parts[name] for name in profiling.CONVOLUTIONS)
    assert convolutions > 0.3 * found.seconds


def test_a_run_shorter_than_the_steps_asked_for_is_profiled_as_it_is():
    assert profile(replace(RECIPE, train_size=50), steps=10).steps == 1


@pytest.mark.parametrize(
    ("operation", "part"),
    [
        ("aten::convolution_backward", "convolutions, backward"),
        ("aten::mkldnn_convolution", "convolutions, forward"),
        ("aten::cudnn_convolution", "convolutions, forward"),
        ("aten::native_batch_norm_backward", "normalisation, backward"),
        ("aten::native_batch_norm", "normalisation, forward"),
        ("aten::cudnn_batch_norm", "normalisation, forward"),
        ("aten::threshold_backward", "activations"),
        ("aten::clamp_min_", "activations"),
        ("aten::_fused_sgd_", "optimizer"),
        ("aten::_foreach_mul_", "optimizer"),
        ("aten::addmm", "linear layers"),
        ("aten::bmm", "linear layers"),
        ("aten::nll_loss_backward", "loss and accuracy"),
        ("aten::_log_softmax", "loss and accuracy"),
        ("aten::add_", "sums and products"),
        ("aten::copy_", "copies"),
        ("aten::cat", "copies"),
        ("aten::empty", "other operations"),
    ],
)
def test_each_operation_belongs_to_one_part(operation, part):
    assert profiling._part(operation) == part


def test_a_profile_is_told_in_words():
    text = str(MADE)
    assert text.startswith("A step of 4 networks in a stack, 50 images each, on cpu, fp32:")
    assert "  convolutions, backward          40.00 ms   80%\n" in text
    assert "  all                             50.00 ms  (making the batches 2.00 ms of it)" in text
    assert "An epoch: 18 steps 0.9 s, validation and test 0.5 s." in text
    # Four networks of 5 ms each, computing.
    assert "compute 2 GFLOP and to move 8 MB" in text
    assert "100 GFLOP/s and 10 GB/s, so 20.00 ms at the least, 40% of what a step takes." in text
    assert MADE.epoch == pytest.approx(18 * 0.05 + 0.5)


def test_of_unknown_cost_the_limits_are_left_out():
    assert str(replace(MADE, needs=None)).endswith("it has layers of unknown cost.")


@pytest.mark.parametrize(
    ("value", "words"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2e6, "2 MB"), (31.14e9, "31.1 GB")],
)
def test_amounts_are_short(value, words):
    assert amount(value, "B") == words
    assert amount(3.2e12, "FLOP/s") == "3.2 TFLOP/s"
    assert amount(8e14, "FLOP/s") == "800 TFLOP/s"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"networks": 0}, "networks must be at least 1, not 0"),
        ({"networks": 3}, "networks must be 1 or an even number, not 3"),
        ({"steps": 0}, "steps must be at least 1, not 0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        profile(RECIPE, **values)


def test_fewer_images_than_a_batch_are_refused():
    with pytest.raises(ValueError, match="batch_size must be at most 900, the images"):
        profile(gl.recipes.digits(batch_size=1000))


def test_what_cannot_be_stacked_is_not_profiled_so(monkeypatch):
    monkeypatch.setattr(models.MODELS, "_entries", dict(models.MODELS._entries))
    stackable._tried.cache_clear()

    @gl.model
    def dropping(shape, classes):
        return nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, classes))

    with pytest.raises(ValueError, match="dropping cannot be trained in a stack"):
        profile(gl.recipes.digits(model="dropping"), networks=2)
    assert profile(gl.recipes.digits(model="dropping"), steps=2).seconds > 0
    stackable._tried.cache_clear()
