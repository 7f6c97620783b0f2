import math

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from reading import band, legend_of
from rows import COMPARISON, compared, masked

from granet_lab.experiments.comparison import COMPARED
from granet_lab.figures import plots


def ablated(**changes):
    """One method from two sparsities with three regrowths, each over two seeds."""
    dense = [(*row, 0.0, 0.0) for row in COMPARISON if row[0] == "dense"]
    sparse = [
        (f"mine {start} {share}", 0.9, seed, 90 + 2 * start + gain + seed, 0.4, 0.1, start, share)
        for start in (0.0, 0.5)
        for share, gain in ((0.5, 4), (0.0, 0), (0.3, 2))  # as somebody asked
        for seed in (0, 1)
    ]
    *rows, starts, shares = zip(*dense, *sparse, strict=True)
    told = {"initial_sparsity": starts, "regrow_fraction": shares}
    return compared([*zip(*rows, strict=True)], **told | changes)


def of_methods(*names, sparsities=(0.8, 0.9), **changes):
    """Methods of which each is a point better than the one before."""
    rows = [
        (name, sparsity, seed, 90.0 + place - 10 * sparsity + seed, 0.4, 0.1)
        for place, name in enumerate(names)
        for sparsity in sparsities
        for seed in (0, 1)
    ]
    return compared(rows, **changes)


DRAW = {"methods": (plots.methods, compared), "ablation": (plots.ablation, ablated)}
both = pytest.mark.parametrize(("draw", "make"), DRAW.values(), ids=DRAW)


def lines(figure, panel=0):
    """{name in the legend: line}."""
    return {line.get_label(): line for line in figure.axes[panel].get_lines()}


def points(line):
    return [*zip(line.get_xdata(), line.get_ydata(), strict=True)]


def colour(figure, name):
    """Of a line, in all panels that have it."""
    panels = [lines(figure, panel) for panel in range(len(figure.axes))]
    (found,) = {to_rgb(panel[name].get_color()) for panel in panels if name in panel}
    return found


def ticks(figure):
    return [tick.get_text() for tick in figure.axes[0].get_xticklabels()]


def test_the_figure_has_a_line_for_each_method_through_its_means():
    figure, frame = plots.methods(compared())
    columns = ["method", "asked_sparsity", "mean", "low", "high", "n", "place"]
    assert list(frame) == columns
    means = frame.set_index(["method", "asked_sparsity"])["mean"]
    assert means.to_dict() == {
        ("gmp", 0.9): 97.5,
        ("gmp", 0.98): 90.0,
        ("granet_st", 0.9): 97.0,
        ("granet_st", 0.98): 93.0,
    }
    assert points(lines(figure)["gmp"]) == [(0, 97.5), (1, 90.0)]
    assert points(lines(figure)["granet-st"]) == [(0, 97.0), (1, 93.0)]
    assert ticks(figure) == ["90%", "98%"]


def test_an_ablation_has_a_line_for_each_start_through_its_means():
    figure, frame = plots.ablation(ablated())
    columns = ["initial_sparsity", "regrow_fraction", "mean", "low", "high", "n", "place"]
    assert list(frame) == columns
    # The seeds add 0 and 1.
    assert points(lines(figure)["initial sparsity 0"]) == [(0, 90.5), (1, 92.5), (2, 94.5)]
    assert points(lines(figure)["initial sparsity 0.5"]) == [(0, 91.5), (1, 93.5), (2, 95.5)]
    assert ticks(figure) == ["0", "0.3", "0.5"]


def test_an_ablation_may_be_read_the_other_way_round():
    figure, frame = plots.ablation(ablated(), x="initial_sparsity", hue="regrow_fraction")
    assert points(lines(figure)["regrow fraction 0.3"]) == [(0, 92.5), (1, 93.5)]
    assert ticks(figure) == ["0", "0.5"]
    assert figure.axes[0].get_xlabel() == "Initial sparsity"
    keys = ["initial_sparsity", "regrow_fraction"]
    _, usual = plots.ablation(ablated())
    assert frame.groupby(keys)["mean"].sum().equals(usual.groupby(keys)["mean"].sum())


