import bz2
import gzip
import io
import json
import lzma
import random
import re
import tarfile
from dataclasses import replace

import pytest

import granet_lab as gl
from granet_lab.experiments import files, store, trainings
from granet_lab.experiments.identity import identity
from granet_lab.models.named import MODELS
from granet_lab.sparsity.criteria import CRITERIA
from granet_lab.upkeep.sharing import measured, merge, pack
from granet_lab.upkeep.verification import verify


@pytest.fixture
def other(tmp_path):
    """A colleague's lab."""
    return gl.Lab(tmp_path / "other", device="cpu")


@pytest.fixture
def trials(recipe):
    return gl.grid(recipe, epoch=[1, 2], rate=[0.5, 0.9], recovery_epochs=1)


@pytest.fixture
def table(lab, trials):
    return lab.measure(trials, workers=1, stack=1, progress=False)


def contents(lab):
    return {
        path.relative_to(lab.path): path.read_bytes()
        for path in lab.path.rglob("*")
        if path.is_file() and "progress" not in path.parts
    }


@pytest.mark.parametrize("name", ["lab.tar", "lab.tar.gz"])
def test_what_was_packed_and_merged_is_the_same_lab(lab, other, trials, table, tmp_path, name):
    path = tmp_path / "sent" / name
    assert [run.path.name for run in pack(lab, path)] == [table.run[0]]
    found = merge(other, path)
    assert contents(other) == contents(lab)
    assert (len(found.added), found.known, found.kept) == (len(contents(lab)), 0, {})
    assert other.table(trials).equals(table)
    assert list(verify(other.path)) == []
    again = merge(other, path)
    assert (again.added, again.known, again.kept) == ([], len(found.added), {})


def test_without_checkpoints_it_is_small_and_they_are_made_again(
    lab, other, recipe, trials, table, tmp_path
):
    pack(lab, tmp_path / "all.tar")
    pack(lab, tmp_path / "few.tar", checkpoints=False)
    assert (tmp_path / "few.tar").stat().st_size < (tmp_path / "all.tar").stat().st_size / 2
    merge(other, tmp_path / "few.tar")
    assert other.table(trials).equals(table)
    more = gl.grid(recipe, epoch=3, rate=0.5, recovery_epochs=1)
    assert numbers(other.measure(more, workers=1)).equals(numbers(lab.measure(more, workers=1)))


def pack_as_it_is(lab, path):
    """Without a look whether it is whole."""
    with tarfile.open(path, "w") as archive:
        for name in sorted(contents(lab)):
            archive.add(lab.path / name, name)


def numbers(table):
    return table.drop(columns="seconds")


def test_one_run_is_packed_alone_and_an_unknown_one_refused(lab, recipe, table, tmp_path):
    lab.train(replace(recipe, seed=7), progress=False)
    (run,) = pack(lab, tmp_path / "one.tar", [table.run[0]])
    with tarfile.open(tmp_path / "one.tar") as archive:
        assert {name.partition("/")[0] for name in archive.getnames()} == {run.path.name}
    with pytest.raises(ValueError, match="there is no run 'nope'"):
        pack(lab, tmp_path / "none.tar", ["nope"])
    assert not (tmp_path / "none.tar").exists()


def test_the_same_numbers_by_another_version_are_the_same_run(
    lab, other, recipe, tmp_path, monkeypatch
):
    lab.train(recipe, progress=False)
    monkeypatch.setattr(store, "version", lambda: "another")
    ours = trainings.train(other.run(recipe))
    for _ in range(3):
        next(ours)
    ours.close()
    pack(lab, tmp_path / "lab.tar")
    found = merge(other, tmp_path / "lab.tar")
    assert found.kept == {}
    assert other.run(recipe).finished
    assert other.run(recipe).checkpoints == lab.run(recipe).checkpoints


@pytest.mark.parametrize("name", ["RUN", "mine"])
def test_a_run_without_a_recipe_is_refused(lab, other, table, tmp_path, name):
    (run,) = map(lab.run, lab.recipes())
    pack(lab, tmp_path / "lab.tar")
    name = name.replace("RUN", run.path.name)
    with tarfile.open(tmp_path / "lab.tar") as old, tarfile.open(tmp_path / "new.tar", "w") as new:
        for member in old:
            if not member.name.endswith("recipe.json"):
                content = old.extractfile(member)
                member.name = member.name.replace(run.path.name, name)
                new.addfile(member, content)
    with pytest.raises(ValueError, match=f"not imported: {name} has no recipe.json"):
        merge(other, tmp_path / "new.tar")
    assert contents(other) == {}


def test_what_is_damaged_is_not_packed_unless_it_stays_at_home(lab, other, table, tmp_path):
    path = max(lab.path.glob("*/checkpoints/*"))
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=f"{path} is damaged: .*; granet-lab verify --repair sets"):
        pack(lab, tmp_path / "lab.tar")
    assert not (tmp_path / "lab.tar").exists()
    pack(lab, tmp_path / "lab.tar", checkpoints=False)
    assert merge(other, tmp_path / "lab.tar").added


