import torch
from torch import nn

from granet_lab.sparsity import Context, Masks, methods
from granet_lab.sparsity.updates import salient, update


def linear(*rows):
    net = nn.Linear(len(rows[0]), len(rows), bias=False)
    net.weight.data = torch.tensor(rows, dtype=torch.float32)
    return net


def flags(*rows):
    return torch.tensor(rows).bool()


def two_layers():
    """Sixteen weights, and the gradient of the batch that was just trained on."""
    net = nn.Sequential(
        linear([8, -7, 6, 5], [-4, 3, 2, 1]), linear([0.5, 9], [-10, 11], [0.1, -12], [13, 14])
    )
    gradients = {
        "0.weight": torch.tensor([[0.0, 0, 0, 1], [9, -2, 3, 4]]),
        "1.weight": torch.tensor([[-5.0, 0], [0, 0], [6, 0], [0, 0]]),
    }
    return net, gradients


def test_one_update_of_granet_by_hand():
    net, gradients = two_layers()
    plan = methods.granet(0.5, regrow_fraction=0.5, regrow_end=0.5, interval=1, stop=1).plan(2, 1)
    found = update(Context(net, known=gradients), plan, step=1)
    # To sparsity 0.5: the eight smallest of sixteen, over both layers: 0.1 0.5 1 2 3 4 5 6.
    assert found.pruned["0.weight"].tolist() == flags([1, 1, 0, 0], [0, 0, 0, 0]).tolist()
    assert found.pruned["1.weight"].tolist() == flags([0, 1], [1, 1], [0, 1], [1, 1]).tolist()
    # Half of each layer is dropped: 7; and 9, 10, 11.
    assert found.kept["0.weight"].tolist() == flags([1, 0, 0, 0], [0, 0, 0, 0]).tolist()
    assert found.kept["1.weight"].tolist() == flags([0, 0], [0, 0], [0, 1], [1, 1]).tolist()
    # As many come back in each layer: |gradient| 9; 6, 5, and of those with 0 the first.
    assert found.masks["0.weight"].tolist() == flags([1, 0, 0, 0], [1, 0, 0, 0]).tolist()
    assert found.masks["1.weight"].tolist() == flags([1, 1], [0, 0], [1, 1], [1, 1]).tolist()


def test_without_regrowth_an_update_only_prunes():
    net, gradients = two_layers()
    plan = methods.gmp(0.5, interval=1, stop=1).plan(2, 1)
    found = update(Context(net, known=gradients), plan, step=1)
    assert found.pruned == found.kept == found.masks
    assert found.masks.active == 8


def test_at_a_constant_sparsity_an_update_only_regrows():
    net, gradients = two_layers()
    masks = Masks({"0.weight": flags([1, 1, 1, 1], [0, 0, 0, 0]), "1.weight": flags(*[[1, 0]] * 4)})
    rigl = methods.rigl(0.5, regrow_fraction=0.25, regrow_end=0.25, interval=1).plan(2, 1)
    found = update(Context(net, masks, known=gradients), rigl, step=1)
    assert found.pruned == masks
    assert found.kept.counts() == {"0.weight": 3, "1.weight": 3}
    assert found.masks.counts() == masks.counts()
    assert found.masks["0.weight"].tolist() == flags([1, 1, 1, 0], [1, 0, 0, 0]).tolist()


def test_the_most_salient_weights_by_hand():
    weights = {"a": torch.tensor([[1.0, -2.0]]), "b": torch.tensor([[3.0], [0.5]])}
    gradients = {"a": torch.tensor([[-4.0, 1.0]]), "b": torch.tensor([[1.0], [1.0]])}
    every = Masks({name: torch.ones(w.shape, dtype=torch.bool) for name, w in weights.items()})
    found = salient(weights, gradients, every, 2)  # |products|: 4, 2, 3, 0.5
    assert {name: mask.flatten().tolist() for name, mask in found.items()} == {
        "a": [True, False],
        "b": [True, False],
    }


def test_an_inactive_weight_is_never_salient():
    weights = {"a": torch.tensor([[0.0, 0.0, 3.0, 1.0]])}
    gradients = {"a": torch.tensor([[5.0, 5.0, 0.0, 0.0]])}
    active = Masks({"a": torch.tensor([[False, False, True, True]])})
    found = salient(weights, gradients, active, 1)
    assert found["a"].tolist() == [[False, False, True, False]]
