import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

import granet_lab as gl
from granet_lab.experiments.execution.progress import Note
from granet_lab.explorer import words
from granet_lab.explorer.lookup import Answer, Known, Line, Scene
from granet_lab.explorer.setting import Setting

EMPTY = Line([], [], [], [], [])
FROZEN = Setting(
    pruning=gl.Pruning(rate=0.5), lr="frozen", recovery_epochs=1, method=gl.methods.dense()
)
REMAINING = Setting(
    pruning=gl.Pruning(rate=0.5), lr="remaining", recovery_epochs=None, method=gl.methods.dense()
)
ROW = {
    "acc_before": 90.0,
    "acc_pruned": 40.0,
    "acc_after": 88.0,
    "acc_trunk": 91.0,
    "acc_final_unpruned": 95.0,
    "sparsity": 0.5,
    "sparsity_after": 0.25,
}
NOTHING = ["-"] * 4


def answer(recipe, seed=0, state="measured", setting=FROZEN, **known):
    return Answer(setting.trial(recipe, 2, seed), state, **known)


def note(done=1, own=True):
    return Note(done=done, of=6, age=0, alive=True, own=own)


def point(x, mean, low, high, n):
    return Line([x], [mean], [low], [high], [n])


def scene(*lines, settings=(FROZEN, FROZEN), difference=None):
    known = [
        Known(name, setting, (0, 1), EMPTY, line, None)
        for name, setting, line in zip("AB", settings, lines, strict=False)
    ]
    return Scene(known, difference, [])


def cells(html):
    """The text of each cell of a table, row by row."""
    rows = ElementTree.fromstring(html).iter("tr")
    return [[cell.text or "" for cell in row if cell.tag == "td"] for row in rows][2:]


@pytest.mark.parametrize(
    ("seeds", "text"),
    [
        ([1], "seed 1"),
        ([0, 1], "seeds 0, 1"),
        ([0, 2], "seeds 0, 2"),
        ([0, 1, 2], "seeds 0 to 2"),
        ([3, 4, 5, 6], "seeds 3 to 6"),
        ([0, 1, 3], "seeds 0, 1, 3"),
        ([2, 1, 0], "seeds 2, 1, 0"),
    ],
)
def test_seeds_are_counted_up_or_taken_together(seeds, text):
    assert words.seeds_text(seeds) == text


@given(st.lists(st.integers(0, 20), min_size=1, max_size=6, unique=True).map(sorted))
def test_seeds_can_be_read_back(seeds):
    text = words.seeds_text(seeds)
    numbers = [int(number) for number in re.findall(r"\d+", text)]
    assert seeds == (list(range(numbers[0], numbers[1] + 1)) if " to " in text else numbers)


@pytest.mark.parametrize(
    ("state", "known", "sentence"),
    [
        ("measured", {}, "Measured (seed 0)."),
        ("diverged", {"row": {"note": "loss is NaN"}}, "Diverged: loss is NaN (seed 0)."),
        ("under way", {"note": note(2)}, "Being measured, epoch 2 of 6 (seed 0)."),
        (
            "under way",
            {"note": note(0, own=False)},
            "Being measured by another process, epoch 0 of 6 (seed 0).",
        ),
        ("missing", {}, "Not measured yet (seed 0)."),
    ],
)
def test_each_state_has_a_sentence(recipe, state, known, sentence):
    assert words.state([answer(recipe, state=state, **known)], {0: None}, {}) == sentence


def test_what_is_missing_is_told_with_the_state_of_its_run(recipe):
    missing = answer(recipe, state="missing")
    said = words.state([missing], {0: "its run stopped at epoch 1 of 4"}, {})
    assert said == "Not measured yet, its run stopped at epoch 1 of 4 (seed 0)."


def test_the_state_of_a_run_does_not_matter_once_its_trial_is_measured(recipe):
    assert words.state([answer(recipe)], {0: "its run is training"}, {}) == "Measured (seed 0)."