def test_intervals_of_two_seeds_reach_from_one_to_the_other_and_one_has_none():
    figure, frame = plots.methods(compared())
    assert isinstance(figure, Figure)
    found = frame.set_index(["method", "asked_sparsity"])[["low", "high", "n"]]
    assert found.loc[("gmp", 0.9)].tolist() == [97, 98, 2]
    assert found.loc[("gmp", 0.98)].tolist() == [90, 90, 1]
    assert found.loc[("granet_st", 0.9)].tolist() == [97, 97, 2]
    _, frame = plots.ablation(ablated())
    assert (frame["high"] - frame["low"]).tolist() == [1] * 6
    assert (frame["n"] == 2).all()


@both
def test_lines_and_bands_are_those_of_the_frame(draw, make):
    figure, frame = draw(make())
    sparse = [line for name, line in lines(figure).items() if name != "dense"]
    assert len(sparse) == 2
    for line, (_, part) in zip(sparse, frame.groupby(frame.columns[0]), strict=True):
        assert points(line) == [*zip(part["place"], part["mean"], strict=True)]
        corners = [*zip(part["place"], part["low"]), *zip(part["place"], part["high"])]  # noqa: B905
        expected = {(x, round(y, 9)) for x, y in corners}
        assert band(figure.axes[0], to_rgb(line.get_color())) == expected


@both
def test_the_dense_network_is_a_dotted_line_at_its_mean_and_not_in_the_frame(draw, make):
    figure, frame = draw(make())
    line = lines(figure)["dense"]
    assert list(line.get_ydata()) == [99.25, 99.25]
    assert line.get_linestyle() == ":"
    assert legend_of(figure).count("dense") == 1
    assert frame["mean"].max() < 99
    assert "method" not in frame or "dense" not in set(frame["method"])


@both
def test_without_a_dense_network_there_is_no_dotted_line(draw, make):
    diverged = make()
    diverged.loc[diverged["method"] == "dense", "test_acc"] = math.nan
    for table in (diverged, make().query("method != 'dense'")):
        figure, _ = draw(table)
        assert len(lines(figure)) == 2
        assert "dense" not in legend_of(figure)


def test_sparsities_stand_in_order_at_equal_distances():
    figure, frame = plots.methods(of_methods("set", sparsities=(0.995, 0.5, 0.9)))
    assert ticks(figure) == ["50%", "90%", "99.5%"]
    assert list(figure.axes[0].get_xticks()) == [0, 1, 2]
    assert frame[["asked_sparsity", "place"]].to_numpy().tolist() == [
        [0.5, 0],
        [0.9, 1],
        [0.995, 2],
    ]


def test_a_line_keeps_to_the_sparsities_that_its_method_has():
    whole, part = of_methods("set"), of_methods("gmp", sparsities=(0.7, 0.9))
    figure, _ = plots.methods(pd.concat([whole, part]))
    assert ticks(figure) == ["70%", "80%", "90%"]
    assert list(lines(figure)["set"].get_xdata()) == [1, 2]
    assert list(lines(figure)["gmp"].get_xdata()) == [0, 2]


def test_runs_that_failed_are_left_out():
    table = compared()
    broken = (table["method"] == "gmp") & (table["seed"] == 1)
    table.loc[broken, ["test_acc", "status"]] = [math.nan, "failed"]
    _, frame = plots.methods(table)
    found = frame.set_index(["method", "asked_sparsity"]).loc[("gmp", 0.9)]
    assert (found["mean"], found["n"]) == (97.0, 1)


def test_the_legend_names_each_line_once_with_hyphens():
    assert legend_of(plots.methods(compared())[0]) == ["dense", "gmp", "granet-st"]
    found = legend_of(plots.ablation(ablated())[0])
    assert found == ["dense", "initial sparsity 0", "initial sparsity 0.5"]


def test_axes_are_labelled_with_units():
    drawn = [draw(make())[0].axes[0] for draw, make in DRAW.values()]
    assert [axes.get_xlabel() for axes in drawn] == ["Sparsity", "Regrow fraction"]
    assert [axes.get_ylabel() for axes in drawn] == ["Test accuracy (%)"] * 2


