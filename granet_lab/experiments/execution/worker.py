"""What a Dask worker on this machine does first."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import torch
from distributed import Worker, WorkerPlugin

from granet_lab.experiments.execution import gpus


class Ready(WorkerPlugin):
    """One thread where torch is not told how many, and one of its owner's GPUs. Ctrl-C, which
    reaches all processes of a shell, is for the one that waits.

    Args:
        owner: a name for those whose workers share the GPUs.
        shared: these, as CUDA names them; none on a CPU.
    """

    name = "granet_lab"

    def __init__(self, owner: str, shared: Sequence[str]) -> None:
        self._owner, self._shared = owner, shared

    def setup(self, worker: Worker) -> None:
        """Once in each worker process."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        torch.set_num_threads(1)
        if self._shared:
            gpus.take_one(self._owner, self._shared)