def test_a_failure_is_told_with_its_cause_until_the_trial_is_measured(recipe):
    missing, done = answer(recipe, state="missing"), answer(recipe)
    failed = {missing.trial: "RuntimeError: not today"}
    assert words.state([missing], {}, failed) == "Failed: RuntimeError: not today (seed 0)."
    assert words.state([done], {}, failed) == "Measured (seed 0)."
    assert words.state([answer(recipe, 1, "missing")], {}, failed) == "Not measured yet (seed 1)."
    again = answer(recipe, state="under way", note=note())
    assert words.state([again], {}, failed) == "Being measured, epoch 1 of 6 (seed 0)."


def test_seeds_of_one_state_share_a_sentence_in_the_order_in_which_they_come(recipe):
    states = ["missing", "measured", "missing", "measured", "measured", "measured"]
    known = [answer(recipe, seed, state) for seed, state in enumerate(states)]
    said = words.state(known, {}, {})
    assert said == "Not measured yet (seeds 0, 2); measured (seeds 1, 3, 4, 5)."


def test_only_the_first_letter_is_raised(recipe):
    known = [
        answer(recipe, state="diverged", row={"note": "loss is NaN"}),
        answer(recipe, 1, "missing"),
    ]
    said = words.state(known, {1: "its run is at Epoch 3"}, {})
    assert (
        said == "Diverged: loss is NaN (seed 0); not measured yet, its run is at Epoch 3 (seed 1)."
    )


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (None, "no estimate yet"),
        (0, "no time"),
        (0.5, "under a second"),
        (3.2, "about 3 s"),
        (120, "about 2 min"),
        (7200, "about 2.0 h"),
    ],
)
def test_an_estimate_is_an_estimate(span, text):
    assert words.duration(span) == text


def test_the_numbers_of_one_seed_have_no_interval(recipe):
    html = words.numbers(
        scene(point(2, -2.0, -2.0, -2.0, 1)), {"A": [answer(recipe, row=ROW)]}, epoch=2
    )
    assert cells(html) == [
        ["A", "1", "90.00", "40.00", "88.00", "91.00", "plasticity -2.00", "0.5000", "0.2500"]
    ]


def test_the_numbers_of_several_seeds_are_means_with_an_interval(recipe):
    other = {name: value / 2 for name, value in ROW.items()}
    known = [answer(recipe, row=ROW), answer(recipe, 1, row=other)]
    html = words.numbers(scene(point(2, 0.5, -1.25, 3.0, 2)), {"A": known}, epoch=2)
    change = "plasticity +0.50 [-1.25, +3.00]"
    assert cells(html) == [
        ["A", "2", "67.50", "30.00", "66.00", "68.25", change, "0.3750", "0.1875"]
    ]


def test_the_remaining_schedule_is_compared_with_the_unpruned_end(recipe):
    known = [answer(recipe, setting=REMAINING, row=ROW)]
    shown = scene(point(2, -7.0, -7.0, -7.0, 1), settings=[REMAINING])
    (row,) = cells(words.numbers(shown, {"A": known}, epoch=2))
    assert row[5:7] == ["95.00", "final gap -7.00"]


def test_only_measured_seeds_are_in_the_numbers(recipe):
    known = [
        answer(recipe, row=ROW),
        answer(recipe, 1, "missing"),
        answer(recipe, 2, "diverged", row=ROW | {"acc_before": 10.0}),
    ]
    (row,) = cells(words.numbers(scene(point(2, 1.0, 1.0, 1.0, 1)), {"A": known}, epoch=2))
    assert row[:3] == ["A", "1", "90.00"]


def test_a_number_that_nobody_has_is_a_dash(recipe):
    known = [answer(recipe, row=ROW | {"acc_trunk": None})]
    (row,) = cells(words.numbers(scene(EMPTY), {"A": known}, epoch=2))
    assert row[5:7] == ["-", "plasticity -"]


