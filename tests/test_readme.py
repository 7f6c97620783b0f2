import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from sklearn.datasets import load_digits

import granet_lab as gl
from granet_lab.datasets import DATASETS
from granet_lab.models import MODELS
from granet_lab.sparsity.allocation import SCHEMES
from granet_lab.sparsity.criteria import CRITERIA
from granet_lab.sparsity.methods import METHODS
from granet_lab.sparsity.regrowths import REGROWTHS
from granet_lab.training.recipes import RECIPES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def block(containing):
    """The one example that has a text in it."""
    found = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (one,) = (text for text in found if containing in text)
    return one


@pytest.fixture
def forgotten():
    yield
    DATASETS._entries.pop("mine", None)
    MODELS._entries.pop("small", None)


def test_the_first_example_asks_what_it_says():
    names = {}
    exec(
        block("lab.train(recipe)").split("table = ")[0].replace("run = lab.train(recipe)", ""),
        names,
    )
    assert len(names["trials"]) == 7 * 4 * 2 * 3


def test_the_explorer_opens_as_written(lab, recipe):
    example = compile(block("gl.explore"), "README.md", "eval")
    explorer = eval(example, {"gl": gl, "lab": lab, "recipe": recipe})
    assert {trial.pruning.rate for trial in explorer.trials} == {0.9}


def test_layers_one_by_one_are_asked_as_written():
    names = {"gl": gl, "recipe": gl.recipes.digits()}
    exec(block("gl.layer_names").splitlines()[0], names)
    assert len(names["trials"]) == 7 * 2 * 4
    assert {trial.pruning.layers for trial in names["trials"]} == {
        f"{layer}.weight" for layer in ("block1.0", "block2.0", "block3.0", "classifier")
    }


def test_methods_are_compared_as_written(lab, recipe, capsys):
    example = block("lab.compare")
    assert example.count("range(5)") == 1
    names = {"gl": gl, "lab": lab, "recipe": recipe}
    exec(example.replace("range(5)", "range(1), workers=1, progress=False"), names)
    assert len(names["table"]) == 1 + 5 * 2
    assert len(names["frame"]) == 5 * 2
    assert capsys.readouterr().out.startswith("| method | 90% | 98% |")


def table_of(head):
    """The first column of the table with that heading, without it."""
    table = README.partition(f"\n| {head} |")[2].partition("\n\n")[0]
    return [line.split("|")[1].strip() for line in table.splitlines()[2:]]


def test_the_recipes_for_real_images_are_made_as_written():
    names = {"gl": gl}
    exec(block("recipe.short()"), names)
    assert names["recipe"].epochs == 10 * names["quick"].epochs == 160
    assert names["flowers"].image_size == 32


@pytest.mark.parametrize(
    ("head", "registry"), [("`dataset`", DATASETS), ("`model`", MODELS)], ids=["data", "models"]
)
def test_the_tables_of_datasets_and_networks_have_them_all(head, registry):
    told = {name for first in table_of(head) for name in re.findall(r"`([\w:.]+)`", first)}
    assert {name for name in told if ":" not in name} == set(registry)
    assert {name.partition(":")[0] for name in told if ":" in name} == {
        "`dataset`": {"folder", "stream"},
        "`model`": {"torchvision", "package.module"},
    }[head]


def test_the_named_recipes_are_told():
    told = README.partition("with their source in the docstring:")[2].partition("\n\n")[0]
    assert {*re.findall(r"`(\w+)`", told), "digits"} == set(RECIPES)


def test_the_table_of_methods_has_them_all():
    told = {name for first in table_of("`gl.methods`") for name in re.findall(r"(\w+)\(", first)}
    made = {METHODS[name].__name__ for name in METHODS}
    assert told - {"SparseTraining"} == made


def test_any_network_is_pruned_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    with torch.random.fork_rng():
        exec(block("sparsity.prune(dense"), names)
    masks, kept, grown = names["masks"], names["kept"], names["grown"]
    for layer in ("conv1.weight", "fc.weight"):
        assert masks.counts()[layer] == masks.sizes()[layer]
    assert kept.active < grown.active == masks.active
    assert grown.counts() == masks.counts()
    assert grown != masks
    pruned = torchvision.models.resnet18()
    pruned.load_state_dict(torch.load("resnet18.pt", weights_only=True))
    zeros = {name: int((p == 0).sum()) for name, p in pruned.named_parameters() if name in masks}
    assert zeros == {name: int((~mask).sum()) for name, mask in kept.items()}
    assert 0 < names["flops"] < 3.7e9


def test_the_choices_in_the_table_are_all_there_are():
    row = {line.split("|")[1].strip(): line for line in README.splitlines() if "|" in line}
    for name, registry in (("criterion", CRITERIA), ("scope", SCHEMES), ("regrow", REGROWTHS)):
        assert all(re.search(rf"\b{known}\b", row[f"`{name}`"]) for known in registry)


def test_your_own_network_works_as_written(tmp_path, monkeypatch, forgotten):
    digits = load_digits()
    np.save(tmp_path / "images.npy", (digits.images[:600, None] * 15).astype(np.uint8))
    np.save(tmp_path / "labels.npy", digits.target[:600])
    monkeypatch.chdir(tmp_path)
    short = block("@gl.model").replace("epochs=20", "epochs=4").replace("(10, 15)", "(2,)")
    short = short.replace("[5, 10, 15, 20]", "[2, 4]")
    # Worker processes of an earlier test may stand in another folder than the images.
    short = short.replace("measure(trials)", "measure(trials, workers=1)")
    assert short.count("epochs=4") == short.count("[2, 4]") == short.count("workers=1") == 1
    names = {"__name__": "__main__"}
    exec(short, names)
    assert len(names["frame"]) == 2 * 2 * 2
    assert (tmp_path / "mine.png").stat().st_size > 10_000
    assert (tmp_path / "mine.pdf").exists()


def test_every_file_that_the_documents_link_to_is_there():
    for document in ("README.md", "CONTRIBUTING.md", "data/README.md"):
        text = (ROOT / document).read_text()
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
            assert (ROOT / document).parent.joinpath(target).exists(), (document, target)


def test_every_module_is_on_the_map():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for path in (ROOT / "granet_lab").rglob("*.py"):
        if path.name not in ("__init__.py", "__main__.py"):
            assert path.name in text, path
