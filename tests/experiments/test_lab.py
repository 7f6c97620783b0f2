import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import granet_lab as gl
from granet_lab.datasets import DATASETS
from granet_lab.experiments.execution.background import Job
from granet_lab.experiments.execution.tasks import result
from granet_lab.experiments.files import read_json, write_json
from granet_lab.experiments.identity import identity
from granet_lab.experiments.tidy import COLUMNS

CONTRACT = [
    *("dataset", "model", "seed", "method", "pretrained_sparsity", "epoch", "rate", "criterion"),
    *("scope", "granularity", "regrow", "lr_mode", "recovery_epochs", "lr", "sparsity"),
    *("sparsity_after", "acc_before", "acc_pruned", "acc_after", "acc_trunk"),
    *("acc_final_unpruned", "plasticity", "final_gap", "seconds", "device"),
]


@pytest.fixture
def trials(recipe):
    return gl.grid(
        recipe, epoch=[4, 0], rate=[0.5], regrow=[None, "random"], lr=["frozen", "remaining"]
    )


def test_the_table_has_a_row_for_each_trial_in_their_order(lab, trials):
    table = lab.measure(trials, workers=1, progress=False)
    assert list(table.columns) == COLUMNS
    assert list(table.columns[: len(CONTRACT)]) == CONTRACT
    assert [(r.epoch, r.regrow, r.lr_mode) for r in table.itertuples()] == [
        (t.epoch, t.pruning.regrow, t.lr) for t in trials
    ]


def test_a_trial_asked_twice_has_two_rows_and_is_measured_once(lab, trials):
    table = lab.measure([trials[0], trials[0]], workers=1, progress=False)
    assert len(table) == 2
    assert len(list(lab.path.glob("*/trials/*.json"))) == 1


def test_missing_numbers_are_nan_and_no_regeneration_is_none(lab, trials):
    table = lab.measure(trials, workers=1, progress=False)
    assert table.dtypes[["plasticity", "final_gap", "acc_trunk"]].eq(np.float64).all()
    assert table.regrow[0] is None
    assert table.plasticity.isna().tolist() == (table.lr_mode == "remaining").tolist()
    assert table.final_gap.isna().tolist() == (table.lr_mode == "frozen").tolist()


def test_a_table_lists_only_what_is_measured(lab, trials):
    lab.measure(trials[:2], workers=1, progress=False)
    assert len(lab.table(trials)) == 2
    assert list(lab.table([]).columns) == COLUMNS


def test_curves_hold_every_epoch_of_the_recovery(lab, trials):
    table = lab.measure(trials, workers=1, progress=False)
    curves = lab.curves(trials)
    assert len(curves) == sum(trial.recovery_epochs + 1 for trial in trials)
    last = curves[curves.lr_mode == "remaining"].groupby(["epoch", "regrow"], dropna=False).last()
    measured = table[table.lr_mode == "remaining"].set_index(["epoch", "regrow"]).sort_index()
    assert last.test_acc.tolist() == measured.acc_after.tolist()


def test_layers_hold_every_layer_of_every_trial_that_is_measured(lab, trials, recipe):
    lab.measure(trials[:4], workers=1, progress=False)
    layers = lab.layers(trials)
    assert len(layers) == 4 * 3
    assert layers.layer.tolist() == ["1.weight", "3.weight", "5.weight"] * 4
    assert set(layers["size"]) == {6400, 10000, 1000}
    asked = [(t.epoch, t.pruning.regrow, t.lr) for t in trials[:4] for _ in range(3)]
    assert list(zip(layers.epoch, layers.regrow, layers.lr_mode, strict=True)) == asked
    assert layers.regrow[0] is None


def test_layers_weighed_by_size_have_the_sparsities_of_the_table(lab, sparse_recipe):
    trials = gl.grid(sparse_recipe, epoch=[2, 4], rate=[0.5, 0.9], regrow=[None, "gradient"])
    table = lab.measure(trials, workers=1, progress=False)
    layers = lab.layers(trials)
    pairs = {"sparsity_pruned": "sparsity", "sparsity_regenerated": "sparsity_after"}
    for of_layer, of_network in (pairs | {"sparsity_before": "pretrained_sparsity"}).items():
        weighed = (layers[of_layer] * layers["size"]).to_numpy().reshape(-1, 3).sum(axis=1)
        assert weighed / 17400 == pytest.approx(table[of_network].to_numpy(), abs=1e-12)


