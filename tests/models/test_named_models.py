import sys

import pytest
import torch
from torch import nn
from torchvision import models as torchvisions

import granet_lab as gl
from granet_lab.models import MODELS, build, check, factory

OWN = """
from torch import nn

def make(input_shape, classes):
    channels, height, width = input_shape
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * height * width, classes))

def words(input_shape, classes):
    return "a network"

number = 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of somebody's own, in a package that can be imported."""
    (tmp_path / "their_package").mkdir()
    (tmp_path / "their_package/__init__.py").touch()
    (tmp_path / "their_package/nets.py").write_text(OWN)
    (tmp_path / "their_package/broken.py").write_text("import nothing_of_that_name")
    monkeypatch.syspath_prepend(tmp_path)
    return "their_package.nets"


def same_weights(one, other):
    return all(
        torch.equal(a, b)
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("name", MODELS)
def test_a_registered_model_is_found_by_its_name(name):
    assert factory(name) is MODELS[name]


UNKNOWN = ["resnet", "", None, 3, ["mlp"], "a.b", ":", "a..b:make", "a:make.it", "a:make:it"]


@pytest.mark.parametrize("name", [*UNKNOWN, "torchvision:"], ids=str)
def test_an_unknown_name_is_told_the_known_ones(name):
    known = "convnet, mlp, resnet20, resnet50, vgg19, torchvision:NAME, package.module:function"
    for ask in (check, factory):
        with pytest.raises(ValueError, match=r"^unknown model .*: choose from ") as error:
            ask(name)
        assert str(error.value).endswith(f"{name!r}: choose from {known}")


@pytest.mark.parametrize("name", [*MODELS, "torchvision:resnet18", "nowhere:make", "a.b.c:make"])
def test_a_name_is_checked_and_returned_without_importing_anything(name, monkeypatch):
    def refuse(module):
        raise AssertionError(f"{module} is imported")

    monkeypatch.setattr("importlib.import_module", refuse)
    monkeypatch.setitem(sys.modules, "torchvision", None)  # cannot be imported
    assert check(name) == name


def test_torchvisions_resnet18_is_built_without_its_weights():
    network = build("torchvision:resnet18", (3, 32, 32), 10, seed=0)
    theirs = torchvisions.resnet18(num_classes=10)
    assert {n: v.shape for n, v in network.state_dict().items()} == {
        n: v.shape for n, v in theirs.state_dict().items()
    }
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_torchvisions_networks_depend_on_the_seed_alone():
    one, again, other = (build("torchvision:resnet18", (3, 32, 32), 10, s) for s in (1, 1, 2))
    assert same_weights(one, again)
    assert not same_weights(one, other)


@pytest.mark.parametrize(("name", "side"), [("googlenet", 64), ("inception_v3", 80)])
def test_networks_that_score_twice_in_training_are_told_not_to(name, side, recwarn):
    network = build(f"torchvision:{name}", (3, side, side), 10, seed=0).train()
    scores = network(torch.randn(2, 3, side, side))
    assert isinstance(scores, torch.Tensor)
    assert scores.shape == (2, 10)
    assert not recwarn.list


@pytest.mark.parametrize("name", ["resnet19", "fcn_resnet50", "raft_large"])
def test_what_torchvision_has_not_or_is_no_classifier_is_told_the_classifiers(name):
    with pytest.raises(ValueError, match=r"^torchvision has no classifier .*resnet18.*vgg19_bn"):
        factory(f"torchvision:{name}")


def test_torchvisions_networks_want_three_channels():
    with pytest.raises(ValueError, match=r"^torchvision:resnet18 takes 3 channels, not 1$"):
        build("torchvision:resnet18", (1, 8, 8), 10, seed=0)


def test_a_function_of_ones_own_is_imported(own):
    network = build(f"{own}:make", (2, 4, 5), 7, seed=0)
    assert network[1].weight.shape == (7, 40)
    assert same_weights(network, build(f"{own}:make", (2, 4, 5), 7, seed=0))


def test_a_recipe_trains_a_network_of_ones_own(own, lab):
    recipe = gl.recipes.digits(model=f"{own}:make", epochs=2, milestones=(), train_size=100)
    run = lab.train(recipe, progress=False)
    assert run.history.epoch.tolist() == [0, 1, 2]
    assert isinstance(recipe.network(), nn.Module)


REFUSED = {
    "their_package.nets:nothing": "^there is no function 'nothing' in their_package.nets for",
    "their_package.nets:number": "^there is no function 'number' in their_package.nets for",
    "their_package.nets:": "^unknown model 'their_package.nets:': choose from ",
    "their_package.missing:make": "^cannot import their_package.missing for the model 'their",
    "nowhere:make": "^cannot import nowhere for the .*: No module named 'nowhere'",
    "their_package.broken:make": "^cannot import .*: No module named 'nothing_of_that_name'",
    ":make": "^unknown model ':make': choose from ",
    ".nets:make": "^unknown model '.nets:make': choose from ",
    "their package:make": "^unknown model 'their package:make': choose from ",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_function_that_is_not_there_is_refused_in_one_line(own, name):
    with pytest.raises(ValueError, match=REFUSED[name]) as error:
        factory(name)
    assert "\n" not in str(error.value)


def test_a_recipe_looks_at_the_form_of_a_name_and_imports_nothing(own):
    before = set(sys.modules)
    for name in REFUSED:
        if REFUSED[name].startswith("^unknown"):
            with pytest.raises(ValueError, match=REFUSED[name]):
                gl.recipes.digits(model=name)
        else:
            gl.recipes.digits(model=name)
    assert set(sys.modules) == before


def test_a_network_that_is_not_there_is_one_error_before_anything_is_trained(own, lab):
    recipe = gl.recipes.digits(model="nowhere:make")
    with pytest.raises(ValueError, match=r"^cannot import nowhere for the model"):
        lab.measure(gl.grid(recipe, epoch=10, rate=0.5, seed=[0, 1]), workers=2)
    assert not [*lab.path.iterdir()]


def test_what_makes_no_network_is_refused(own):
    with pytest.raises(ValueError, match=r"nets:words must return a torch.nn.Module, not str$"):
        build(f"{own}:words", (1, 8, 8), 10, seed=0)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "torchvision:googlenet"])
def test_building_leaves_torchs_own_generator_alone(name):
    before = torch.get_rng_state()
    build(name, (3, 32, 32), 10, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_of_every_source_lie_channels_last_in_memory():
    network = build("torchvision:resnet18", (3, 32, 32), 10, seed=0)
    weights = [p for p in network.parameters() if p.ndim == 4]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
