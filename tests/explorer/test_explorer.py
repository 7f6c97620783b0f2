import functools
import re
import shutil
import threading
from dataclasses import replace

import pytest
import waiting
from notes import telling

import granet_lab as gl
from granet_lab.experiments.execution.pools import ThisProcess
from granet_lab.explorer.picture import Picture
from granet_lab.explorer.setting import Setting
from granet_lab.sparsity.criteria import CRITERIA


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A lab in which two settings were measured at three epochs and two seeds."""
    lab = gl.Lab(tmp_path_factory.mktemp("measured") / "runs", device="cpu")
    recipe = gl.recipes.digits(model="mlp", epochs=4, milestones=(2,), train_size=200)
    trials = gl.grid(recipe, epoch=[0, 2, 4], rate=0.5, regrow=[None, "gradient"], seed=[0, 1])
    lab.measure(trials, workers=1, progress=False)
    return lab.path


@pytest.fixture
def explorer(measured, lab, recipe):
    shutil.copytree(measured, lab.path, dirs_exist_ok=True)
    return gl.explore(lab, recipe, rate=0.5, epoch=2)


@pytest.fixture
def here(monkeypatch):
    """Jobs in a thread of this process: without the seconds in which processes load everything."""
    monkeypatch.setattr(
        "granet_lab.explorer.runner.OwnProcesses", lambda workers, device: ThisProcess()
    )
    monkeypatch.setattr("granet_lab.explorer.runner._GLANCE", 0.05)


until = functools.partial(waiting.until, within=30)


def quiet():
    """Wait until nobody follows anything any more."""
    until(lambda: "granet-lab explorer" not in {thread.name for thread in threading.enumerate()})


@pytest.fixture(autouse=True)
def nothing_goes_on_after_a_test():
    yield
    quiet()


def says(explorer, *texts):
    """Wait until the status has all of these texts, without anybody touching anything."""
    until(lambda: all(text in explorer.board.status.value for text in texts))


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


def test_an_empty_lab_is_filled_at_a_press(here, lab, recipe):
    explorer = gl.explore(lab, recipe, rate=0.5, epoch=3)
    background = explorer.board.image.value
    explorer.board.run.click()
    says(explorer, "Measured (seed 0).")
    quiet()  # a picture may stand for a second until the job is over
    assert explorer.table[["epoch", "rate", "status"]].values.tolist() == [[3, 0.5, "ok"]]
    assert f"{explorer.table.acc_after[0]:.2f}" in words(explorer.board.numbers.value)
    assert explorer.board.image.value != background
    assert explorer.board.run.disabled
    assert not explorer.board.run_all.disabled
    assert explorer.board.run_all.description.startswith("Run all epochs (4 trials, ")


def test_the_whole_curve_is_measured_at_a_press(here, explorer):
    explorer.board.step.value = 1
    assert explorer.board.run_all.description.startswith("Run all epochs (4 trials, ")
    explorer.board.run_all.click()
    until(lambda: explorer.board.run_all.description == "All epochs measured")
    assert explorer.board.run_all.disabled
    assert list(explorer.lab.table(explorer.curve).status) == ["ok"] * 10


def test_the_whole_curve_goes_in_steps_and_has_the_last_epoch(lab, recipe):
    explorer = gl.explore(lab, replace(recipe, epochs=5), seed=[0, 1])
    for step, epochs in ((1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 4, 5]), (5, [0, 5])):
        explorer.board.step.value = step
        asked = [(trial.epoch, trial.recipe.seed) for trial in explorer.curve]
        assert asked == [(epoch, seed) for epoch in epochs for seed in (0, 1)]


def test_a_worker_that_fails_is_told_and_may_try_again(here, explorer, define):
    def moody(context):
        raise RuntimeError("not\n<today>")

    define(CRITERIA, moody)
    again = gl.explore(explorer.lab, explorer.recipe, criterion="moody", seed=1)
    again.board.run.click()
    says(again, "Failed: RuntimeError: not &lt;today&gt; (seed 1).")
    quiet()
    assert not again.board.run.disabled
    assert list(again.table.status) == ["failed"]


def test_a_run_in_training_is_told_and_followed(lab, recipe, put_history, put_trial):
    put_history(recipe, [10.0, 20.0])
    explorer = gl.explore(lab, recipe, rate=0.5, epoch=2)
    assert "its run stopped at epoch 1 of 4 (seed 0)" in explorer.board.status.value
    with telling(lab.run(recipe), recipe) as task:
        task.tell(1, 4)
        explorer._show()
        assert "its run is training, epoch 1 of 4 (seed 0)" in explorer.board.status.value
        put_history(recipe, [10.0, 20.0, 30.0])
        says(explorer, "its run is training, epoch 2 of 4 (seed 0)")
        put_trial(explorer.trials[0], curve=[10.0], acc_after=12.34)
        says(explorer, "Measured (seed 0).")
    assert "12.34" in explorer.board.numbers.value


def test_what_is_being_measured_is_followed_with_its_curve(explorer):
    explorer.epoch = 3
    trial = explorer.trials[1]
    with telling(explorer.lab.run(trial.recipe), trial) as task:
        task.tell(0, 1, [{"recovery_epoch": 0, "test_acc": 31.5}])
        explorer._show()
        begun = explorer.board.overlay.value
        said = explorer.board.status.value
        assert "Not measured yet (seed 0); being measured, epoch 0 of 1 (seed 1)." in said
        task.tell(1, 1, [{"test_acc": 31.5}, {"test_acc": 90.0}])
        says(explorer, "being measured, epoch 1 of 1 (seed 1)")
        assert explorer.board.overlay.value != begun
    says(explorer, "Not measured yet (seeds 0, 1).")


def test_measuring_can_be_cancelled_and_that_is_told_once(here, lab, recipe):
    explorer = gl.explore(lab, replace(recipe, epochs=3000), epoch=1)
    board = explorer.board
    assert board.cancel.disabled
    board.run.click()
    says(explorer, "its run is training, epoch ")
    assert board.run.disabled
    assert not board.cancel.disabled
    assert board.bar.layout.visibility == "visible"
    board.cancel.click()
    says(explorer, "Cancelled after ", "What was finished is kept.")
    assert not explorer.runner.running
    until(lambda: board.cancel.disabled)
    assert "its run stopped at epoch " in board.status.value
    explorer.epoch = 2
    assert "Cancelled" not in board.status.value


def test_one_job_at_a_time_even_for_a_click_that_comes_late(here, lab, recipe):
    explorer = gl.explore(lab, replace(recipe, epochs=3000), epoch=1)
    explorer.board.run.click()
    job = explorer.runner.job
    explorer.board.run_all.click()
    assert "a measurement is under way: cancel it or wait" in explorer.board.status.value
    assert explorer.runner.job is job
    explorer.board.cancel.click()
    assert job.wait(30)


def test_jumps_go_to_the_nearest_measured_epoch(explorer):
    board, seen = explorer.board, []
    for press in (board.forth, board.forth, board.back, board.back, board.back, board.forth):
        press.click()
        seen.append((explorer.epoch, "No epoch is measured there." in board.status.value))
    assert seen == [(4, False), (4, True), (2, False), (0, False), (0, True), (2, False)]
    explorer.epoch = 3
    board.back.click()
    assert explorer.epoch == 2


def test_a_saved_picture_is_written_beside_the_lab_and_its_place_is_told(explorer, tmp_path):
    explorer.board.compare.value = True
    explorer.board.save.click()
    folder = tmp_path / "figures" / "explorer"
    a, b = (setting.slug for setting in explorer.settings.values())
    expected = {folder / f"epoch2-{a}-vs-{b}.{kind}" for kind in ("png", "pdf")}
    assert set(folder.iterdir()) == expected
    assert all(str(path) in explorer.board.status.value for path in expected)
    assert (folder / f"epoch2-{a}-vs-{b}.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_cannot_be_saved_is_told(explorer, tmp_path):
    (tmp_path / "figures").write_text("in the way")
    explorer.board.save.click()
    assert "Error: " in explorer.board.status.value
    assert str(tmp_path / "figures") in explorer.board.status.value


def test_seeds_are_taken_in_and_left_out(explorer):
    buttons = explorer.board.seeds.buttons
    assert explorer.seeds == [0, 1]
    buttons[1].value = False
    assert [trial.recipe.seed for trial in explorer.trials] == [0]
    assert "Measured (seed 0)." in explorer.board.status.value
    alone = explorer.lab.table(explorer.trials).plasticity[0]
    assert f"plasticity {alone:+.2f} " in words(explorer.board.numbers.value)
    buttons[2].value = True
    assert "Measured (seed 0); not measured yet, its run is not trained either (seed 2)." in (
        explorer.board.status.value
    )
    assert eval(explorer.code[0], {"gl": gl}) == explorer.trials


def test_the_explorer_starts_where_it_is_told(lab, recipe):
    explorer = gl.explore(
        lab, recipe, rate=[0.7, 0.2], epoch=3, seed=(4, 1), lr="remaining", regrow="random"
    )
    assert (explorer.epoch, explorer.seeds) == (3, [1, 4])
    pruning = gl.Pruning(rate=0.7, regrow="random")
    method = gl.methods.dense()
    expected = Setting(pruning=pruning, lr="remaining", recovery_epochs=1, method=method)
    assert explorer.settings == {"A": expected}
    explorer.board.compare.value = True
    assert explorer.settings["B"] == replace(expected, pruning=gl.Pruning(rate=0.7))


def test_b_starts_as_a_with_connections_that_come_back(explorer):
    explorer.board.compare.value = True
    a, b = explorer.settings.values()
    assert b == replace(a, pruning=replace(a.pruning, regrow="gradient"))


def test_states_that_two_settings_share_are_told_once(explorer):
    explorer.board.compare.value = True
    assert explorer.board.status.value == "A and B: Measured (seeds 0, 1)."
    explorer.board.controls["B"].fields["rate"].index = 0
    assert explorer.board.status.value.startswith(
        "A: Measured (seeds 0, 1).<br>B: Not measured yet (seeds 0, 1). Run: "
    )


def test_what_goes_wrong_is_told_in_the_widget_and_can_be_put_right(explorer):
    path = explorer.lab.run(explorer.recipe).path / "history.jsonl"
    path.rename(path.with_name("aside"))
    path.mkdir()
    explorer.epoch = 4
    assert "IsADirectoryError: " in explorer.board.status.value
    path.rmdir()
    path.with_name("aside").rename(path)
    explorer.epoch = 0
    assert explorer.board.status.value == "Measured (seeds 0, 1)."


def test_an_interrupt_while_a_picture_is_drawn_is_told_and_loses_nothing(explorer, monkeypatch):
    def overlay(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Picture, "overlay", overlay)
        explorer.epoch = 4
    assert "Interrupted. Nothing is lost" in explorer.board.status.value
    explorer.epoch = 0
    assert 'aria-label="epoch 0,' in explorer.board.overlay.value


def test_the_background_is_drawn_only_when_something_in_it_has_changed(explorer, put_trial):
    before = explorer.board.image.value
    drawn = explorer._drawn
    explorer.epoch = 3
    assert explorer._drawn is drawn
    put_trial(explorer.trials[0], curve=[50.0], plasticity=-3.0)
    explorer._show()
    assert explorer.board.image.value != before


def test_while_a_job_runs_the_background_stands_for_a_moment(explorer, put_trial, monkeypatch):
    class Running:
        running, warnings, cancelled, failed = True, (), False, {}

        def progress(self):
            return 3, 20

    explorer.runner.job = Running()
    before = explorer.board.image.value
    explorer.epoch = 3
    put_trial(explorer.trials[0], curve=[50.0], plasticity=-3.0)
    explorer._show()
    assert explorer.board.image.value == before
    assert explorer.board.bar_text.value == "3 of 20 epochs"
    explorer.board.controls["A"].fields["rate"].index = 0
    assert explorer.board.image.value != before
    explorer.board.controls["A"].fields["rate"].value = "0.5"
    before = explorer.board.image.value
    monkeypatch.setattr("granet_lab.explorer.explorer._STAND", 0)
    put_trial(explorer.trials[1], curve=[60.0], plasticity=-4.0)
    explorer._show()
    assert explorer.board.image.value != before


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
