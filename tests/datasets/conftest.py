import pytest

from granet_lab.datasets import named


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder of all datasets, empty."""
    monkeypatch.setenv("GRANET_LAB_DATASETS", str(tmp_path))
    named._load.cache_clear()
    yield tmp_path
    named._load.cache_clear()