def test_trials_from_before_layers_were_kept_have_no_rows_of_them_and_count_as_measured(
    lab, trials
):
    before = lab.measure(trials[:2], workers=1, progress=False)
    path = lab.run(trials[0].recipe).trial_path(identity(trials[0]))
    old = read_json(path)
    del old["layers"]
    write_json(path, old)
    assert lab.measure(trials[:2], workers=1, progress=False).equals(before)
    assert len(lab.layers(trials[:2])) == 3
    assert len(lab.layers(trials[:1])) == len(lab.layers([])) == 0
    assert len(lab.curves(trials[:1])) == trials[0].recovery_epochs + 1


def test_a_lab_starts_a_job_of_its_own_and_has_its_trials_when_it_ends(lab, trials):
    job = lab.start(trial for trial in trials)
    assert isinstance(job, Job)
    assert job.trials == trials
    assert job.wait(60)
    assert lab.table(trials).status.tolist() == ["ok"] * len(trials)
    assert lab.start(iter(trials)).trials == []


def test_a_lab_that_cannot_be_written_starts_no_job(lab, trials, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=f"cannot write to {lab.path}: No space left"):
        lab.start(trials)
    assert list(lab.path.iterdir()) == []


def test_recipes_are_those_of_the_runs_that_the_lab_holds(lab, recipe, sparse_recipe, trials):
    assert lab.recipes() == []
    for one in (recipe, sparse_recipe):
        lab.train(one, checkpoints=[], progress=False)
    lab.measure(trials[:1], workers=1, progress=False)
    found = lab.recipes()
    assert len(found) == 2
    assert set(found) == {recipe, sparse_recipe}
    assert found == sorted(found, key=lambda one: lab.run(one).path)
    assert result(lab.path, trials[0]) is not None


def test_a_damaged_recipe_is_named_set_aside_and_left_out(lab, recipe, sparse_recipe, caplog):
    for one in (recipe, sparse_recipe):
        lab.train(one, checkpoints=[], progress=False)
    path = lab.run(recipe).path / "recipe.json"
    path.write_text(path.read_text().replace("digits", "digit"))
    assert lab.recipes() == [sparse_recipe]
    assert str(path) in caplog.text
    assert len(list(path.parent.glob("recipe.json.damaged-*"))) == 1


def test_histories_of_several_runs_lie_below_each_other(lab, recipe, sparse_recipe):
    for one in (recipe, sparse_recipe):
        lab.train(one, progress=False)
    history = lab.history([recipe, sparse_recipe])
    assert len(history) == 10
    assert sorted(history.pretrained_sparsity.unique()) == [0, 0.8]
    assert set(history.milestones) == {"2"}


def test_runs_lists_what_the_lab_holds(lab, recipe, sparse_recipe, trials):
    assert len(lab.runs()) == 0
    lab.train(sparse_recipe, checkpoints=[4], progress=False)
    lab.measure(trials, workers=1, progress=False)
    runs = lab.runs().set_index("run")
    dense = runs.loc[lab.run(recipe).path.name]
    assert (dense.epochs, dense.of, dense.checkpoints, dense.trials) == (4, 4, 5, len(trials))
    assert runs.loc[lab.run(sparse_recipe).path.name].checkpoints == 1


def test_a_run_of_an_unknown_model_is_left_out_with_a_warning(lab, recipe, caplog):
    run = lab.train(recipe, progress=False)
    stored = json.loads((run.path / "recipe.json").read_text())["recipe"]
    write_json(run.path / "recipe.json", {"schema": 1, "recipe": {**stored, "model": "gone"}})
    assert len(lab.runs()) == 0
    assert "unknown model 'gone'" in caplog.text


def test_the_folder_is_named_by_dataset_model_and_hash(lab, recipe):
    name = lab.train(recipe, progress=False).path.name
    assert name.startswith("digits-mlp-")
    assert len(name.split("-")[-1]) == 16


def test_a_lab_below_a_file_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot make the lab folder .*file/runs: Not a directory"):
        gl.Lab(tmp_path / "file" / "runs")