@pytest.mark.parametrize("name", ["static", "gmp", "granet_st", "lottery"])
def test_a_method_has_the_same_colour_in_every_figure_whatever_stands_beside_it(name):
    told = {"initial_sparsity": 0.0, "regrow_fraction": 0.5}
    figures = [
        plots.methods(of_methods(name))[0],
        plots.methods(of_methods("dense", "set", "rigl", name))[0],
        plots.methods(of_methods("a_method_of_mine", name, "zip"))[0],
        plots.ablation(of_methods("granet", name, sparsities=(0.9,), **told), hue="method")[0],
        plots.dynamics(masked((name,)))[0],
        plots.dynamics(masked(("snip", "rigl", name, "mine")))[0],
        plots.trunk(masked((name, "dense")), hue="method")[0],
    ]
    assert len({colour(figure, name.replace("_", "-")) for figure in figures}) == 1


def test_the_methods_that_are_compared_differ_in_colour_and_stand_in_one_order():
    names = [name.replace("_", "-") for name in COMPARED]
    figure, _ = plots.trunk(masked(("mine", *reversed(COMPARED))), hue="method")
    assert legend_of(figure) == [*names, "mine", "learning rate decays"]
    assert len({colour(figure, name) for name in names}) == len(names)
    figure, _ = plots.methods(of_methods("mine", *reversed(COMPARED)))
    assert legend_of(figure) == [*names, "mine"]


@both
def test_a_plot_leaves_its_table_and_pyplot_as_they_are(draw, make):
    table, parameters = make(), dict(mpl.rcParams)
    draw(table)
    pd.testing.assert_frame_equal(table, make())
    assert dict(mpl.rcParams) == parameters
    assert plt.get_fignums() == []


def test_a_figure_of_something_else_is_refused():
    for draw, make in DRAW.values():
        with pytest.raises(ValueError, match="no comparison of methods"):
            draw(make().drop(columns="asked_sparsity"))
    with pytest.raises(ValueError, match="no comparison of methods: it has no column regrow_"):
        plots.ablation(ablated().drop(columns="regrow_fraction"))
    with pytest.raises(ValueError, match="no comparison of methods: it has no column sharpness"):
        plots.ablation(ablated(), hue="sharpness")


@both
@pytest.mark.parametrize(("name", "value"), [("epochs", 9), ("model", "vgg"), ("dataset", "own")])
def test_settings_are_not_mixed_unnoticed(draw, make, name, value):
    with pytest.raises(ValueError, match=rf"mixes {name} \(.*{value}.*\): select one"):
        draw(pd.concat([make(), make(**{name: value})]))


@both
def test_a_run_is_not_counted_twice(draw, make):
    with pytest.raises(ValueError, match="a seed is there twice"):
        draw(pd.concat([make(), make()]))


def test_an_ablation_does_not_mix_the_sparsities_at_the_end():
    with pytest.raises(ValueError, match=r"a seed is there twice|mixes asked_sparsity"):
        plots.ablation(pd.concat([ablated(), ablated(asked_sparsity=0.98)]))


def test_lines_cannot_differ_in_what_runs_along_the_axis():
    with pytest.raises(ValueError, match="lines cannot differ in 'regrow_fraction'"):
        plots.ablation(ablated(), hue="regrow_fraction")


@both
def test_where_nothing_is_finished_nothing_is_drawn(draw, make):
    for table in (make(test_acc=math.nan), make()[:0], make().query("method == 'dense'")):
        with pytest.raises(ValueError, match="there is no test_acc to draw"):
            draw(table)


def test_an_ablation_is_of_one_sparsity_and_names_what_is_missing():
    both = compared().assign(regrow_fraction=0.5, initial_sparsity=0.0)
    both = both[(both.method == "gmp") & (both.seed == 0)]
    both = both.assign(seed=[0, 1])
    with pytest.raises(ValueError, match=r"mixes asked_sparsity \(0.9, 0.98\)"):
        plots.ablation(both)
    for name in ("method", "asked_sparsity", "regrow_fraction", "initial_sparsity"):
        with pytest.raises(ValueError, match=f"no column {name}"):
            plots.ablation(both.drop(columns=name))
