import pytest


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are made but not written, which takes most of a report's time."""
    monkeypatch.setattr("granet_lab.figures.plots.save", lambda figure, path: [])
