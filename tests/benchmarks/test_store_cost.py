import re

from benchmarks import store
from granet_lab.datasets import DATASETS


def test_a_store_is_filled_listed_and_verified(tmp_path, capsys, monkeypatch):
    # The data set that the benchmark defines is forgotten afterwards.
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))
    store.run(tmp_path, 25, 1, stacks=2)
    out = capsys.readouterr().out
    assert "25 trials of" in out
    assert len(re.findall(r"a table of 25 trials, (?:first|again) .* met", out)) == 2
    note = re.search(r"The note of a stack of 128, (\d+) kB after 30 epochs", out)
    assert int(note[1]) > 300  # the last one, with all of them
    assert re.search(r"A checkpoint of ResNet-20, 2\.\d MB", out)
    assert len(re.findall(r"(?:copy|write) it, .* ms", out)) == 2
