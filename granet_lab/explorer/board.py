"""The explorer's widgets and where they lie; what they do is wired elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets

from granet_lab.explorer.controls import SeedControls, SettingControls, button
from granet_lab.explorer.scenery import COLOURS, WIDTH

# "Run all epochs" begins with the widest of these steps that gives a dozen points.
_STEPS = (1, 2, 5, 10, 20, 50)
_ROW = {"align_items": "center", "width": "100%"}

STYLE = """<style>
.granet-explorer .widget-dropdown.granet-field > label {text-align: left; height: 18px;
  line-height: 18px; font-size: 11px; color: var(--jp-ui-font-color2, #555)}
.granet-explorer .widget-dropdown.granet-field > select {flex: 0 0 28px; width: 100%}
.granet-explorer .widget-html-content {line-height: 1.45}
.granet-picture {position: relative}
.granet-overlay.widget-html {position: absolute; inset: 0; margin: 0; height: 100%;
  pointer-events: none; will-change: transform}
.granet-overlay .widget-html-content, .granet-overlay svg {width: 100%; height: 100%;
  display: block}
.granet-numbers {border-collapse: collapse; font-size: 12px; font-variant-numeric: tabular-nums}
.granet-numbers th {font-weight: normal; color: var(--jp-ui-font-color2, #555)}
.granet-numbers th, .granet-numbers td {padding: 1px 9px; text-align: right; white-space: nowrap}
.granet-numbers td {border-top: 1px solid var(--jp-border-color2, #ddd)}
.granet-code {display: flex; align-items: baseline; gap: 8px}
.granet-code code {font-size: 11.5px; overflow-wrap: anywhere; white-space: normal}
</style>"""

# The handle of ipywidgets' slider has no name for a screen reader: it gets one once it is there.
_NAME_SLIDER = """<img src="data:," alt="" onerror="const name = (tries) => {
  const handle = this.closest('.granet-explorer')?.querySelector('[role=slider]');
  if (handle) handle.setAttribute('aria-label', 'Prune epoch');
  else if (tries) setTimeout(name, 200, tries - 1);
}; name(100)">"""


class Board:
    """Everything on the screen.

    Args:
        epochs: length of the run.
        epoch: where the slider starts.
        offered: the values of each field, and the seeds.
        start: for A and for B the value that each field starts with.
        seeds: those pressed first.
    """

    def __init__(
        self,
        epochs: int,
        epoch: int,
        offered: Mapping[str, Sequence[Any]],
        start: Mapping[str, Mapping[str, Any]],
        seeds: Sequence[int],
    ) -> None:
        self.slider = widgets.IntSlider(
            value=epoch,
            max=epochs,
            description="Prune epoch",
            tooltip="The epoch after which the network is pruned",
            style={"description_width": "auto"},
            layout={"flex": "1 1 auto", "width": "auto"},
        )
        self.back = button("◂ measured", "Go to the nearest measured epoch before")
        self.forth = button("measured ▸", "Go to the nearest measured epoch after")
        self.controls = {
            name: SettingControls(name, offered, start[name], COLOURS[name]) for name in start
        }
        self.compare = widgets.Checkbox(
            value=False,
            description="Compare with B",
            indent=False,
            tooltip="Show a second setting, and the difference",
            layout={"width": "auto"},
        )
        self.seeds = SeedControls(offered["seed"], seeds)
        self.image = widgets.Image(format="png", layout={"width": "100%", "margin": "0"})
        self.overlay = widgets.HTML()
        self.overlay.add_class("granet-overlay")
        self.status, self.numbers, self.code = (widgets.HTML(layout={"margin": "0"}) for _ in "123")
        self.status.add_class("granet-status")
        self.run = button("Run", "Measure what is not measured here", style="primary")
        self.run_all = button("Run all epochs", "Measure the whole curve")
        steps = [step for step in _STEPS if step <= epochs]
        self.step = widgets.Dropdown(
            options=[("each" if step == 1 else f"every {step}", step) for step in steps],
            value=max(step for step in steps if step <= max(1, epochs // 12)),
            description="Epochs",
            tooltip="Which epochs the whole curve consists of",
            style={"description_width": "auto"},
            layout={"width": "135px"},
        )
        self.cancel = button("Cancel", "Stop measuring; what is finished stays")
        self.bar = widgets.IntProgress(max=1, layout={"flex": "1 1 60px", "min_width": "50px"})
        self.bar.tooltip = "Epochs trained"
        self.bar_text = widgets.Label(layout={"min_width": "100px"})
        self.save = button("Save picture", "Write it as PNG and PDF")
        self.widget = self._lay()

    def observe(self, changed: Callable[[], None]) -> None:
        """Call a function after every change of what is asked."""
        for control in (self.slider, self.compare, self.step):
            control.observe(lambda _: changed(), "value")
        for controls in self.controls.values():
            controls.observe(changed)
        self.seeds.observe(changed)

    def arrange(self, comparing: bool, running: bool, missing: bool, curve: bool) -> None:
        """Show and enable what makes sense now.

        Args:
            comparing: whether there is a B.
            running: whether something is being measured from here.
            missing: whether anything is not measured at this epoch.
            curve: whether anything is not measured on the whole curve.
        """
        self.controls["B"].box.layout.display = "flex" if comparing else "none"
        self.controls["A"].title.layout.display = "flex" if comparing else "none"
        for controls in self.controls.values():
            controls.enable()
        self.run.disabled = running or not missing
        self.run_all.disabled = running or not curve
        self.cancel.disabled = not running
        for part in (self.bar, self.bar_text):
            part.layout.visibility = "visible" if running else "hidden"

    def progress(self, done: int, total: int) -> None:
        """Move the bar."""
        self.bar.max, self.bar.value = max(1, total), done
        self.bar_text.value = f"{done} of {total} epochs"

    def _lay(self) -> widgets.VBox:
        begin = [self.run, self.run_all, self.step, self.cancel]
        board = widgets.VBox(
            [
                widgets.HTML(STYLE + _NAME_SLIDER, layout={"display": "none"}),
                widgets.HBox([self.slider, self.back, self.forth], layout=_ROW),
                self.controls["A"].box,
                self.controls["B"].box,
                widgets.HBox([self.compare, self.seeds.box], layout=_ROW),
                self._lay_picture(),
                widgets.HBox([*begin, self.bar, self.bar_text, self.save], layout=_ROW),
                self.status,
                self.numbers,
                self.code,
            ],
            layout={"width": "100%", "max_width": f"{WIDTH}px", "overflow": "hidden"},
        )
        board.add_class("granet-explorer")
        return board

    def _lay_picture(self) -> widgets.Box:
        picture = widgets.Box([self.image, self.overlay], layout={"overflow": "hidden"})
        picture.add_class("granet-picture")
        return picture
