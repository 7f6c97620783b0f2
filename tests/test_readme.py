import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

import granet_lab as gl
from granet_lab.training.data import DATASETS
from granet_lab.training.models import MODELS

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


def test_your_own_network_works_as_written(tmp_path, monkeypatch, forgotten):
    digits = load_digits()
    np.save(tmp_path / "images.npy", (digits.images[:600, None] * 15).astype(np.uint8))
    np.save(tmp_path / "labels.npy", digits.target[:600])
    monkeypatch.chdir(tmp_path)
    short = block("@gl.model").replace("epochs=20", "epochs=4").replace("(10, 15)", "(2,)")
    short = short.replace("[5, 10, 15, 20]", "[2, 4]")
    assert short.count("epochs=4") == short.count("[2, 4]") == 1
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
        if path.name != "__init__.py":
            assert path.name in text, path
