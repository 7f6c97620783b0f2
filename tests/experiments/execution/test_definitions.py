import pickle
import subprocess
import sys
import textwrap
from dataclasses import replace

import cloudpickle
import numpy as np
import pytest
from sweeping import RECIPE

import granet_lab as gl
from granet_lab.datasets import DATASETS
from granet_lab.experiments.execution import definitions
from granet_lab.experiments.execution.tasks import Place, carry_out
from granet_lab.experiments.files import DamagedFile
from granet_lab.sparsity.criteria import CRITERIA


def backwards(context):
    return {name: -weight.abs() for name, weight in context.weights().items()}


@pytest.fixture
def elsewhere():
    """What another process of this machine would be sent."""

    def elsewhere():
        return replace(definitions.own(), maker="another")

    return elsewhere


def test_what_is_unpacked_is_what_was_packed(define, elsewhere):
    define(CRITERIA, backwards)
    CRITERIA["backwards"].batches = 7
    packed = elsewhere()
    del CRITERIA._entries["backwards"]
    definitions.define(packed)
    assert CRITERIA["backwards"].batches == 7
    assert CRITERIA["backwards"] is not backwards


def test_where_it_is_defined_it_stays_itself(define):
    define(CRITERIA, backwards)
    definitions.define(definitions.own())
    assert CRITERIA["backwards"] is backwards


def test_one_that_cannot_be_pickled_fails_alone_and_says_why(define, elsewhere):
    endless = (n for n in range(3))

    def broken(context):
        return {name: weight * next(endless) for name, weight in context.weights().items()}

    define(CRITERIA, broken)
    define(CRITERIA, backwards)
    packed = elsewhere()
    definitions.define(packed)
    assert CRITERIA["backwards"](Weights()) == {"w": -2}
    with pytest.raises(RuntimeError, match="criterion 'broken' cannot be brought to another proc"):
        CRITERIA["broken"](Weights())


class Weights:
    def weights(self):
        import torch

        return {"w": torch.tensor(-2)}


def test_one_whose_module_is_not_there_fails_alone_and_says_why(elsewhere):
    module = type(sys)("helpers")
    sys.modules["helpers"] = module
    exec("def helped(context):\n    return {}", module.__dict__)
    CRITERIA.register(module.helped)
    try:
        packed = elsewhere()
        del sys.modules["helpers"]
        definitions.define(packed)
        with pytest.raises(RuntimeError, match="ModuleNotFoundError: No module named 'helpers'"):
            CRITERIA["helped"](None)
    finally:
        del CRITERIA._entries["helped"]


def test_a_dataset_lies_in_the_store_and_does_not_travel(define, lab):
    images = np.random.default_rng(0).integers(0, 256, (2000, 8, 8, 1), np.uint8)

    def heavy():
        return gl.from_arrays(images, np.arange(2000) % 10, 500, 500)

    define(DATASETS, heavy)
    with definitions.own().carried(lab.path) as carried:
        task = (carry_out, Place(lab.path, "cpu", carried), (RECIPE,), 1, {}, None)
        assert len(cloudpickle.dumps(task)) < 4000
        assert carried.path.stat().st_size > images.nbytes
        assert [entry.name for entry in carried.unpacked()] == ["heavy"]
    assert not carried.path.exists()


def test_a_file_that_is_another_one_is_not_unpacked(lab, tmp_path):
    with definitions.Definitions("0" * 64, "x", bytes(10**5)).carried(lab.path) as carried:
        carried.path.write_bytes(pickle.dumps(Opened(tmp_path / "opened")))
        with pytest.raises(DamagedFile, match="is not what this sweep has defined"):
            definitions.define(carried)
    assert not (tmp_path / "opened").exists()


class Opened:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


SCRIPT = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import numpy as np
import granet_lab as gl
from granet_lab.experiments.execution import clusters

@gl.criterion
def backwards(context):
    return {name: -weight.abs() for name, weight in context.weights().items()}

@gl.dataset
def heavy(images=np.random.default_rng(0).integers(0, 256, (2000, 8, 8, 1), np.uint8)):
    return gl.from_arrays(images, np.arange(2000) % 10, 500, 500)

if __name__ == "__main__":
    executors = {
        "dask": lambda: clusters.local(1),
        "spawned": lambda: ProcessPoolExecutor(1, multiprocessing.get_context("spawn")),
    }
    recipe = gl.recipes.digits(model="mlp", epochs=2, milestones=(), dataset="heavy")
    lab = gl.Lab(sys.argv[2], device="cpu")
    with executors[sys.argv[1]]() as executor:
        trials = gl.grid(recipe, epoch=1, rate=0.5, criterion=["magnitude", "backwards"])
        table = lab.measure(trials, executor, progress=False)
    print(*table.status, *table.note)
"""


@pytest.mark.parametrize("where", ["dask", "spawned"])
def test_a_script_defines_at_its_top_what_workers_need(where, tmp_path):
    if where == "dask":
        pytest.importorskip("distributed")
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    ended = subprocess.run(
        [sys.executable, str(script), where, str(tmp_path / "runs")],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ended.stdout.split() == ["ok", "ok"], ended.stdout + ended.stderr[-2000:]
    assert not list(tmp_path.glob("runs/progress/*.definitions"))
