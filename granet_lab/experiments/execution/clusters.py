"""Dask clusters as executors for ``lab.measure``: on this machine, of Slurm, at an address.

Needs the extra ``cluster``: ``pip install 'granet_lab[cluster]'``.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from html import escape
from typing import TYPE_CHECKING, Any

from granet_lab import checks
from granet_lab.experiments.execution import gpus
from granet_lab.wording import counted

if TYPE_CHECKING:
    from distributed import Client


# The sweep itself tries again what a worker died of, and by itself.
_SCHEDULER = {
    "distributed.scheduler.allowed-failures": 0,
    # Nothing waits at a worker, where it would be taken for what the worker died of.
    "distributed.scheduler.worker-saturation": 1.0,
}
# For as long as a cluster lives: one that is not back by then is given up for good, and with its
# own 15 seconds Dask gives up all of them where several die one after the other.
_PATIENCE = {"distributed.deploy.lost-worker-timeout": "1 hour"}
# Seconds between two looks whether the scheduler is back.
_LOOK = 0.1
# What Dask would do otherwise.
_WAYS = _SCHEDULER | {
    # With Dask's own value the tensors of each step are asked of the system and given back to it,
    # and training takes more than half as long again.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
    # Where scheduler and workers share the cores, looking at themselves a hundred times a second
    # costs an eighth of one. Without it the dashboard's page "Profile" is empty.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "100ms",
    "distributed.admin.system-monitor.interval": "2s",
}
# The same in a job, which makes its own settings: as without any, after a while of training.
_JOB_ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": 2**26, "MALLOC_MMAP_THRESHOLD_": 2**25}


class Cluster(Executor):
    """A Dask cluster, used like any other executor.

    ``with`` closes it; one that :func:`at` only connected to goes on without this client.

    Args:
        client: of Dask.
        workers: how many tasks it does at once; None: nobody knows.
        device: a torch device of its workers, on which they train; None: as the lab says.

    Attributes:
        dashboard: where one can watch it, a URL; None without Dask's dashboard.
    """

    def __init__(
        self, client: Client, workers: int | None = None, device: str | None = None
    ) -> None:
        self._closing = contextlib.ExitStack()
        if client.cluster is not None:  # Dask asks for it whenever a worker is lost
            self._closing.enter_context(_needed("dask").config.set(_PATIENCE))
        self.workers, self.device = workers, device
        self._client, self._address = client, client.scheduler.address
        # The same words may mean another answer: a trial that failed is tried again.
        self._executor = client.get_executor(pure=False)

    @property
    def dashboard(self) -> str | None:
        """Where one can watch it."""
        return self._client.dashboard_link or None

    def submit(self, fn: Callable, /, *args: Any, **kwargs: Any) -> Future:
        """Have it done by a worker.

        Raises:
            RuntimeError: the cluster is closed, or nobody answers there any more.
        """
        while self._client.status == "connecting":  # Dask has lost its scheduler and looks for it
            time.sleep(_LOOK)
        if self._client.status not in ("running", "newly-created"):
            raise RuntimeError(
                f"nobody answers at {self._address} any more; with another cluster the same call "
                "goes on from what is measured"
            )
        return self._executor.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Close the client, and the cluster if it was made for it."""
        cluster = self._client.cluster
        try:
            self._executor.shutdown(wait=wait and not cancel_futures)
        finally:
            self._client.close()
            if cluster is not None:
                cluster.close()
            self._closing.close()

    def __repr__(self) -> str:
        many = self.workers is None
        workers = "any number of workers" if many else counted(self.workers, "worker")
        return f"Cluster({workers}, dashboard at {self.dashboard})"

    def _repr_html_(self) -> str:
        link = self.dashboard
        if link is None:
            return escape(repr(self))
        workers = "" if self.workers is None else f" of {counted(self.workers, 'worker')}"
        return f'Cluster{workers}: <a href="{escape(link)}" target="_blank">{escape(link)}</a>'