def test_an_empty_lab_is_not_packed(lab, tmp_path):
    with pytest.raises(ValueError, match="holds no runs"):
        pack(lab, tmp_path / "none.tar")


def test_two_halves_are_put_together(lab, other, recipe, trials, table, tmp_path):
    other.measure(trials[:2], workers=1, stack=1, progress=False)
    (lab.run(recipe).path / "trials" / f"{table.trial[0]}.json").unlink()
    pack(lab, tmp_path / "half.tar")
    found = merge(other, tmp_path / "half.tar")
    assert sorted(path.stem for path in found.added) == sorted(table.trial[2:])
    assert numbers(other.table(trials)).equals(numbers(table))


def test_a_longer_history_goes_on_where_the_shorter_ends(lab, other, recipe, tmp_path):
    lab.train(recipe, progress=False)
    run = other.train(recipe, progress=False)
    whole = run.path / "history.jsonl"
    rows = whole.read_text().splitlines(keepends=True)
    whole.write_text("".join(rows[:3]))
    for epoch in (3, 4):
        run.checkpoint_path(epoch).unlink()
    pack(lab, tmp_path / "lab.tar")
    merge(other, tmp_path / "lab.tar")
    assert len(run.rows()) == 5
    assert run.checkpoints == [0, 1, 2, 3, 4]


def test_what_the_lab_has_stays_where_the_other_differs(lab, other, recipe, trials, tmp_path):
    """As if trained on another processor."""
    lab.measure(trials, workers=1, stack=1, progress=False)
    other.measure(trials[:1], workers=1, stack=1, progress=False)
    history = lab.run(recipe).path / "history.jsonl"
    rows = [row | {"test_loss": row["test_loss"] + 1e-6} for row in lab.run(recipe).rows()]
    history.write_text("".join(json.dumps(row) + "\n" for row in rows))
    mine = other.run(recipe)
    mine.checkpoint_path(3).unlink()
    before = mine.checkpoint_path(2).read_bytes(), mine.rows()
    pack(lab, tmp_path / "lab.tar")
    found = merge(other, tmp_path / "lab.tar")
    assert (mine.checkpoint_path(2).read_bytes(), mine.rows()) == before
    assert mine.checkpoints == [0, 1, 2, 4]
    assert len(other.table(trials)) == 4
    assert "the run's history is another one here" in found.kept.values()
    assert found.kept[mine.path / "history.jsonl"] == "it is another one here"


def add(archive, name, content=b"{}", **how):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for attribute, value in how.items():
        setattr(member, attribute, value)
    archive.addfile(member, io.BytesIO(content))


RUN = "digits-mlp-0123456789abcdef"
LINK = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}
BAD = [
    ("../evil.json", {}),
    ("/tmp/evil.json", {}),
    (f"{RUN}/../../evil.json", {}),
    (f"{RUN}/trials/../../../evil.json", {}),
    (f"../{RUN}/recipe.json", {}),
    (".hidden/recipe.json", {}),
    (f"{RUN}/checkpoints/0001.pt", {}),
    (f"{RUN}/script.py", {}),
    (f"{RUN}/recipe.json", LINK),
    (f"{RUN}/checkpoints/0001.safetensors", {**LINK, "type": tarfile.LNKTYPE}),
]


@pytest.mark.parametrize(("name", "how"), BAD)
def test_what_is_no_part_of_a_run_is_refused_and_nothing_added(
    lab, other, table, tmp_path, name, how
):
    pack(lab, tmp_path / "lab.tar")
    with tarfile.open(tmp_path / "lab.tar", "a") as archive:
        add(archive, name, **how)
    with pytest.raises(ValueError, match="no part of a run"):
        merge(other, tmp_path / "lab.tar")
    assert contents(other) == {}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lab.tar", "other", "runs"]


@pytest.mark.parametrize("part", ["checkpoints/0002.safetensors", "recipe.json", "trials"])
def test_what_is_damaged_is_refused_whole(lab, other, recipe, table, tmp_path, part):
    path = lab.run(recipe).path / part
    path = min(path.iterdir()) if path.is_dir() else path
    content = path.read_bytes()
    path.write_bytes(content[:-20] + bytes([content[-20] ^ 1]) + content[-19:])
    pack_as_it_is(lab, tmp_path / "lab.tar")
    with pytest.raises(ValueError, match=re.escape(f"{path.name} is damaged")):
        merge(other, tmp_path / "lab.tar")
    assert contents(other) == {}


@pytest.mark.parametrize("content", [b"", b"no tar file", random.Random(0).randbytes(4096)])
def test_a_file_that_is_none_is_refused(other, tmp_path, content):
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(ValueError, match="not a whole tar file"):
        merge(other, tmp_path / "x.tar")


@pytest.fixture
def packed(lab, recipe, tmp_path):
    """A small lab in a file, and the places where one of its members ends."""
    lab.measure(gl.grid(recipe, epoch=1, rate=0.5, recovery_epochs=1), workers=1, progress=False)
    pack(lab, tmp_path / "lab.tar", checkpoints=False)
    with tarfile.open(tmp_path / "lab.tar") as archive:
        ends = [member.offset for member in archive] + [archive.offset]
    return (tmp_path / "lab.tar").read_bytes(), ends


