import inspect
import json
import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import granet_lab as gl
from granet_lab import cli
from granet_lab.experiments.tidy import COLUMNS
from granet_lab.sparsity.criteria import CRITERIA
from granet_lab.sparsity.regrowths import REGROWTHS

COMMANDS = cli.COMMANDS
every_command = pytest.mark.parametrize("command", COMMANDS)
TINY = ("--set", "model=mlp", "epochs=2", "milestones=()", "train_size=100")

# Asks for every help text in one interpreter, and says what that has loaded.
HELP = """
import contextlib, io, json, sys
from granet_lab import cli
texts = {}
for words in ([], *([name] for name in sys.argv[1:])):
    sys.argv = ["granet-lab", *words, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            cli.main()
        except SystemExit as stop:
            assert not stop.code
    texts[" ".join(words)] = out.getvalue()
print(json.dumps({"texts": texts, "modules": sorted(sys.modules)}))
"""


@pytest.fixture(scope="module")
def helped():
    found = subprocess.run(
        [sys.executable, "-c", HELP, *COMMANDS],
        env={**os.environ, "COLUMNS": "160"},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(found.stdout)


def options(command):
    """The options that a command takes, as they are typed; positional ones left out."""
    for name, parameter in inspect.signature(COMMANDS[command]).parameters.items():
        if "Positional" not in parameter.annotation:
            yield "--set" if name == "settings" else "--" + name.replace("_", "-")


def test_the_help_lists_every_command(helped):
    for name, command in COMMANDS.items():
        assert re.search(rf"^\W+{name} ", helped["texts"][""], re.M)
        assert command.__doc__.splitlines()[0] in helped["texts"][""]


@every_command
def test_a_commands_help_names_and_explains_every_option(helped, command):
    text = helped["texts"][command]
    for option in options(command):
        assert re.search(rf"^\W*{option}\b", text, re.M), option
    described = " ".join(text.replace("│", " ").split())
    arguments = COMMANDS[command].__doc__.partition("Args:")[2].strip().splitlines()
    assert len(arguments) == len(inspect.signature(COMMANDS[command]).parameters)
    for line in arguments:
        assert line.partition(": ")[2] in described


def test_help_loads_neither_torch_nor_anything_else_that_is_slow(helped):
    slow = {"torch", "numpy", "pandas", "sklearn", "matplotlib", "seaborn", "IPython"}
    assert slow & set(helped["modules"]) == set()


def test_the_installed_command_is_this_one():
    (command,) = entry_points(group="console_scripts", name="granet-lab")
    assert command.load() is cli.main


class Reached(Exception):
    pass


@pytest.mark.parametrize("command", ["train", "measure"])
def test_the_example_in_the_help_is_accepted(run, monkeypatch, command):
    def reached(*_, **__):
        raise Reached

    monkeypatch.setattr(gl.Lab, command, reached)
    words = re.search(r"Example: granet-lab (.*)", COMMANDS[command].__doc__)[1].split()
    with pytest.raises(Reached):
        run(*words)


BAD = [
    ("train nope", "unknown recipe 'nope': choose from .*digits"),
    ("train --set epochs", "name=value, not 'epochs'"),
    ("train --set bogus=1", "bogus"),
    ("train --set seed=3", "seed"),
    ("train --set method=static", "method"),
    ("train --set lr=fast", "lr must be a number, not 'fast'"),
    ("train --set milestones=15", "milestones"),
    ("train --set train_size=901", "train_size must be at most 900"),
    ("train --set model=resnet", "unknown model 'resnet': choose from .*mlp"),
    ("train --seed -1", "seed must be at least 0"),
    ("train --seed", "seed"),
    ("train --pretrained-sparsity 2", "sparsity must lie in"),
    ("train --checkpoints 61", "choose checkpoints in 0 to 60"),
    ("train --device banana", "'banana'"),
    ("train --lab file", "file"),
    ("train --lab file/lab", "file/lab"),
    ("measure --epoch 61 --rate 0.5", "epoch 61 is not in this run: choose 0 to 60"),
    ("measure --epoch 1 --rate 1.5", "rate must lie in"),
    ("measure --epoch --rate 0.5", "epoch"),
    ("measure --epoch 1 --rate 0.5 --criterion loss", "'loss': choose from .*magnitude"),
    ("measure --epoch 1 --rate 0.5 --scope layer", "'layer': choose from .*erk"),
    ("measure --epoch 1 --rate 0.5 --regrow all", "'all': choose from .*gradient"),
    ("measure --epoch 1 --rate 0.5 --recovery-epochs -1", "recovery_epochs must be at least 0"),
    ("measure --epoch 1 --rate 0.5 --workers 0", "workers must be"),
    ("measure --epoch 1 --rate 0.5 --granularity channel", "'channel': choose from .*filter"),
    ("measure --epoch 1 --rate 0.9 --granularity 2:4", "2:4 .*needs rate=0.5"),
    ("measure --epoch 1 --rate 0.5 --regrow-scope global", "choose a regrow"),
    ("measure --epoch 1 --rate 0.5 --layers", "layers needs at least one value"),
    ("measure --epoch 1 --rate 0.5 --layers first block7.*", r"no layer is named 'block7\.\*'"),
    ("measure --epoch 1 --rate 0.5 --reestimate-batchnorm", "reestimate_batchnorm needs"),
    ("measure --epoch 1 --rate 0.5 --precision half", "'half': choose from .*bf16"),
    ("measure --epoch 1 --rate 0.5 --precision", "precision needs at least one value"),
    ("measure --epoch 1 --rate 0.5 --precision bf16 --set precision=fp32", "given twice"),
    (
        "measure --epoch 1 --rate 0.5 --method magic --pretrained-sparsity 0.9",
        "'magic': choose from",
    ),
    (
        "train --method granet,stop=99 --pretrained-sparsity 0.9",
        "stop 99 lies beyond the run of 60",
    ),
    ("train --method", "--method needs at least one value"),
    ("compare nope", "unknown recipe 'nope': choose from .*digits"),
    ("compare --method magic", "unknown method 'magic': choose from .*granet"),
    ("compare --method granet,bogus=1", "unknown field 'bogus': choose from .*regrow_fraction"),
    ("compare --method granet,stop", "--method takes name=value, not 'stop'"),
    ("compare --method granet,regrow_fraction=2", r"regrow_fraction must lie in \[0, 1\]"),
    ("compare --method gmp,stop=70", "stop 70 lies beyond the run of 60 epochs"),
    ("compare --method gmp,interval=1081", "interval 1081 is longer than the run of 1080 steps"),
    ("measure --epoch 1 --rate 0.5 --shard 3/2", "a part is written like 2/8"),
    ("compare --method granet_st --sparsity 0.4", "0.4 lies below initial_sparsity 0.5"),
    ("compare --method", "at least one"),
    ("compare --sparsity", "at least one"),
    ("compare --seed", "at least one"),
    ("compare --sparsity 1.5", "sparsity must lie in"),
    ("compare --lab file", "file"),
    ("plot nothing.csv", r"there is no table nothing\.csv"),
    ("plot .", "directory"),
    ("plot file", "file"),
    ("runs --lab nothing", "there is no lab nothing"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[words for words, _ in BAD])
def test_bad_input_is_one_line_on_stderr(run, words, message):
    code, out, err = run(*words.split())
    assert code in (1, 2)
    assert out == ""
    assert re.fullmatch(f"granet-lab: .*{message}.*\n", err), err


MISTYPED = [
    ("train --sed 3", "--sed"),
    ("train --seed x", "x"),
    ("prune", "prune"),
    ("measure --epoch 1", "--rate"),
    ("measure --epoch 1 --rate 0.5 --lr never", "never"),
    ("measure --epoch 1 --rate 0.5 --regrow-scope filter", "filter"),
    ("measure --epoch 1 --rate 0.5 --reestimate-batchnorm True", "True"),
    ("plot", "PATH"),
]


@pytest.mark.parametrize(("words", "culprit"), MISTYPED, ids=[words for words, _ in MISTYPED])
def test_a_mistyped_command_exits_with_2_and_names_the_culprit_on_stderr(run, words, culprit):
    code, out, err = run(*words.split())
    assert (code, out) == (2, "")
    assert culprit in err


def test_the_process_itself_ends_with_code_1_and_no_traceback(tmp_path):
    found = subprocess.run(
        [sys.executable, "-m", "granet_lab.cli", "train", "nope"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 1
    assert found.stdout == ""
    assert re.fullmatch(r"granet-lab: unknown recipe 'nope': .*\n", found.stderr)


def test_an_interrupt_ends_with_130_and_says_how_to_go_on(run, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(gl.Lab, "train", interrupted)
    code, _, err = run("train")
    assert code == 130
    assert "the same command goes on" in err
    assert "Traceback" not in err


def test_train_makes_a_run_for_each_seed_and_sparsity(run):
    code, out, _ = run("train", *TINY, "--seed", "0", "1", "--pretrained-sparsity", "0", "0.9")
    assert code == 0
    runs = gl.Lab("data/runs", "cpu").runs()
    found = set(zip(runs["seed"], runs["pretrained_sparsity"], strict=True))
    assert found == {(0, 0), (1, 0), (0, 0.9), (1, 0.9)}
    assert (runs["epochs"] == 2).all()
    assert re.findall(r"^data/runs/(\S+): \d+\.\d\d% test accuracy after epoch 2$", out, re.M)
    assert all(name in out for name in runs["run"])


def test_train_keeps_the_checkpoints_that_it_was_told_to(run, tmp_path):
    run("train", *TINY, "--checkpoints", "0", "2", "--lab", "lab")
    kept = sorted(p.name for p in tmp_path.glob("lab/*/checkpoints/*"))
    assert kept == ["0000.safetensors", "0002.safetensors"]


def test_train_leaves_a_finished_run_alone(run, tmp_path):
    first = run("train", *TINY)[1]
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert run("train", *TINY)[1] == first
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == before


def test_train_makes_a_run_for_each_method(run):
    code, out, _ = run(
        *("train", *TINY, "--method", "gmp", "granet,initial_sparsity=0.5"),
        *("--pretrained-sparsity", "0", "0.8"),
    )
    assert code == 0
    assert len(out.splitlines()) == 3  # the dense run is one and the same
    (found,) = run("runs")[1:2]
    assert all(name in found for name in ("dense", "gmp", "granet_st"))


def test_compare_prints_the_table_and_writes_a_row_for_each_run(run):
    words = ("compare", *TINY, "--method", "gmp", "gentle:granet,regrow_fraction=0.1")
    words = (*words, "--sparsity", "0.8", "--seed", "0", "1", "--workers", "1")
    code, out, _ = run(*words, "--csv", "table.csv")
    assert code == 0
    table = gl.read_table("table.csv")
    assert table.method.tolist() == ["dense"] * 2 + ["gmp"] * 2 + ["gentle"] * 2
    assert table.regrow_fraction.tolist() == [0.0] * 4 + [0.1] * 2
    assert out.splitlines()[:5] == gl.plots.method_table(table).splitlines()
    assert "table.csv" in out


def test_compare_tells_what_could_not_be_trained(run, define, caplog):
    def broken(context):
        raise ValueError("no score today")

    define(CRITERIA, broken)
    words = ("compare", *TINY, "--method", "static,criterion=broken", "gmp", "--sparsity", "0.8")
    code, out, err = run(*words, "--seed", "0", "--workers", "1")
    assert code == 1
    assert "granet-lab: 1 of 3 runs failed, and is in no mean" in err
    assert "static,criterion=broken 0.8: ValueError: no score today" in err + caplog.text
    assert [line for line in out.splitlines() if "| gmp | **" in line]


def test_set_reads_numbers_tuples_words_and_none(run, tmp_path):
    settings = "epochs=1 milestones=1,2 lr=0.5 nesterov=True augment=crop train_size=100 model=mlp"
    assert run("train", "--set", *settings.split(), "--seed", "3")[0] == 0
    (path,) = tmp_path.glob("data/runs/*/recipe.json")
    found = json.loads(path.read_text())["recipe"]
    expected = {
        "dataset": "digits",
        "model": "mlp",
        "epochs": 1,
        "batch_size": 50,
        "lr": 0.5,
        "milestones": [1, 2],
        "nesterov": True,
        "weight_decay": 0.0005,
        "augment": "crop",
        "train_size": 100,
        "seed": 3,
    }
    assert found == expected
    settings = settings.replace("augment=crop", "augment=None")
    run("train", "--set", *settings.split(), "--seed", "3")
    paths = tmp_path.glob("data/runs/*/recipe.json")
    recipes = [json.loads(path.read_text())["recipe"] for path in paths]
    del expected["augment"]
    assert expected in recipes


def test_train_says_in_words_that_a_run_diverged(run, caplog):
    _, out, err = run("train", *TINY, "lr=1e9")
    assert "diverged" in out + err + caplog.text
    assert "nan%" not in out


def test_measure_tells_what_could_not_be_measured_and_ends_with_an_error(run, define):
    def moody(context):
        raise ValueError("no score today")

    define(CRITERIA, moody)
    code, out, err = measure(run, "--criterion", "moody", "magnitude")
    assert code == 1
    assert "granet-lab: 4 of 8 trials failed, and are in no mean" in err
    assert "magnitude" in out
    assert (gl.read_table("t.csv").status == "failed").sum() == 4
    del CRITERIA._entries["moody"]
    assert measure(run)[0] == 0


def test_measure_tells_what_diverged(run):
    code, out, _ = measure(run, "--set", *TINY[1:], "lr=1e9")
    assert code == 0
    assert "2 of 4 trials diverged, and are in no mean" in out


def measure(run, *words):
    asked = ("--epoch", "0", "1", "--rate", "0.5", "0.9", "--workers", "1", "--csv", "t.csv")
    return run("measure", *TINY, *asked, *words)


def test_measure_prints_a_table_and_writes_every_trial(run):
    code, out, _ = measure(run, "--regrow", "none", "gradient", "--lr", "frozen", "remaining")
    assert code == 0
    assert out.startswith("\nplasticity (percentage points")
    assert "\nfinal_gap (percentage points" in out
    assert out.endswith("\nt.csv\n")
    table = gl.read_table("t.csv")
    assert len(table) == 2**4
    assert set(table["regrow"]) == {None, "gradient"}
    assert (table["status"] == "ok").all()
    assert table.attrs["command"].startswith("granet-lab measure --set model=mlp epochs=2")


def test_the_printed_plasticity_is_that_of_the_table(run):
    out = measure(run)[1]
    table = gl.read_table("t.csv")
    lines = [line.split() for line in out.splitlines() if re.match(r"0\.[59] ", line)]
    printed = [float(number) for _, _, *numbers in lines for number in numbers]
    assert printed == pytest.approx(table.sort_values(["rate", "epoch"])["plasticity"], abs=0.01)


def test_measure_does_nothing_twice(run, tmp_path):
    measure(run)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("data/**/*") if p.is_file()}
    first = gl.read_table("t.csv")
    measure(run)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("data/**/*") if p.is_file()} == before
    assert gl.read_table("t.csv").equals(first)


def test_shards_together_measure_everything_once(run):
    parts = []
    for part in ("1/3", "2/3", "3/3"):
        assert measure(run, "--shard", part)[0] == 0
        parts.append(gl.read_table("t.csv"))
    assert [len(part) for part in parts] == [1, 1, 2]
    assert len(set().union(*(part["trial"] for part in parts))) == 4
    assert len(list(Path().glob("data/runs/*/trials/*.json"))) == 4
    measure(run)
    assert len(gl.read_table("t.csv")) == 4


def test_measure_passes_every_choice_on(run):
    words = "--criterion random --scope erk --recovery-epochs 2 --seed 4 --pretrained-sparsity 0.5"
    assert measure(run, *words.split())[0] == 0
    table = gl.read_table("t.csv")
    chosen = ["criterion", "scope", "recovery_epochs", "seed", "pretrained_sparsity", "method"]
    assert table[chosen].drop_duplicates().values.tolist() == [
        ["random", "erk", 2, 4, 0.5, "static"]
    ]


def measured(run, *words):
    """The table of one epoch and rate."""
    asked = ("--epoch", "1", "--rate", "0.5", "--workers", "1", "--csv", "t.csv")
    code, out, _ = run("measure", *TINY, *asked, *words)
    assert code == 0
    table = gl.read_table("t.csv")
    assert list(table) == COLUMNS
    return table, out


def test_precisions_are_measured_side_by_side(run):
    table, out = measured(run, "--precision", "fp32", "bf16")
    assert table["precision"].tolist() == ["fp32", "bf16"]
    assert "precision" in out


def test_each_layer_is_pruned_alone(run):
    table, out = measured(run, "--layers", "each")
    assert table["layers"].tolist() == ["1.weight", "3.weight", "5.weight"]
    assert table["sparsity"].tolist() == pytest.approx(
        [3200 / 17400, 5000 / 17400, 500 / 17400], rel=1e-5
    )
    assert (table["status"] == "ok").all()
    for name in ("1.weight", "3.weight", "5.weight"):
        assert re.search(rf"^{re.escape(name)} +0\.5 +none ", out, re.M)


def test_each_stands_beside_other_layers_and_is_not_measured_twice(run):
    table, _ = measured(run, "--layers", "*", "each", "5.weight", "1.* 3.*")
    assert table["layers"].tolist() == ["*", "1.weight", "3.weight", "5.weight", "1.* 3.*"]
    assert table["sparsity"].iloc[-1] == pytest.approx(8200 / 17400, rel=1e-5)


def test_each_means_the_layers_of_the_recipes_model(run):
    asked = "--epoch 0 --rate 0.5 --recovery-epochs 0 --layers each --workers 1 --csv t.csv"
    run("measure", "--set", "epochs=1", "milestones=()", "train_size=50", *asked.split())
    names = gl.layer_names(gl.recipes.digits())
    assert gl.read_table("t.csv")["layers"].tolist() == names


def test_measure_takes_granularities(run):
    words = "--granularity weight filter 2:4 --scope uniform"
    table, out = measured(run, *words.split())
    assert table["granularity"].tolist() == ["weight", "filter", "2:4"]
    assert table["sparsity"].tolist() == [0.5] * 3
    assert re.search(r"^2:4 ", out, re.M)


def test_measure_takes_layers_that_stay_dense(run):
    table, _ = measured(run, "--dense", "", "last", "1.* 5.*")
    assert table["dense"].tolist() == ["", "last", "1.* 5.*"]
    assert table["sparsity"].tolist() == pytest.approx([0.5, 8200 / 17400, 5000 / 17400], rel=1e-5)


def test_measure_takes_both_scopes_of_regrowth(run):
    words = "--regrow gradient momentum --regrow-scope layer global --pretrained-sparsity 0.5"
    table, _ = measured(run, *words.split())
    assert table[["regrow", "regrow_scope"]].values.tolist() == [
        *(["gradient", "layer"], ["gradient", "global"]),
        *(["momentum", "layer"], ["momentum", "global"]),
    ]
    assert table["sparsity_after"].tolist() == [0.5] * 4
    assert table["regrown_survival"].between(0, 1).all()


def test_measure_takes_batchnorm_as_trained_and_measured_anew(run):
    table, out = measured(run, "--reestimate-batchnorm", "no", "yes")
    assert table["reestimate_batchnorm"].tolist() == [False, True]
    assert table["acc_before"].nunique() == 1
    assert re.search("^False .*\n^True ", out, re.M)


@pytest.mark.parametrize(
    ("option", "registry"),
    [("criterion", CRITERIA), ("regrow", REGROWTHS)],
    ids=["criterion", "regrow"],
)
def test_the_help_of_measure_names_every_criterion_and_regrowth(helped, option, registry):
    (line,) = re.findall(rf"^ +{option}: (.*)$", cli.measure.__doc__, re.M)
    ours = {f.__name__ for f in map(registry.__getitem__, registry)}
    ours -= {f.__name__ for f in registry.added()}
    assert len(ours) >= 3
    assert ours <= set(re.findall(r"\w+", line))
    assert line in " ".join(helped["texts"]["measure"].replace("│", " ").split())


def test_plot_draws_what_measure_wrote(run, tmp_path):
    measure(run, "--lr", "frozen", "remaining")
    for value in ("plasticity", "final_gap"):
        code, out, _ = run("plot", "t.csv", "--value", value, "--out", f"figures/{value}")
        assert code == 0
        assert out.splitlines()[0].split()[-4:] == ["mean", "low", "high", "n"]
        assert out.splitlines()[-2:] == [f"figures/{value}.png", f"figures/{value}.pdf"]
        assert (tmp_path / f"figures/{value}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / f"figures/{value}.pdf").read_bytes().startswith(b"%PDF")


def test_plot_draws_what_compare_wrote(run, tmp_path):
    words = ("compare", *TINY, "--method", "gmp", "set", "--sparsity", "0.8", "--seed", "0")
    run(*words, "--workers", "1", "--csv", "table.csv")
    code, out, _ = run("plot", "table.csv", "--value", "methods", "--out", "figure")
    assert code == 0
    assert "asked_sparsity" in out
    assert all((tmp_path / f"figure.{ending}").stat().st_size > 1000 for ending in ("png", "pdf"))
    code, _, err = run("plot", "table.csv", "--value", "methods", "--hue", "rate")
    assert (code, "--hue is not for methods" in err) == (1, True)
    code, _, err = run("plot", "table.csv")
    assert (code, "has no column plasticity" in err) == (1, True)


def test_plot_refuses_a_column_that_the_table_does_not_have(run):
    measure(run)
    code, _, err = run("plot", "t.csv", "--hue", "colour")
    assert code == 1
    assert re.fullmatch("granet-lab: .*colour.*\n", err)


def test_runs_lists_what_the_lab_holds(run):
    measure(run)
    code, out, _ = run("runs")
    assert code == 0
    assert re.search(r"digits-mlp-[0-9a-f]{16} +dense +0\.0 +0 +2 +2 +\d+\.\d+ +3 +4 ", out)


def test_runs_says_that_a_lab_is_empty(run, tmp_path):
    (tmp_path / "lab").mkdir()
    assert run("runs", "--lab", "lab") == (0, "lab holds no runs yet\n", "")


@pytest.mark.parametrize("networks", [(), ("--networks", "4")], ids=["alone", "stacked"])
def test_profile_says_where_a_step_goes(run, networks):
    code, out, err = run("profile", "digits", *TINY, "--steps", "1", *networks, "--device", "cpu")
    assert (code, err) == (0, "")
    assert re.match(r"digits; .+\n\nA step of (a network|4 networks in a stack), 50 images", out)
    assert re.search(r"linear layers +\d+\.\d\d ms +\d+%", out)
    assert "An epoch: 2 steps" in out
    assert out.endswith("of what a step takes.\n")
