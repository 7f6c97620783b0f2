import math

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from reading import band, legend_of
from rows import LAYERS, masked

from granet_lab.figures import plots

TITLES = {
    "sparsity": "Sparsity",
    "exploration": "Weights ever active",
    "survival": "Regrown weights that stay",
    "test_acc": "Test accuracy (%)",
}
DRAW = {"dynamics": plots.dynamics, "layer_sparsity": plots.layer_sparsity}
both = pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW)


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.get_title()]


def panel(figure, value):
    (found,) = [axes for axes in figure.axes if axes.get_title() == TITLES[value]]
    return found


def lines(axes):
    """{name in the legend: line}, without those that mark an epoch."""
    found = {line.get_label(): line for line in axes.get_lines()}
    return {name: line for name, line in found.items() if name != "learning rate decays"}


def decays(axes):
    """The lines that mark an epoch."""
    return [line for line in axes.get_lines() if line.get_label() == "learning rate decays"]


def maps(figure):
    """{title: axes} of the maps, without the colour bar."""
    return {axes.get_title(): axes for axes in figure.axes[:-1]}


def mesh(axes):
    (found,) = [part for part in axes.collections if isinstance(part, QuadMesh)]
    return found


def sparsities(figure, title):
    """What the colours of a map say: {layer: its sparsities}, from top to bottom."""
    axes, named = maps(figure)[title], figure.axes[0]  # the first map names the rows of all
    names = [text.get_text() for text in named.get_yticklabels()]
    assert list(named.get_yticks()) == [0, 1, 2]
    rows = 1 - mesh(axes).get_array().reshape(len(names), -1)
    bottom, top = axes.get_ylim()
    found = [*zip(names, rows.tolist(), strict=True)]
    return dict(found if bottom > top else reversed(found))


def test_dynamics_returns_a_figure_and_the_frame_behind_it():
    figure, frame = plots.dynamics(masked())
    assert isinstance(figure, Figure)
    assert list(frame) == ["value", "method", "epoch", "mean", "low", "high", "n"]
    assert list(frame["value"].unique()) == list(TITLES)
    # Both methods in 41 epochs; rigl's survival is not known in epoch 0, gmp's never.
    assert frame.groupby("value")["n"].size().to_dict() == {
        "sparsity": 82,
        "exploration": 82,
        "survival": 40,
        "test_acc": 82,
    }
    assert (frame["n"] == 3).all()


def test_means_and_intervals_are_those_by_hand():
    _, frame = plots.dynamics(masked(seeds=(0, 1)))
    found = frame.set_index(["value", "method", "epoch"])[["mean", "low", "high"]]
    assert found.loc[("sparsity", "gmp", 20)].tolist() == pytest.approx([0.45] * 3)
    assert found.loc[("exploration", "rigl", 20)].tolist() == pytest.approx([0.31, 0.30, 0.32])
    assert found.loc[("survival", "rigl", 20)].tolist() == pytest.approx([0.21, 0.20, 0.22])
    assert found.loc[("test_acc", "gmp", 20)].tolist() == pytest.approx([85.5, 85, 86])


def test_there_is_a_panel_for_each_thing_that_is_tracked():
    figure, _ = plots.dynamics(masked())
    assert titles(figure) == list(TITLES.values())
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "Epoch", "Epoch"]


def test_lines_and_bands_are_those_of_the_frame():
    figure, frame = plots.dynamics(masked(("gmp", "rigl", "granet_st")))
    for (value, method), rows in frame.groupby(["value", "method"]):
        line = lines(panel(figure, value))[method.replace("_", "-")]
        assert list(line.get_xdata()) == rows["epoch"].tolist()
        assert list(line.get_ydata()) == rows["mean"].tolist()
        corners = [*zip(rows["epoch"], rows["low"]), *zip(rows["epoch"], rows["high"])]  # noqa: B905
        expected = {(float(x), round(float(y), 9)) for x, y in corners}
        assert band(panel(figure, value), to_rgb(line.get_color())) == expected


def test_a_method_that_brings_nothing_back_has_no_line_of_survival():
    figure, frame = plots.dynamics(masked())
    assert set(lines(panel(figure, "survival"))) == {"rigl"}
    assert set(lines(panel(figure, "exploration"))) == {"gmp", "rigl"}
    assert set(frame.loc[frame["value"] == "survival", "method"]) == {"rigl"}


@pytest.mark.parametrize("lacking", [["survival"], ["sparsity"], ["sparsity", "survival"]])
def test_a_panel_with_nothing_in_it_is_left_out(lacking):
    figure, frame = plots.dynamics(masked().assign(**dict.fromkeys(lacking, math.nan)))
    left = [name for name in TITLES if name not in lacking]
    assert titles(figure) == [TITLES[name] for name in left]
    assert len(figure.axes) == len(left)
    assert list(frame["value"].unique()) == left
    assert "Epoch" in {axes.get_xlabel() for axes in figure.axes}


