"""A disk that is full, and one that may only be read."""

import errno
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sweeping
from sweeping import asked, numbers

import granet_lab as gl

SWEEPING = Path(sweeping.__file__)


class Full:
    """Every so often there is no room: at the opening, in the middle, at the flush, at the end."""

    def __init__(self, seed, share):
        self.random, self.share, self.times = random.Random(seed), share, 0
        self.fsync, self.replace = os.fsync, os.replace

    def _perhaps(self):
        if self.random.random() < self.share:
            self.times += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full_fsync(self, file):
        self._perhaps()
        self.fsync(file)

    def full_replace(self, *paths):
        self._perhaps()
        self.replace(*paths)


@pytest.mark.parametrize("seed", range(4))
def test_a_disk_that_is_full_now_and_then_costs_time_and_nothing_else(
    tmp_path, same, undisturbed, monkeypatch, seed
):
    disk, lab = Full(seed, share=0.1), gl.Lab(tmp_path / "runs", device="cpu")
    refused = []
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", disk.full_fsync)
        patch.setattr(os, "replace", disk.full_replace)
        for _ in range(5):
            try:
                table = lab.measure(asked(), workers=1, progress=False)
            except OSError as error:
                refused.append(str(error))
                continue
            bad = table[table.status != "ok"]
            assert set(bad.status) <= {"failed"}
            assert bad.note.str.contains("No space left on device").all()
            good = numbers(table[table.status == "ok"])
            assert good.equals(undisturbed.loc[good.index])
    assert disk.times > 20
    assert all("cannot write to" in why for why in refused)
    assert not list(lab.path.rglob(".*.tmp"))
    assert same(lab.path)


@pytest.fixture
def mounted(tmp_path):
    """A file system of two megabytes, where a user may make one."""
    path = tmp_path / "small"
    path.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(path)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_disk_that_is_really_full(same, mounted):
    store = mounted / "runs"
    words = [sys.executable, str(SWEEPING), str(store), "2", "None", "None"]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=250, check=False)
    assert ended.returncode == 1
    assert "No space left on device" in ended.stderr
    subprocess.run(["mount", "-o", "remount,size=100m", str(mounted)], check=True)
    assert same(store)


def test_a_store_that_may_only_be_read_is_read_and_says_so_when_asked_for_more(
    tmp_path, undisturbed, mounted
):
    gl.Lab(tmp_path / "runs", device="cpu").measure(asked()[:24], workers=1, progress=False)
    shutil.copytree(tmp_path / "runs", mounted / "runs")
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    before = {p: p.read_bytes() for p in mounted.rglob("*") if p.is_file()}
    lab = gl.Lab(mounted / "runs", device="cpu")
    for found in (lab.measure(asked()[:24], progress=False), lab.table(asked())):
        assert numbers(found).equals(undisturbed[:24])
    with pytest.raises(OSError, match=f"cannot write to {lab.path}: Read-only file system"):
        lab.measure(asked(), workers=1, progress=False)
    assert {p: p.read_bytes() for p in mounted.rglob("*") if p.is_file()} == before


def test_a_store_that_may_only_be_read_is_verified_and_not_changed(run, mounted):
    lab = gl.Lab(mounted / "runs", device="cpu")
    lab.measure(asked()[:2], workers=1, progress=False)
    (damaged, left) = lab.path.glob("*/checkpoints/000[12].safetensors")
    damaged.write_bytes(b"")
    left.rename(left.with_name(f"{left.name}.damaged-01234567"))
    run("export", "lab.tar", "--lab", str(lab.path))
    subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
    code, out, _ = run("verify", "--lab", str(lab.path))
    assert (code, "1 damaged" in out, "1 leftover" in out) == (1, True, True)
    for words in ("verify --repair", "verify --clean", "prune-store --every 4 --yes"):
        code, _, err = run(*words.split(), "--lab", str(lab.path))
        assert (code, len(err.splitlines()), "Errno" in err) == (1, 1, False)
        assert f"{lab.path}" in err
        assert err.endswith(": Read-only file system\n")
    code, _, err = run("import", "lab.tar", "--lab", str(lab.path))
    assert (code, err) == (1, f"granet-lab: cannot write to {lab.path}: Read-only file system\n")
    code, _, err = run("export", str(mounted / "x.tar"), "--lab", str(lab.path))
    assert err == f"granet-lab: cannot write {mounted / 'x.tar'}: Read-only file system\n"
