import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import granet_lab as gl

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "granet_lab"
SOURCES = sorted(PACKAGE.rglob("*.py"))
every_source = pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))

# The floors of the house: a module may import from its own floor and from those below.
FLOORS = {
    "checks": 0,
    "operations": 0,
    "randomness": 0,
    "registry": 0,
    "wording": 0,
    "sparsity": 1,
    "datasets": 1,
    "models": 1,
    "training": 2,
    "experiments": 3,
    "figures": 4,
    "explorer": 5,
    "reproduction": 5,
    "upkeep": 5,
    "demo": 6,
    "typed": 6,
    "cli": 7,
    "__init__": 8,
}
SLOW = ("torch", "numpy", "pandas", "sklearn", "matplotlib", "seaborn", "ipywidgets", "IPython")


def floor_name(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path):
    """Full names of what a file imports, at its top or inside its functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def called(path):
    """Dotted names of what a file calls: print, torch.manual_seed, tensor.cuda."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


STAGES = {
    "package": "import granet_lab as gl; dir(gl); gl.__version__",
    "training": "gl.Recipe, gl.recipes, gl.Masks, gl.prune, gl.methods",
    "experiments": "gl.Lab, gl.grid, gl.Trial, gl.read_table",
}


@pytest.fixture(scope="module")
def loaded():
    """Which slow packages a fresh interpreter has loaded after each stage."""
    note = f"found.append(sorted({set(SLOW)} & sys.modules.keys()))"
    code = ["import sys, json", "found = []", *(f"{use}\n{note}" for use in STAGES.values())]
    words = [sys.executable, "-c", "\n".join([*code, "print(json.dumps(found))"])]
    found = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return dict(zip(STAGES, map(set, json.loads(found)), strict=True))


def test_every_module_has_a_floor():
    assert {floor_name(path) for path in SOURCES} == FLOORS.keys()


@every_source
def test_imports_go_down_only(path):
    floor = FLOORS[floor_name(path)]
    for name in imported(path):
        package, _, rest = name.partition(".")
        if package != "granet_lab":
            continue
        target = rest.partition(".")[0]
        if name == "granet_lab":
            assert path.name == "environment.py", "only the version is taken from the package"
        elif target in FLOORS:
            assert FLOORS[target] <= floor, f"{path.name} imports {name}"
        else:
            assert target in gl.__all__, f"{name} is not there"
            assert floor_name(path) in ("cli", "demo"), "the library imports from where things are"


@pytest.mark.parametrize("name", [name for name, floor in FLOORS.items() if floor == 0])
def test_the_ground_floor_imports_nothing_of_the_package(name):
    assert not any(found.startswith("granet_lab") for found in imported(PACKAGE / f"{name}.py"))


def test_the_version_alone_is_taken_from_the_package_itself():
    tree = ast.parse((PACKAGE / "experiments" / "environment.py").read_text())
    used = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute)]
    assert {n.attr for n in used if ast.unparse(n.value) == "granet_lab"} == {"__version__"}


def test_importing_the_package_loads_nothing_slow(loaded):
    assert loaded["package"] == set()


def test_training_and_pruning_load_neither_tables_nor_figures_nor_jupyter(loaded):
    assert loaded["training"] == {"torch", "numpy"}


def test_measuring_loads_neither_figures_nor_jupyter(loaded):
    assert not loaded["experiments"] & {"matplotlib", "seaborn", "ipywidgets", "IPython"}


@pytest.mark.parametrize("name", gl.__all__)
def test_every_name_on_the_menu_is_there(name):
    assert getattr(gl, name) is not None
    assert name in dir(gl)


@pytest.mark.parametrize(
    "name", ["sparsity", "training", "experiments", "figures", "explorer", "reproduction"]
)
def test_every_name_that_a_subpackage_offers_is_there(name):
    module = import_module(f"granet_lab.{name}")
    assert module.__all__
    assert all(hasattr(module, offered) for offered in module.__all__)


def test_the_menu_offers_the_names_of_the_contract():
    types = {"Recipe", "Pruning", "Trial", "Masks", "Context", "Lab", "Run"}
    functions = {"grid", "prune", "prune_to", "regenerate", "allocate"}
    assert types | functions | {"recipes", "methods", "plots"} <= set(gl.__all__)


@every_source
def test_the_device_is_the_callers_choice(path):
    assert not [name for name in called(path) if name.endswith(".cuda")]


@every_source
def test_the_library_does_not_print(path):
    assert floor_name(path) == "cli" or "print" not in called(path)


@every_source
def test_no_global_generator_is_seeded(path):
    seeding = {"torch.manual_seed", "torch.seed", "np.random.seed", "random.seed"}
    assert not seeding & set(called(path))


@every_source
def test_no_pickle_is_loaded_from_a_file(path):
    loading = {"torch.load", "pickle.load", "pickle.loads", "pd.read_pickle", "joblib.load"}
    assert not loading & set(called(path))


@every_source
def test_a_file_has_at_most_300_lines(path):
    assert len(path.read_text().splitlines()) <= 300


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]
PINS = [
    line.partition("#")[0].strip()
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line.partition("#")[0].strip()
]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())


def pinned():
    return {canonicalize_name(name): version for name, version in (pin.split("==") for pin in PINS)}


@pytest.mark.parametrize("needed", NEEDED)
def test_each_dependency_is_pinned_to_a_version_that_it_allows(needed):
    requirement = Requirement(needed)
    assert requirement.specifier.contains(pinned()[canonicalize_name(requirement.name)])


@pytest.mark.parametrize("needed", NEEDED)
def test_each_dependency_has_a_lowest_version(needed):
    operators = [part.operator for part in Requirement(needed).specifier]
    assert sorted(operators, reverse=True) in ([">="], [">=", "<"])


def test_each_pin_is_one_exact_public_version():
    for pin in PINS:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[^=+*]+", pin)
        assert Version(pin.partition("==")[2]).local is None


def test_nothing_is_pinned_twice():
    assert len(pinned()) == len(PINS)


def test_the_environment_asks_for_the_same_python_as_the_project():
    (python_,) = [Requirement(d) for d in _conda_packages() if d.startswith("python")]
    assert python_.specifier == SpecifierSet(PROJECT["requires-python"])


def _conda_packages():
    return [d for d in ENVIRONMENT["dependencies"] if isinstance(d, str)]


def test_the_environment_installs_the_package_for_testing_under_the_constraints():
    (pip,) = [d["pip"] for d in ENVIRONMENT["dependencies"] if isinstance(d, dict)]
    assert sorted(pip) == ["-c constraints.txt", "-e .[test]"]
    assert "pip" in _conda_packages()


def test_the_linter_is_told_the_oldest_python_that_the_project_allows():
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    oldest = ruff["target-version"].removeprefix("py3")
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"3.{oldest}")
    assert not SpecifierSet(PROJECT["requires-python"]).contains(f"3.{int(oldest) - 1}")
