"""Run notebooks as somebody would who has just cloned the project, and keep their outputs.

    .venv/bin/python notebooks/refresh.py 03_explorer

Without a name, all of them. Each runs in a copy of the project's folders in which nothing is
measured yet. What only a live kernel can show is left out of the outputs: beside it every widget
has a still picture, which JupyterLab and web pages show in its place. Progress bars are left out,
too: a web page would show every step. Pictures are kept in 256 colours, a third of their size.
"""

from __future__ import annotations

import base64
import io
import re
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = Path(__file__).parent
RESULTS = NOTEBOOKS.parent / "data" / "results"
PICTURE = "image/png"
LIVE = "application/vnd.jupyter.widget-view+json"


def refresh(path: Path) -> None:
    """Run one notebook and write it back.

    Raises:
        CellExecutionError: a cell failed; the file stays as it was.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as house:
        shutil.copytree(RESULTS, Path(house) / "data" / "results")
        (Path(house) / "notebooks").mkdir()
        NotebookClient(
            notebook,
            timeout=600,
            store_widget_state=False,
            record_timing=False,
            resources={"metadata": {"path": f"{house}/notebooks"}},
        ).execute()
    for cell in notebook.cells:
        if "outputs" in cell:
            cell.outputs = without_bars(cell.outputs)
        for output in cell.get("outputs", []):
            shown = output.get("data", {})
            shown.pop(LIVE, None)
            if PICTURE in shown:
                shown[PICTURE] = smaller(shown[PICTURE])
            output.get("metadata", {}).clear()
    nbformat.write(notebook, path)


def without_bars(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """The outputs of a cell without what was written over on stderr."""
    kept = [output for output in outputs if output.get("name") != "stderr"]
    said = "".join(output.text for output in outputs if output not in kept)
    said = re.sub(r"\r[^\r\n]*", "", said).strip()
    note = nbformat.v4.new_output("stream", name="stderr", text=f"{said}\n")
    return [note, *kept] if said else kept


def smaller(png: str) -> str:
    """A picture in base64 with a palette, if that is smaller."""
    packed = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(png))) as picture:
        # Rare colours matter as much as frequent ones: those of a colour bar are all rare.
        flat = picture.convert("RGB").quantize(
            256, Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE
        )
        flat.save(packed, "png", optimize=True)
    return min(png, base64.b64encode(packed.getvalue()).decode(), key=len)


if __name__ == "__main__":
    known = {path.stem: path for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
    for name in sys.argv[1:] or known:
        if name not in known:
            sys.exit(f"no notebook {name!r}: choose from {', '.join(known)}")
        refresh(known[name])
