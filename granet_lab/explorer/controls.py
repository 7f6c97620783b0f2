"""What a person may choose, as widgets: each has a label, and keys move it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets

from granet_lab.explorer.setting import FIELDS, Setting, method_label

_TITLES = {
    "rate": "Rate",
    "criterion": "Criterion",
    "scope": "Scope",
    "granularity": "Granularity",
    "regrow": "Regeneration",
    "lr": "Learning rate",
    "recovery_epochs": "Recovery epochs",
    "method": "Trained before",
}
_HINTS = {
    "rate": "Fraction of the current non-zero weights that is pruned",
    "criterion": "Which weights are kept",
    "scope": "Over what the weights are ranked",
    "granularity": "What is pruned as one",
    "regrow": "How as many connections are chosen to come back",
    "lr": "After pruning: frozen where it was, or the remaining schedule to the end of the run",
    "recovery_epochs": "Epochs of training after pruning, for the frozen learning rate",
    "method": "How the network was trained before: dense, or sparse from initialisation",
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
        self._fixed = {field: start[field] for field in FIELDS if len(offered[field]) == 1}
        self.fields = {
            field: _dropdown(field, offered[field], start[field], name)
            for field in FIELDS
            if field not in self._fixed
        }
        self.title = widgets.HTML(_title(name, colour))
        self.box = widgets.HBox(
            [self.title, *self.fields.values()], layout={"align_items": "flex-end", "width": "100%"}
        )

    @property
    def setting(self) -> Setting:
        """What is chosen."""
        chosen = {field: self._offered[field][c.index] for field, c in self.fields.items()}
        return Setting.of({**self._fixed, **chosen})

    def observe(self, changed: Callable[[], None]) -> None:
        """Call a function after every change."""
        for control in self.fields.values():
            control.observe(lambda _: changed(), "index")

    def enable(self) -> None:
        """Recovery epochs are a choice only where the learning rate is frozen."""
        if "recovery_epochs" in self.fields:
            self.fields["recovery_epochs"].disabled = self.setting.lr != "frozen"


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
            "min_width": "0",
            "align_items": "stretch",
        },
    )
    made.add_class("granet-field")
    return made


def _text(field: str, value: Any) -> str:
    if field == "method":
        return method_label(value)
    if field == "regrow":
        return value or "none"
    return str(value)  # exactly: two values of one name could not be told apart


def _title(name: str, colour: str) -> str:
    return f'<b style="color:{colour};font-size:16px;padding:0 4px">{name}</b>'
