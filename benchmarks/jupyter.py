"""JupyterLab in a real browser: serve a folder, open a notebook, run it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
from playwright.sync_api import Browser, Page, sync_playwright

# A notebook is run by JupyterLab's own command, as its menu does it.
_RUN_ALL = "() => void window.jupyterapp.commands.execute('notebook:run-all-cells')"
_NO_NEWS = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}


def chromium() -> str | None:
    """Where Chromium is; None if it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextlib.contextmanager
def serve(folder: Path, scratch: Path) -> Iterator[str]:
    """JupyterLab on a folder, with settings of its own; yields its address.

    Args:
        folder: with the notebooks.
        scratch: an empty folder for settings and the log.
    """
    config = scratch / "config" / "labconfig" / "page_config.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps(_NO_NEWS))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    words += ["--ip=127.0.0.1", f"--port={port}", "--IdentityProvider.token="]
    words += [f"--notebook-dir={folder}", "--LabApp.expose_app_in_browser=True"]
    environment = {**os.environ, "JUPYTER_CONFIG_DIR": str(scratch / "config")}
    with open(scratch / "jupyterlab.log", "w") as log:
        server = subprocess.Popen(words, stdout=log, stderr=log, env=environment)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_up(address, server)
        yield address
    finally:
        server.terminate()
        server.wait(30)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        # As in a container: without a sandbox, root may be all there is; little shared memory.
        found = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield found
        found.close()


def new_page(found: Browser, width: int = 1366, height: int = 768) -> Page:
    """An empty page."""
    page = found.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(60_000)
    return page


def open_notebook(page: Page, address: str, name: str) -> None:
    """Open a notebook, by itself, and wait for its kernel."""
    page.goto(f"{address}/lab/tree/{name}?reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.wait_for_function("() => window.jupyterapp !== undefined")
    page.get_by_text("| Idle", exact=False).wait_for()


def run_all(page: Page) -> None:
    """Run every cell; returns at once."""
    page.evaluate(_RUN_ALL)


def write_notebook(path: Path, *cells: str) -> None:
    """A notebook of code cells, not run."""
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}},
    )
    nbformat.write(notebook, path)


def _wait_until_up(address: str, server: subprocess.Popen) -> None:
    for _ in range(300):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/api"):
            return
        if server.poll() is not None:
            break
        time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start at {address}")
