"""The explorer as people meet it: JupyterLab in a real browser, keys and clicks."""

import json
import re
import shutil
from pathlib import Path

import psutil
import pytest
from notes import pages
from playwright.sync_api import expect

import granet_lab as gl
from benchmarks import jupyter

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "data" / "figures" / "screenshots"

pytestmark = [
    pytest.mark.skipif(
        jupyter.chromium() is None,
        reason="needs Chromium: apt-get install chromium",
    ),
    pytest.mark.xdist_group("browser"),  # one JupyterLab for all of them
]

expect.set_options(timeout=60_000)

RECIPE = gl.recipes.digits()

# Keeps every status and counts every picture, however short it was to be seen.
WITNESS = """() => {
  window.said = []; window.drawn = 0;
  new MutationObserver(() => {
    window.said.push(document.querySelector('.granet-status').innerText);
  }).observe(document.querySelector('.granet-status'), {childList: true, subtree: true});
  new MutationObserver(() => { window.drawn += 1; })
    .observe(document.querySelector('.granet-overlay'), {childList: true, subtree: true});
}"""


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    """A folder like the project's: notebooks/, and data/ beside it."""
    house = tmp_path_factory.mktemp("house")
    (house / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "03_explorer.ipynb", house / "notebooks")
    return house


@pytest.fixture(scope="module")
def address(house):
    with jupyter.serve(house / "notebooks", house / "jupyter") as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with jupyter.browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def shown(house, address, browser):
    """The project's notebook, opened and run."""
    page = jupyter.new_page(browser)
    jupyter.open_notebook(page, address, "03_explorer.ipynb")
    jupyter.run_all(page)
    page.locator(".granet-watch").wait_for(timeout=180_000)
    yield Shown(page)
    page.close()


@pytest.fixture
def another(house, address, browser):
    """A notebook of one's own on the same lab, in another page with another kernel."""
    pages = []

    def another(name, *cells):
        jupyter.write_notebook(house / "notebooks" / name, *cells)
        page = jupyter.new_page(browser)
        pages.append(page)
        jupyter.open_notebook(page, address, name)
        jupyter.run_all(page)
        return Shown(page)

    yield another
    for page in pages:
        page.close()


@pytest.fixture
def lab(house):
    return gl.Lab(house / "data" / "runs", device="cpu")


class Shown:
    """The explorer of a page, and what can be done with it."""

    def __init__(self, page):
        self.page, self.box = page, page.locator(".granet-explorer")
        self.box.locator(".granet-overlay svg").wait_for()
        self.status = self.box.locator(".granet-status")
        page.evaluate(WITNESS)

    def button(self, name):
        return self.box.get_by_role("button", name=name, exact=True)

    def go(self, epoch):
        """Move the slider there with the arrow keys, and wait for the picture."""
        handle = self.box.get_by_role("slider").first
        handle.focus()
        steps = epoch - int(float(handle.get_attribute("aria-valuenow")))
        for _ in range(abs(steps)):
            self.page.keyboard.press("ArrowRight" if steps > 0 else "ArrowLeft")
        self.sees(epoch)

    def sees(self, epoch):
        self.box.locator(f'.granet-overlay svg[aria-label^="epoch {epoch},"]').wait_for()

    def choose(self, label, value, which=0):
        self.box.get_by_label(label, exact=True).nth(which).select_option(value)

    @property
    def trials(self):
        """Those that the code in the page makes."""
        lines = self.box.locator(".granet-code code").all_inner_texts()
        return [eval(line, {"gl": gl}) for line in lines]

    @property
    def numbers(self):
        """The cells of the small table, by the row's name."""
        rows = self.box.locator(".granet-numbers tbody tr").all()
        cells = [row.locator("td").all_inner_texts() for row in rows]
        return {name: rest for name, *rest in cells}

    def said(self):
        return self.page.evaluate("() => window.said")

    def forget(self):
        self.page.evaluate("() => { window.said = []; window.drawn = 0; }")

    def screenshot(self, name, shown=None):
        # At once: what follows a sweep may be replaced while one waits for it to stand still.
        (shown or self.box).evaluate("element => element.scrollIntoView({block: 'nearest'})")
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SCREENSHOTS / f"{name}.png")


