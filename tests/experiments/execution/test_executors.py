"""What ``lab.measure`` promises, on everything that may do its work."""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace

import cloudpickle
import psutil
import pytest
import waiting
from sweeping import RECIPE, numbers

import granet_lab as gl
from granet_lab.datasets import AUGMENTATIONS
from granet_lab.experiments.execution import clusters, definitions, pools, tasks
from granet_lab.experiments.execution.tasks import Place
from granet_lab.sparsity.criteria import CRITERIA

distributed = pytest.importorskip("distributed")

dask_config = pytest.importorskip("dask.config")
PATIENCE = "distributed.deploy.lost-worker-timeout"

WHERE = ["in this process", "on loky", "on dask"]


@pytest.fixture(scope="module")
def dask():
    """A cluster whose workers are processes."""
    with clusters.local(2) as cluster:
        yield cluster


@pytest.fixture(params=WHERE)
def where(request):
    """What ``lab.measure`` is told."""
    if request.param == "on dask":
        return {"executor": request.getfixturevalue("dask")}
    return {"workers": 1 if request.param == "in this process" else 2}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    lab = gl.Lab(tmp_path_factory.mktemp("undisturbed"), device="cpu")
    return numbers(lab.measure(asked(), workers=1, progress=False))


def asked(**changes):
    return gl.grid(
        replace(RECIPE, **changes),
        epoch=[0, 2, 4],
        rate=[0.5, 0.9],
        regrow=[None, "gradient"],
        seed=[0, 1],
        recovery_epochs=2,
    )


class Refuses(Executor):
    def submit(self, fn, /, *args, **kwargs):
        raise AssertionError("nothing should have been left to do")


def test_the_table_is_the_same_bit_for_bit(lab, where, undisturbed):
    assert numbers(lab.measure(asked(), progress=False, **where)).equals(undisturbed)


def test_a_second_call_computes_nothing(lab, where):
    first = lab.measure(asked()[:6], progress=False, **where)
    again = gl.Lab(lab.path, device="cpu").measure(asked()[:6], Refuses(), progress=False)
    assert again.equals(first)


def test_nothing_is_trained_twice(lab, where, define, tmp_path):
    """Its only block of images is asked for in each epoch of a run and of a recovery, and once as a
    network is masked or pruned."""
    log = tmp_path / "log"

    def counted(images, generator):
        with open(log, "a") as file:
            file.write(".")
        return images

    define(AUGMENTATIONS, counted)
    trials = [trial for trial in asked(augment="counted") if trial.pruning.regrow is None]
    table = lab.measure(trials, progress=False, stack=1, **where)
    assert (table.status == "ok").all()
    training = sum(1 + recipe.epochs for recipe in {trial.recipe for trial in trials})
    assert len(log.read_text()) == training + sum(1 + t.recovery_epochs for t in trials)


def test_what_fails_says_why_and_the_rest_goes_on(lab, where, define):
    def moody(context):
        raise RuntimeError("not today")

    define(CRITERIA, moody)
    trials = gl.grid(asked()[0].recipe, epoch=[1, 2], rate=0.5, criterion=["magnitude", "moody"])
    table = lab.measure(trials, progress=False, **where)
    assert list(table.status) == ["ok", "failed", "ok", "failed"]
    assert table.note[1] == "RuntimeError: not today"


def test_what_a_notebook_defines_travels(lab, where, define):
    def backwards(context):
        return {name: -weight.abs() for name, weight in context.weights().items()}

    define(CRITERIA, backwards)
    trials = gl.grid(asked()[0].recipe, epoch=2, rate=0.5, criterion=["magnitude", "backwards"])
    table = lab.measure(trials, progress=False, **where)
    assert (table.status == "ok").all()
    assert table.acc_pruned[0] != table.acc_pruned[1]


