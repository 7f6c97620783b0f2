"""One worker process for each GPU of a machine."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from granet_lab import checks

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def several(device: str) -> tuple[str, ...]:
    """The GPUs that share the work on a device, as CUDA names them; none if it is done in one place
    only: on a CPU, on a GPU that is named by its number, on the only one that there is."""
    if device != "cuda" or os.name != "posix" or torch.cuda.device_count() < 2:
        return ()
    told = os.environ.get(_VISIBLE)
    everyone = [str(i) for i in range(torch.cuda.device_count())]
    return tuple(told.split(",")[: len(everyone)] if told else everyone)


def check_workers(workers: int, shared: Sequence[str]) -> None:
    """Do nothing if there are as many GPUs as workers, or none to be shared.

    Raises:
        ValueError: there are more workers, or fewer than one.
    """
    checks.count("workers", workers, minimum=1)
    if shared and workers > len(shared):
        raise ValueError(f"workers must be at most {len(shared)}, the GPUs, not {workers}")


def take_one(owner: str, gpus: Sequence[str], patience: float = 10.0) -> None:
    """Let this worker process see one GPU, which no other worker of its owner sees.

    It must not have used CUDA yet. The operating system gives the GPU back when the process ends,
    however it ends.

    Args:
        owner: a name for those whose workers share the GPUs.
        gpus: as CUDA names them.
        patience: seconds to wait for a worker that is just ending.

    Raises:
        RuntimeError: there are more workers than GPUs.
    """
    folder = Path(tempfile.gettempdir()) / f"granet_lab-{os.getuid()}-{owner}"
    folder.mkdir(exist_ok=True)
    deadline = time.monotonic() + patience
    while True:
        for number, gpu in enumerate(gpus):
            if _locked(folder / str(number)):
                os.environ[_VISIBLE] = gpu
                return
        if time.monotonic() > deadline:
            raise RuntimeError(f"there are more workers than GPUs: {', '.join(gpus)}")
        time.sleep(0.1)


def _locked(path: Path) -> bool:
    """Whether this process could lock a file, which it then does for as long as it is there."""
    import fcntl  # only where there are several GPUs, and not on Windows

    place = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(place)
        return False
    return True
