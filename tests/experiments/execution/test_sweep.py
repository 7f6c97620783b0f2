import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import (
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)

import pytest
import torch
from sweeping import RECIPE, asked, numbers

import granet_lab as gl
from granet_lab.datasets import AUGMENTATIONS, DATASETS
from granet_lab.experiments import files, store
from granet_lab.experiments.execution import following, tasks
from granet_lab.experiments.identity import identity
from granet_lab.experiments.trainings import train
from granet_lab.models import MODELS
from granet_lab.sparsity.allocation import SCHEMES
from granet_lab.sparsity.criteria import CRITERIA
from granet_lab.training import loop
from granet_lab.training.state import Diverged

SWEEP = """
import sys, granet_lab as gl
from granet_lab import cli
sys.argv = ["granet-lab", "measure", "--lab", sys.argv[1], "--workers", sys.argv[2],
    "--epoch", "0", "2", "4", "--rate", "0.5", "0.9", "--regrow", "none", "gradient",
    "--seed", "0", "1", "--pretrained-sparsity", "0", "0.8", "--recovery-epochs", "2",
    "--device", "cpu", "--set", "model=mlp", "epochs=4", "milestones=(2,)", "train_size=200"]
if __name__ == "__main__":
    cli.main()
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    lab = gl.Lab(tmp_path_factory.mktemp("undisturbed"), device="cpu")
    return numbers(lab.measure(asked(RECIPE), workers=1, progress=False))


class Refuses(Executor):
    def submit(self, fn, /, *args, **kwargs):
        raise AssertionError("nothing should have been left to do")


def test_one_process_and_two_give_the_same_table_bit_for_bit(lab, recipe, undisturbed):
    table = lab.measure(asked(recipe), workers=2, progress=False)
    assert numbers(table).equals(undisturbed)


def test_any_executor_will_do(lab, recipe, undisturbed):
    with ThreadPoolExecutor(1) as pool:
        table = lab.measure(asked(recipe), executor=pool, progress=False)
    assert numbers(table).equals(undisturbed)


def test_a_second_call_computes_nothing(lab, recipe):
    first = lab.measure(asked(recipe)[:3], workers=1, progress=False)
    again = lab.measure(asked(recipe)[:3], executor=Refuses(), progress=False)
    assert again.equals(first)


def gone(group, within):
    """Whether every process of a group ends in so many seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def start(lab, workers=2):
    return subprocess.Popen(
        [sys.executable, "-c", SWEEP, str(lab.path), str(workers)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A suite that runs in the background may have been told to ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(lab, pattern, count, process):
    while len(list(lab.path.glob(pattern))) < count and process.poll() is None:
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("pattern", "count"),
    [("*/checkpoints/*", 3), ("*/trials/*.json", 1), ("*/trials/*.json", 30)],
    ids=["while training", "at the first trial", "among the trials"],
)
def test_a_sweep_killed_and_run_again_ends_with_the_same_table(
    lab, recipe, undisturbed, pattern, count
):
    sweep = start(lab)
    wait_for(lab, pattern, count, sweep)
    assert sweep.poll() is None, sweep.stderr.read()
    os.killpg(sweep.pid, signal.SIGKILL)
    sweep.wait()
    table = lab.measure(asked(recipe), workers=1, progress=False)
    assert numbers(table).equals(undisturbed)


@pytest.mark.slow
def test_a_sweep_killed_again_and_again_at_random_moments_ends_with_the_same_table(
    lab, recipe, undisturbed
):
    moments = random.Random(0)
    for _ in range(10):
        sweep = start(lab)
        time.sleep(moments.uniform(3, 9))
        if sweep.poll() is None:
            os.killpg(sweep.pid, signal.SIGKILL)
        sweep.wait()
    table = lab.measure(asked(recipe), workers=1, progress=False)
    assert numbers(table).equals(undisturbed)


def test_ctrl_c_says_how_to_go_on_and_leaves_no_process_behind(lab, recipe, undisturbed):
    sweep = start(lab)
    wait_for(lab, "*/trials/*.json", 3, sweep)
    os.killpg(sweep.pid, signal.SIGINT)
    _, errors = sweep.communicate(timeout=30)
    assert sweep.returncode == 130
    assert "goes on from what was finished" in errors
    assert "Traceback" not in errors
    assert gone(sweep.pid, within=20)
    table = lab.measure(asked(recipe), workers=1, progress=False)
    assert numbers(table).equals(undisturbed)


def test_two_sweeps_of_the_same_trials_at_once_lose_nothing(lab, recipe, undisturbed):
    sweeps = [start(lab, workers=1) for _ in range(2)]
    for process in sweeps:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    table = lab.measure(asked(recipe), executor=Refuses(), progress=False)
    assert numbers(table).equals(undisturbed)


def test_what_another_sweep_has_measured_meanwhile_is_not_measured_again(lab, recipe, monkeypatch):
    first, second = asked(recipe)[:2]
    lab.train(recipe, progress=False)

    class Slow(Executor):
        """Begins so late that another sweep has done the second."""

        def submit(self, fn, /, *args, **kwargs):
            if fn is tasks.carry_out and tasks.result(lab.path, second) is None:
                lab.measure([second], workers=1, progress=False)
                monkeypatch.setattr(tasks, "Measurement", only_the_first)
            future = Future()
            future.set_result(fn(*args, **kwargs))
            return future

    measurement = tasks.Measurement

    def only_the_first(run, trial, *args):
        assert trial == first
        return measurement(run, trial, *args)

    assert len(lab.measure([first, second], executor=Slow(), progress=False)) == 2


def test_a_worker_that_dies_is_replaced_and_its_work_done_again(lab, recipe, define, tmp_path):
    flag = tmp_path / "died"

    def deadly(context):
        import os
        import signal

        if not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {name: weight.abs() for name, weight in context.weights().items()}

    define(CRITERIA, deadly)
    trials = gl.grid(recipe, epoch=[1, 2, 3], rate=0.5, criterion="deadly", recovery_epochs=1)
    table = lab.measure(trials, workers=2, progress=False)
    assert flag.exists()
    assert list(table.status) == ["ok"] * 3


def test_work_whose_worker_always_dies_is_given_up_and_the_rest_kept(lab, recipe, define, caplog):
    def lethal(context):
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)

    define(CRITERIA, lethal)
    criterion = ["lethal", "magnitude"]
    trials = gl.grid(recipe, epoch=2, rate=[0.5, 0.9], criterion=criterion, recovery_epochs=1)
    table = lab.measure(trials, workers=2, progress=False)
    assert "2 trials failed: its worker process died 3 times" in caplog.text
    assert list(table[table.criterion == "magnitude"].status) == ["ok", "ok"]
    assert list(table[table.criterion == "lethal"].status) == ["failed", "failed"]


