"""What the explorer says: states, estimates and numbers, as short HTML."""

from __future__ import annotations

import html
import statistics
from collections.abc import Mapping, Sequence

from granet_lab.experiments import estimate
from granet_lab.experiments.trials import Trial
from granet_lab.explorer.lookup import Answer, Known, Scene
from granet_lab.explorer.setting import Setting

_NOTHING = "-"

# Mean, low, high and number of seeds, if there is anything.
Found = tuple[float, float, float, int] | None


def seeds_text(seeds: Sequence[int]) -> str:
    """ "seed 1", "seeds 0, 2", "seeds 0 to 4"."""
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"seeds {seeds[0]} to {seeds[-1]}"
    return f"seeds {', '.join(map(str, seeds))}"


def state(
    answers: Sequence[Answer], runs: Mapping[int, str | None], failed: Mapping[Trial, str]
) -> str:
    """What is known of one setting at one epoch.

    Args:
        answers: one for each seed.
        runs: for a seed whose run is not finished, how far it is.
        failed: trials that could not be measured, and why.
    """
    groups: dict[str, list[int]] = {}
    for answer in answers:
        seed = answer.trial.recipe.seed
        groups.setdefault(_state(answer, runs.get(seed), failed), []).append(seed)
    said = "; ".join(f"{text} ({seeds_text(seeds)})" for text, seeds in groups.items())
    return f"{said[0].upper()}{said[1:]}."


def _state(answer: Answer, run: str | None, failed: Mapping[Trial, str]) -> str:
    if answer.state == "measured":
        return "measured"
    if answer.state == "diverged":
        return f"diverged: {answer.row['note']}"
    if answer.state == "under way":
        who = "being measured" if answer.note.own else "being measured by another process"
        return f"{who}, epoch {answer.note.done} of {answer.note.of}"
    if answer.trial in failed:
        return f"failed: {failed[answer.trial]}"
    return f"not measured yet, {run}" if run else "not measured yet"


def duration(span: float | None) -> str:
    """An estimate for people."""
    if span is None:
        return "no estimate yet"
    return estimate.about(span)


def numbers(scene: Scene, answers: Mapping[str, Sequence[Answer]], epoch: int) -> str:
    """The small table: a row for each setting, means over seeds, and their difference.

    Args:
        scene: the settings and their lines.
        answers: for each setting's letter what is known at this epoch, one for each seed.
        epoch: of pruning.
    """
    heads = [
        "",
        "seeds",
        "before",
        "pruned",
        "after",
        "unpruned",
        "change",
        "pruned",
        "regenerated",
    ]
    rows = [
        _row(known.name, known.setting, answers[known.name], known.line.at(epoch))
        for known in scene.known
    ]
    if scene.difference is not None:
        rows.append(_difference_row(scene.difference.at(epoch), scene.known))
    over = (
        '<tr><th colspan="2"></th><th colspan="4">test accuracy (%)</th><th></th>'
        '<th colspan="2">sparsity</th></tr>'
    )
    head = "".join(f"<th>{text}</th>" for text in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="granet-numbers"><thead>{over}<tr>{head}</tr></thead>{body}</table>'


def _row(name: str, setting: Setting, answers: Sequence[Answer], found: Found) -> list[str]:
    rows = [answer.row for answer in answers if answer.state == "measured"]
    word = {"plasticity": "plasticity", "final_gap": "final gap"}[setting.measures]
    if not rows:
        return [name, "0", *[_NOTHING] * 4, word, _NOTHING, _NOTHING]

    def mean(column: str, form: str) -> str:
        values = [row[column] for row in rows if row.get(column) is not None]
        return format(statistics.fmean(values), form) if values else _NOTHING

    unpruned = "acc_trunk" if setting.lr == "frozen" else "acc_final_unpruned"
    return [
        name,
        str(len(rows)),
        *(mean(column, ".2f") for column in ("acc_before", "acc_pruned", "acc_after", unpruned)),
        f"{word} {_change(found)}",
        mean("sparsity", ".4f"),
        mean("sparsity_after", ".4f"),
    ]


def _difference_row(found: Found, settings: Sequence[Known]) -> list[str]:
    if len({known.setting.measures for known in settings}) > 1:
        return ["A - B", *[""] * 5, "plasticity and final gap do not compare", "", ""]
    return ["A - B", str(found[3] if found else 0), *[""] * 4, _change(found), "", ""]


def _change(found: Found) -> str:
    """A mean and, from two seeds on, its interval."""
    if found is None:
        return _NOTHING
    mean, low, high, n = found
    return f"{mean:+.2f}" + (f" [{low:+.2f}, {high:+.2f}]" if n > 1 else "")


def code(line: str) -> str:
    """A line of Python with a button that copies it."""
    # A range and execCommand work where the clipboard API does not: a plain http address.
    copy = (
        "const r=document.createRange();r.selectNodeContents(this.nextElementSibling);"
        "const s=getSelection();s.removeAllRanges();s.addRange(r);document.execCommand('copy');"
        "this.textContent='Copied';setTimeout(()=>this.textContent='Copy',1500)"
    )
    return (
        f'<div class="granet-code"><button onclick="{html.escape(copy)}" '
        f'title="Copy this line">Copy</button><code>{html.escape(line)}</code></div>'
    )
