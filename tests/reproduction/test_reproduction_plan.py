import re
from dataclasses import replace
from importlib import import_module

import pytest

import granet_lab as gl
from granet_lab.reproduction import STAGES, plan
from granet_lab.training.recipes import RECIPES

# Two seeds, 8 epochs; pruned twice at two rates, which takes two epochs to recover.
SMALL = {
    "model": "mlp",
    "epochs": 8,
    "milestones": (4, 6),
    "train_size": 200,
    "prune_epochs": [2, 4],
    "rates": [0.5, 0.9],
    "recovery_epochs": 2,
    "methods": ["gmp", "granet"],
    "sparsities": [0.8],
    "seeds": [3, 1],
}


def small(**asked):
    return plan("digits", **{**SMALL, **asked})


@pytest.fixture
def paced(monkeypatch):
    """Says that an epoch takes a minute; the recipes and devices that it was asked about."""
    asked = []

    def seconds_per_epoch(*values):
        asked.append(values)
        return 60.0

    # The package offers a function of the module's name.
    module = import_module("granet_lab.reproduction.plan")
    monkeypatch.setattr(module, "seconds_per_epoch", seconds_per_epoch)
    return asked


def pruned(found):
    return sorted({trial.epoch for trial in found.all_trials})


@pytest.mark.parametrize(
    ("what", "stages"),
    [
        (STAGES, ["plasticity", "regeneration", "methods"]),
        (("methods", "plasticity"), ["plasticity", "methods"]),
        (iter(["regeneration", "regeneration"]), ["regeneration"]),
        ("regeneration", ["regeneration"]),
        (["methods"], ["methods"]),
    ],
    ids=["all", "two", "twice", "a word", "methods"],
)
def test_stages_are_chosen_by_name_and_come_in_one_order(what, stages):
    found = small(what=what)
    assert found.stages == stages
    assert bool(found.entries) == ("methods" in stages)
    assert bool(found.all_trials) == (stages != ["methods"])


@pytest.mark.parametrize(
    ("name", "asked", "epochs", "recovery"),
    [
        ("resnet20_cifar10", {}, range(10, 161, 10), 30),
        ("resnet20_cifar10", {"short": True}, range(2, 17, 2), 3),
        ("resnet20_cifar10", {"short": 2}, range(10, 81, 10), 15),
        ("resnet20_cifar10", {"short": 40}, range(1, 5), 1),
        ("digits", {"short": True}, range(1, 7), 1),
        ("digits", {"epochs": 32, "milestones": (16, 24)}, range(2, 33, 2), 6),
        ("digits", {"epochs": 1, "milestones": ()}, [1], 1),
    ],
)
def test_the_run_is_pruned_a_sixteenth_apart_or_an_eighth_of_a_short_one_but_never_untrained(
    name, asked, epochs, recovery
):
    found = plan(name, **asked)
    assert pruned(found) == list(epochs)
    assert {trial.recovery_epochs for trial in found.all_trials} == {recovery}


def test_the_decays_of_the_learning_rate_are_among_the_epochs_of_pruning():
    for name in ("digits", "resnet20_cifar10", "vgg19_cifar100"):
        for short in (False, True):
            found = plan(name, short=short)
            assert {*found.recipe.milestones} <= {*pruned(found)}


def test_rates_are_the_papers_and_what_is_given_is_taken():
    assert {trial.pruning.rate for trial in plan("digits").all_trials} == {0.2, 0.5, 0.9, 0.98}
    found = small()
    assert pruned(found) == [2, 4]
    assert {trial.pruning.rate for trial in found.all_trials} == {0.5, 0.9}
    assert {trial.recovery_epochs for trial in found.all_trials} == {2}
    assert {trial.recovery_epochs for trial in small(recovery_epochs=0).all_trials} == {0}


@pytest.mark.parametrize(
    ("name", "sparsities"),
    [
        ("vgg19_cifar10", [0.9]),
        ("vgg19_cifar100", [0.98]),
        ("resnet50_cifar10", [0.95]),
        ("resnet50_imagenet", [0.8, 0.9]),
        ("resnet20_cifar10", [0.9, 0.95, 0.98]),
        ("digits", [0.9, 0.95, 0.98]),
    ],
)
def test_sparsities_are_those_that_are_published_for_the_recipe(name, sparsities):
    found = plan(name)
    assert found.sparsities == sparsities
    # Three methods at each, and the dense network.
    assert len(found.entries) == 3 * len(sparsities) + 1
    assert {entry.sparsity for entry in found.entries} == {0.0, *sparsities}