def test_allocations_and_augmentations_of_ones_own_reach_the_workers(lab, recipe, define):
    def fair(shape):
        return 1.0

    def nothing(images, generator):
        return images

    define(SCHEMES, fair)
    define(AUGMENTATIONS, nothing)
    method = gl.methods.static(0.5, scope="fair")
    trials = gl.grid(recipe, epoch=1, rate=0.5, seed=[0, 1], method=method, augment="nothing")
    table = lab.measure(trials, workers=2, progress=False)
    assert list(table.note) == ["", ""]


def test_a_schedule_that_does_not_fit_is_refused_before_anything_is_measured(lab, recipe):
    trials = gl.grid(recipe, epoch=1, rate=0.5, method=gl.methods.rigl(0.5, interval=17))
    for ask in (lab.measure, lab.start):
        with pytest.raises(ValueError, match="interval 17 is longer than the run of 16 steps"):
            ask(trials)
    assert not list(lab.path.glob("*/recipe.json"))


def test_a_run_whose_worker_always_dies_fails_alone(lab, recipe, define, caplog):
    def lethal(input_shape, classes):
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)

    define(MODELS, lethal)
    trials = gl.grid(recipe, epoch=[1, 2], rate=0.5, model=["lethal", "mlp"], recovery_epochs=1)
    table = lab.measure(trials, workers=2, progress=False)
    assert list(table.status) == ["failed", "failed", "ok", "ok"]
    assert set(table.note[:2]) == {"its run could not be trained: its worker process died 3 times"}


def test_an_executor_of_mine_that_breaks_is_an_error_and_nobodys_failure(lab, recipe, define):
    def deadly(context):
        os.kill(os.getpid(), signal.SIGKILL)

    define(CRITERIA, deadly)
    trials = gl.grid(recipe, epoch=1, rate=0.5, criterion=["magnitude", "deadly"])
    with (
        ProcessPoolExecutor(1) as executor,
        pytest.raises(
            RuntimeError,
            match="has broken, as a worker process died, or was shut down: ask",
        ),
    ):
        lab.measure(trials, executor=executor, progress=False, stack=1)
    assert not list(lab.path.glob("*/failures/*"))
    with ProcessPoolExecutor(1) as executor:
        assert (lab.measure(trials[:1], executor=executor, progress=False).status == "ok").all()


