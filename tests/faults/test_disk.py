"""A disk that is full, and one that may only be read."""

import errno
import io
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import sweeping
from sweeping import asked, numbers

import granet_lab as gl
from granet_lab.experiments import files
from granet_lab.experiments.identity import identity

SWEEPING = Path(sweeping.__file__)
KINDS = {"checkpoints", "trials", "history"}


class Full:
    """Every so often there is no room: at the opening, in the middle of writing, at the flush, at
    the renaming; surely in the middle of the first file of each kind.

    Attributes:
        times: how often, by when it was.
        halves: the kinds of files of which half was written.
    """

    def __init__(self, seed, share):
        self.random, self.share = random.Random(seed), share
        self.times, self.halves = Counter(), set()

    def install(self, patch):
        patch.setattr(files, "open", self._open, raising=False)
        for name in ("fsync", "replace"):
            patch.setattr(os, name, self._perhaps_not(name, getattr(os, name)))

    def perhaps(self, when, surely=False):
        if surely or self.random.random() < self.share:
            self.times[when] += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _open(self, path, mode):
        self.perhaps("open")
        return Narrow(path, self)

    def _perhaps_not(self, name, do):
        def perhaps(*args):
            self.perhaps(name)
            do(*args)

        return perhaps


class Narrow(io.FileIO):
    """A file for which there may be room for half."""

    def __init__(self, path, disk):
        super().__init__(path, "w")
        self._path, self._disk = path, disk

    def write(self, content):
        kind = kind_of(self._path)
        try:
            self._disk.perhaps("write", surely=kind in KINDS - self._disk.halves)
        except OSError:
            super().write(content[: len(content) // 2])
            assert self._path.stat().st_size == len(content) // 2
            self._disk.halves.add(kind)
            raise
        return super().write(content)


def kind_of(path):
    kinds = (kind for kind in KINDS if kind in f"{path.parent.name} {path.name}")
    return next(kinds, "others")


@pytest.mark.parametrize("seed", range(4))
def test_a_disk_that_is_full_now_and_then_costs_time_and_nothing_else(
    tmp_path, same, undisturbed, monkeypatch, seed
):
    disk, lab = Full(seed, share=0.05), gl.Lab(tmp_path / "runs", device="cpu")
    refused, calls = [], 0
    with monkeypatch.context() as patch:
        disk.install(patch)
        while calls < 5 or disk.times.total() < 20:
            calls += 1
            try:
                table = lab.measure(asked(), workers=1, progress=False)
            except OSError as error:
                refused.append(str(error))
                continue
            bad = table[table.status != "ok"]
            assert set(bad.status) <= {"failed"}
            assert bad.note.str.contains("No space left on device").all()
            good = numbers(table[table.status == "ok"])
            assert good.empty or good.equals(undisturbed.loc[good.index])
    assert disk.times.keys() == {"open", "write", "fsync", "replace"}
    assert disk.halves >= KINDS
    assert all("cannot write to" in why for why in refused)
    assert not list(lab.path.rglob(".*.tmp"))
    assert same(lab.path)


# Makes a file system of two megabytes, and changes it for every line that it is told.
MOUNT = """mount -t tmpfs -o size=2m tmpfs "$0" && echo done
while read how; do mount -o "remount,$how" "$0" && echo done; done"""


class Small:
    """A file system of two megabytes that none but this process sees, nor needs to be taken away.

    Args:
        path: an empty folder.
        own: what to be, as ``unshare`` names it: root as one is, or in one's own eyes.

    Raises:
        OSError: it cannot be made, and why.
    """

    def __init__(self, path, own):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        words = ["unshare", own, "sh", "-c", MOUNT, str(path)]
        self._shell = subprocess.Popen(words, **pipes, text=True)
        self._listen()
        self.path = Path(f"/proc/{self._shell.pid}/root{path}")

    def become(self, how):
        """Change it, see the options of ``mount``."""
        self._shell.stdin.write(f"{how}\n")
        self._shell.stdin.flush()
        self._listen()

    def _listen(self):
        said = self._shell.stdout.readline()
        if said != "done\n":
            self.close()
            raise OSError(said.strip())

    def close(self):
        self._shell.communicate()


@pytest.fixture
def small(tmp_path):
    """A file system of two megabytes, wherever a user may make one."""
    path, why = tmp_path / "small", []
    path.mkdir()
    for own in ("-m", "-rm"):
        try:
            made = Small(path, own)
        except OSError as error:
            why.append(str(error))
            continue
        yield made
        made.close()
        return
    pytest.skip(f"no file system can be mounted here: {'; '.join(why)}")


def test_a_disk_that_is_really_full(same, small):
    store = small.path / "runs"
    words = [sys.executable, str(SWEEPING), str(store), "2", "None", "None", "loky"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=250, check=False)
    assert ended.returncode == 1
    assert "No space left on device" in ended.stderr
    small.become("size=100m")
    assert same(store)


def only_read(lab, undisturbed, why):
    """A store with half of the table is read and nothing else, though more is asked of it."""
    before = {p: p.read_bytes() for p in lab.path.rglob("*") if p.is_file()}
    for found in (lab.measure(asked()[:24], progress=False), lab.table(asked())):
        assert numbers(found).equals(undisturbed[:24])
    with pytest.raises(OSError, match=f"cannot write to {lab.path}: {why}"):
        lab.measure(asked(), workers=1, progress=False)
    assert {p: p.read_bytes() for p in lab.path.rglob("*") if p.is_file()} == before


@pytest.fixture
def half(tmp_path):
    """A store with half of the table."""
    lab = gl.Lab(tmp_path / "runs", device="cpu")
    lab.measure(asked()[:24], workers=1, progress=False)
    return lab


def test_a_store_on_a_disk_that_may_only_be_read(half, undisturbed, small):
    shutil.copytree(half.path, small.path / "runs")
    small.become("ro")
    only_read(gl.Lab(small.path / "runs", device="cpu"), undisturbed, "Read-only file system")


def test_a_store_where_this_user_may_write_nothing(half, undisturbed):
    folders = [half.path, *(path for path in half.path.rglob("*") if path.is_dir())]
    for folder in folders:
        folder.chmod(0o555)
    if os.access(half.path, os.W_OK):
        pytest.skip("this user, root perhaps, may write into any folder")
    only_read(gl.Lab(half.path, device="cpu"), undisturbed, "Permission denied")
    for folder in folders:
        folder.chmod(0o755)


def test_one_damaged_file_in_such_a_store_is_named_and_the_rest_is_read(
    half, undisturbed, small, caplog
):
    shutil.copytree(half.path, small.path / "runs")
    lab = gl.Lab(small.path / "runs", device="cpu")
    trial = lab.run(asked()[0].recipe).trial_path(identity(asked()[0]))
    for path in (trial, *lab.path.glob("*/history.jsonl")):
        path.write_bytes(path.read_bytes()[:-20])
    small.become("ro")
    for _ in range(2):
        table = lab.table(asked()[:24])
        assert numbers(table).equals(undisturbed[1:24].reset_index(drop=True))
    assert "is damaged" in caplog.text
    assert "not set aside: Read-only file system" in caplog.text


def test_a_store_that_may_only_be_read_is_verified_and_not_changed(run, small):
    lab = gl.Lab(small.path / "runs", device="cpu")
    lab.measure(asked()[:2], workers=1, progress=False)
    run("export", "lab.tar", "--lab", str(lab.path))
    (damaged, left) = lab.path.glob("*/checkpoints/000[12].safetensors")
    damaged.write_bytes(b"")
    left.rename(left.with_name(f"{left.name}.damaged-01234567"))
    small.become("ro")
    code, out, _ = run("verify", "--lab", str(lab.path))
    assert (code, "1 damaged" in out, "1 leftover" in out) == (1, True, True)
    for words in ("verify --repair", "verify --clean", "prune-store --every 4 --yes"):
        code, _, err = run(*words.split(), "--lab", str(lab.path))
        assert (code, len(err.splitlines()), "Errno" in err) == (1, 1, False)
        assert f"{lab.path}" in err
        assert err.endswith(": Read-only file system\n")
    code, _, err = run("import", "lab.tar", "--lab", str(lab.path))
    assert (code, err) == (1, f"granet-lab: cannot write to {lab.path}: Read-only file system\n")
    code, _, err = run(
        *("export", str(small.path / "x.tar"), "--no-checkpoints", "--lab", str(lab.path))
    )
    assert err == f"granet-lab: cannot write {small.path / 'x.tar'}: Read-only file system\n"
