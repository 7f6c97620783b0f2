import re

import pytest

import granet_lab as gl


@pytest.fixture
def explorer(lab, recipe):
    lab.measure(
        gl.grid(recipe, epoch=[0, 2, 4], rate=0.5, regrow=[None, "gradient"], seed=[0, 1]),
        workers=1,
        progress=False,
    )
    return gl.explore(lab, recipe, rate=0.5, epoch=2)


def words(html):
    return re.sub(r"<[^>]+>", " ", html)


def test_the_numbers_are_those_of_the_table(explorer):
    table = explorer.table
    assert list(table.seed) == [0, 1]
    shown = words(explorer.board.numbers.value)
    for column in ("acc_before", "acc_pruned", "acc_after"):
        assert f"{table[column].mean():.2f}" in shown
    assert f"plasticity {table.plasticity.mean():+.2f}" in shown


def test_moving_the_slider_changes_picture_and_numbers(explorer):
    before = explorer.board.overlay.value, explorer.board.numbers.value
    explorer.epoch = 4
    assert explorer.board.overlay.value != before[0]
    assert explorer.board.numbers.value != before[1]
    assert set(explorer.table.epoch) == {4}


def test_what_is_not_measured_is_said_and_can_be_run(explorer):
    explorer.epoch = 3
    assert "Not measured yet (seeds 0, 1)" in explorer.board.status.value
    assert not explorer.board.run.disabled
    explorer.board.run.click()
    assert explorer.runner.job.wait(60)
    explorer._show()
    assert "Measured (seeds 0, 1)" in explorer.board.status.value
    assert explorer.board.run.disabled
    assert set(explorer.table.epoch) == {3}


def test_the_line_of_code_makes_the_trials(explorer):
    explorer.board.compare.value = True
    made = [trial for line in explorer.code for trial in eval(line, {"gl": gl})]
    assert made == explorer.trials
    assert len(made) == 4


def test_the_difference_is_paired_by_seed(explorer):
    explorer.board.compare.value = True
    a, b = explorer.table[:2].plasticity, explorer.table[2:].plasticity
    expected = sum(x - y for x, y in zip(a, b, strict=True)) / 2
    assert f"{expected:+.2f}" in words(explorer.board.numbers.value)


def test_an_empty_lab_says_so(lab, recipe):
    explorer = gl.explore(lab, recipe)
    assert "its run is not trained either" in explorer.board.status.value
    assert "no estimate yet" in explorer.board.status.value
    assert explorer.table.empty


def test_a_damaged_trial_is_named_and_can_be_measured_again(explorer, lab, recipe):
    path = next(lab.path.glob("*/trials/*.json"))
    path.write_text("{")
    again = gl.explore(lab, recipe, rate=0.5)
    assert path.name in again.board.status.value


def test_bad_values_are_refused_in_one_line(lab, recipe):
    with pytest.raises(ValueError, match="unknown field 'rat'"):
        gl.explore(lab, recipe, rat=0.5)
    with pytest.raises(ValueError, match="epoch 9 is not in this run"):
        gl.explore(lab, recipe, epoch=9)


def test_a_page_without_a_kernel_gets_a_still_picture(explorer):
    bundle = explorer._repr_mimebundle_()
    assert {"image/png", "text/plain", "application/vnd.jupyter.widget-view+json"} <= bundle.keys()


def test_watch_shows_every_run(explorer, lab):
    watch = gl.watch(lab)
    watch.close()
    shown = words(watch.widget.value)
    assert shown.count("trained") == 2
    assert "Nothing is under way" in shown