def test_survival_that_was_never_known_is_no_number_as_the_history_has_it():
    history = masked(("static", "gmp"), survival=None)
    assert TITLES["survival"] not in titles(plots.dynamics(history)[0])
    mixed = pd.concat([masked(("rigl",)), history], ignore_index=True)
    assert set(lines(panel(plots.dynamics(mixed)[0], "survival"))) == {"rigl"}


def test_learning_rate_decays_are_dashed_lines_at_their_epochs_named_once():
    figure, _ = plots.dynamics(masked())
    for axes in figure.axes:
        assert [line.get_xdata()[0] for line in decays(axes)] == [20, 30]
        assert all(line.is_dashed() for line in decays(axes))
    assert legend_of(figure).count("learning rate decays") == 1


def test_without_decays_there_are_no_vertical_lines():
    figure, _ = plots.dynamics(masked(milestones=""))
    assert not any(decays(axes) for axes in figure.axes)
    assert "learning rate decays" not in legend_of(figure)


def test_the_legend_names_each_line_once_with_hyphens():
    figure, _ = plots.dynamics(masked(("rigl", "granet_st", "dense")))
    assert legend_of(figure) == ["dense", "rigl", "granet-st", "learning rate decays"]


def test_accuracy_leaves_out_the_first_twentieth_of_training_and_nothing_else_does():
    figure, frame = plots.dynamics(masked())
    low, high = panel(figure, "test_acc").get_ylim()
    late = frame[(frame["value"] == "test_acc") & (frame["epoch"] > 2)]
    assert 60 < low <= late["low"].min()
    assert late["high"].max() <= high
    low, high = panel(figure, "sparsity").get_ylim()
    assert low <= 0
    assert high >= 0.9
    assert not any(axes.texts for axes in figure.axes)


def test_a_dense_network_stands_beside_sparse_ones():
    dense = masked(("dense",), sparsity=0.0, pretrained_sparsity=0.0)
    figure, frame = plots.dynamics(pd.concat([masked(("gmp",)), dense]))
    assert set(frame["method"]) == {"dense", "gmp"}
    assert set(lines(panel(figure, "sparsity"))["dense"].get_ydata()) == {0}


def test_lines_may_differ_in_another_column():
    made = [masked(("gmp",), pretrained_sparsity=s, sparsity=s) for s in (0.5, 0.9)]
    figure, frame = plots.dynamics(pd.concat(made), hue="pretrained_sparsity")
    assert frame.columns[1] == "pretrained_sparsity"
    assert legend_of(figure)[:2] == ["pre-trained at sparsity 0.5", "pre-trained at sparsity 0.9"]


def test_a_map_for_each_method_in_the_order_of_their_colours():
    figure, frame = plots.layer_sparsity(masked(("granet_st", "mine", "gmp", "static")))
    assert isinstance(figure, Figure)
    assert list(frame) == ["method", "layer", "epoch", "mean"]
    assert list(maps(figure)) == ["static", "gmp", "granet-st", "mine"]
    assert figure.axes[-1].get_ylabel() == "Sparsity"
    assert {axes.get_xlabel() for axes in maps(figure).values()} == {"Epoch"}


@pytest.mark.parametrize("names", [("gmp",), ("gmp", "rigl"), ("gmp", "rigl", "set")])
def test_every_cell_is_the_mean_over_seeds_and_layers_stand_as_in_the_network(names):
    figure, frame = plots.layer_sparsity(masked(names, seeds=(0, 1, 2), last=8))
    assert len(frame) == len(names) * len(LAYERS) * 9
    for name in names:
        found = sparsities(figure, name)
        assert list(found) == list(LAYERS)  # from top to bottom
        for place, layer in enumerate(LAYERS, start=1):
            # The seeds add 0, 0.02 and 0.04; gmp 1/200 in each epoch.
            expected = place / 5 + 0.02 + np.arange(9) / 200 * (name == "gmp")
            assert found[layer] == pytest.approx(expected)
            rows = frame[(frame["method"] == name) & (frame["layer"] == layer)]
            assert rows["mean"].tolist() == pytest.approx(expected)


def test_columns_stand_at_their_epochs():
    figure, _ = plots.layer_sparsity(masked(last=8))
    for axes in maps(figure).values():
        assert axes.get_xlim() == pytest.approx((-0.5, 8.5))


def test_colours_mean_the_same_in_every_map_and_reach_from_dense_to_the_sparsest():
    history = masked(("gmp", "rigl", "dense"))
    history.loc[history["method"] == "dense", [f"sparsity/{name}" for name in LAYERS]] = 0.0
    history.loc[history["method"] == "rigl", f"sparsity/{LAYERS[-1]}"] = 0.995
    figure, frame = plots.layer_sparsity(history)
    (norm,) = {mesh(axes).norm for axes in maps(figure).values()}
    assert norm(1 - 0.0) == pytest.approx(1)
    assert norm(1 - frame["mean"].max()) == pytest.approx(0)
    shades = norm(1 - np.array([0, 0.3, 0.6, 0.9, 0.95, 0.99]))
    assert (np.diff(shades) < 0).all()
    # The bar reads from dense to sparse, in sparsities.
    bar = figure.axes[-1]
    words = [float(tick.get_text()) for tick in bar.get_yticklabels()]
    marks = dict(zip(words, bar.get_yticks(), strict=True))
    assert {0, 0.5, 0.9, 0.99} <= set(marks)
    assert all(place == pytest.approx(1 - sparsity) for sparsity, place in marks.items())


