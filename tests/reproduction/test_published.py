import math
import re

import pytest

from granet_lab.reproduction import STAGES
from granet_lab.reproduction.published import _NUMBERS, FINDINGS, published
from granet_lab.sparsity.criteria import CRITERIA
from granet_lab.sparsity.methods import METHODS
from granet_lab.training.recipes import RECIPES

# Copied from the paper's tables once more, as they are written there.
PAPER = """
ResNet-50 CIFAR-10 95%: SNIP 90.86, GraSP 91.32, SynFlow 91.22, RigL 93.86±.25, GMP 94.52±.08,
    GraNet(s_i=0.5) 94.38±.28, GraNet 94.44±.01; dense 94.75±.01
ResNet-50 CIFAR-100 90%: SNIP 73.14, GraSP 73.28, SynFlow 73.37, RigL 76.50±.33, GMP 76.91±.23,
    GraNet 77.29±.45; dense 78.23±.18
VGG-19 CIFAR-10 90%: SNIP 93.63, GraSP 93.30, SynFlow 93.35, SET 92.46, RigL 93.38±.11,
    GMP 93.59±.10, GraNet 93.80±.10; dense 93.85±.05
VGG-19 CIFAR-100 98%: SNIP 58.46, GraSP 68.90, SynFlow 70.94, RigL 69.82±.09, GMP 72.07±.37,
    GraNet 72.35±.26; dense 73.43±.08
ResNet-50 ImageNet 80%: RigL 75.1; dense 76.8
ResNet-50 ImageNet 90%: RigL 73.0; dense 76.8
"""


def transcribed():
    """{(recipe, method, sparsity): (accuracy, deviation)} of the text above."""
    found = {}
    for line in PAPER.replace("\n    ", " ").strip().splitlines():
        model, data, percent, numbers = re.fullmatch(r"(\S+) (\S+) (\d+)%: (.*)", line).groups()
        recipe = f"{model}_{data}".replace("-", "").lower()
        for cell in re.split("[,;] ", numbers):
            name, number = cell.split(" ")
            method = "granet_st" if "s_i=0.5" in name else name.lower()
            sparsity = 0.0 if method == "dense" else int(percent) / 100
            accuracy, _, deviation = number.partition("±")
            found[recipe, method, sparsity] = (float(accuracy), float(deviation or "nan"))
    return found


def every_row():
    return [(name, row) for name in _NUMBERS for row in published(name).itertuples()]


def test_the_numbers_are_those_of_the_paper():
    rows = {(name, r.method, r.asked_sparsity): r for name, r in every_row()}
    assert rows.keys() == transcribed().keys()
    for key, (accuracy, deviation) in transcribed().items():
        assert rows[key].published_acc == accuracy, key
        assert rows[key].published_deviation == pytest.approx(deviation, nan_ok=True), key
    assert len(rows) == len(every_row()) == 33


def test_every_number_is_of_a_recipe_and_of_a_method_that_can_be_trained_here():
    assert set(_NUMBERS) <= set(RECIPES)
    for _, row in every_row():
        # What is named like a criterion is a static mask that it chooses.
        assert row.method in METHODS or row.method in CRITERIA


def test_every_number_is_a_percentage_with_a_small_deviation_if_there_is_one():
    for _, row in every_row():
        assert 50 < row.published_acc < 100
        assert math.isnan(row.published_deviation) or 0 < row.published_deviation < 1
        assert (row.method == "dense") == (row.asked_sparsity == 0)
        assert 0 <= row.asked_sparsity < 1


@pytest.mark.parametrize("name", _NUMBERS)
def test_the_recipe_itself_says_the_same_of_the_dense_network(name):
    told = re.search(r"report (\d+\.\d+)% for the dense network", RECIPES[name].__doc__)
    dense = published(name).set_index("method").published_acc["dense"]
    assert float(told[1]) == dense


def test_nothing_is_published_for_the_digits():
    found = published("digits")
    assert len(found) == 0
    assert list(found) == ["method", "asked_sparsity", "published_acc", "published_deviation"]


def test_findings_are_told_of_stages():
    assert set(FINDINGS) <= set(STAGES)
    assert all(line.endswith(".") for lines in FINDINGS.values() for line in lines)
