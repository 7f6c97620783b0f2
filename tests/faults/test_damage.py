"""Files that are not what was written: never a wrong number, never silent, never a hang."""

import pickle
import random
import shutil

import pytest
from sweeping import asked, numbers

import granet_lab as gl
from granet_lab.upkeep.verification import DAMAGED, verify

# (files, damaged in CI, in the long version) for each kind of file.
KINDS = {"checkpoints/*": (25, 100), "trials/*": (25, 100), "history.jsonl": (10, 40)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    lab = gl.Lab(tmp_path_factory.mktemp("whole"), device="cpu")
    lab.measure(asked(), workers=1, progress=False)
    return lab.path


def emptied(content, random):
    return b""


def cut(content, random):
    """Anywhere but between two lines: a shorter history is a history."""
    place = random.randrange(1, len(content))
    return content[: place - 1 if content[place - 1 : place] == b"\n" else place]


def flipped(content, random):
    place = random.randrange(len(content))
    bit = 1 << random.randrange(8)
    return content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]


def zeroed(content, random):
    """As a file system may leave it after a power cut."""
    place = random.randrange(len(content))
    return content[:place] + bytes(len(content) - place)


DAMAGES = (emptied, cut, flipped, zeroed)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("long", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_damage_is_named_and_what_was_damaged_computed_anew(
    whole, tmp_path, undisturbed, caplog, kind, long
):
    chance = random.Random(f"{kind} {long}")
    store, times = tmp_path / "runs", KINDS[kind][long]
    for number in range(times):
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(whole, store)
        path = chance.choice(sorted(store.glob(f"*/{kind}")))
        before = path.read_bytes()
        after = DAMAGES[number % len(DAMAGES)](before, chance)
        path.write_bytes(after)
        if after == before:
            continue
        caplog.clear()
        found = {one.path for one in verify(store) if one.kind == DAMAGED}
        assert found == {path}, (number, after)
        if kind == "checkpoints/*":  # so that it is needed
            shutil.rmtree(path.parent.parent / "trials")
        table = gl.Lab(store, device="cpu").measure(asked(), workers=1, progress=False)
        assert numbers(table).equals(undisturbed), (number, path)
        if kind != "checkpoints/*" or _needed(path):
            assert str(path) in caplog.text


def _needed(path):
    """Whether trials branch from the checkpoint's epoch."""
    return int(path.stem.partition(".")[0]) in {trial.epoch for trial in asked()}


def test_no_code_in_a_foreign_checkpoint_runs(whole, tmp_path, undisturbed, caplog):
    store, trap = tmp_path / "runs", tmp_path / "sprung"
    shutil.copytree(whole, store)

    class Trap:
        def __reduce__(self):
            return open, (str(trap), "w")

    for path in store.glob("*/checkpoints/*"):
        path.write_bytes(pickle.dumps(Trap()))
    for trials in store.glob("*/trials"):
        shutil.rmtree(trials)
    assert len({one.path for one in verify(store) if one.kind == DAMAGED}) == 4 * 5
    table = gl.Lab(store, device="cpu").measure(asked(), workers=1, progress=False)
    assert numbers(table).equals(undisturbed)
    assert not trap.exists()