def test_one_sparsity_and_one_seed_will_do():
    found = small(sparsities=0.7, seeds=5)
    assert [(e.method, e.sparsity, e.recipe.seed) for e in found.entries] == [
        ("dense", 0.0, 5),
        ("gmp", 0.7, 5),
        ("granet", 0.7, 5),
    ]


def test_the_trials_of_regeneration_are_those_of_plasticity_and_each_once_more_with_it():
    found = small()
    without, both = found.trials["plasticity"], found.trials["regeneration"]
    assert len(without) == len({*without}) == 2 * 2 * 2
    assert {trial.pruning.regrow for trial in without} == {None}
    regrown = [replace(t, pruning=replace(t.pruning, regrow="gradient")) for t in without]
    assert {*both} == {*without, *regrown}
    assert len(both) == 16


def test_what_stages_share_is_there_once():
    found = small()
    assert len(found.all_trials) == 16
    assert {*found.all_trials} == {*found.trials["regeneration"]}
    dense = {replace(found.recipe, seed=seed) for seed in (1, 3)}
    sparse = [gl.methods.gmp(0.8), gl.methods.granet(0.8)]
    assert len(found.runs) == 6
    assert {*found.runs} == dense | {replace(one, method=m) for one in dense for m in sparse}
    assert {*small(what="plasticity").runs} == dense
    assert {*small(what="methods").runs} == {*found.runs}


def test_checkpoints_are_kept_of_the_pruned_epochs_and_the_last():
    assert small().checkpoints == [2, 4, 8]
    assert small(prune_epochs=[8, 1]).checkpoints == [1, 8]
    assert small(what="methods").checkpoints == [8]


def test_titles_tell_a_short_run_from_a_whole_one():
    assert plan("resnet20_cifar10").title == "resnet20_cifar10, 160 epochs"
    short = plan("resnet20_cifar10", short=True)
    assert short.title == "resnet20_cifar10 shortened to 16 of 160 epochs"
    assert plan("digits", short=4).title == "digits shortened to 15 of 60 epochs"
    assert small().title == "digits, 8 epochs"


def test_a_short_plan_has_the_short_recipe_and_knows_the_whole_one():
    found = plan("resnet20_cifar10", short=5, lr=0.2)
    assert found.whole == RECIPES["resnet20_cifar10"](lr=0.2)
    assert found.recipe == found.whole.short(5)
    assert {run.epochs for run in found.runs} == {32}
    assert plan("resnet20_cifar10", lr=0.2).recipe == found.whole


def test_fields_of_the_recipe_are_changed_and_its_seed_is_the_first():
    found = small(batch_size=25, weight_decay=0.0)
    asked = {"model": "mlp", "epochs": 8, "milestones": (4, 6), "train_size": 200}
    whole = RECIPES["digits"](batch_size=25, weight_decay=0.0, **asked)
    assert found.recipe == found.whole == replace(whole, seed=3)
    assert {replace(run, seed=0, method=gl.methods.dense()) for run in found.runs} == {whole}


WRONG = [
    ({"what": ["heating"]}, "unknown stage 'heating': choose from plasticity, regeneration, meth"),
    ({"what": []}, "name at least one stage: plasticity, regeneration, methods"),
    ({"methods": ["magic"]}, "unknown method 'magic': choose from .*granet"),
    ({"methods": []}, "methods needs at least one value"),
    ({"methods": []} | {"what": "methods"}, "methods needs at least one value"),
    ({"prune_epochs": [9]}, "epoch 9 is not in this run: choose 0 to 8"),
    ({"prune_epochs": []}, "epoch needs at least one value"),
    ({"rates": [1.5]}, r"rate must lie in \[0, 1\], not 1.5"),
    ({"rates": []}, "rate needs at least one value"),
    ({"recovery_epochs": -1}, "recovery_epochs must be at least 0"),
    ({"seeds": []}, "seeds? needs at least one value"),
    ({"seeds": [], "what": "methods"}, "seeds? needs at least one value"),
    ({"sparsities": []}, "sparsities needs at least one value"),
    ({"sparsities": [1.5]}, r"sparsity must lie in \[0, 1\], not 1.5"),
    ({"methods": {"late": lambda s: gl.methods.gmp(s, stop=9)}}, "stop 9 lies beyond the run of 8"),
    ({"short": 0.5}, "factor must be at least 1"),
    ({"short": 100}, "epochs must be at least 1"),
    ({"model": "giant"}, "unknown model 'giant'"),
    ({"seed": 3}, "seed is no change .*seeds"),
    ({"method": gl.methods.gmp(0.9)}, "method is no change .*methods"),
]