def test_a_layer_with_nothing_left_is_grey():
    history = masked(("gmp",), last=4).assign(**{f"sparsity/{LAYERS[1]}": 1.0})
    (axes,) = maps(plots.layer_sparsity(history)[0]).values()
    shades = mesh(axes).to_rgba(mesh(axes).get_array()).reshape(3, 5, 4)[..., :3]
    assert shades[1] == pytest.approx(np.full((5, 3), 0.8), abs=0.01)
    assert not any(row == pytest.approx(np.full((5, 3), 0.8), abs=0.01) for row in shades[[0, 2]])


def test_maps_may_differ_in_another_column():
    made = [masked(("gmp",), pretrained_sparsity=s) for s in (0.9, 0.5)]
    figure, frame = plots.layer_sparsity(pd.concat(made), hue="pretrained_sparsity")
    assert frame.columns[0] == "pretrained_sparsity"
    assert list(maps(figure)) == ["pre-trained at sparsity 0.5", "pre-trained at sparsity 0.9"]


@both
def test_a_plot_leaves_its_table_and_pyplot_as_they_are(draw):
    history, parameters = masked(last=6), dict(mpl.rcParams)
    draw(history)
    pd.testing.assert_frame_equal(history, masked(last=6))
    assert dict(mpl.rcParams) == parameters
    assert plt.get_fignums() == []


@both
@pytest.mark.parametrize(("name", "value"), [("model", "vgg"), ("dataset", "own")])
def test_settings_are_not_mixed_unnoticed(draw, name, value):
    with pytest.raises(ValueError, match=rf"mixes {name} \(.*{value}.*\): select one"):
        draw(pd.concat([masked(last=2), masked(("set",), last=2, **{name: value})]))


@both
def test_a_run_is_not_counted_twice(draw):
    with pytest.raises(ValueError, match="a seed is there twice"):
        draw(pd.concat([masked(last=2), masked(("gmp",), last=2)]))


def test_methods_are_not_mixed_when_lines_differ_in_something_else():
    with pytest.raises(ValueError, match=r"mixes method \(gmp, rigl\)"):
        plots.dynamics(masked(last=2), hue="pretrained_sparsity")
    with pytest.raises(ValueError, match=r"mixes method \(gmp, rigl\)"):
        plots.layer_sparsity(masked(last=2), hue="pretrained_sparsity")
    with pytest.raises(ValueError, match="lines cannot differ in 'epoch'"):
        plots.dynamics(masked(["gmp"], last=2), hue="epoch")


@pytest.mark.parametrize("plot", [plots.dynamics, plots.layer_sparsity])
def test_one_line_stands_for_one_setting_whatever_the_seeds(plot):
    other = masked(["gmp"], seeds=[7], last=2, pretrained_sparsity=0.5)
    with pytest.raises(ValueError, match=r"mixes pretrained_sparsity \(0.5, 0.9\)"):
        plot(pd.concat([masked(["gmp"], last=2), other]))
    with pytest.raises(ValueError, match="lines cannot differ in 'colour': choose hue from"):
        plot(masked(["gmp"], last=2), hue="colour")


def test_a_method_without_sparsities_of_layers_leaves_its_map_empty():
    names = [f"sparsity/{name}" for name in LAYERS]
    before = masked(["static"], last=2).drop(columns=names)
    figure, frame = plots.layer_sparsity(pd.concat([masked(["gmp"], last=2), before]))
    assert frame.loc[frame["method"] == "static", "mean"].isna().all()
    assert [axes.get_title() for axes in figure.axes[:2]] == ["static", "gmp"]


def test_a_history_without_masks_is_refused():
    for made in (
        masked(last=2).drop(columns="exploration"),
        masked(last=2).assign(**dict.fromkeys(TITLES, math.nan)),
    ):
        with pytest.raises(ValueError, match=r"no history with masks: take it from Lab\.history"):
            plots.dynamics(made)
    with pytest.raises(ValueError, match="no history with masks"):
        plots.dynamics(masked(last=2)[:0])


def test_a_history_without_sparsities_of_layers_is_refused():
    names = [f"sparsity/{name}" for name in LAYERS]
    history = masked(last=2)
    lacking = [history.drop(columns=names), history.assign(**dict.fromkeys(names, math.nan))]
    for made in (*lacking, history[:0], pd.DataFrame()):
        with pytest.raises(ValueError, match="this history has no sparsities of layers"):
            plots.layer_sparsity(made)
