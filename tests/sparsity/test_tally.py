import math

import torch

from granet_lab.sparsity import Masks
from granet_lab.sparsity.tally import Tally
from granet_lab.sparsity.updates import Update


def masks(*active):
    """Which of six weights are active."""
    return Masks({"w": torch.tensor([i in active for i in range(6)])})


def only_pruned(after):
    return Update(after, after, after)


def test_what_becomes_of_six_weights_by_hand():
    tally = Tally.begin(masks(0, 1, 2, 3))
    # 3 is pruned, 1 and 2 are dropped, 4 and 5 come in their place.
    tally.record(masks(0, 1, 2, 3), Update(masks(0, 1, 2), masks(0), masks(0, 4, 5)))
    assert math.isnan(tally.survival)
    assert (tally.pruned, tally.regrown) == (1, 2)
    # 5 is dropped and comes back at once: it was left out all the same.
    tally.record(masks(0, 4, 5), Update(masks(0, 4, 5), masks(0, 4), masks(0, 4, 5)))
    assert tally.row() == {"pruned": 1, "regrown": 3, "survival": 1 / 2, "exploration": 1.0}
    assert (tally.pruned, tally.regrown, math.isnan(tally.survival)) == (0, 0, True)


def test_pruning_alone_is_no_verdict_on_what_came_back():
    tally = Tally.begin(masks(0, 1, 2))
    tally.record(masks(0, 1, 2), Update(masks(0, 1, 2), masks(0), masks(0, 3, 4)))
    tally.record(masks(0, 3, 4), only_pruned(masks(0, 3)))
    assert math.isnan(tally.survival)
    # The next exchange judges: 4 is gone since, 3 stays.
    tally.record(masks(0, 3), Update(masks(0, 3), masks(3), masks(3, 5)))
    assert tally.survival == 1 / 2
    assert tally.pruned == 1


def test_what_only_prunes_brings_nothing_back():
    tally = Tally.begin(masks(0, 1, 2, 3))
    tally.record(masks(0, 1, 2, 3), only_pruned(masks(0, 1)))
    row = tally.row()
    assert (row["pruned"], row["regrown"], row["exploration"]) == (2, 0, 4 / 6)
    assert math.isnan(row["survival"])
