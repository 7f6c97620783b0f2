import re
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
import torch

import granet_lab as gl


def again(table, path, **facts):
    return gl.read_table(gl.write_table(table, path / "table.csv", **facts))


@pytest.fixture
def table():
    return pd.DataFrame(
        {
            "model": ["mlp", "convnet", "mlp"],
            "seed": [0, 1, 2],
            "rate": [0.2, 0.5, 0.98],
            "regrow": pd.Series([None, "gradient", "random"], dtype=object),
            "milestones": ["30 45", "30", ""],
            "plasticity": [-1.5, np.nan, 2.25],
            "note": ["", "pruning left no weight in 1.weight", ""],
        }
    )


def test_a_table_is_read_as_it_was_written(table, tmp_path):
    pd.testing.assert_frame_equal(again(table, tmp_path), table, check_dtype=False)


def test_an_empty_regrow_is_none_again(table, tmp_path):
    assert again(table, tmp_path)["regrow"].tolist() == [None, "gradient", "random"]
    assert again(table[:1], tmp_path)["regrow"].tolist() == [None]


def test_milestones_stay_text(table, tmp_path):
    assert again(table, tmp_path)["milestones"].tolist() == ["30 45", "30", ""]
    assert again(table[1:2], tmp_path)["milestones"].tolist() == ["30"]


def test_missing_numbers_stay_missing_and_whole_numbers_whole(table, tmp_path):
    found = again(table, tmp_path)
    assert found["plasticity"].isna().tolist() == [False, True, False]
    assert found["seed"].dtype.kind == "i"


def test_numbers_keep_six_digits(tmp_path):
    numbers = [1 / 3, 97.166666666, 1e-12, -123456.789, 5e-4]
    found = again(pd.DataFrame({"acc_after": numbers}), tmp_path)["acc_after"]
    np.testing.assert_allclose(found, numbers, rtol=5e-6)


def test_a_table_without_rows_keeps_its_columns(table, tmp_path):
    found = again(table[:0], tmp_path)
    assert list(found) == list(table)
    assert len(found) == 0


@pytest.mark.parametrize(
    "note",
    ["a, b", 'said "no"', "run #3 failed", "#", "two\nlines", "two\n# lines"],
)
def test_any_text_in_a_note_survives(table, tmp_path, note):
    table.loc[1, "note"] = note
    pd.testing.assert_frame_equal(again(table, tmp_path), table, check_dtype=False)


def test_a_note_does_not_become_provenance(table, tmp_path):
    table.loc[1, "note"] = "two\n# colour: red"
    assert "colour" not in again(table, tmp_path).attrs


def test_the_provenance_is_in_the_attributes(table, tmp_path):
    attrs = again(table, tmp_path, device="cpu").attrs
    assert attrs["granet_lab"] == gl.__version__
    assert attrs["torch"] == torch.__version__
    assert {"commit", "python", "numpy", "system", "hardware", "command"} <= attrs.keys()
    age = datetime.now(UTC) - datetime.fromisoformat(attrs["date"])
    assert timedelta(seconds=-1) < age < timedelta(minutes=1)


def test_further_facts_are_in_the_attributes(table, tmp_path):
    attrs = again(table, tmp_path, recipe="digits: 60 epochs, #1", machine="two cores").attrs
    assert attrs["recipe"] == "digits: 60 epochs, #1"
    assert attrs["machine"] == "two cores"


def test_a_fact_of_two_lines_does_not_become_part_of_the_table(table, tmp_path):
    found = again(table, tmp_path, remark="first line\nsecond line")
    pd.testing.assert_frame_equal(found, table, check_dtype=False)


def test_the_provenance_comes_first_as_comments(table, tmp_path):
    lines = gl.write_table(table, tmp_path / "t.csv").read_text().splitlines()
    body = next(i for i, line in enumerate(lines) if not line.startswith("# "))
    assert body > 0
    assert all(re.match(r"# \w+: ", line) for line in lines[:body])
    assert lines[body] == "model,seed,rate,regrow,milestones,plasticity,note"
    assert len(lines) == body + 1 + len(table)


def test_writing_makes_the_folder_and_returns_the_path(table, tmp_path):
    path = tmp_path / "a" / "b.csv"
    assert gl.write_table(table, str(path)) == path
    assert path.exists()


def test_writing_leaves_the_table_alone(table, tmp_path):
    before = table.copy()
    gl.write_table(table, tmp_path / "t.csv")
    pd.testing.assert_frame_equal(table, before)
    assert table.attrs == {}


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no table .*nothing\.csv"):
        gl.read_table(tmp_path / "nothing.csv")


def test_a_folder_that_cannot_be_written_is_named(table, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=f"cannot write to {tmp_path / 'file'}: "):
        gl.write_table(table, tmp_path / "file" / "t.csv")