def expected(row):
    """The numbers of a trial as they are written in the page."""
    frozen = row.lr_mode == "frozen"
    unpruned = row.acc_trunk if frozen else row.acc_final_unpruned
    accuracies = (row.acc_before, row.acc_pruned, row.acc_after, unpruned)
    return [
        "1",
        *(f"{value:.2f}" for value in accuracies),
        f"plasticity {row.plasticity:+.2f}" if frozen else f"final gap {row.final_gap:+.2f}",
        f"{row.sparsity:.4f}",
        f"{row.sparsity_after:.4f}",
    ]


def test_they_share_a_process_and_so_a_jupyterlab(request):
    if request.config.getoption("dist") == "loadgroup" or hasattr(request.config, "workerinput"):
        assert request.node.nodeid.endswith("@browser")


def test_keys_move_the_slider_and_the_numbers_are_those_of_the_table(shown, lab):
    for epoch in (30, 50, 20):
        shown.go(epoch)
        expect(shown.status).to_contain_text("Measured (seed 0).")
        (trial,) = shown.trials
        assert trial == gl.Trial(recipe=RECIPE, epoch=epoch, pruning=gl.Pruning(rate=0.9))
        (row,) = lab.table([trial]).itertuples()
        assert shown.numbers == {"A": expected(row)}


def test_two_settings_are_compared_with_the_difference_of_the_table(shown, lab):
    shown.go(40)
    shown.box.get_by_label("Compare with B").check()
    shown.box.get_by_text("A - B").wait_for()
    a, b = (lab.table([trial]).iloc[0] for trial in shown.trials)
    assert (a.regrow, b.regrow) == (None, "gradient")
    assert shown.numbers["A"] == expected(a)
    assert shown.numbers["B"] == expected(b)
    assert shown.numbers["A - B"][5] == f"{a.plasticity - b.plasticity:+.2f}"
    shown.screenshot("compared-1366x768")
    shown.box.get_by_label("Compare with B").uncheck()
    expect(shown.box.get_by_text("A - B")).to_be_hidden()


@pytest.mark.parametrize("size", [(1366, 768), (1920, 1080)])
def test_it_fits_the_screen(shown, size):
    shown.page.set_viewport_size({"width": size[0], "height": size[1]})
    shown.screenshot(f"explorer-{size[0]}x{size[1]}")
    notebook = shown.page.locator(".jp-WindowedPanel-outer").first
    assert notebook.evaluate("e => e.scrollWidth <= e.clientWidth")
    inside = shown.box.evaluate("""box => {
      const right = box.getBoundingClientRect().right + 0.5;
      return [...box.querySelectorAll('*')].filter(e => e.getClientRects().length)
        .filter(e => !e.closest('svg') && e.getBoundingClientRect().right > right)
        .map(e => e.outerHTML.slice(0, 80));
    }""")
    assert inside == []
    shown.page.set_viewport_size({"width": 1366, "height": 768})


def test_every_control_has_a_name(shown):
    unnamed = shown.box.evaluate("""box => [...box.querySelectorAll(
        'button, select, input, progress, [role=slider], [role=progressbar]')].filter(e =>
        !(e.innerText || e.getAttribute('aria-label') || (e.labels && e.labels.length)
          || e.title)).map(e => e.outerHTML.slice(0, 120))""")
    assert unnamed == []


def test_run_shows_its_progress_and_then_the_result(shown, lab):
    shown.choose("Learning rate", "remaining")
    shown.go(35)
    expect(shown.status).to_contain_text(re.compile("Not measured yet .seed 0..\\s*Run: about"))
    (trial,) = shown.trials
    assert len(lab.table([trial])) == 0
    shown.forget()
    shown.button("Run").click()
    expect(shown.box.locator(".widget-label", has_text="of 25 epochs")).to_be_visible()
    shown.screenshot("running-1366x768")
    expect(shown.status).to_contain_text("Measured (seed 0).")
    told = {
        n for text in shown.said() for n in re.findall(r"Being measured, epoch (\d+) of 25", text)
    }
    assert len(told) >= 2
    assert shown.page.evaluate("() => window.drawn") >= 3
    (row,) = lab.table([trial]).itertuples()
    assert shown.numbers == {"A": expected(row)}
    expect(shown.button("Run")).to_be_disabled()
    expect(shown.button("Cancel")).to_be_disabled()


def start(shown, epoch, until="epoch [1-9]"):
    """Press Run on a trial that follows the remaining schedule from an epoch."""
    shown.choose("Learning rate", "remaining")
    shown.go(epoch)
    expect(shown.status).to_contain_text("Not measured yet")
    shown.button("Run").click()
    expect(shown.status).to_contain_text(re.compile(f"Being measured, {until}"))
    (trial,) = shown.trials
    return trial


