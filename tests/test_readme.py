import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from granet_lab.training.data import DATASETS
from granet_lab.training.models import MODELS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks():
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def forgotten():
    yield
    DATASETS._entries.pop("mine", None)
    MODELS._entries.pop("small", None)


def test_the_first_example_asks_what_it_says():
    names = {}
    exec(blocks()[0].split("table = ")[0].replace("run = lab.train(recipe)", ""), names)
    assert len(names["trials"]) == 7 * 4 * 2 * 3


def test_your_own_network_works_as_written(tmp_path, monkeypatch, forgotten):
    digits = load_digits()
    np.save(tmp_path / "images.npy", (digits.images[:600, None] * 15).astype(np.uint8))
    np.save(tmp_path / "labels.npy", digits.target[:600])
    monkeypatch.chdir(tmp_path)
    short = blocks()[1].replace("epochs=20", "epochs=4").replace("(10, 15)", "(2,)")
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