def test_a_lab_that_cannot_be_written_is_named_before_any_work(lab, recipe, trials, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for call in (lambda: lab.measure(trials), lambda: lab.train(recipe)):
        with pytest.raises(OSError, match=f"cannot write to {lab.path}: No space left") as caught:
            call()
        assert "\n" not in str(caught.value)
    assert list(lab.path.iterdir()) == []


def test_the_disk_that_checkpoints_take_is_told_before(lab, capsys):
    lab.train(gl.recipes.digits(epochs=3, milestones=(), train_size=100))
    assert "4 checkpoints of 1 MB" in capsys.readouterr().err


def test_an_unknown_device_is_refused(tmp_path):
    with pytest.raises(ValueError, match="device"):
        gl.Lab(tmp_path, device="gpu")


def test_a_sweep_keeps_the_checkpoints_that_it_is_told_to_and_gives_the_same_table(
    lab, tmp_path, trials, recipe
):
    whole = lab.measure(trials, workers=1, progress=False)
    assert lab.run(recipe).checkpoints == [0, 1, 2, 3, 4]
    for n, kept in enumerate(([1, 3], [0, 4], [])):
        other = gl.Lab(tmp_path / f"other{n}", device="cpu")
        table = other.measure(trials, workers=1, progress=False, checkpoints=kept)
        assert other.run(recipe).checkpoints == kept
        assert table.drop(columns="seconds").equals(whole.drop(columns="seconds"))


def test_a_checkpoint_beyond_the_run_is_refused_before_anything_is_trained(lab, trials):
    with pytest.raises(ValueError, match="epoch 5 is not in this run: choose checkpoints in 0 to"):
        lab.measure(trials, workers=1, progress=False, checkpoints=[1, 5])
    assert list(lab.path.iterdir()) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_data_that_cannot_be_loaded_are_one_error_before_any_worker_starts(
    lab, recipe, define, monkeypatch, workers
):
    def forgotten():
        raise ValueError("the images were forgotten at home")

    define(DATASETS, forgotten)
    monkeypatch.setattr("granet_lab.experiments.execution.pools.choose", None)
    lost = replace(recipe, dataset="forgotten")
    asked = gl.grid(lost, epoch=[1, 2], rate=0.5, seed=[0, 1])
    with pytest.raises(ValueError, match=r"^the images were forgotten at home$"):
        lab.measure(asked, workers=workers, progress=False)
    with pytest.raises(ValueError, match=r"^the images were forgotten at home$"):
        lab.compare(lost, ["gmp"], [0.8], [0, 1], workers=workers, progress=False)
    assert list(lab.path.iterdir()) == []


def test_a_network_that_cannot_be_made_is_one_error_before_any_worker_starts(
    lab, recipe, monkeypatch
):
    monkeypatch.setattr("granet_lab.experiments.execution.pools.choose", None)
    lost = replace(recipe, model="granet_lab.nowhere:network")
    with pytest.raises(ValueError, match=r"granet_lab\.nowhere") as caught:
        lab.measure(gl.grid(lost, epoch=1, rate=0.5), progress=False)
    assert "\n" not in str(caught.value)
    assert list(lab.path.iterdir()) == []


@pytest.mark.parametrize("verb", ["measure", "compare"])
def test_data_are_loaded_first_where_somebodys_executor_works(lab, recipe, define, tmp_path, verb):
    diary = str(tmp_path / "diary")

    def told():
        # In full, as the function travels without its module.
        import threading

        from granet_lab import datasets

        with open(diary, "a") as file:
            file.write(threading.current_thread().name + "\n")
        return datasets.load("digits")

    define(DATASETS, told)
    one = replace(recipe, dataset="told")
    with ThreadPoolExecutor(1, thread_name_prefix="lent") as executor:
        if verb == "measure":
            asked = gl.grid(one, epoch=[1, 2], rate=0.5)
            table = lab.measure(asked, executor=executor, progress=False)
        else:
            table = lab.compare(one, ["gmp"], [0.8], [0], executor=executor, progress=False)
    assert table.status.tolist() == ["ok", "ok"]
    with open(diary) as file:
        assert file.readline().startswith("lent")


def test_the_lab_lists_all_trials_that_are_measured(lab, recipe, caplog):
    assert lab.trials() == []
    asked = gl.grid(recipe, epoch=[1, 2], rate=[0.5, 0.9], recovery_epochs=1)
    lab.measure(asked, workers=1, progress=False)
    assert sorted(map(asked.index, lab.trials())) == [0, 1, 2, 3]
    path = next(lab.path.glob("*/trials/*.json"))
    path.write_text("{")
    assert len(lab.trials()) == 3
    assert path.name in caplog.text