def local(workers: int | None = None, device: str = "cpu") -> Cluster:
    """Worker processes on this machine.

    Args:
        workers: how many; by default one for each core, or each GPU.
        device: a torch device; on "cuda" each worker sees a GPU of its own.

    Raises:
        ImportError: Dask is not installed.
        ValueError: fewer than one worker, or more than GPUs.
    """
    distributed = _needed("distributed")
    shared = gpus.several(device)
    if workers is None:
        workers = len(shared) or (1 if device != "cpu" else _cores())
    gpus.check_workers(workers, shared)
    from granet_lab.experiments.execution.worker import Ready

    with _needed("dask").config.set(_WAYS):
        cluster = distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            # A worker keeps images and networks on purpose, and is not ended for it.
            memory_limit=0,
            dashboard_address=":0",
            # The sweep says what matters; Dask would warn of every worker that ends slowly.
            silence_logs=logging.CRITICAL,
            # Also for a worker that takes the place of one that died.
            config=_WAYS,
        )
    client = distributed.Client(cluster)
    try:
        client.register_plugin(Ready(secrets.token_hex(4), shared))
    except BaseException:
        client.close()
        cluster.close()
        raise
    return Cluster(client, workers)


def slurm(jobs: int, gpus: int = 1, **how: Any) -> Cluster:
    """Workers that Slurm starts, each a job of its own with one GPU, on which they train whatever
    there is where the lab is.

    Args:
        jobs: how many.
        gpus: of each job; 0: on its processors.
        how: what ``dask_jobqueue.SLURMCluster`` is told besides or otherwise: ``queue``,
            ``account``, ``walltime``, ``memory``, ``job_cpu`` (processors of a job),
            ``job_extra_directives`` ...

    Raises:
        ImportError: dask-jobqueue is not installed.
        ValueError: fewer than one job, or one that would do several tasks at once.
    """
    checks.count("jobs", jobs, minimum=1)
    distributed, jobqueue = _needed("distributed"), _needed("dask_jobqueue")
    with _needed("dask").config.set(_SCHEDULER):
        cluster = jobqueue.SLURMCluster(**_job(gpus, how))
    cluster.scale(jobs=jobs)
    return Cluster(distributed.Client(cluster), jobs, "cuda" if gpus else "cpu")


def _job(gpus: int, how: Mapping[str, Any]) -> dict[str, Any]:
    """What ``SLURMCluster`` is told: a job is one process that does one task at a time."""
    for name in ("cores", "processes"):
        if how.get(name, 1) != 1:
            raise ValueError(f"{name} must be 1, not {how[name]}: a job does one task at a time")
    extra = [f"--gres=gpu:{gpus}"] if checks.count("gpus", gpus) else []
    told = {"cores": 1, "processes": 1, "memory": "16GB", "walltime": "08:00:00", **how}
    exports = [f"export {name}={value}" for name, value in _JOB_ENVIRONMENT.items()]
    return told | {
        "job_extra_directives": [*extra, *told.get("job_extra_directives", [])],
        "job_script_prologue": [*exports, *told.get("job_script_prologue", [])],
    }


def at(address: str, timeout: float = 30, device: str | None = None) -> Cluster:
    """A Dask cluster that is there already.

    Args:
        address: of its scheduler, such as "tcp://10.0.0.1:8786".
        timeout: seconds to wait for an answer, now and when it is lost later.
        device: a torch device of its workers; by default that of the lab.

    Raises:
        ImportError: Dask is not installed.
        OSError: nobody answers there.
    """
    client = _needed("distributed").Client(address, timeout=timeout)
    return Cluster(client, sum(client.nthreads().values()) or None, device)


def _needed(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"a cluster needs {module}: pip install 'granet_lab[cluster]'") from error


def _cores() -> int:
    import loky

    return loky.cpu_count(only_physical_cores=True)
