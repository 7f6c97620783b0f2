import subprocess
import sys

import torch

from granet_lab.operations import Operations

# Torch's compiler, and what it brings; and what scikit-learn brings along with its digits.
SLOW = {"torch._dynamo", "sympy", "sklearn", "scipy"}

EVERYTHING = """
import dataclasses, sys
import granet_lab as gl
lab = gl.Lab(sys.argv[1], device="cpu")
dense = gl.recipes.digits(model="mlp", train_size=200, epochs=2, milestones=())
granet = dataclasses.replace(dense, method=gl.methods.granet(0.9))
trials = gl.grid(dense, epoch=[1], rate=[0.5, 0.9], regrow=[None, "gradient"])
lab.train(granet, progress=False)
lab.measure(trials[:2], workers=1, stack=1, progress=False)
lab.measure(trials, workers=1, stack=2, progress=False)
print(*{name for name in sys.modules if name in %r})
"""


def test_operations_are_seen():
    class Names(Operations):
        def __init__(self):
            super().__init__()
            self.seen = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.seen.append(func)
            return func(*args, **(kwargs or {}))

    with Names() as names:
        assert float(torch.ones(2).sum()) == 2
    aten = torch.ops.aten
    assert names.seen == [aten.ones.default, aten.sum.default, aten._local_scalar_dense.default]


def test_training_and_measuring_load_nothing_slow_that_they_do_not_need(tmp_path):
    words = [sys.executable, "-c", EVERYTHING % SLOW, str(tmp_path / "lab")]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == []
