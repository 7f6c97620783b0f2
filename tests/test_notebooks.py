import ast
import json
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
CHECK = "# NBVAL_CHECK_OUTPUT"
VERBS = ("lab.train", "lab.measure", "lab.compare")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return json.loads(request.param.read_text())


@pytest.fixture
def cells(notebook):
    return [c for c in notebook["cells"] if c["cell_type"] == "code"]


def source(cell):
    return "".join(cell["source"])


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 3


def test_every_cell_was_run_from_top_to_bottom(cells):
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))


def test_every_compared_cell_carries_an_output(cells):
    for cell in cells:
        if CHECK in source(cell):
            assert any("text/plain" in o.get("data", {}) for o in cell["outputs"]), source(cell)


def test_no_compared_cell_measures(cells):
    """A progress bar shows only where something is not cached: such a cell fails in a clone."""
    for cell in cells:
        if CHECK in source(cell):
            assert not any(verb in source(cell) for verb in VERBS)


def test_no_output_is_an_error_or_shows_where_it_was_made(cells):
    for cell in cells:
        assert all(output["output_type"] != "error" for output in cell["outputs"])
        texts = [o.get("text", o.get("data", {}).get("text/plain", "")) for o in cell["outputs"]]
        assert not any(word in "".join(t) for t in texts for word in ("/tmp/", "/root/", "/home/"))


def test_every_output_can_be_seen_without_a_kernel(notebook, cells):
    """Beside the view of a widget nothing else is shown, and without a kernel it is an error."""
    assert "widgets" not in notebook["metadata"]
    for cell in cells:
        for output in cell["outputs"]:
            assert not any("widget" in mimetype for mimetype in output.get("data", {}))


@pytest.mark.parametrize("call", ["gl.explore(", "gl.watch("])
def test_every_widget_left_something_still(cells, call):
    for cell in cells:
        if call in source(cell):
            kinds = {kind for output in cell["outputs"] for kind in output.get("data", {})}
            assert kinds & {"image/png", "text/html"}


def frames_drawn(tree):
    """The names that hold the frames behind figures: figure, NAME = gl.plots.something(...)."""
    for node in ast.walk(tree):
        drawn = isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Tuple)
        if drawn and ast.unparse(node.value).startswith("gl.plots."):
            yield node.targets[0].elts[1].id


def names_compared(text):
    """Every name that takes part in an assertion, or in a cell whose output is compared."""
    tree = ast.parse(text)
    if CHECK in text or any(isinstance(node, ast.Assert) for node in ast.walk(tree)):
        return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return set()


def test_the_table_behind_each_figure_is_compared(cells):
    compared = set().union(*(names_compared(source(cell)) for cell in cells))
    drawn = {name for cell in cells for name in frames_drawn(ast.parse(source(cell)))}
    assert drawn - compared == set()


def test_every_figure_is_shown(cells):
    for cell in cells:
        if source(cell).endswith("\nfigure"):
            assert any("image/png" in output.get("data", {}) for output in cell["outputs"])


def test_no_output_is_a_progress_bar(cells):
    """A web page shows every step of it."""
    for cell in cells:
        assert not any("\r" in "".join(o.get("text", "")) for o in cell["outputs"]), source(cell)
