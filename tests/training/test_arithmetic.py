import contextlib

import pytest
import torch

import granet_lab as gl
from granet_lab.training.arithmetic import arithmetic, autocast, threads

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def flags():
    backends = torch.backends
    kinds = (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul)
    return [kind.fp32_precision for kind in kinds], backends.cudnn.benchmark


@pytest.mark.parametrize("device", [CPU, GPU], ids=str)
def test_threads_are_the_recipes_inside_and_put_back_after_an_error(device):
    before = torch.get_num_threads()
    inside = []

    def failing():
        with arithmetic(gl.recipes.digits(threads=before + 1), device):
            inside.append(torch.get_num_threads())
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert inside == [before + 1]
    assert torch.get_num_threads() == before


def test_blocks_inside_each_other_are_put_back_in_turn():
    before = torch.get_num_threads()
    with threads(before + 1):
        with threads(before + 2):
            assert torch.get_num_threads() == before + 2
        assert torch.get_num_threads() == before + 1


@pytest.mark.parametrize(("precision", "way"), [("fp32", "ieee"), ("tf32", "tf32")])
def test_what_a_gpu_multiplies_is_as_the_recipe_says(precision, way):
    before = flags()
    inside = []

    def failing():
        with arithmetic(gl.recipes.digits(precision=precision), GPU):
            inside.append(flags())
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert inside == [([way] * 3, True)]
    assert flags() == before


def test_a_cpu_has_no_such_flags():
    before = flags()
    with arithmetic(gl.recipes.digits(precision="tf32"), CPU):
        assert flags() == before


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_forward_passes_are_in_bfloat16_only_if_the_recipe_says_so(precision):
    a = torch.ones(2, 2)
    with autocast(gl.recipes.digits(precision=precision), CPU):
        found = a @ a
    assert (found.dtype == torch.bfloat16) == (precision == "bf16")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_fp32_is_more_exact_than_tf32_on_a_gpu():
    images = torch.randn(8, 64, 16, 16, device="cuda")
    weights = torch.randn(64, 64, 3, 3, device="cuda")
    exact = torch.nn.functional.conv2d(images.double(), weights.double())
    errors = {}
    for precision in ("fp32", "tf32"):
        with arithmetic(gl.recipes.digits(precision=precision), images.device):
            found = torch.nn.functional.conv2d(images, weights)
        errors[precision] = float((found - exact).norm() / exact.norm())
    assert errors["fp32"] < 1e-5 < errors["tf32"] < 1e-2


def test_another_gpu_than_the_first_is_the_current_one_inside(monkeypatch):
    seen = []

    @contextlib.contextmanager
    def device(which):
        seen.append(which)
        yield
        seen.append("before")

    monkeypatch.setattr(torch.cuda, "device", device)
    other = torch.device("cuda:1")
    with arithmetic(gl.recipes.digits(), other):
        assert seen == [other]
    assert seen == [other, "before"]