WORDS = [message for _, message in WRONG]


@pytest.mark.parametrize(("asked", "message"), WRONG, ids=WORDS)
def test_what_cannot_be_planned_is_one_clear_line(asked, message):
    with pytest.raises(ValueError, match=message) as caught:
        small(**asked)
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_is_one_clear_line():
    with pytest.raises(ValueError, match="unknown recipe 'alexnet': choose from digits, "):
        plan("alexnet")


def test_methods_that_are_not_asked_for_are_not_refused():
    assert small(what="plasticity", methods=[]).stages == ["plasticity"]


def test_the_description_counts_runs_trials_and_epochs(lab, paced):
    told = small().describe(lab, workers=1)
    # 2 runs of 8 epochs; 8 trials of 2, twice as many with those that regrow; 4 sparse runs.
    assert "digits, 8 epochs, on cpu:\n" in told
    assert f"  plasticity: 2 runs and 8 trials, {2 * 8 + 8 * 2} epochs\n" in told
    assert f"  regeneration: 2 runs and 16 trials, {2 * 8 + 16 * 2} epochs\n" in told
    assert f"  methods: 6 runs, {6 * 8} epochs\n" in told
    assert f"; {6 * 8 + 16 * 2} epochs are missing\n" in told
    # A run takes an epoch more for its beginning, and so does a trial.
    hours = (6 * (8 + 1) + 16 * (2 + 1)) / 60
    assert f"  an epoch takes 60 s here (from a few steps), all of it about {hours:.1f} h " in told
    assert "with 1 at a time\n" in told
    assert list(lab.path.iterdir()) == []


def test_the_description_counts_one_run_as_one(lab, paced):
    told = small(what="plasticity", seeds=0, rates=0.5, prune_epochs=8).describe(lab, 1)
    assert "  plasticity: 1 run and 1 trial, 10 epochs\n" in told


def test_the_description_asks_for_the_pace_of_the_labs_device(lab, paced):
    found = small()
    lab.device = "cuda:7"
    told = found.describe(lab)
    assert paced == [(found.recipe, "cuda:7")]
    assert told.startswith("digits, 8 epochs, on cuda:7:\n")
    assert "with 1 at a time" in told  # as on every GPU
    with pytest.raises(ValueError, match="workers must be at least 1, not -2"):
        found.describe(lab, workers=-2)


def test_what_is_measured_is_no_longer_missing_and_the_disk_is_as_full_as_was_said(lab, paced):
    found = small(seeds=[0])
    told = [found.describe(lab, 1)]
    for stage in ("plasticity", "regeneration"):
        lab.measure(found.trials[stage], None, 1, False, found.checkpoints)
        told.append(found.describe(lab, 1))
    lab.compare(*_compared(found), checkpoints=found.checkpoints, workers=1, progress=False)
    told.append(found.describe(lab, 1))
    missing = [int(re.search(r"(\d+) epochs are missing", one)[1]) for one in told]
    # A dense run and 4 trials; 4 more that regrow; 2 sparse runs.
    assert missing == [24 + 16, 16 + 8, 16, 0]
    assert "all of it no time" in told[-1]
    kept = sum(path.stat().st_size for path in lab.path.rglob("*.safetensors")) / 1e6
    size = re.search(rf"disk: up to (\d+) MB in {lab.path}$", told[0])[1]
    assert kept == pytest.approx(int(size), abs=0.52)


def _compared(found):
    return found.recipe, found.methods, found.sparsities, found.seeds
