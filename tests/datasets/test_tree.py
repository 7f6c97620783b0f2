import os
import re
from pathlib import Path

import numpy as np
import pytest
from trees import sow

from granet_lab.datasets.tree import scan

# Folders and how many files they have, the sizes of the splits, and where the test split lies.
LAYOUTS = {
    "train, test": ({"train": 20, "test": 5}, (36, 4, 10), "test"),
    "train, val": ({"train": 20, "val": 5}, (36, 4, 10), "val"),
    "train, validation": ({"train": 20, "validation": 5}, (36, 4, 10), "validation"),
    "train, val, test": ({"train": 20, "val": 3, "test": 5}, (40, 6, 10), "test"),
    "train, valid, test": ({"train": 20, "valid": 3, "test": 5}, (40, 6, 10), "test"),
    "train, validation, test": ({"train": 20, "validation": 3, "test": 5}, (40, 6, 10), "test"),
    "classes alone": ({".": 20}, (32, 4, 4), None),
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


@pytest.fixture
def grow(tmp_path):
    """Makes a tree of a layout with two classes; the names of its files come back."""

    def grow(layout, root=tmp_path):
        folders, _, _ = LAYOUTS[layout]
        counts = {f"{folder}/{name}": n for folder, n in folders.items() for name in ("dog", "cat")}
        return [os.path.normpath(name) for name in sow(root, counts)]

    return grow


def names_of(tree):
    return [name for files in tree.splits() for name in files.names]


@every_layout
def test_the_splits_of_a_layout_have_their_sizes(tmp_path, grow, layout):
    grow(layout)
    assert tuple(map(len, scan(tmp_path).splits())) == LAYOUTS[layout][1]


@every_layout
def test_no_file_is_lost_or_repeated(tmp_path, grow, layout):
    names = grow(layout)
    assert sorted(names_of(scan(tmp_path))) == sorted(names)


@every_layout
def test_a_split_that_has_a_folder_is_that_folder_and_no_other(tmp_path, grow, layout):
    grow(layout)
    tree, (folders, _, test) = scan(tmp_path), LAYOUTS[layout]
    found = [{name.split("/")[0] for name in files.names} for files in tree.splits()]
    (validation,) = folders.keys() - {"train", test} or {"train"}
    assert found == ([{"train"}, {validation}, {test}] if test else [{"cat", "dog"}] * 3)


@every_layout
def test_the_label_of_a_file_is_the_place_of_its_class_in_alphabetical_order(
    tmp_path, grow, layout
):
    grow(layout)
    tree = scan(tmp_path)
    assert tree.classes == ("cat", "dog")
    for files in tree.splits():
        assert files.labels.dtype == np.int64
        found = [tree.classes[label] for label in files.labels]
        assert found == [name.split("/")[-2] for name in files.names]


def listed_otherwise(monkeypatch):
    """From now on folders are listed the other way round."""
    walk, iterdir = os.walk, Path.iterdir

    def reverse(folder, **how):
        for where, folders, names in walk(folder, **how):
            yield where, folders[::-1], names[::-1]

    monkeypatch.setattr(os, "walk", reverse)
    monkeypatch.setattr(Path, "iterdir", lambda self: reversed(list(iterdir(self))))


@every_layout
def test_the_order_is_the_same_however_the_system_lists_the_files(
    tmp_path, grow, monkeypatch, layout
):
    grow(layout)
    one = scan(tmp_path)
    listed_otherwise(monkeypatch)
    other = scan(tmp_path)
    assert (one.classes, names_of(one)) == (other.classes, names_of(other))


@every_layout
def test_another_seed_gives_another_order(tmp_path, grow, layout):
    grow(layout)
    assert scan(tmp_path, seed=1).train.names != scan(tmp_path, seed=2).train.names


@pytest.mark.parametrize(
    ("counts", "small"), [((10,), 1), ((19,), 1), ((4, 16), 2), ((99, 2, 8), 10)], ids=str
)
@pytest.mark.parametrize("parts", [2, 3])
def test_a_tenth_of_the_images_rounded_down_is_taken_for_a_split_without_a_folder(
    tmp_path, counts, small, parts
):
    folders = {f"{'train/' if parts == 2 else ''}{i}": n for i, n in enumerate(counts)}
    sow(tmp_path, folders)
    if parts == 2:
        sow(tmp_path, {f"test/{i}": 1 for i in range(len(counts))})
    tree = scan(tmp_path)
    assert len(tree.train) == sum(counts) - (parts - 1) * small
    assert len(tree.validation) == small
    assert len(tree.test) == (len(counts) if parts == 2 else small)


def test_the_first_images_are_a_sample_of_all_classes(tmp_path):
    sow(tmp_path, {f"train/{c}": 200 for c in "abcd"} | {f"test/{c}": 1 for c in "abcd"})
    first = scan(tmp_path).train.labels[:100]
    assert np.bincount(first, minlength=4).min() > 10


def test_files_deeper_down_belong_to_their_class(tmp_path):
    sow(tmp_path, {"cat": 9, "cat/more": 3, "cat/more/dog": 2, "dog": 9})
    tree = scan(tmp_path)
    found = np.concatenate([files.labels for files in tree.splits()])
    labels = dict(zip(names_of(tree), found, strict=True))
    assert len(labels) == 23
    assert labels["cat/more/dog/1.png"] == labels["cat/more/2.png"] == labels["cat/0.png"] == 0


def test_a_class_may_be_a_link_to_a_folder_elsewhere(tmp_path):
    sow(tmp_path, {"elsewhere": 10, "tree/cat": 10})
    (tmp_path / "tree" / "dog").symlink_to(tmp_path / "elsewhere")
    assert len(names_of(scan(tmp_path / "tree"))) == 20


HIDDEN = [".DS_Store", "cat/.DS_Store", "cat/.thumbs/0.png", ".git/0.png", "readme.txt"]


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("under", ["train/", "test/", ""])
def test_hidden_files_and_what_lies_beside_the_classes_are_not_looked_at(tmp_path, name, under):
    folders = ["train/", "test/"] if under else [""]
    names = sow(tmp_path, {f"{folder}{c}": 10 for folder in folders for c in ("cat", "dog")})
    stray = tmp_path / under / name
    stray.parent.mkdir(exist_ok=True)
    stray.touch()
    assert sorted(names_of(scan(tmp_path))) == sorted(names)


ERRORS = {
    "nothing at all": ({}, "{root} has no folders: each class needs one"),
    "files alone": ({".": 3}, "{root} has no folders: each class needs one"),
    "an empty train": ({"train": 0, "test/a": 5}, "{root}/train has no folders"),
    "an empty test": ({"train/a": 20, "test": 0}, "{root}/test has no folders"),
    "train alone": ({"train/a": 20}, "{root} has a folder train, but none of test, val"),
    "an empty class": ({"a": 20, "b": 0}, "the class {root}/b is empty"),
    "an empty class in train": (
        {"train/a": 20, "train/b": 0, "test/a": 1, "test/b": 1},
        "the class {root}/train/b is empty",
    ),
    "an empty class in val": (
        {"train/a": 20, "train/b": 9, "val/a": 1, "val/b": 0},
        "the class {root}/val/b is empty",
    ),
    "a class in train alone": (
        {"train/a": 20, "train/b": 9, "test/a": 1},
        "{root}/train and {root}/test must have the same classes: b is in one alone",
    ),
    "a class in test alone": (
        {"train/a": 20, "test/a": 1, "test/c": 1},
        "{root}/train and {root}/test must have the same classes: c is in one alone",
    ),
    "a class that validation has not": (
        {"train/a": 20, "train/b": 9, "val/a": 1, "test/a": 1, "test/b": 1},
        "{root}/train and {root}/val must have the same classes: b is in one alone",
    ),
    "too few to share out": ({"a": 4, "b": 5}, "{root} has 9 images: 10 are the least"),
    "too few to take validation from": (
        {"train/a": 9, "test/a": 1},
        "{root}/train has 9 images: 10 are the least to share out",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_is_no_tree_of_images_is_refused_in_one_line_that_names_the_culprit(tmp_path, case):
    counts, message = ERRORS[case]
    for folder in counts:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    sow(tmp_path, counts)
    with pytest.raises(ValueError, match="^" + re.escape(message.format(root=tmp_path))) as error:
        scan(tmp_path)
    assert "\n" not in str(error.value)


@pytest.fixture
def tree(tmp_path):
    sow(tmp_path, {"train/a": 30, "train/b": 1, "test/a": 4, "test/b": 2})
    return scan(tmp_path)


def test_leaving_files_out_keeps_the_order_and_labels_of_the_others(tree):
    bad = {tree.train.names[3], tree.test.names[0]}
    found = tree.without(bad)
    for before, after in zip(tree.splits(), found.splits(), strict=True):
        kept = [
            (n, k)
            for n, k in zip(before.names, before.labels.tolist(), strict=True)
            if n not in bad
        ]
        assert list(zip(after.names, after.labels.tolist(), strict=True)) == kept
    assert (found.root, found.classes) == (tree.root, tree.classes)


def test_leaving_nothing_out_leaves_the_tree_as_it_is(tree):
    assert names_of(tree.without(set())) == names_of(tree)


@pytest.mark.parametrize("folder", ["train/b", "test/b"])
def test_leaving_out_a_whole_class_of_a_split_is_refused(tree, folder):
    bad = {name for name in names_of(tree) if name.startswith(folder)}
    with pytest.raises(ValueError, match=f"^no file of the class {tree.root}/{folder} is an image"):
        tree.without(bad)


def test_a_split_drawn_from_a_folder_need_not_have_every_class(tmp_path):
    sow(tmp_path, {"a": 10, "b": 10})
    tree = scan(tmp_path)
    assert len(tree.validation) == 2
    alone = tree.validation.names[0]
    assert alone not in names_of(tree.without({alone}))


def test_leaving_out_a_whole_split_is_refused(tmp_path):
    sow(tmp_path, {"a": 10, "b": 10})
    tree = scan(tmp_path)
    with pytest.raises(ValueError, match=f"^too few files in {tmp_path} are images"):
        tree.without(set(tree.validation.names))


def test_classes_may_be_called_like_splits(tmp_path):
    folders = ("train/train", "train/test", "test/train", "test/test")
    sow(tmp_path, dict.fromkeys(folders, 10))
    tree = scan(tmp_path)
    assert tree.classes == ("test", "train")
    bad = {name for name in names_of(tree) if name.startswith("test/train")}
    with pytest.raises(ValueError, match="no file of the class"):
        tree.without(bad)