def test_nothing_at_all_is_a_number_too(recipe):
    known = [answer(recipe, row=ROW), answer(recipe, 1, row=ROW | {"acc_pruned": 0.0})]
    (row,) = cells(words.numbers(scene(EMPTY), {"A": known}, epoch=2))
    assert row[3] == "20.00"


def test_a_number_that_some_seeds_have_is_their_mean(recipe):
    known = [answer(recipe, row=ROW), answer(recipe, 1, row=ROW | {"acc_trunk": None})]
    (row,) = cells(words.numbers(scene(EMPTY), {"A": known}, epoch=2))
    assert (row[1], row[5]) == ("2", "91.00")


@pytest.mark.parametrize(
    ("setting", "word"), [(FROZEN, "plasticity"), (REMAINING, "final gap")], ids=["frozen", "rest"]
)
def test_where_nothing_is_measured_there_are_dashes(recipe, setting, word):
    known = [answer(recipe, state="missing", setting=setting)]
    (row,) = cells(words.numbers(scene(EMPTY, settings=[setting]), {"A": known}, epoch=2))
    assert row == ["A", "0", *NOTHING, word, "-", "-"]


def two(recipe):
    return {"A": [answer(recipe, row=ROW)], "B": [answer(recipe, row=ROW | {"acc_after": 80.0})]}


def test_two_settings_have_a_row_each_and_one_for_their_difference(recipe):
    lines = point(2, -2.0, -2.0, -2.0, 1), point(2, -10.0, -10.0, -10.0, 1)
    compared = scene(*lines, difference=point(2, 8.0, 7.0, 9.0, 3))
    a, b, difference = cells(words.numbers(compared, two(recipe), epoch=2))
    assert (a[0], a[4], a[6]) == ("A", "88.00", "plasticity -2.00")
    assert (b[0], b[4], b[6]) == ("B", "80.00", "plasticity -10.00")
    assert difference == ["A - B", "3", "", "", "", "", "+8.00 [+7.00, +9.00]", "", ""]


def test_the_difference_of_one_pair_has_no_interval_and_that_of_none_is_a_dash(recipe):
    known = two(recipe)
    compared = scene(EMPTY, EMPTY, difference=point(2, 8.0, 8.0, 8.0, 1))
    assert cells(words.numbers(compared, known, epoch=2))[2][6] == "+8.00"
    nothing = cells(words.numbers(compared, known, epoch=3))[2]
    assert nothing == ["A - B", "0", "", "", "", "", "-", "", ""]


def test_plasticity_and_the_final_gap_do_not_compare(recipe):
    compared = scene(EMPTY, EMPTY, settings=[FROZEN, REMAINING], difference=EMPTY)
    row = cells(words.numbers(compared, two(recipe), epoch=2))[2]
    assert row == ["A - B", *[""] * 5, "plasticity and final gap do not compare", "", ""]


def test_a_table_has_as_many_cells_in_every_row(recipe):
    compared = scene(EMPTY, EMPTY, difference=EMPTY)
    table = ElementTree.fromstring(words.numbers(compared, two(recipe), epoch=2))
    widths = [sum(int(cell.get("colspan", 1)) for cell in row) for row in table.iter("tr")]
    assert widths == [9] * 5


class Read(HTMLParser):
    """The attributes of the button, and the text within the code."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.button, self.code = [], {}, ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "button":
            self.button = dict(attributes)

    def handle_data(self, data):
        if self.tags[-1] == "code":
            self.code += data


@given(st.text())
def test_a_line_of_code_is_shown_as_it_is_whatever_is_in_it(line):
    read = Read(words.code(line))
    assert read.tags == ["div", "button", "code"]
    assert read.code == line


def test_code_cannot_become_part_of_the_page():
    assert "<script>" not in words.code("</code><script>alert('x')</script>")


def test_the_button_beside_the_code_copies_what_stands_after_it():
    script = Read(words.code("gl.Trial()")).button["onclick"]
    assert "this.nextElementSibling" in script
    assert "execCommand('copy')" in script
