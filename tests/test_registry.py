import pytest

from granet_lab.registry import Registry


@pytest.fixture
def colours():
    return Registry("colour")


def function(name, module="notebook"):
    def made():
        return name

    made.__name__, made.__module__ = name, module
    return made


def test_a_registered_function_is_found_by_its_name(colours):
    red = function("red")
    colours.register(red)
    assert colours["red"] is red


def test_register_works_as_a_decorator(colours):
    @colours.register
    def green():
        return 1

    assert green() == 1
    assert "green" in colours


def test_an_unknown_name_raises_a_value_error_that_lists_the_known_ones(colours):
    colours.register(function("red"))
    colours.register(function("blue"))
    with pytest.raises(ValueError, match=r"unknown colour 'pink': choose from blue, red"):
        colours["pink"]


def test_check_returns_a_known_name_and_refuses_an_unknown_one(colours):
    colours.register(function("red"))
    assert colours.check("red") == "red"
    with pytest.raises(ValueError, match="red"):
        colours.check("pink")


def test_names_come_sorted(colours):
    for name in ("red", "blue", "green"):
        colours.register(function(name))
    assert list(colours) == ["blue", "green", "red"]
    assert len(colours) == 3


def test_the_same_module_may_register_a_name_again(colours):
    colours.register(function("red"))
    newer = colours.register(function("red"))
    assert colours["red"] is newer
    assert len(colours) == 1


@pytest.mark.parametrize(
    ("first", "second"), [("__main__", "__mp_main__"), ("__mp_main__", "__main__")]
)
def test_a_script_that_another_process_reads_again_is_the_same_module(colours, first, second):
    colours.register(function("red", module=first))
    newer = colours.register(function("red", module=second))
    assert colours["red"] is newer


def test_another_module_may_not_take_a_name(colours):
    first = colours.register(function("red", module="one"))
    with pytest.raises(ValueError, match="colour 'red' is already defined in one"):
        colours.register(function("red", module="two"))
    assert colours["red"] is first


def test_added_are_the_entries_from_outside_the_package(colours):
    colours.register(function("red", module="granet_lab.paint"))
    outside = [
        colours.register(function("blue", module="__main__")),
        colours.register(function("green", module="granet_laboratory.paint")),
    ]
    assert colours.added() == outside


def test_two_registries_share_nothing(colours):
    colours.register(function("red"))
    assert "red" not in Registry("colour")