def assert_sound(lab):
    """No note and no word to stop is left behind, and every file reads as it was written."""
    found = [path for path in lab.path.rglob("*") if path.is_file()]
    assert [p for p in found if "damaged" in p.name or p.name.endswith(".stop")] == []
    assert [p for p in found if p.parent.name == "progress"] == []
    for path in lab.path.glob("*/trials/[!.]*.json"):
        json.loads(path.read_text())


def test_cancel_leaves_a_sound_store(shown, lab):
    trial = start(shown, 5)
    shown.button("Cancel").click()
    expect(shown.status).to_contain_text(
        re.compile(r"Cancelled after \d+ of 55 epochs\. What was finished is kept\.")
    )
    expect(shown.status).to_contain_text("Not measured yet")
    expect(shown.button("Run")).to_be_enabled()
    assert len(lab.table([trial])) == 0
    assert_sound(lab)


def test_a_worker_that_is_killed_is_told_and_the_trial_is_measured(shown, lab):
    trial = start(shown, 40)
    (note,) = pages(lab.run(trial.recipe).path)
    psutil.Process(json.loads(note.read_text().splitlines()[0])["pid"]).kill()
    expect(shown.status).to_contain_text("A worker process died; what it was doing is done again")
    expect(shown.status).to_contain_text("Measured (seed 0).")
    assert lab.table([trial]).status.tolist() == ["ok"]
    assert_sound(lab)


def test_an_interrupted_kernel_goes_on_measuring(shown, lab):
    trial = start(shown, 45)
    shown.page.evaluate(
        "() => void window.jupyterapp.commands.execute('notebook:interrupt-kernel')"
    )
    expect(shown.status).to_contain_text("Measured (seed 0).")
    assert lab.table([trial]).status.tolist() == ["ok"]
    shown.go(46)
    expect(shown.status).to_contain_text("Not measured yet")
    assert_sound(lab)


OPEN = """import granet_lab as gl
lab = gl.Lab("../data/runs")
gl.explore(lab, gl.recipes.digits(), rate=0.9, seed=0, epoch={})"""


def test_two_notebooks_that_press_run_on_the_same_trial(shown, another, lab):
    other = another("other.ipynb", OPEN.format(3))
    other.choose("Learning rate", "remaining")
    expect(other.status).to_contain_text("Not measured yet")
    before = set(lab.path.glob("*/trials/*.json"))
    trial = start(shown, 3)
    other.forget()
    other.button("Run").click()
    for each in (shown, other):
        expect(each.status).to_contain_text("Measured (seed 0).")
    assert any("Being measured by another process" in text for text in other.said())
    assert shown.numbers == other.numbers
    expect(other.button("Cancel")).to_be_disabled()
    (new,) = set(lab.path.glob("*/trials/*.json")) - before
    assert lab.table([trial]).status.tolist() == ["ok"]
    assert new.exists()
    assert_sound(lab)


def test_after_a_restart_the_result_is_there(another, lab):
    shown = another("again.ipynb", OPEN.format(25))
    expect(shown.status).to_contain_text("Not measured yet")
    shown.button("Run").click()
    expect(shown.status).to_contain_text("Measured (seed 0).")
    numbers = shown.numbers
    shown.page.evaluate("() => void window.jupyterapp.commands.execute('notebook:restart-run-all')")
    shown.page.get_by_role("button", name="Confirm Kernel Restart").click()
    shown.box.locator(".granet-overlay svg").wait_for(state="detached")
    shown.box.locator(".granet-overlay svg").wait_for()
    expect(shown.status).to_contain_text("Measured (seed 0).")
    assert shown.numbers == numbers


def test_what_another_process_does_is_watched(another, shown, lab):
    watch = another("watch.ipynb", OPEN.format(30), "gl.watch(lab)")
    table = watch.page.locator(".granet-watch")
    expect(table).to_contain_text("digits, convnet, dense, seed 0")
    start(shown, 4)
    expect(table).to_contain_text("sweep in another process")
    expect(table).to_contain_text(re.compile(r"epoch [1-9]\d* of 56 of another"))
    watch.screenshot("watch-1366x768", table)
    shown.button("Cancel").click()
    expect(watch.page.get_by_text("Nothing is under way.")).to_be_visible()
