import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from granet_lab.training import tape

X, Y = torch.arange(6.0).view(2, 3), torch.tensor([0, 2])


def replayed(function, *inputs, other=None):
    """What the function gives for other inputs, and what its recording does."""
    outputs, replay = tape.record(function, inputs)
    assert same(outputs, function(*inputs))
    other = other or [x + 1 if x.is_floating_point() else x.flip(0) for x in inputs]
    return function(*other), replay(*other)


def same(found, expected):
    return all(
        a is b is None or torch.equal(a, b) for a, b in zip(found, expected, strict=True)
    ) and len(found) == len(expected)


FUNCTIONS = {
    "sums": lambda x, y: (x + 2 * x, y),
    "views": lambda x, y: (x.t()[0], x.view(-1)[y]),
    "lists": lambda x, y: (torch.cat([x, x * 2]), torch.stack([x[0], x[1], x[0]])),
    "split": lambda x, y: tuple(x.split(1)),
    "several results": lambda x, y: x.max(1),
    "loss": lambda x, y: (F.cross_entropy(x, y, reduction="none", label_smoothing=0.1),),
    "in place": lambda x, y: (
        x.clone().mul_(3).add_(x),
        torch.zeros(2).index_fill_(0, y[:1] // 2, 1.0),
    ),
    "an input": lambda x, y: (x, x * 0),
    "none": lambda x, y: (None, x),
    "keywords": lambda x, y: (torch.where(x > 2, input=x, other=-x), x.sum(dim=1, keepdim=True)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_operations_are_repeated_on_other_inputs(name):
    expected, found = replayed(FUNCTIONS[name], X, Y)
    assert same(found, expected)


def test_the_gradient_is_among_them():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True), nn.Linear(4, 3))

    def learn(x, y):
        loss = F.cross_entropy(net(x), y)
        return loss.detach(), *torch.autograd.grad(loss, list(net.parameters()))

    expected, found = replayed(learn, X, Y)
    assert len(found) == 7
    assert same(found, expected)
    assert not any(one.requires_grad for one in found)


def test_so_is_what_vmap_does():
    weights = torch.randn(5, 3, 3, requires_grad=True)

    def learn(x, y):
        said = torch.func.vmap(lambda w: F.linear(x, w).relu())(weights)
        (gradient,) = torch.autograd.grad(said.square().sum(), weights)
        return said.detach(), gradient

    expected, found = replayed(learn, X, Y)
    assert same(found, expected)


def test_what_lies_elsewhere_is_read_and_changed_where_it_is():
    weight, total = torch.ones(3), torch.zeros(3)

    def step(x):
        total.add_((x * weight).sum(0))
        return (total.clone(),)

    _, replay = tape.record(step, [X])
    weight.fill_(10.0)
    assert replay(X)[0].tolist() == [3 + 30, 5 + 50, 7 + 70]
    assert total.tolist() == [33, 55, 77]


def test_numbers_are_drawn_anew():
    def draw(x):
        return (F.dropout(x, 0.5, training=True),)

    ones = torch.ones(1000)
    _, replay = tape.record(draw, [ones])
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        (found,), (other,) = replay(ones), replay(ones)
        torch.manual_seed(1)
        assert torch.equal(found, draw(ones)[0])
    assert not torch.equal(found, other)


def test_who_asks_for_a_value_cannot_be_recorded():
    for asking in (lambda x: x.sum().item(), lambda x: bool(x.sum() > 0)):
        with pytest.raises(RuntimeError, match="asks for a value"):
            tape.record(lambda x, asking=asking: (x * asking(x),), [X[0]])


def test_what_is_not_needed_any_more_is_freed_as_one_goes_on():
    alive = []

    class Watching(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            found = func(*args, **(kwargs or {}))
            alive.append(weakref.ref(found))
            counts.append(sum(one() is not None for one in alive))
            return found

    def chain(x):
        for _ in range(10):
            x = x + 1
        return (x,)

    _, replay = tape.record(chain, [X])
    counts = []
    with Watching():
        replay(X)
    assert len(counts) == 10
    assert max(counts) <= 2


def test_nothing_of_the_recorded_call_is_kept():
    seen = []

    def double(x):
        y = x * 2
        seen.append(weakref.ref(y))
        return (y + 1,)

    outputs, replay = tape.record(double, [X.clone()])
    seen.append(weakref.ref(outputs[0]))
    del outputs
    gc.collect()
    assert [one() for one in seen] == [None, None]
    assert replay(X)[0].tolist() == (2 * X + 1).tolist()
