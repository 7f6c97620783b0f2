import os
import re
from dataclasses import replace

import numpy as np
import pytest
from trees import sow

from granet_lab.datasets.tree import Files, scan


@pytest.fixture
def tree(tmp_path):
    sow(tmp_path, {"train/a": 30, "train/b": 1, "test/a": 4, "test/b": 2})
    return scan(tmp_path)


def test_the_fingerprint_is_16_hexadecimal_digits_and_the_same_each_time(tree):
    assert re.fullmatch("[0-9a-f]{16}", tree.fingerprint())
    assert scan(tree.root).fingerprint(1, contents=True) == tree.fingerprint(1, contents=True)
    assert tree.fingerprint() == tree.fingerprint()


def last_one_moved(tree):
    """The last training image is the first for validation."""
    last, names = len(tree.train) - 1, (tree.train.names[-1], *tree.validation.names)
    labels = np.append(tree.train.labels[-1:], tree.validation.labels)
    return replace(tree, train=tree.train.at(np.arange(last)), validation=Files(names, labels))


def test_the_fingerprint_changes_with_names_labels_splits_and_words(tree):
    a, b = tree.train.names[:2]
    others = [
        tree,
        replace(tree, train=replace(tree.train, names=(b, a, *tree.train.names[2:]))),
        replace(tree, train=replace(tree.train, labels=1 - tree.train.labels)),
        replace(tree, validation=tree.test, test=tree.validation),
        replace(tree, train=tree.train.at(np.arange(5))),
        last_one_moved(tree),
    ]
    found = [other.fingerprint() for other in others]
    found += [tree.fingerprint(word) for word in (1, 2, "1", None)]
    assert len(set(found)) == len(found)


def touch(path):
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


def enlarge(path):
    before = path.stat().st_mtime_ns
    path.write_bytes(b"more")
    os.utime(path, ns=(0, before))


@pytest.mark.parametrize("change", [touch, enlarge])
def test_the_fingerprint_of_the_contents_changes_with_sizes_and_times(tree, change):
    names, contents = tree.fingerprint(), tree.fingerprint(contents=True)
    change(tree.root / tree.test.names[0])
    assert tree.fingerprint() == names
    assert tree.fingerprint(contents=True) != contents


def test_names_of_any_bytes_are_taken(tmp_path):
    sow(tmp_path, {"a": 10})
    (tmp_path / "a" / os.fsdecode(b"caf\xe9.png")).touch()
    (tmp_path / "a" / "two\nlines é.png").touch()
    tree = scan(tmp_path)
    assert sum(map(len, tree.splits())) == 12
    assert tree.fingerprint(contents=True) != replace(tree, test=tree.train).fingerprint()
