import re

from benchmarks import dispatch


def test_what_handing_over_costs_is_measured(monkeypatch, capsys):
    monkeypatch.setattr(dispatch, "_SHORT", 20)
    monkeypatch.setattr(dispatch, "_LONG", {"model": "mlp", "train_size": 200, "epochs": 20})
    dispatch.run(1)
    out = capsys.readouterr().out
    assert re.search(r"A task of one trial is [\d.]+ kB", out)
    assert len(re.findall(r"per trial (?:in this process|on Dask) .*(?:met|missed)", out)) == 2
    assert re.search(r"two processes beside one +[\d.]+ \(", out)
    assert re.search(r"two Dask workers beside one .*(?:met|missed)", out)
