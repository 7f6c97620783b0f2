import subprocess
import sys
from pathlib import Path

import pytest
import torch

import granet_lab as gl
from granet_lab import datasets
from granet_lab.training import distributed, loop

WAYS = [("granet", "magnitude"), ("set", "magnitude"), ("gmp", "fisher")]

# Two processes train a network together, once in each way, and leave what came out.
SCRIPT = """
import sys
import torch
import torch.distributed as dist
import granet_lab as gl
from granet_lab import datasets
from granet_lab.training import loop

folder, *ways = sys.argv[1:]
dist.init_process_group("gloo")
images = datasets.load("digits")
for way in ways:
    name, criterion = way.split(",")
    recipe = gl.recipes.digits(
        model="mlp", epochs=5, milestones=(3,), train_size=200,
        method=gl.methods.METHODS[name](0.8, interval=1, prune_criterion=criterion),
    )
    state = loop.new_state(recipe, images)
    rows = list(loop.fit(state, recipe, images, 5))
    assert state.step == 20
    found = {**state.model.state_dict(), **{f"mask {n}": m for n, m in state.masks.items()}}
    for number in ("train_loss", "flops"):
        found[number] = torch.tensor([row[number] for row in rows], dtype=torch.float64)
    torch.save(found, f"{folder}/{way} {dist.get_rank()}.pt")
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """The folder in which both processes left what they trained."""
    folder = tmp_path_factory.mktemp("ranks")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [*words, str(script), str(folder), *map(",".join, WAYS)],
        cwd=root,
        env={"PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.xdist_group("torchrun")
@pytest.mark.parametrize(("name", "criterion"), WAYS)
def test_two_processes_agree_on_masks_and_weights_after_twenty_updates(together, name, criterion):
    one, other = (
        torch.load(together / f"{name},{criterion} {rank}.pt", weights_only=True) for rank in (0, 1)
    )
    assert one.keys() == other.keys()
    for key in one:
        assert torch.equal(one[key], other[key]), key
    total = sum(m.numel() for key, m in one.items() if key.startswith("mask"))
    active = sum(int(m.sum()) for key, m in one.items() if key.startswith("mask"))
    assert total - active == round(0.8 * total)
    # Beside one process alone, which has the whole of every batch.
    method = gl.methods.METHODS[name](0.8, interval=1, prune_criterion=criterion)
    recipe = gl.recipes.digits(
        model="mlp", epochs=5, milestones=(3,), train_size=200, method=method
    )
    images = datasets.load("digits")
    alone = next(loop.fit(loop.new_state(recipe, images), recipe, images, 5))
    assert one["flops"][0] == pytest.approx(alone["flops"], rel=0.02)
    assert one["train_loss"][0] == pytest.approx(alone["train_loss"], rel=1e-4)


def test_alone_a_process_has_the_whole_batch():
    images, targets = torch.randn(4, 1, 2, 2), torch.arange(4)
    assert distributed.ranks() == (0, 1)
    whole = distributed.share(images, targets)
    assert torch.equal(whole[0], images)
    assert torch.equal(whole[1], targets)


def test_each_of_several_has_its_share(monkeypatch):
    images, targets = torch.arange(6.0), torch.arange(6)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(distributed, "ranks", lambda rank=rank: (rank, 3))
        shares.append(distributed.share(images, targets)[1])
    assert sorted(torch.cat(shares).tolist()) == targets.tolist()
    assert {len(share) for share in shares} == {2}
    with pytest.raises(ValueError, match="batch_size must be a multiple of 3, the processes"):
        distributed.share(images[:4], targets[:4])
