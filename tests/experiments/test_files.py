import errno
import json
import os
import stat
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from granet_lab.experiments import files
from granet_lab.experiments.files import (
    DamagedFile,
    check_writable,
    read_json,
    set_aside,
    write_json,
)

VALUE = {"epoch": 3, "rate": 1e-07, "name": "größe #1", "regrow": None, "curve": [1.5, -2, {}]}

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A file path that many examples may share."""
    return tmp_path_factory.mktemp("files") / "value.json"


@pytest.fixture
def blocked(tmp_path):
    """A folder that nobody can make, root included: its parent is a regular file."""
    (tmp_path / "file").write_text("in the way")
    return tmp_path / "file" / "folder"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fail(monkeypatch, name, error):
    def failing(*_):
        raise error

    monkeypatch.setattr(files.os, name, failing)


def test_a_file_is_written_and_replaced_whole(tmp_path):
    path = tmp_path / "a.bin"
    for content in (b"first, and longer", b"second"):
        files.write(path, content)
        assert path.read_bytes() == content
    assert names(tmp_path) == ["a.bin"]


def test_folders_on_the_way_are_made(tmp_path):
    files.write(tmp_path / "a" / "b" / "c.bin", b"x")
    assert (tmp_path / "a" / "b" / "c.bin").read_bytes() == b"x"


@pytest.mark.parametrize("name", ["replace", "fsync"])
@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OSError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["full disk", "interrupt"],
)
def test_a_write_that_fails_keeps_the_old_file_and_leaves_nothing_else(
    tmp_path, monkeypatch, name, error, raised
):
    path = tmp_path / "a.bin"
    files.write(path, b"old")
    fail(monkeypatch, name, error)
    with pytest.raises(raised):
        files.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_a_first_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    fail(monkeypatch, "replace", OSError(errno.EIO, "Input/output error"))
    with pytest.raises(OSError, match="Input/output error"):
        files.write(tmp_path / "a.bin", b"new")
    assert names(tmp_path) == []


def test_a_full_disk_is_reported_in_one_line_that_names_the_folder(tmp_path, monkeypatch):
    fail(monkeypatch, "fsync", OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OSError, match="No space left") as error:
        files.write(tmp_path / "a.bin", b"new")
    assert str(error.value) == f"cannot write to {tmp_path}: No space left on device"


@pytest.mark.parametrize("below", ["a.json", "deep/a.json"])
def test_a_folder_that_cannot_be_made_is_named_in_one_line(blocked, below):
    path = blocked / below
    with pytest.raises(OSError, match="cannot write to") as error:
        write_json(path, VALUE)
    assert str(error.value).startswith(f"cannot write to {path.parent}: ")
    assert "\n" not in str(error.value)


def test_the_content_reaches_the_disk_before_the_name(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        order.append("folder" if is_folder else f"{os.fstat(descriptor).st_size} bytes")
        fsync(descriptor)

    def watched_replace(*paths):
        order.append("rename")
        replace(*paths)

    monkeypatch.setattr(files.os, "fsync", watched_fsync)
    monkeypatch.setattr(files.os, "replace", watched_replace)
    files.write(tmp_path / "a.bin", b"12345")
    assert order == ["5 bytes", "rename", "folder"]


def test_a_file_system_that_cannot_flush_folders_is_written_to_all_the_same(tmp_path, monkeypatch):
    fsync = os.fsync

    def files_only(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(files.os, "fsync", files_only)
    files.write(tmp_path / "a.bin", b"x")
    assert (tmp_path / "a.bin").read_bytes() == b"x"


def test_a_reader_never_sees_a_file_half_written(tmp_path):
    path = tmp_path / "a.bin"
    versions = {bytes([65 + i]) * 200_000 for i in range(20)}
    files.write(path, min(versions))
    done, seen = threading.Event(), set()

    def read():
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for content in sorted(versions):
        files.write(path, content)
    done.set()
    reader.join()
    assert seen <= versions


@settings(deadline=None, max_examples=60)
@given(value=st.dictionaries(st.text().filter(lambda key: key != "sha256"), JSON, max_size=4))
def test_what_is_written_is_read_again(place, value):
    write_json(place, value)
    assert repr(read_json(place)) == repr(value)


def test_json_files_are_readable_by_any_json_reader(place):
    write_json(place, VALUE)
    found = json.loads(place.read_text())
    assert {**VALUE, "sha256": found["sha256"]} == found


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_json_does_not_have_is_not_written(tmp_path, number):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"a": number})
    assert names(tmp_path) == []


def test_equal_values_have_one_canonical_text():
    one, other = {"b": 1, "a": [1.0, {"d": 2, "c": 3}]}, {"a": [1.0, {"c": 3, "d": 2}], "b": 1}
    assert files.canonical(one) == files.canonical(other) == b'{"a":[1.0,{"c":3,"d":2}],"b":1}'


def test_a_missing_file_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.json"):
        read_json(tmp_path / "nothing.json")


def test_a_file_cut_off_anywhere_is_damaged(place):
    write_json(place, VALUE)
    whole = place.read_bytes()
    for length in range(len(whole)):
        place.write_bytes(whole[:length])
        with pytest.raises(DamagedFile, match="is damaged"):
            read_json(place)


def assert_damaged_or_the_same(path, content):
    path.write_bytes(content)
    try:
        found = read_json(path)
    except DamagedFile:
        return
    assert repr(found) == repr(VALUE)


def test_any_flipped_bit_is_noticed_unless_the_value_stays_the_same(place):
    write_json(place, VALUE)
    whole = place.read_bytes()
    for position in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[position] ^= 1 << bit
            assert_damaged_or_the_same(place, flipped)


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_any_changed_byte_is_noticed_unless_the_value_stays_the_same(place, data):
    write_json(place, VALUE)
    changed = bytearray(place.read_bytes())
    changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    assert_damaged_or_the_same(place, changed)


def test_a_number_that_became_infinite_is_damage(place):
    write_json(place, VALUE)
    content = place.read_bytes()
    assert content.count(b"1e-07") == 1
    place.write_bytes(content.replace(b"1e-07", b"1e907"))
    with pytest.raises(DamagedFile):
        read_json(place)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"3",
        b'"text"',
        b"[]",
        b"{}",
        b'{"a": 1}',
        b"\xff\xfe\x00",
        b'{"a": NaN, "sha256": ""}',
    ],
    ids=repr,
)
def test_what_was_not_written_here_is_damaged_and_named_in_one_line(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match="is damaged") as error:
        read_json(path)
    assert str(error.value).startswith(f"{path} is damaged: ")
    assert "\n" not in str(error.value)


def test_a_damaged_file_set_aside_keeps_its_content_under_another_name(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"{broken")
    set_aside(DamagedFile(path, "why"), path)
    (aside,) = tmp_path.iterdir()
    assert aside.name.startswith("a.json.damaged-")
    assert aside.read_bytes() == b"{broken"


def test_damaged_files_set_aside_do_not_overwrite_each_other(tmp_path):
    path = tmp_path / "a.json"
    for content in (b"one", b"two"):
        path.write_bytes(content)
        set_aside(DamagedFile(path, "why"), path)
    assert {aside.read_bytes() for aside in tmp_path.iterdir()} == {b"one", b"two"}


def test_setting_aside_warns_with_both_names(tmp_path, caplog):
    path = tmp_path / "a.json"
    path.write_bytes(b"")
    set_aside(DamagedFile(path, "it is empty"), path)
    assert f"{path} is damaged: it is empty" in caplog.text
    assert names(tmp_path)[0] in caplog.text


def test_setting_aside_what_another_process_took_is_no_error(tmp_path):
    path = tmp_path / "a.json"
    set_aside(DamagedFile(path, "why"), path)
    assert names(tmp_path) == []


def test_what_cannot_be_set_aside_stays_and_is_named(tmp_path, monkeypatch, caplog):
    def refused(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    path = tmp_path / "a.json"
    path.write_bytes(b"torn")
    monkeypatch.setattr(os, "replace", refused)
    for _ in range(3):
        set_aside(DamagedFile(path, "it is empty"), path)
    assert path.read_bytes() == b"torn"
    told = f"{path} is damaged: it is empty; it is passed over and not set aside: Read-only"
    assert caplog.text.count(told) == 1


def test_checking_a_folder_leaves_nothing_behind(tmp_path):
    (tmp_path / "mine").write_text("x")
    check_writable(tmp_path)
    assert names(tmp_path) == ["mine"]


def test_checking_a_folder_that_cannot_be_written_names_it_in_one_line(blocked):
    with pytest.raises(OSError, match="cannot write to") as error:
        check_writable(blocked)
    assert str(error.value).startswith(f"cannot write to {blocked}: ")
    assert "\n" not in str(error.value)
