import contextlib
import csv
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import granet_lab as gl
from granet_lab import cli

# A tree of small images, 135 of them to train on: 6 epochs of 6 steps, pruned at two of them.
WORDS = [
    *("reproduce", "digits", "--short"),
    *("--set", "dataset=folder:tree", "model=convnet", "batch_size=20"),
    *("--epoch", "3", "5", "--rate", "0.5", "0.9", "--workers", "1"),
    *("--method", "gmp", "granet", "--sparsity", "0.9"),
]
TABLES = ("plasticity.csv", "regeneration.csv", "methods.csv", "history.csv")


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """A folder with the tree in it: noise, a little brighter in the colour of its class."""
    root = tmp_path_factory.mktemp("datasets")
    random = np.random.default_rng(0)
    for split, n in (("train", 50), ("test", 20)):
        for label, name in enumerate(("red", "green", "blue")):
            folder = root / "tree" / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                image = random.integers(0, 240, (8, 8, 3), dtype=np.uint8)
                image[..., label] += 15
                Image.fromarray(image).save(folder / f"{i}.png")
    return root


@pytest.fixture
def places(datasets, monkeypatch):
    monkeypatch.setenv("GRANET_LAB_DATASETS", str(datasets))


@contextlib.contextmanager
def started(folder, datasets):
    """The command in a process of its own, in a folder of its own; nobody types anything."""
    process = subprocess.Popen(
        [sys.executable, "-m", "granet_lab.cli", *WORDS],
        cwd=folder,
        env={**os.environ, "GRANET_LAB_DATASETS": str(datasets)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def carried_out(folder, datasets):
    """What the command prints, once it has come to its end."""
    with started(folder, datasets) as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    return out


@pytest.fixture(scope="module")
def undisturbed(datasets, tmp_path_factory):
    """A folder in which the command ran from nothing to its end, and what it printed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, carried_out(folder, datasets)


def tables(folder):
    """Those beside the report as rows of words, without what depends on the clock."""
    found = {}
    for name in TABLES:
        text = (folder / "data/reports/digits-short" / name).read_text()
        rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
        found[name] = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    return found


def measured_text(folder):
    """The report, but for the machine, the time and the date."""
    return (folder / "data/reports/digits-short/report.md").read_text().split("## Measured with")[0]


def trials_in(folder):
    return {path: path.read_bytes() for path in folder.glob("data/runs/*/trials/[!.]*.json")}


def test_from_nothing_to_the_report_no_hand_is_needed(undisturbed):
    folder, out = undisturbed
    assert out.startswith("digits shortened to 6 of 60 epochs, on ")
    assert out.endswith("\ndata/reports/digits-short/report.md\n")
    text = measured_text(folder)
    assert "`convnet` on `folder:tree`: 135 images to train on, 60 for testing, 3 classes" in text
    titles = ["The dense network", "Pruning plasticity", "Neuroregeneration", "Training sparse"]
    assert re.findall("^## (.*)$", text, re.M) == titles
    for name in re.findall(r"\]\((\w+\.png)\)", text):
        assert (folder / "data/reports/digits-short" / name).stat().st_size > 5000
    found = tables(folder)
    assert [len(found[name]) for name in TABLES] == [4, 8, 3, 3 * 7]
    assert {row["status"] for rows in list(found.values())[:3] for row in rows} == {"ok"}
    # More than guessing one of three, and not so easy that nothing can be lost.
    assert 40 < float(found["methods.csv"][0]["test_acc"]) < 100
    assert len(trials_in(folder)) == 8


@pytest.mark.slow
@pytest.mark.timeout(600)  # three commands, with torch to load each time
def test_killed_in_the_middle_the_same_command_ends_as_if_nothing_had_been(
    undisturbed, datasets, tmp_path
):
    with started(tmp_path, datasets) as process:
        while process.poll() is None and not trials_in(tmp_path):
            time.sleep(0.001)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    left = trials_in(tmp_path)
    assert 1 <= len(left) < 8
    assert not list(tmp_path.rglob("report.md"))

    carried_out(tmp_path, datasets)
    folder, _ = undisturbed
    assert tables(tmp_path) == tables(folder)
    assert measured_text(tmp_path) == measured_text(folder)
    assert len(trials_in(tmp_path)) == 8
    assert {path: trials_in(tmp_path)[path] for path in left} == left


def test_plan_only_prints_the_plan_and_measures_nothing(run, places, tmp_path, monkeypatch):
    monkeypatch.setattr(gl.Lab, "measure", None)
    monkeypatch.setattr(gl.Lab, "compare", None)
    code, out, err = run(*WORDS, "--plan-only")
    assert (code, err) == (0, "")
    heads = [line.split(":")[0].strip() for line in out.splitlines()]
    assert heads[:4] == [
        f"digits shortened to 6 of 60 epochs, on {gl.Lab(tmp_path / 'x').device}",
        *("plasticity", "regeneration", "methods"),
    ]
    assert "  plasticity: 1 run and 4 trials, 10 epochs\n" in out
    assert out.splitlines()[-1].endswith(" in data/runs")
    assert list((tmp_path / "data/runs").iterdir()) == []
    assert not (tmp_path / "data/reports").exists()


def test_what_is_typed_reaches_the_plan_and_the_report(run, monkeypatch, tmp_path):
    seen = []

    def carry_out(lab, plan, folder, workers):
        seen.append((lab, plan, folder, workers))
        return folder / "report.md"

    monkeypatch.setattr("granet_lab.reproduction.reproduce", carry_out)
    words = """
        reproduce digits --what methods plasticity --set model=mlp epochs=8 milestones=4,6
        --epoch 2 4 --rate 0.3 --recovery-epochs 3 --method half:granet,initial_sparsity=0.4
        --sparsity 0.8 0.7 --seed 5 6 --out out --workers 2 --lab lab --device cpu
    """
    code, out, _ = run(*words.split())
    assert (code, out.splitlines()[-1]) == (0, "out/report.md")
    ((lab, plan, folder, workers),) = seen
    assert (str(lab.path), lab.device, str(folder), workers) == ("lab", "cpu", "out", 2)
    assert plan.stages == ["plasticity", "methods"]
    dense = gl.recipes.digits(model="mlp", epochs=8, milestones=(4, 6), seed=5)
    assert plan.recipe == plan.whole == dense
    expected = {"epoch": [2, 4], "rate": 0.3, "recovery_epochs": 3, "seed": [5, 6]}
    assert {*plan.all_trials} == {*gl.grid(dense, **expected)}
    assert [(e.method, e.sparsity, e.recipe.seed) for e in plan.entries[2:]] == [
        ("half", sparsity, seed) for sparsity in (0.8, 0.7) for seed in (5, 6)
    ]
    assert plan.entries[2].recipe.method == gl.methods.granet(0.8, initial_sparsity=0.4)


def test_the_report_of_a_whole_recipe_has_a_place_of_its_own(run, monkeypatch):
    monkeypatch.setattr("granet_lab.reproduction.reproduce", lambda lab, plan, folder, _: folder)
    for words, place in (((), "digits"), (("--short",), "digits-short")):
        code, out, _ = run("reproduce", "digits", *words)
        assert (code, out.splitlines()[-1]) == (0, f"data/reports/{place}")


def test_the_example_in_the_help_asks_for_nothing_but_its_images(run, monkeypatch, tmp_path):
    monkeypatch.setenv("GRANET_LAB_DATASETS", str(tmp_path))
    words = re.search(r"Example: granet-lab (.*)", cli.reproduce.__doc__)[1].split()
    code, out, err = run(*words)
    assert (code, out) == (1, "")
    assert re.fullmatch("granet-lab: there is no folder .*cifar10-jpeg.*\n", err)


BAD = [
    ("nope", "unknown recipe 'nope': choose from .*digits"),
    ("digits --set bogus=1", "unknown field 'bogus': choose from"),
    ("digits --set seed=1", "seed is not for --set: use --seed"),
    ("digits --epoch 61", "epoch 61 is not in this run: choose 0 to 60"),
    ("digits --short --epoch 7", "epoch 7 is not in this run: choose 0 to 6"),
    ("digits --rate 1.5", "rate must lie in"),
    ("digits --method magic", "unknown method 'magic': choose from .*granet"),
    ("digits --method", "methods needs at least one value"),
    ("digits --method dense", "methods needs at least one value"),
    ("digits --sparsity", "sparsities needs at least one value"),
    ("digits --seed", "seeds? needs at least one value"),
    ("digits --what", "name at least one stage"),
    ("digits --workers -1", "workers must be at least 1, not -1"),
    ("digits --device banana", "'banana'"),
    ("digits --lab file", "file"),
    ("digits --set dataset=folder:nowhere", "there is no folder .*nowhere"),
    ("digits --set batch_size=1000", "batch_size must be at most 900"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[words for words, _ in BAD])
def test_what_cannot_be_reproduced_is_one_line_on_stderr(run, places, words, message):
    code, out, err = run("reproduce", *words.split())
    assert (code, out) == (1, "")
    assert re.fullmatch(f"granet-lab: .*{message}.*\n", err), err


def test_a_stage_that_is_not_there_is_named_on_stderr(run):
    code, out, err = run("reproduce", "digits", "--what", "heating")
    assert (code, out) == (2, "")
    assert "heating" in err
