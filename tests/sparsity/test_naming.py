import pytest
from hypothesis import given
from hypothesis import strategies as st

from granet_lab.sparsity.naming import choose, matching

NAMES = ["conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight", "layer2.weight", "fc"]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("*", [0, 1, 2, 3, 4]),
        ("", []),
        ("   ", []),
        ("first", [0]),
        ("last", [4]),
        ("last first", [0, 4]),
        ("fc", [4]),
        ("conv1.weight", [0]),
        ("conv*", [0]),
        ("*conv*", [0, 1, 2]),
        ("layer?.weight", [3]),
        ("layer[12]*", [1, 2, 3]),
        ("layer[!1]*", [3]),
        ("layer1*  *conv1*\tlast", [0, 1, 2, 4]),
        (lambda name: name.endswith("2.weight"), [2, 3]),
        (lambda name: False, []),
    ],
)
def test_names_mean_layers_in_the_networks_order(layers, expected):
    assert matching(NAMES, layers) == [NAMES[i] for i in expected]


@pytest.mark.parametrize(
    ("layers", "dense", "expected"),
    [
        ("*", "", [0, 1, 2, 3, 4]),
        ("*", "first last", [1, 2, 3]),
        ("layer*", "*conv2*", [1, 3]),
        ("first layer2*", "last", [0, 3]),  # spared is what takes no part: no contradiction
        ("*", lambda name: name.startswith("layer"), [0, 4]),
        (lambda name: "conv" in name, "first", [1, 2]),
    ],
)
def test_dense_layers_are_left_out_of_those_that_take_part(layers, dense, expected):
    assert choose(NAMES, layers, dense) == [NAMES[i] for i in expected]


def test_every_layer_takes_part_by_default():
    assert choose(NAMES) == NAMES


def test_first_and_last_are_one_layer_if_there_is_one():
    assert matching(["only"], "first last") == ["only"]
    with pytest.raises(ValueError, match="no layer is left to prune"):
        choose(["only"], dense="first")


@pytest.mark.parametrize(
    "name", ["conv", "CONV1.weight", "First", "layer3*", "conv?x", "first.weight", "weight"]
)
def test_a_name_that_no_layer_has_is_refused_with_a_list_of_the_layers(name):
    with pytest.raises(ValueError, match="no layer is named") as raised:
        matching(NAMES, f"first {name} last")
    assert str(raised.value) == f"no layer is named {name!r}: choose from {', '.join(NAMES)}"


@pytest.mark.parametrize("field", ["layers", "dense"])
def test_unknown_names_are_refused_for_both_choices(field):
    with pytest.raises(ValueError, match=r"no layer is named 'stem': choose from conv1\.weight"):
        choose(NAMES, **{field: "stem"})


@pytest.mark.parametrize(
    ("layers", "dense"),
    [("", ""), ("*", "*"), ("fc", "last"), (lambda name: False, ""), ("*", lambda name: True)],
)
def test_no_layer_to_prune_is_refused_and_says_what_was_asked(layers, dense):
    with pytest.raises(ValueError, match="no layer is left to prune") as raised:
        choose(NAMES, layers, dense)
    assert f"layers={layers!r}, dense={dense!r}" in str(raised.value)


SOME = st.lists(st.sampled_from(NAMES), unique=True)


@given(layers=SOME, dense=SOME)
def test_whole_names_choose_just_those_layers(layers, dense):
    meant = [name for name in NAMES if name in layers and name not in dense]
    if meant:
        assert choose(NAMES, " ".join(layers), " ".join(dense)) == meant
        assert choose(NAMES, layers.__contains__, dense.__contains__) == meant
    else:
        with pytest.raises(ValueError, match="no layer is left"):
            choose(NAMES, " ".join(layers), " ".join(dense))


def test_a_name_with_brackets_means_itself():
    names = ["a[0]", "a0"]
    assert choose(names, "first") == ["a[0]"]
    assert choose(names, "a[0]") == ["a[0]"]
    assert choose(names, "*", "first") == ["a0"]


def test_a_modules_name_means_all_its_parameters():
    names = ["stem.weight", "layer1.0.a.weight", "layer1.0.b.weight", "fc.weight"]
    assert choose(names, "fc") == ["fc.weight"]
    assert choose(names, "layer1") == names[1:3]
    assert choose(names, "layer?", "layer1.0.a") == ["layer1.0.b.weight"]


def test_of_many_layers_the_nearest_are_listed():
    names = [f"block{i}.weight" for i in range(40)]
    with pytest.raises(ValueError, match=r"no layer is named 'blok7': choose from ") as raised:
        choose(names, "blok7")
    listed = str(raised.value).partition("choose from ")[2].split(", ")
    assert len(listed) == 13
    assert listed[-1] == "..."
    assert "block7.weight" in listed


@pytest.mark.parametrize("layers", [["a"], None, 3])
def test_layers_are_a_string_or_a_function(layers):
    with pytest.raises(ValueError, match="layers must be names in one string, or a function"):
        matching(["a"], layers)
