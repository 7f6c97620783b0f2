"""A training state as one safetensors file: weights, buffers, optimizer, masks, epoch, step."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from granet_lab.experiments import files
from granet_lab.experiments.files import DamagedFile
from granet_lab.sparsity import Masks
from granet_lab.sparsity.tally import Tally
from granet_lab.training.state import TrainState

_MASKS = ("masks", "ever", "born")


@dataclass(frozen=True)
class Snapshot:
    """A state as it was at a moment, in the host's memory.

    Attributes:
        tensors: by name.
        place: epoch and step, in words.
    """

    tensors: dict[str, Tensor]
    place: dict[str, str]

    @classmethod
    def of(cls, state: TrainState) -> Snapshot:
        """Of a state that goes on changing."""
        # Copies, as tied weights share memory and safetensors refuses that.
        tensors = {n: t.detach().cpu().contiguous().clone() for n, t in _tensors(state).items()}
        return cls(tensors, {"epoch": str(state.epoch), "step": str(state.step)})

    def write(self, path: Path) -> None:
        """Write it; the file appears whole or not at all."""
        digest = _digest(self.tensors, self.place)
        files.write(path, save(self.tensors, {**self.place, "sha256": digest}))

    def fits(self, state: TrainState) -> bool:
        """Whether it is of a network like that of a state."""
        target = _tensors(state)
        return target.keys() == self.tensors.keys() and all(
            target[n].shape == t.shape and target[n].dtype == t.dtype
            for n, t in self.tensors.items()
        )

    def fill(self, state: TrainState) -> TrainState:
        """Make a fresh state of the same recipe this one."""
        with torch.no_grad():
            for name, tensor in _tensors(state).items():
                if name.partition("/")[0] not in _MASKS:
                    tensor.copy_(self.tensors[name])
        found = {
            kind: Masks({n: self._mask(f"{kind}/{n}", m.device) for n, m in masks.items()})
            for kind, masks in _all_masks(state).items()
        }
        state.masks = found.pop("masks")
        state.tally = Tally(**found) if found else Tally.begin(state.masks)
        state.epoch, state.step = int(self.place["epoch"]), int(self.place["step"])
        return state

    def _mask(self, name: str, device: torch.device) -> Tensor:
        return self.tensors[name].to(device, copy=True)


def write(path: Path, state: TrainState) -> None:
    """Write a state; the file appears whole or not at all."""
    Snapshot.of(state).write(path)


def read(path: Path, state: TrainState) -> TrainState:
    """Fill a fresh ``state`` of the same recipe with what :func:`write` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: not a safetensors file, its contents do not match its checksum, or it
            belongs to another network. ``state`` is untouched then.
    """
    found = Snapshot(*_verified(path))
    if not found.fits(state):
        raise DamagedFile(path, "its tensors are not those of this network")
    return found.fill(state)


def epoch_of(path: Path) -> int:
    """The epoch of a checkpoint, which is read and checked whole.

    Raises:
        FileNotFoundError: there is no such file.
        DamagedFile: it is not what :func:`write` wrote.
    """
    _, place = _verified(path)
    try:
        return int(place["epoch"])
    except (KeyError, ValueError):
        raise DamagedFile(path, "it does not say of which epoch it is") from None


def size(state: TrainState) -> int:
    """Bytes that a state's tensors take in a file."""
    return sum(t.numel() * t.element_size() for t in _tensors(state).values())


def _tensors(state: TrainState) -> dict[str, Tensor]:
    """Every tensor of the state by a name that tells what it is."""
    return {
        **state.tensors(),
        **{f"rewind/{name}": tensor for name, tensor in state.rewind.items()},
        **{
            f"{kind}/{name}": mask
            for kind, masks in _all_masks(state).items()
            for name, mask in masks.items()
        },
    }


def _all_masks(state: TrainState) -> dict[str, Masks]:
    """The masks, and where a method changes them what it remembers."""
    remembered = {"ever": state.tally.ever, "born": state.tally.born} if state.changing else {}
    return {"masks": state.masks, **remembered}


def _verified(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        # Not mapped into memory: a file that is damaged meanwhile must not reach into the network.
        content = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no checkpoint {path}") from None
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    except (SafetensorError, ValueError) as error:
        raise DamagedFile(path, error) from None
    place = dict(header.get("__metadata__", {}))
    found = place.pop("sha256", None)
    if found != _digest(tensors, place):
        raise DamagedFile(path, "its contents do not match its checksum")
    return tensors, place


def _digest(tensors: dict[str, Tensor], place: dict[str, str]) -> str:
    """SHA-256 over names, types, shapes and bytes, and over the place in the run."""
    digest = hashlib.sha256(repr(sorted(place.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
