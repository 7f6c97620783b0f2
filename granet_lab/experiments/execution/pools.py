"""Where work is done: in this process, in processes on this machine, or on a lent executor."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol

import psutil
import torch

from granet_lab.experiments import files
from granet_lab.experiments.execution import gpus
from granet_lab.training.recipe import Recipe

# Seconds for which tasks of a lent executor find the word to stop, once nobody waits for them.
_LONG = 600.0
# Seconds between two looks of a worker process for the one that started it.
_LOOK = 0.5


class Pool(Protocol):
    """Something that opens an executor, and a new one each time the last has broken.

    Attributes:
        workers: how many tasks it does at once; None: nobody knows.
    """

    workers: int | None

    def open(self) -> AbstractContextManager[Executor]:
        """An executor for the length of a block; an exception in the block stops its work."""


class ThisProcess(Executor):
    """Does the work in the thread that waits for it, when its turn comes."""

    workers = 1

    @contextlib.contextmanager
    def open(self) -> Iterator[Executor]:
        """This executor itself."""
        yield self

    def submit(self, fn: Callable, /, *args, **kwargs) -> Future:
        """Do it now; the future that comes back is done."""
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


class Lent:
    """An executor that somebody else made, and goes on using; one of
    :mod:`granet_lab.experiments.execution.clusters` says how many workers it has."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.workers: int | None = getattr(executor, "workers", None)

    @contextlib.contextmanager
    def open(self) -> Iterator[Executor]:
        """The executor as it is."""
        yield self._executor

    def abandon(self, pending: Iterable[Future], stop: Path) -> None:
        """Let tasks end that are under way, and those not begin that wait.

        Args:
            pending: the tasks.
            stop: the file that they look for now and then.
        """
        with contextlib.suppress(OSError):
            files.write(stop, b"", durable=False)
        for future in pending:
            future.cancel()
        # It does not say when they have ended.
        later = threading.Timer(_LONG, stop.unlink, kwargs={"missing_ok": True})
        later.daemon = True
        later.start()


class SharedProcesses:
    """The processes that every sweep of this Python session uses in turn."""

    def __init__(self, workers: int, device: str = "cpu") -> None:
        self.workers, self._device = workers, device

    @contextlib.contextmanager
    def open(self) -> Iterator[Executor]:
        """Processes that stay for the next sweep, unless the block is left by an exception."""
        import loky

        # Each thread of this process has processes of its own.
        owner = f"{os.getpid()}-{threading.get_ident()}"
        pool = loky.get_reusable_executor(self.workers, **_how(owner, self._device))
        try:
            yield pool
        except BaseException:
            # Stop at once: what is under way is not in the store and will start again.
            pool.shutdown(wait=True, kill_workers=True)
            raise


class OwnProcesses:
    """Processes of one owner, kept between its sweeps, which it may kill from another thread."""

    def __init__(self, workers: int, device: str = "cpu") -> None:
        self.workers, self._device = workers, device
        self._pool: Executor | None = None
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def open(self) -> Iterator[Executor]:
        """The processes of the last time, if they are still well."""
        import loky

        with self._lock:
            if not self._well():
                self._pool = loky.ProcessPoolExecutor(
                    self.workers, **_how(secrets.token_hex(4), self._device)
                )
            pool = self._pool
        yield pool

    def kill(self) -> None:
        """End every process at once; work under way is lost."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False, kill_workers=True)

    def _well(self) -> bool:
        try:
            return self._pool is not None and self._pool.submit(int) is not None
        except RuntimeError:  # broken, or shut down
            return False


def arrived(ended: SimpleQueue[Future], patience: float) -> list[Future]:
    """Futures that have put themselves into a queue since the last time.

    Args:
        ended: the queue.
        patience: seconds to wait for the first of them.
    """
    found = []
    with contextlib.suppress(Empty):
        found.append(ended.get(timeout=patience))
        while True:
            found.append(ended.get_nowait())
    return found


def device_of(executor: Executor | None, device: str) -> str:
    """Where an executor's workers train: where it says itself, else where the lab does."""
    return getattr(executor, "device", None) or device


def choose(
    executor: Executor | None, workers: int | None, recipes: Sequence[Recipe], device: str
) -> Pool:
    """The executor if one is given, else as many processes as there is use for.

    Args:
        executor: given, or None.
        workers: how many processes; None: as many as the machine should have.
        recipes: that of each task.
        device: a torch device.

    Raises:
        ValueError: fewer than one worker, or more than GPUs.
    """
    if executor is not None:
        return Lent(executor)
    if workers is None:
        workers = worker_count(recipes, device)
    gpus.check_workers(workers, gpus.several(device))
    return ThisProcess() if min(workers, len(recipes)) <= 1 else SharedProcesses(workers, device)


def worker_count(recipes: Sequence[Recipe], device: str) -> int:
    """How many trainings this machine should do at once: what its cores allow; on GPUs one each."""
    import loky

    if not recipes:
        return 1
    if device != "cpu":
        return max(1, len(gpus.several(device)))
    threads = max(recipe.threads for recipe in recipes)
    return max(1, loky.cpu_count(only_physical_cores=True) // threads)


def _prepare(owner: str, shared: Sequence[str], parent: int) -> None:
    """What a worker process does first.

    It ends with the process that started it, at once and whatever it does; nobody else would miss
    it, and it would sit on its memory, or its GPU, for a minute and a half.

    Ctrl-C reaches the whole process group; the process that waits decides what it means. And where
    torch is not told how many threads to take, it takes one: two processes that both want all cores
    wait for each other.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(1)
    if shared:
        gpus.take_one(owner, shared)


def _end_with(parent: int) -> None:
    # Elsewhere than on Windows a process that lost its parent gets another one.
    while os.getppid() == parent and psutil.pid_exists(parent):
        time.sleep(_LOOK)
    os._exit(1)


def _how(owner: str, device: str) -> dict[str, Any]:
    """How worker processes are: one with nothing to do ends after a minute; one that has grown is
    not exchanged for a new one, which would have to load images and networks again: it keeps them
    on purpose; of several GPUs each has one."""
    return {
        "timeout": 60,
        "initializer": _prepare,
        "initargs": (owner, gpus.several(device), os.getpid()),
        "env": {"LOKY_MAX_MEMORY_LEAK_SIZE": "1e18"},
    }