def test_a_trial_that_fails_says_why_and_is_tried_again_the_next_time(lab, recipe, define, caplog):
    def moody(context):
        raise RuntimeError("not today")

    define(CRITERIA, moody)
    trials = gl.grid(recipe, epoch=[1, 2], rate=0.5, criterion=["magnitude", "moody"])
    table = lab.measure(trials, workers=1, progress=False)
    assert "2 trials failed: RuntimeError: not today" in caplog.text
    assert list(table.status) == ["ok", "failed", "ok", "failed"]
    assert table.note[1] == "RuntimeError: not today"
    assert table.plasticity.isna().tolist() == [False, True, False, True]

    def moody(context):
        return {name: weight.abs() for name, weight in context.weights().items()}

    define(CRITERIA, moody)
    assert list(lab.measure(trials, workers=1, progress=False).status) == ["ok"] * 4


def test_what_a_notebook_defines_reaches_the_workers(lab, recipe, define):
    def stripes():
        images = torch.zeros(400, 1, 8, 8, dtype=torch.uint8).numpy()
        images[::2, :, ::2] = 255
        return gl.from_arrays(images, images[:, 0, 0, 0] // 255, 50, 50)

    def inverse_magnitude(context):
        return {name: -weight.abs() for name, weight in context.weights().items()}

    define(DATASETS, stripes)
    define(CRITERIA, inverse_magnitude)
    trials = gl.grid(
        recipe,
        dataset="stripes",
        epoch=[1, 2],
        rate=0.5,
        criterion=["magnitude", "inverse_magnitude"],
        recovery_epochs=1,
    )
    table = lab.measure(trials, workers=2, progress=False)
    assert list(table.status) == ["ok"] * 4
    assert (table.acc_before == 100).all()


def test_a_damaged_trial_is_named_set_aside_and_measured_anew(lab, recipe, caplog):
    trials = asked(recipe)[:2]
    before = lab.measure(trials, workers=1, progress=False)
    path = next(lab.path.glob("*/trials/*.json"))
    path.write_text(path.read_text().replace('"epoch": 0', '"epoch": 1'))
    after = lab.measure(trials, workers=1, progress=False)
    assert numbers(after).equals(numbers(before))
    assert str(path) in caplog.text


def test_the_pool_is_not_asked_for_what_cannot_start_yet(lab, recipe):
    order = []

    class Notes(Executor):
        def submit(self, fn, /, *args, **kwargs):
            order.append(fn.__name__)
            future = Future()
            future.set_result(fn(*args, **kwargs))
            return future

    lab.measure(asked(recipe)[:2], executor=Notes(), progress=False)
    assert order == ["carry_out", "room", "carry_out"]
    order.clear()
    lab.measure(asked(recipe)[2:4], executor=Notes(), progress=False, stack=1)
    assert order == ["carry_out", "carry_out"]


def test_what_fails_at_first_is_tried_again_and_the_reason_told(lab, recipe, define, caplog):
    calls = []

    def moody(context):
        calls.append(1)
        if len(calls) < 3:
            raise RuntimeError(f"not at call {len(calls)}")
        return {name: weight.abs() for name, weight in context.weights().items()}

    define(CRITERIA, moody)
    trials = gl.grid(recipe, epoch=1, rate=0.5, criterion=["moody", "magnitude"])
    table = lab.measure(trials, workers=1, progress=False)
    assert list(table.status) == ["ok", "ok"]
    assert table.acc_after[0] == table.acc_after[1]
    for call in (1, 2):
        assert f"is tried again: RuntimeError: not at call {call}" in caplog.text


def test_what_fails_three_times_is_recorded_until_it_succeeds(lab, recipe, define, tmp_path):
    calls = tmp_path / "calls"

    def moody(context):
        with open(calls, "a") as file:
            file.write(".")
        raise RuntimeError("not today")

    define(CRITERIA, moody)
    trials = gl.grid(recipe, epoch=1, rate=[0.5, 0.9], criterion="moody", recovery_epochs=1)
    lab.measure(trials, workers=1, progress=False)
    assert len(calls.read_text()) == 2 * 3
    seen = gl.Lab(lab.path, device="cpu").table(trials)  # somebody else looks into the store
    assert list(seen.status) == ["failed", "failed"]
    assert set(seen.note) == {"RuntimeError: not today"}

    def moody(context):
        return {name: weight.abs() for name, weight in context.weights().items()}

    define(CRITERIA, moody)
    lab.measure(trials[:1], workers=1, progress=False)
    assert list(gl.Lab(lab.path, device="cpu").table(trials).status) == ["ok", "failed"]
    assert len(list(lab.path.glob("*/failures/*.json"))) == 1


def test_the_bar_tells_what_is_cached_running_and_failed(lab, recipe, define, monkeypatch):
    def moody(context):
        raise RuntimeError("not today")

    define(CRITERIA, moody)
    trials = gl.grid(recipe, epoch=1, rate=[0.5, 0.9], criterion=["magnitude", "moody"])
    lab.measure(trials[:1], workers=1, progress=False)
    said = []
    monkeypatch.setattr(following, "GLANCE", 0.0)
    monkeypatch.setattr(
        following.tqdm, "set_postfix_str", lambda bar, text, refresh: said.append((text, bar.n))
    )
    lab.measure(trials, workers=1)
    assert all("1 cached" in text for text, _ in said)
    assert any("1 running" in text for text, _ in said)
    assert "2 failed" in said[-1][0]
    assert "running" not in said[-1][0]


def test_an_executor_that_takes_nothing_is_an_error_in_a_line(lab, recipe):
    class Closed(Executor):
        def submit(self, fn, /, *args, **kwargs):
            raise ValueError("closed for the day")

    with pytest.raises(RuntimeError, match="takes no work: ValueError: closed for the day"):
        lab.measure(asked(recipe)[:1], executor=Closed(), progress=False)


def test_rows_of_several_versions_are_told_apart_and_warned_of(lab, recipe, caplog):
    trials = asked(recipe)[:3]
    first = lab.measure(trials, workers=1, progress=False)
    assert first.version.nunique() == 1
    assert torch.__version__ in first.version[0]
    assert "mixes versions" not in caplog.text
    run = lab.run(trials[0].recipe)
    for trial, name in ((trials[0], "granet_lab 0.0.9, torch 2.0"), (trials[1], None)):
        path = run.trial_path(identity(trial))
        found = files.read_json(path)
        found["row"] |= {"version": name}
        files.write_json(path, found)
    table = lab.measure(trials, executor=Refuses(), progress=False)
    assert list(table.version) == ["granet_lab 0.0.9, torch 2.0", "", first.version[2]]
    for name in ("granet_lab 0.0.9, torch 2.0", "an earlier version", first.version[2]):
        assert f"1 row by {name}" in caplog.text


def test_rows_on_runs_of_another_version_are_told_apart_and_warned_of(lab, recipe, caplog):
    """The run was begun by one version, gone on with by a second, and the trials are of a third."""
    trials, run = asked(recipe)[:3], lab.run(asked(recipe)[0].recipe)
    with pytest.MonkeyPatch.context() as patch:
        for name, epochs in (("the first", 2), ("the second", 5)):
            patch.setattr(store, "version", lambda name=name: name)
            rows = train(run)
            for _ in range(epochs):
                next(rows, None)
            rows.close()
    assert run.history.version.tolist() == ["the first"] * 3 + ["the second"] * 2
    table = lab.measure(trials, workers=1, progress=False)
    assert set(table.trunk_version) == {"the first + the second"}
    assert f"3 rows by {table.version[0]} on runs by the first + the second" in caplog.text
    again = gl.read_table(gl.write_table(table, lab.path / "t.csv"))
    assert again.trunk_version.tolist() == table.trunk_version.tolist()


def test_a_run_that_diverges_on_its_way_back_to_where_it_stood_fails(lab, recipe, monkeypatch):
    run = lab.run(recipe)
    rows = train(run)
    for _ in range(3):
        next(rows)
    rows.close()
    for path in run.path.glob("checkpoints/*"):
        path.unlink()

    def other_numbers(*args, **kwargs):
        raise Diverged(1, float("nan"))

    monkeypatch.setattr(loop, "fit", other_numbers)
    trials = gl.grid(recipe, epoch=4, rate=0.5)
    (row,) = lab.measure(trials, workers=1, progress=False).note
    assert "cannot be brought back to epoch 1: training diverged: the loss of epoch 1" in row
