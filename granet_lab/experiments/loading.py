"""The network of an epoch, for one who asks for the same several times."""

from __future__ import annotations

from collections.abc import Callable

from granet_lab.experiments import files
from granet_lab.experiments.checkpoints import Snapshot
from granet_lab.experiments.store import Run
from granet_lab.training import loop
from granet_lab.training.state import Pulse, TrainState

# A run, an epoch, a device, what is called meanwhile: as Run.load.
Load = Callable[[Run, int, str, Pulse], TrainState]


class Loader:
    """Loads what checkpoints hold, and remembers the last network that had to be trained again as
    there was none: trials that share it come one after the other."""

    def __init__(self) -> None:
        self._whose: tuple[object, ...] = ()
        self._found: Snapshot | None = None

    def load(self, run: Run, epoch: int, device: str, pulse: Pulse = None) -> TrainState:
        """As :meth:`granet_lab.experiments.store.Run.load`.

        Raises:
            Diverged: its training diverges before that epoch.
            RuntimeError: it does so now, and did not when it was trained first.
            ValueError: the run does not have that epoch.
        """
        # Of another training, once there is another history.
        whose = (run.path, files.stamp(run.path / "history.jsonl"), epoch, device)
        if self._found is not None and self._whose == whose:
            images = run.recipe.images(device)
            return self._found.fill(loop.unmasked_state(run.recipe, images))
        kept = run.checkpoint_path(epoch).exists()
        state = run.load(epoch, device, pulse)
        if not kept:
            self._whose, self._found = whose, Snapshot.of(state)
        return state

    def forget(self) -> None:
        """Nobody will ask for it again."""
        self._whose, self._found = (), None
