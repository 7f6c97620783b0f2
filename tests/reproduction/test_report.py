import csv
import math
import re
from dataclasses import replace
from statistics import mean, stdev

import pytest

import granet_lab as gl
from granet_lab.reproduction import plan, report

SMALL = {
    "dataset": "digits",
    "model": "mlp",
    "augment": None,
    "batch_size": 50,
    "train_size": 200,
    "rates": [0.5, 0.9],
    "prune_epochs": [1, 2, 4],
    "sparsities": [0.8, 0.9],
    "seeds": [0, 1],
    # A mask by SNIP has no name of its own, but a published number.
    "methods": {
        "gmp": gl.methods.gmp,
        "granet": gl.methods.granet,
        "snip": lambda sparsity: gl.methods.static(sparsity, "snip", "global"),
    },
}


class Measured:
    """A plan whose stages are measured, and the folder of its report."""

    def __init__(self, folder, **asked):
        self.lab = gl.Lab(folder / "lab", device="cpu")
        self.plan = plan("vgg19_cifar10", **{**SMALL, **asked})
        quiet = {"workers": 1, "progress": False}
        self.tables = {
            stage: self.lab.measure(trials, **quiet) for stage, trials in self.plan.trials.items()
        }
        if self.plan.methods:
            found = self.plan
            asked = (found.recipe, found.methods, found.sparsities, found.seeds)
            self.tables["methods"] = self.lab.compare(*asked, **quiet)
        self.folder = folder / "report"

    def written(self, folder, **tables):
        """The text of a report of these stages, or of all."""
        path = report.write(self.lab, self.plan, tables or self.tables, folder)
        assert path == folder / "report.md"
        return path.read_text()


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    # A fortieth of the 160 epochs: four.
    return Measured(tmp_path_factory.mktemp("measured"), short=40)


@pytest.fixture(scope="module")
def text(measured):
    return measured.written(measured.folder)


def section(text, title):
    """What stands below a heading, to the next."""
    return re.search(rf"^## {title}\n\n(.*?)(?=\n## |\Z)", text, re.M | re.S)[1]


