"""How quick the explorer is: from a key press on the slider to the new picture, in a browser.

    python -m benchmarks.explorer [--presses 200]

A lab of 1,008 measured trials is made first, once (a small network, a minute or two), in
data/benchmarks/. JupyterLab shows its explorer in a headless Chromium of 1366 x 768. Every press of
an arrow key is timed in the page: from the keydown event until the picture that answers it is
there and the browser is about to paint it. The next press follows a tenth of a second later.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from playwright.sync_api import Page

import granet_lab as gl
from benchmarks import jupyter
from granet_lab.experiments.environment import environment

ROOT = Path(__file__).parents[1]
LAB = ROOT / "data" / "benchmarks" / "explorer"

# Notes when a key goes down, and when the picture that it leads to can be painted.
_STOPWATCH = """() => {
  const picture = document.querySelector('.granet-overlay .widget-html-content');
  window.times = [];
  let pressed = null;
  document.addEventListener('keydown', () => { pressed = performance.now(); }, true);
  new MutationObserver(() => {
    requestAnimationFrame(() => {
      if (pressed !== null) { window.times.push(performance.now() - pressed); pressed = null; }
    });
  }).observe(picture, {childList: true});
}"""


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presses", type=int, default=200)
    arguments = parser.parse_args()
    recipe = gl.recipes.digits(model="mlp", train_size=200)
    lab = gl.Lab(LAB, device="cpu")
    trials = gl.grid(
        recipe,
        epoch=range(0, 61, 3),
        rate=[0.5, 0.8, 0.9, 0.98],
        regrow=[None, "gradient"],
        seed=range(6),
    )
    measured = len(lab.measure(trials))
    with tempfile.TemporaryDirectory() as scratch:
        one = measure(Path(scratch) / "one", arguments.presses, compare=False)
        two = measure(Path(scratch) / "two", arguments.presses, compare=True)
    told = environment("cpu")
    print(f"\nThe explorer on a lab of {measured} trials, six seeds chosen")
    print(f"{told['hardware']}; {told['date']}; commit {told['commit']}; {told['system']}\n")
    print(f"{'':32}{'median':>9}{'95%':>9}{'slowest':>9}")
    for name, (opening, times) in {"one setting": one, "A and B": two}.items():
        ordered = sorted(times)
        numbers = statistics.median(ordered), ordered[int(0.95 * len(ordered))], ordered[-1]
        cells = "".join(f"{number:>6.0f} ms" for number in numbers)
        print(f"{f'key press to picture, {name}':32}{cells}   {len(times)} presses")
        print(f"{f'opening, {name}':32}{opening:>7.2f} s")


def measure(scratch: Path, presses: int, compare: bool) -> tuple[float, list[float]]:
    """Seconds to open the explorer, milliseconds of each press."""
    folder = scratch / "notebooks"
    folder.mkdir(parents=True)
    jupyter.write_notebook(
        folder / "speed.ipynb",
        f"import granet_lab as gl\nlab = gl.Lab({str(LAB)!r}, device='cpu')\n"
        "recipe = gl.recipes.digits(model='mlp', train_size=200)\n"
        # The first figure of a kernel loads matplotlib and its fonts, whatever it shows.
        "gl.explore, gl.plots",
        "explorer = gl.explore(lab, recipe, epoch=0)\nexplorer",
    )
    with jupyter.serve(folder, scratch) as address, jupyter.browser() as browser:
        page = jupyter.new_page(browser)
        jupyter.open_notebook(page, address, "speed.ipynb")
        opening = _open(page)
        if compare:
            page.get_by_label("Compare with B").check()
            page.wait_for_timeout(2000)
        page.evaluate(_STOPWATCH)
        return opening, _press(page, presses)


def _open(page: Page) -> float:
    """Run the first cell, then time the second until its picture is there."""
    page.evaluate(
        "() => void window.jupyterapp.commands.execute('notebook:run-cell-and-select-next')"
    )
    page.get_by_text("[1]:").first.wait_for()
    return page.evaluate("""async () => {
      const began = performance.now();
      void window.jupyterapp.commands.execute('notebook:run-cell');
      while (performance.now() - began < 30000) {
        const image = document.querySelector('.granet-picture img');
        if (image && image.complete && image.naturalWidth) break;
        await new Promise(requestAnimationFrame);
      }
      return (performance.now() - began) / 1000;
    }""")


def _press(page: Page, presses: int) -> list[float]:
    page.locator(".granet-explorer [role=slider]").first.focus()
    for i in range(presses):
        page.keyboard.press("ArrowRight" if (i // 60) % 2 == 0 else "ArrowLeft")
        page.wait_for_function("n => window.times.length > n", arg=i)
        page.wait_for_timeout(100)
    return page.evaluate("() => window.times")


if __name__ == "__main__":
    main()
