"""What a person may choose, as widgets: each has a label, and keys move it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets

from granet_lab.explorer.setting import FIELDS, Setting, fitting, settled
from granet_lab.sparsity.naming import EVERY

_TITLES = {
    "rate": "Rate",
    "criterion": "Criterion",
    "scope": "Scope",
    "granularity": "Granularity",
    "regrow": "Regeneration",
    "regrow_scope": "Regenerated over",
    "layers": "Layers",
    "dense": "Left dense",
    "lr": "Learning rate",
    "recovery_epochs": "Recovery epochs",
    "reestimate_batchnorm": "BatchNorm",
    "method": "Trained before",
}
_HINTS = {
    "rate": "Fraction of the current non-zero weights that is pruned",
    "criterion": "Which weights are kept",
    "scope": "Over what the weights are ranked",
    "granularity": "What is pruned as one",
    "regrow": "How as many connections are chosen to come back",
    "regrow_scope": "Each layer gets back what it lost, or all layers together do",
    "layers": "Which layers are pruned",
    "dense": "Which layers are left as they are",
    "lr": "After pruning: frozen where it was, or the remaining schedule to the end of the run",
    "recovery_epochs": "Epochs of training after pruning, for the frozen learning rate",
    "reestimate_batchnorm": "Whether BatchNorm's statistics are measured anew after pruning",
    "method": "How the network was trained before: dense, or sparse in one of several ways",
}


class SettingControls:
    """A drop-down for each field of a setting that there is a choice in.

    Args:
        name: "A" or "B".
        offered: the values of each field.
        start: the value that each field has first.
        colour: of the name.
    """

    def __init__(
        self,
        name: str,
        offered: Mapping[str, Sequence[Any]],
        start: Mapping[str, Any],
        colour: str,
    ) -> None:
        self._offered = offered
        self._fitting = False
        self._fixed = {field: start[field] for field in FIELDS if len(offered[field]) == 1}
        self.fields = {
            field: _dropdown(field, offered[field], start[field], name)
            for field in FIELDS
            if field not in self._fixed
        }
        self.title = widgets.HTML(_title(name, colour))
        self.box = widgets.HBox(
            [self.title, *self.fields.values()],
            layout={"align_items": "flex-end", "width": "100%", "flex_flow": "row wrap"},
        )

    @property
    def setting(self) -> Setting:
        """What is chosen."""
        return Setting.of(self._values())

    def observe(self, changed: Callable[[], None]) -> None:
        """Call a function after every change."""

        def moved(_: Any) -> None:
            if not self._fitting:
                self._fit()
                changed()

        for control in self.fields.values():
            control.observe(moved, "index")

    def enable(self) -> None:
        """Only what is a choice beside the others can be moved."""
        no_choice = settled(self._values())
        for field, control in self.fields.items():
            control.disabled = field in no_choice

    def _values(self) -> dict[str, Any]:
        chosen = {field: self._offered[field][c.index] for field, c in self.fields.items()}
        return {**self._fixed, **chosen}

    def _fit(self) -> None:
        """Show the values that the one just chosen settles."""
        self._fitting = True
        try:
            for field, value in fitting(self._values()).items():
                if field in self.fields:
                    self.fields[field].index = self._offered[field].index(value)
        finally:
            self._fitting = False


class SeedControls:
    """A button for each seed, pressed or not; the last one cannot be let go.

    Args:
        seeds: to choose from.
        start: those pressed first.
    """

    def __init__(self, seeds: Sequence[int], start: Sequence[int]) -> None:
        self.buttons = {
            seed: widgets.ToggleButton(
                value=seed in start,
                description=str(seed),
                tooltip=f"Include seed {seed}",
                layout={"width": "34px", "padding": "0", "margin": "0 2px 0 0"},
            )
            for seed in seeds
        }
        self.box = widgets.HBox(
            [widgets.Label("Seeds", layout={"margin": "0 6px 0 0"}), *self.buttons.values()],
            layout={"align_items": "center", "flex_flow": "row wrap", "margin": "0 0 0 28px"},
        )

    @property
    def seeds(self) -> list[int]:
        """Those chosen, ascending."""
        return [seed for seed, button in self.buttons.items() if button.value]

    def observe(self, changed: Callable[[], None]) -> None:
        """Call a function after every change."""

        def pressed(change: dict[str, Any]) -> None:
            if self.seeds:
                changed()
            else:
                change["owner"].value = True

        for button in self.buttons.values():
            button.observe(pressed, "value")


def button(text: str, hint: str, style: str = "") -> widgets.Button:
    """A push button as wide as its text."""
    return widgets.Button(
        description=text,
        tooltip=hint,
        button_style=style,
        layout={"width": "auto", "flex": "0 0 auto"},
    )


def _dropdown(field: str, values: Sequence[Any], start: Any, name: str) -> widgets.Dropdown:
    made = widgets.Dropdown(
        options=[_text(field, value) for value in values],
        index=values.index(start),
        description=_TITLES[field],
        tooltip=f"{name}: {_HINTS[field]}",
        style={"description_width": "auto"},
        layout={
            "flex_flow": "column",
            "height": "auto",
            "width": "auto",
            "flex": "1 1 0",
            "min_width": "94px",
            "max_width": "170px",
            "align_items": "stretch",
        },
    )
    made.add_class("granet-field")
    return made


def _text(field: str, value: Any) -> str:
    if field == "method":
        return str(value)
    if field in ("regrow", "dense"):
        return value or "none"
    if field == "layers":
        return "all" if value == EVERY else value
    if field == "reestimate_batchnorm":
        return "re-estimated" if value else "as trained"
    return str(value)  # exactly: two values of one name could not be told apart


def _title(name: str, colour: str) -> str:
    return f'<b style="color:{colour};font-size:16px;padding:0 4px">{name}</b>'
