import logging
from dataclasses import replace

import pytest
import torch

from granet_lab.datasets import DATASETS
from granet_lab.experiments.readiness import check, warn
from granet_lab.sparsity import methods


@pytest.fixture
def processor(monkeypatch):
    """Say whether it has instructions for bfloat16."""

    def processor(able):
        found = {"architecture": "x86_64", "avx512_bw": able}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)

    return processor


def test_a_precision_that_makes_it_slower_is_said_before_anything_is_begun(
    recipe, processor, caplog
):
    processor(False)
    with caplog.at_level(logging.WARNING):
        check([recipe, replace(recipe, precision="bf16")], "cpu")
    assert len(caplog.records) == 1
    assert "bf16 takes several times as long" in caplog.text


@pytest.mark.parametrize(
    ("precision", "device", "able"), [("fp32", "cpu", False), ("bf16", "cpu", True)]
)
def test_where_it_is_as_fast_as_it_should_be_nothing_is_said(
    recipe, processor, caplog, precision, device, able
):
    processor(able)
    warn([replace(recipe, precision=precision)], device)
    assert caplog.text == ""


def test_a_schedule_that_does_not_fit_is_refused(recipe):
    method = methods.gmp(0.9, interval=10**6)
    with pytest.raises(ValueError, match="interval"):
        check([replace(recipe, method=method)], "cpu")


def test_data_are_left_to_somebody_elses_executor(recipe, monkeypatch):
    def gone():
        raise AssertionError("loaded")

    monkeypatch.setitem(DATASETS._entries, recipe.dataset, gone)
    check([recipe], "cpu", here=False)