def test_a_lab_may_be_named_from_where_one_is(tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    lab = gl.Lab("runs", device="cpu")
    table = lab.measure(asked()[:2], progress=False, **where)
    assert (table.status == "ok").all()
    assert len(list(tmp_path.glob("runs/*/trials/*.json"))) == 2


def test_a_dead_worker_costs_nothing(lab, where, undisturbed, define, tmp_path):
    if where.get("workers") == 1:
        pytest.skip("that would be this process")
    flag = tmp_path / "died"

    def deadly(images, generator):
        import contextlib
        import os
        import signal

        with contextlib.suppress(FileExistsError):
            os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
            os.kill(os.getpid(), signal.SIGKILL)
        return images

    define(AUGMENTATIONS, deadly)
    table = lab.measure(asked(augment="deadly"), progress=False, **where)
    assert flag.exists()
    answers = [name for name in undisturbed if name not in ("run", "trial")]
    assert table[answers].equals(undisturbed[answers])


def test_a_task_is_a_small_description(lab):
    place = Place(lab.path, "cpu", definitions.own())
    trial = asked()[0]
    assert len(cloudpickle.dumps((tasks.carry_out, place, (trial,), 16, {}, None))) < 4000


# What is true of Dask alone.


def test_what_kills_every_worker_of_dask_fails_alone(lab, recipe, define):
    """Longer than Dask itself waits for a worker, of which each has to be started anew."""

    def lethal(context):
        os.kill(os.getpid(), signal.SIGKILL)

    define(CRITERIA, lethal)
    criterion = ["lethal", "magnitude"]
    rates = [0.3, 0.5, 0.7, 0.9]
    trials = gl.grid(recipe, epoch=2, rate=rates, criterion=criterion, recovery_epochs=1)
    before = dask_config.get(PATIENCE)
    with clusters.local(2) as cluster:
        table = lab.measure(trials, executor=cluster, progress=False)
        assert dask_config.get(PATIENCE) == "1 hour"
    assert dask_config.get(PATIENCE) == before
    status = table.groupby("criterion").status.agg(set).to_dict()
    assert status == {"lethal": {"failed"}, "magnitude": {"ok"}}
    assert set(table.note) == {"its worker process died", ""}


def test_the_dashboard_is_told(lab, dask, capsys, monkeypatch):
    assert dask.dashboard.startswith("http://")
    assert f'href="{dask.dashboard}"' in dask._repr_html_()
    assert dask.dashboard in repr(dask)
    said = []
    monkeypatch.setattr("granet_lab.experiments.lab.tqdm.write", said.append)
    lab.measure(asked()[:1], dask)
    lab.measure(asked()[:1], dask)  # nothing to watch
    assert said == [f"dashboard: {dask.dashboard}"]


def test_a_cluster_that_is_there_already_goes_on_without_us(lab, dask):
    with clusters.at(dask._client.scheduler.address) as guest:
        assert guest.workers == 2
        table = lab.measure(asked()[:2], guest, progress=False)
    assert (table.status == "ok").all()
    assert dask.submit(sum, [1, 2]).result() == 3


def test_an_address_where_nobody_answers_is_an_error():
    with pytest.raises(OSError, match=r"127\.0\.0\.1:9"):
        clusters.at("tcp://127.0.0.1:9", timeout=1)


@pytest.fixture
def others(tmp_path):
    """The scheduler of somebody else's cluster, which has one worker; and its address."""
    told = tmp_path / "scheduler.json"
    words = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard"]
    words += ["--port", "0", "--scheduler-file", str(told)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = subprocess.Popen(words, **quiet)
    words = [sys.executable, "-m", "distributed.cli.dask_worker", "--no-dashboard"]
    words += ["--nthreads", "1", "--scheduler-file", str(told)]
    worker = subprocess.Popen(words, **quiet)
    try:
        yield scheduler, until(lambda: told.exists() and json.loads(told.read_text())["address"])
    finally:
        for process in (worker, scheduler):
            process.kill()
            process.wait()


until = functools.partial(waiting.until, within=120)


def test_a_scheduler_that_dies_is_an_error_in_a_line(lab, others):
    scheduler, address = others
    endless = replace(RECIPE, epochs=100_000, milestones=())
    trials = gl.grid(endless, epoch=1, rate=0.5, seed=[0, 1, 2], recovery_epochs=1)

    def soon():
        until(lambda: list(lab.path.glob("*/history.jsonl")))
        scheduler.kill()

    with clusters.at(address, timeout=3) as cluster, ThreadPoolExecutor(1) as executor:
        killing = executor.submit(soon)
        with pytest.raises(RuntimeError, match=f"takes no work: .*nobody answers at {address} any"):
            lab.measure(trials, cluster, progress=False)
        killing.result()


SCRIPT = """
import sys
import granet_lab as gl
from granet_lab.experiments.execution import clusters

if __name__ == "__main__":
    endless = gl.recipes.digits(model="mlp", epochs=100_000, milestones=(), train_size=200)
    with clusters.local(2) as cluster:
        trials = gl.grid(endless, epoch=1, rate=0.5, seed=[0, 1], recovery_epochs=1)
        gl.Lab(sys.argv[1], device="cpu").measure(trials, cluster, progress=False)
"""


def test_ctrl_c_is_heard_by_who_waits_and_by_nobody_else(tmp_path):
    script, store = tmp_path / "script.py", tmp_path / "runs"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), str(store)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until(lambda: list(store.glob("*/history.jsonl")))
    os.killpg(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert told.count("Traceback") == 1
    assert told.rstrip().endswith("KeyboardInterrupt")
    assert process.returncode == -signal.SIGINT


def test_closing_leaves_no_process_behind():
    before = set(psutil.Process().children(recursive=True))
    with clusters.local(1) as cluster:
        assert cluster.submit(os.getpid).result() != os.getpid()
        during = set(psutil.Process().children(recursive=True)) - before
        assert during
    _, left = psutil.wait_procs([p for p in during if "resource_tracker" not in _line(p)], 10)
    assert not left


def _line(process):
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_each_local_worker_sees_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(clusters.gpus, "several", lambda device: ("7", "9"))

    def seen(seconds):
        time.sleep(seconds)
        return os.environ.get("CUDA_VISIBLE_DEVICES")

    with clusters.local(device="cuda") as cluster:
        assert cluster.workers == 2
        found = {future.result() for future in [cluster.submit(seen, 0.5) for _ in range(4)]}
    assert found == {"7", "9"}
    with pytest.raises(ValueError, match="workers must be at most 2, the GPUs, not 3"):
        clusters.local(3, device="cuda")


@pytest.mark.parametrize("workers", [0, -1, 1.5])
def test_fewer_than_one_worker_is_refused(workers):
    with pytest.raises(ValueError, match="workers"):
        clusters.local(workers)


def test_a_slurm_job_is_one_process_with_a_gpu():
    jobqueue = pytest.importorskip("dask_jobqueue")
    with contextlib.closing(
        jobqueue.SLURMCluster(**clusters._job(1, {"queue": "gpu", "walltime": "01:00:00"}))
    ) as cluster:
        script = cluster.job_script()
    for line in ("--gres=gpu:1", "-p gpu", "-t 01:00:00", "--cpus-per-task=1"):
        assert f"#SBATCH {line}" in script
    assert "--nthreads 1" in script
    assert "--gres" not in str(clusters._job(0, {}))
    for name in ("cores", "processes"):
        with pytest.raises(ValueError, match=f"{name} must be 1, not 4: a job does one task"):
            clusters._job(1, {name: 4})
    told = clusters._job(2, {"job_extra_directives": ["--exclusive"]})
    assert told["job_extra_directives"] == ["--gres=gpu:2", "--exclusive"]
    told = clusters._job(1, {"job_script_prologue": ["module load cuda"]})
    assert told["job_script_prologue"][-1] == "module load cuda"
    assert "export MALLOC_MMAP_THRESHOLD_=33554432" in told["job_script_prologue"]


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Commands of Slurm that do at once, on this machine, what is asked of a cluster."""
    submit = [
        'cp "$1" "$0.$$"',  # the script is taken away at once
        'setsid bash "$0.$$" > "$0.log" 2>&1 &',
        'echo "Submitted batch job $!"',
    ]
    commands = {
        "sbatch": "\n".join(submit),
        "scancel": 'for job; do kill -- "-$job"; done',
    }
    for name, script in commands.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")


def test_jobs_of_slurm_measure_the_same_table(slurm, lab, undisturbed):
    pytest.importorskip("dask_jobqueue")
    with clusters.slurm(jobs=2, gpus=0, memory="2GB") as cluster:
        assert (cluster.workers, cluster.device) == (2, "cpu")
        table = lab.measure(asked(), executor=cluster, progress=False)
        assert cluster.submit(os.getppid).result() != os.getpid()
    assert numbers(table).equals(undisturbed)


def test_where_workers_train_is_theirs_to_say(dask):
    assert pools.device_of(dask, "cpu") == "cpu"
    assert pools.device_of(clusters.Cluster(dask._client, device="cuda"), "cpu") == "cuda"
    assert pools.device_of(None, "cuda:1") == "cuda:1"


def test_workers_ask_the_system_for_memory_as_this_process_does(dask):
    """With Dask's own setting an epoch takes more than half as long again."""
    assert dask.submit(os.environ.get, "MALLOC_TRIM_THRESHOLD_").result() is None
    assert "MALLOC_TRIM_THRESHOLD_" not in os.environ


def test_workers_do_not_look_at_themselves_a_hundred_times_a_second(dask):
    """On two cores that costs an eighth of one."""

    def profiled(dask_worker):
        found = dask_worker.periodic_callbacks
        return {name: found[name].callback_time for name in ("tick", "profile") if name in found}

    assert dask._client.run(profiled) == {
        worker: {"tick": 100} for worker in dask._client.nthreads()
    }


def test_without_dask_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(ImportError, match=r"pip install 'granet_lab\[cluster\]'"):
        clusters.local(1)


def test_a_cluster_that_is_closed_is_an_error_in_a_line(lab):
    recipe = asked()[0].recipe
    lab.train(recipe, progress=False)
    cluster = clusters.local(1)
    cluster.shutdown()
    with pytest.raises(RuntimeError, match="the executor takes no work"):
        lab.measure(gl.grid(recipe, epoch=1, rate=0.5), cluster, progress=False)


def test_interrupted_the_workers_of_a_lent_executor_end_soon(lab, dask, define, monkeypatch):
    def slow(images, generator):
        import time

        time.sleep(0.3)
        return images

    define(AUGMENTATIONS, slow)
    trials = asked(augment="slow")

    from granet_lab.experiments.execution.following import Following

    def interrupted(self):
        if any(lab.path.glob("*/history.jsonl")):
            raise KeyboardInterrupt

    monkeypatch.setattr(Following, "now_and_then", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lab.measure(trials, dask, progress=False)
    # A worker takes the next task when it is done with the last.
    for future in [dask.submit(time.sleep, 0.5) for _ in range(4)]:
        future.result(timeout=60)
    rows = [path.read_text() for path in sorted(lab.path.glob("*/history.jsonl"))]
    assert max(text.count("\n") for text in rows) < 5
    time.sleep(1.5)
    assert rows == [path.read_text() for path in sorted(lab.path.glob("*/history.jsonl"))]