def cuts(n):
    """Some places before the end of a file, the last ones all."""
    return sorted({*random.Random(n).sample(range(n), 60), *range(n - 12, n)})


def refused(other, path, content, place):
    path.write_bytes(content[:place])
    with pytest.raises(ValueError, match="is not a whole tar file"):
        merge(other, path)
    assert contents(other) == {}


@pytest.mark.parametrize("compress", [bytes, gzip.compress, lzma.compress, bz2.compress])
def test_a_file_that_was_cut_off_anywhere_is_refused_whole(packed, other, tmp_path, compress):
    plain, _ = packed
    content = compress(plain)
    for place in cuts(len(content)):
        refused(other, tmp_path / "cut.tar", content, place)
    (tmp_path / "cut.tar").write_bytes(content)
    assert merge(other, tmp_path / "cut.tar").added


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
@pytest.mark.parametrize("more", [0, 512])
def test_so_is_one_that_was_cut_between_two_of_its_parts(packed, other, tmp_path, compress, more):
    """As before it was compressed; or behind the first of the closing blocks."""
    plain, ends = packed
    assert len(ends) > 4
    for place in ends:
        part = plain[:place] + bytes(more)
        refused(other, tmp_path / "cut.tar", compress(part), None)


def test_what_stands_behind_the_end_is_refused(packed, other, tmp_path):
    plain, _ = packed
    refused(other, tmp_path / "more.tar", plain + plain, None)


@pytest.fixture
def notebook(lab, recipe, define):
    """A trial of a criterion that a notebook has defined; forgotten by :func:`forget`."""

    def mine(context):
        return {name: weight.abs() for name, weight in context.weights().items()}

    define(CRITERIA, mine)
    trials = gl.grid(recipe, epoch=2, rate=0.5, criterion=["mine", "random"], recovery_epochs=1)
    lab.measure(trials, workers=1, stack=1, progress=False)
    yield trials[0]
    CRITERIA._entries.pop("mine", None)


def test_all_that_is_measured_is_one_table_whatever_is_known_here(lab, notebook, sparse_recipe):
    more = gl.grid(sparse_recipe, epoch=1, rate=0.5, recovery_epochs=1)
    lab.measure(more, workers=1, progress=False)
    whole = lab.table(lab.trials())
    assert measured(lab).equals(whole)
    forget()
    assert measured(lab).equals(whole)
    name = lab.run(sparse_recipe).path.name
    assert measured(lab, [name]).equals(lab.table(more))
    min(lab.run(sparse_recipe).path.glob("trials/*")).write_text("{}")
    assert len(measured(lab)) == len(whole) - 1


def forget():
    return CRITERIA._entries.pop("mine")


def test_a_trial_of_a_colleagues_notebook_comes_in_where_it_is_not_known(
    lab, other, tmp_path, notebook
):
    table, criterion = lab.table([notebook]), forget()
    pack(lab, tmp_path / "lab.tar")
    found = merge(other, tmp_path / "lab.tar")
    (place,) = found.unknown
    assert place == other.run(notebook.recipe).trial_path(table.trial[0])
    assert "unknown criterion 'mine'" in found.unknown[place]
    assert contents(other) == contents(lab)
    again = merge(other, tmp_path / "lab.tar")
    assert (again.added, again.unknown) == ([], {})
    CRITERIA.register(criterion)
    assert other.table([notebook]).equals(table)


@pytest.mark.parametrize("how", ["renamed", "in another run", "asks for more"])
def test_unless_its_place_is_another_one(
    lab, other, tmp_path, notebook, recipe, sparse_recipe, how
):
    path = lab.run(recipe).trial_path(identity(notebook))
    forget()
    if how == "renamed":
        path.rename(path.with_name("0123456789abcdef.json"))
    elif how == "in another run":
        place = lab.train(sparse_recipe, progress=False).trial_path(path.stem)
        place.parent.mkdir()
        path.rename(place)
    else:
        asked = files.read_json(path)
        asked["trial"]["pruning"]["rate"] = 0.6
        files.write_json(path, asked)
    pack_as_it_is(lab, tmp_path / "lab.tar")
    with pytest.raises(ValueError, match=r"is damaged: it holds the trial of"):
        merge(other, tmp_path / "lab.tar")
    assert contents(other) == {}


def test_a_run_of_a_colleagues_own_network_is_refused_in_a_line(
    lab, other, recipe, tmp_path, define
):
    def mine(input_shape, classes):
        return MODELS["mlp"](input_shape, classes)

    define(MODELS, mine)
    lab.train(replace(recipe, model="mine"), progress=False)
    pack(lab, tmp_path / "lab.tar")
    MODELS._entries.pop("mine")
    with pytest.raises(ValueError, match=r"unknown model 'mine'.*where it is defined") as refused:
        merge(other, tmp_path / "lab.tar")
    assert len(str(refused.value).splitlines()) == 1
    assert contents(other) == {}