def cells(text):
    """The rows of a table as lists of words, that of the heads first."""
    rows = [line[2:-2].split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [rows[0], *rows[2:]]


def rows_of(path):
    """A CSV file below its comments, read without pandas."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


def near(word, number, digits):
    """Whether a printed number is that number, rounded."""
    return float(word) == pytest.approx(number, abs=0.5 * 10**-digits + 1e-3)


def test_a_report_begins_with_what_was_trained(text, measured):
    assert text.startswith("# vgg19_cifar10 shortened to 4 of 160 epochs\n")
    assert "`mlp` on `digits`: 200 images to train on of 900, 600 for testing, 10 classes; " in text
    assert "10 classes; 2 seeds. " in text
    (code,) = re.findall(r"```python\n(.*?)\n```", text, re.S)
    assert eval(code, {"gl": gl}) == measured.plan.recipe


def test_a_shortened_schedule_is_a_warning_and_a_whole_one_is_not(text, tmp_path, lab):
    words = "**A shortened schedule**: 4 epochs in place of 160"
    assert words in text
    whole = plan("digits", what="plasticity", model="mlp", epochs=4, milestones=(2,))
    told = report.write(lab, whole, {}, tmp_path / "out").read_text()
    assert told.startswith("# digits, 4 epochs\n")
    assert "shortened" not in told
    assert "`mlp` on `digits`: 900 images to train on, 600 for testing, 10 classes; 1 seed." in told
    assert section(told, "The dense network").strip() == "Not trained yet."


def test_the_dense_network_reaches_what_its_runs_do(text, measured):
    told = section(text, "The dense network")
    dense = [replace(measured.plan.recipe, seed=seed) for seed in (0, 1)]
    last = [measured.lab.run(recipe).rows()[4]["test_acc"] for recipe in dense]
    found = re.match(r"It reaches (\S+) \((\S+) to (\S+)\) after 4 epochs\. (.*)", told)
    for word, number in zip(found.groups(), (mean(last), min(last), max(last)), strict=False):
        assert near(word, number, 2)
    assert found[4].startswith("Published for the whole recipe: 93.85 ([Liu et al. 2021]")


def test_plasticity_is_the_mean_over_seeds_of_what_the_table_beside_it_holds(text, measured):
    rows = [r for r in rows_of(measured.folder / "plasticity.csv") if not r["regrow"]]
    assert len(rows) == 2 * 3 * 2
    heads, *found = cells(section(text, "Pruning plasticity"))
    assert heads == ["rate", "epoch 1", "epoch 2", "epoch 4"]
    assert [row[0] for row in found] == ["0.5", "0.9", "unpruned"]
    for rate, *words in found[:2]:
        for word, epoch in zip(words, (1, 2, 4), strict=True):
            same = [r for r in rows if float(r["rate"]) == float(rate) and int(r["epoch"]) == epoch]
            assert {row["seed"] for row in same} == {"0", "1"}
            assert near(word, mean(float(row["plasticity"]) for row in same), 1)
            assert word[0] in "+-"
    assert "Test accuracy 1 epoch after pruning" in text


def test_the_unpruned_network_gains_what_its_own_schedule_gives(text, measured):
    (*_, unpruned) = cells(section(text, "Pruning plasticity"))
    dense = [measured.lab.run(replace(measured.plan.recipe, seed=seed)).rows() for seed in (0, 1)]
    for word, epoch in zip(unpruned[1:3], (1, 2), strict=True):
        assert near(word, mean(r[epoch + 1]["test_acc"] - r[epoch]["test_acc"] for r in dense), 1)
    assert unpruned[3] == "-"


def test_the_tables_beside_the_report_are_those_of_the_lab(text, measured):
    for stage, trials in measured.plan.trials.items():
        kept = gl.read_table(measured.folder / f"{stage}.csv")
        held = measured.lab.table(trials)
        assert kept["trial"].tolist() == held["trial"].tolist()
        for name in ("plasticity", "acc_before", "acc_trunk"):
            assert kept[name].to_numpy() == pytest.approx(held[name].to_numpy(), 1e-4, nan_ok=True)
    assert len(rows_of(measured.folder / "methods.csv")) == len(measured.plan.entries) == 14


def test_the_gain_is_plasticity_with_regeneration_minus_without(text, measured):
    rows = rows_of(measured.folder / "regeneration.csv")
    heads, *found = cells(section(text, "Neuroregeneration"))
    assert heads == ["rate", "epoch 1", "epoch 2", "epoch 4"]
    assert [row[0] for row in found] == ["0.5", "0.9"]
    for rate, *words in found:
        for word, epoch in zip(words, (1, 2, 4), strict=True):
            value = {
                (row["seed"], row["regrow"]): float(row["plasticity"])
                for row in rows
                if float(row["rate"]) == float(rate) and int(row["epoch"]) == epoch
            }
            gain = [value[seed, "gradient"] - value[seed, ""] for seed in "01"]
            assert near(word, mean(gain), 1)


def test_the_gain_is_taken_seed_by_seed_where_one_did_not_come_out(measured, undrawn, tmp_path):
    table = measured.tables["regeneration"].copy()
    one = (table.epoch == 2) & (table.rate == 0.5)
    # 100 points of difference between the seeds would show.
    table.loc[one & (table.seed == 1), "plasticity"] += 100
    lost = one & (table.seed == 1) & (table.regrow == "gradient")
    table.loc[lost, ["plasticity", "status", "note"]] = (math.nan, "failed", "no memory")
    left = table[one & (table.seed == 0)].fillna({"regrow": "none"}).set_index("regrow").plasticity
    told = section(measured.written(tmp_path, regeneration=table), "Neuroregeneration")
    word = cells(told)[1][2]
    assert near(word, left["gradient"] - left["none"], 1)
    assert "\n1 of 24 did not come out; the first: no memory\n" in f"{told}\n"


def test_methods_are_printed_with_means_deviations_and_costs_over_seeds(text, measured):
    rows = rows_of(measured.folder / "methods.csv")
    heads, *found = cells(section(text, "Training sparse"))
    assert heads[:4] == ["method", "sparsity", "measured", "published"]
    pairs = [(name, sparsity) for name in ("gmp", "granet", "snip") for sparsity in (0.8, 0.9)]
    asked = [("dense", 0.0), *pairs]
    assert [(row[0], row[1]) for row in found] == [(n, f"{100 * s:.0f}%") for n, s in asked]
    for (name, sparsity), words in zip(asked, found, strict=True):
        same = [r for r in rows if (r["method"], float(r["asked_sparsity"])) == (name, sparsity)]
        value = {key: [float(row[key]) for row in same] for key in ("test_acc", *COSTS)}
        middle, deviation = words[2].split(" ± ")
        assert near(middle, mean(value["test_acc"]), 2)
        assert near(deviation, stdev(value["test_acc"]), 2)
        for word, cost in zip(words[4:], COSTS, strict=True):
            assert near(word, mean(value[cost]), 3)
    assert "mean ± standard deviation over seeds" in text


COSTS = ("training_flops", "inference_flops")


def test_what_is_published_stands_beside_what_is_measured_at_the_same_sparsity(text):
    _, *found = cells(section(text, "Training sparse"))
    assert {(row[0], row[1]): row[3] for row in found} == {
        ("dense", "0%"): "93.85 ± 0.05",
        ("gmp", "80%"): "-",
        ("gmp", "90%"): "93.59 ± 0.10",
        ("granet", "80%"): "-",
        ("granet", "90%"): "93.80 ± 0.10",
        ("snip", "80%"): "-",
        ("snip", "90%"): "93.63",
    }


def test_a_recipe_of_which_nothing_is_published_says_so(text, measured, tmp_path):
    assert "do not have this recipe" not in text
    other = replace(measured.plan, name="digits")
    told = report.write(measured.lab, other, measured.tables, tmp_path).read_text()
    assert told.count("do not have this recipe") == 1


def test_every_picture_that_is_linked_is_there(text, measured):
    linked = re.findall(r"^!\[.+\]\((\S+)\)$", text, re.M)
    assert linked == [
        f"{name}.png" for name in ("trunk", "plasticity", "regeneration", "methods", "dynamics")
    ]
    for name in linked:
        assert (measured.folder / name).read_bytes().startswith(b"\x89PNG")
        assert (measured.folder / name).stat().st_size > 5000
    assert "In the course of training, at 90%:\n\n![" in text


def test_the_time_of_a_trial_that_stages_share_counts_once(measured, undrawn, tmp_path):
    hour = {
        name: table.assign(seconds=3600.0)
        for name, table in measured.tables.items()
        if name != "methods"
    }
    told = section(measured.written(tmp_path, **hour), "Measured with")
    # 2 seeds, 3 epochs, 2 rates, with and without; the runs take seconds.
    assert "- time: 24.0 h of training and testing" in told


def test_a_diverged_run_is_told_in_every_section_and_breaks_none(tmp_path, undrawn):
    lost = Measured(tmp_path, short=40, lr=1e12, seeds=[0])
    told = lost.written(tmp_path)
    why = "training diverged: the loss of epoch 1 is nan"
    assert section(told, "The dense network").strip() == f"T{why[1:]}."
    for title, n in (("Pruning plasticity", 6), ("Neuroregeneration", 12), ("Training sparse", 7)):
        told_there = section(told, title).strip()
        assert told_there == f"{n} of {n} did not come out; the first: {why}"
    assert "![" not in told


def test_what_failed_is_told_and_the_rest_is_there(measured, undrawn, tmp_path):
    table = measured.tables["methods"].copy()
    table.loc[table.method != "dense", ["test_acc", "status", "note"]] = (math.nan, "failed", "no")
    told = section(measured.written(tmp_path, methods=table), "Training sparse")
    assert [row[0] for row in cells(told)[1:]] == ["dense"]
    assert "12 of 14 did not come out; the first: no" in told


def test_histories_of_all_runs_that_came_to_an_end_lie_beside_the_report(text, measured):
    rows = rows_of(measured.folder / "history.csv")
    # 2 dense runs and 3 methods at 2 sparsities, with the beginning and 4 epochs each.
    assert len(rows) == 14 * 5
    assert [int(row["epoch"]) for row in rows] == [0, 1, 2, 3, 4] * 14
