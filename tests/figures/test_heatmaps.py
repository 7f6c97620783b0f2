import itertools
import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.colors import SymLogNorm, to_rgb
from matplotlib.figure import Figure
from rows import LATER, PLAIN

from granet_lab.experiments.tidy import COLUMNS
from granet_lab.figures import plots
from granet_lab.figures.heatmaps import by_layer_and_epoch

LAYERS = ("conv1", "conv2", "head")


def gain(layer, epoch, rate, regrow, seed):
    """85 points in epoch 0; later a loss that is larger in later layers."""
    if epoch == 0:
        return 85.0 + seed
    return (regrow is not None) - LAYERS.index(layer) * rate - epoch / 20 + seed / 4


def table(
    layers=LAYERS,
    at=(0, 10, 30, 50),
    rates=(0.5, 0.9),
    regrows=(None,),
    seeds=(0, 1, 2),
    gain=gain,
    **changes,
):
    """A tidy table of trials that prune single layers, as from ``Lab.measure``."""
    places = itertools.product(layers, at, rates, regrows, seeds)
    rows = [
        PLAIN
        | LATER
        | {"layers": layer, "epoch": epoch, "rate": rate, "regrow": regrow, "seed": seed}
        | {"lr": 0.1 if epoch < 30 else 0.01, "plasticity": gain(layer, epoch, rate, regrow, seed)}
        | changes
        for layer, epoch, rate, regrow, seed in places
    ]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"regrow": object})


def maps(figure):
    """The panels, without the colour bar."""
    return figure.axes[:-1]


def bar(figure):
    return figure.axes[-1]


def cells(axes):
    """What is written where: {(row from the top, column): text}; empty texts left out."""
    found = {}
    for text in axes.texts:
        x, y = text.get_position()
        found[int(y), int(x)] = text.get_text()
    return {place: text for place, text in found.items() if text}


def meshes(axes):
    """The mesh of the trained epochs, and that of the untrained one if there is any."""
    return [found for found in axes.collections if isinstance(found, QuadMesh)]


def decays(axes):
    return [line.get_xdata()[0] for line in axes.lines]


def drawn(*means, epochs=None, decays=(), **columns):
    """A heat map of one layer."""
    epochs = range(1, len(means) + 1) if epochs is None else epochs
    frame = pd.DataFrame({"layers": "a", "epoch": list(epochs), "mean": means, **columns})
    return by_layer_and_epoch(frame, None, None, decays, "points")


def written(*means, **how):
    """The numbers of a heat map of one layer, from left to right."""
    (axes,) = maps(drawn(*means, **how))
    found = cells(axes)
    return [found.get((0, column), "") for column in range(len(means))]


def test_layers_returns_a_figure_and_the_frame_behind_it():
    figure, frame = plots.layers(table())
    assert isinstance(figure, Figure)
    assert list(frame) == ["regrow", "rate", "layers", "epoch", "mean", "low", "high", "n"]
    assert len(frame) == 3 * 4 * 2
    assert (frame["n"] == 3).all()
    assert frame.index.tolist() == [*range(24)]


def test_means_are_those_by_hand():
    _, frame = plots.layers(table(rates=(0.5,)))
    means = frame.set_index(["layers", "epoch"])["mean"]
    # The seeds add 0, 1/4, 1/2; and 0, 1, 2 in epoch 0.
    assert means["conv1"].tolist() == pytest.approx([86, -0.25, -1.25, -2.25])
    assert means["head"].tolist() == pytest.approx([86, -1.25, -2.25, -3.25])


def test_every_cell_holds_the_mean_of_its_layer_and_epoch():
    figure, frame = plots.layers(table())
    assert [axes.get_title() for axes in maps(figure)] == ["rate 0.5", "rate 0.9"]
    for axes, (_, part) in zip(maps(figure), frame.groupby("rate"), strict=True):
        rounded = {
            (LAYERS.index(row.layers), (0, 10, 30, 50).index(row.epoch)): row.mean_
            for row in part.rename(columns={"mean": "mean_"}).itertuples()
        }
        found = cells(axes)
        assert found.keys() == rounded.keys()
        for place, text in found.items():
            assert float(text) == pytest.approx(rounded[place], abs=0.0501)


def test_layers_stand_from_top_to_bottom_as_the_table_names_them():
    order = ("head", "conv2", "conv1")
    figure, frame = plots.layers(table(layers=order))
    assert list(frame["layers"].unique()) == list(order)
    left = maps(figure)[0]
    assert [tick.get_text() for tick in left.get_yticklabels()] == list(order)
    assert left.get_ylim()[0] > left.get_ylim()[1]
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["0", "10", "30", "50"]
    # The third row is that of conv1.
    assert cells(left)[2, 3] == "-2.2"


def test_panels_are_a_row_for_each_regeneration_and_a_column_for_each_rate():
    figure, frame = plots.layers(table(rates=(0.9, 0.5), regrows=("random", "gradient", None)))
    titles = ["no regeneration", "gradient regeneration", "random regeneration"]
    expected = [f"{words}, rate {rate}" for words in titles for rate in (0.5, 0.9)]
    assert [axes.get_title() for axes in maps(figure)] == expected
    assert list(frame["regrow"].unique()) == ["none", "gradient", "random"]
    assert cells(maps(figure)[0])[0, 1] == "-0.2"
    assert cells(maps(figure)[2])[0, 1] == "0.8"
    assert [a.get_xlabel() for a in maps(figure)] == [""] * 4 + ["Epoch of pruning"] * 2


def test_the_untrained_epoch_is_grey_and_does_not_set_the_colours():
    figure, frame = plots.layers(table())
    reach = frame.loc[frame["epoch"] > 0, "mean"].abs().max()
    for axes in maps(figure):
        trained, untrained = meshes(axes)
        assert trained.norm.vmin == -reach
        assert trained.norm.vmax == reach
        mask = np.ma.getmaskarray(trained.get_array()).reshape(3, 4)
        assert mask.tolist() == [[True, False, False, False]] * 3
        assert (np.ma.getmaskarray(untrained.get_array()).reshape(3, 4) == ~mask).all()
        shades = untrained.get_facecolors().reshape(3, 4, 4)[:, 0, :3]
        assert shades == pytest.approx(np.full((3, 3), 0.93), abs=0.01)
        assert cells(axes)[0, 0] == "86"
    assert reach < 8


def test_the_same_colour_means_the_same_number_in_every_panel_and_in_the_bar():
    figure, _ = plots.layers(table(regrows=(None, "gradient")))
    norms = [(m.norm.vmin, m.norm.vmax) for axes in maps(figure) for m in meshes(axes)[:1]]
    assert len(norms) == 4
    assert set(norms) == {tuple(bar(figure).get_ylim())}
    assert bar(figure).get_ylabel() == "Plasticity (percentage points)"


def test_gain_is_blue_loss_red_and_nothing_nearly_white():
    (axes,) = maps(drawn(-4, 0, 4))
    loss, nothing, gained = meshes(axes)[0].get_facecolors()[:, :3]
    assert loss[0] > loss[2] + 0.2
    assert gained[2] > gained[0] + 0.2
    assert min(nothing) > 0.95


def test_only_the_untrained_epoch_is_drawn_in_grey_all_over():
    figure, frame = plots.layers(table(at=(0,)))
    assert (frame["mean"] == 86).all()
    for axes in maps(figure):
        assert set(cells(axes).values()) == {"86"}
        (grey,) = meshes(axes)
        assert {tuple(colour[:3]) for colour in grey.get_facecolors()} == {(0.93, 0.93, 0.93)}


def test_without_an_untrained_epoch_nothing_is_grey():
    figure, _ = plots.layers(table(at=(10, 30)))
    assert [len(meshes(axes)) for axes in maps(figure)] == [1, 1]


@pytest.mark.parametrize(
    ("at", "places"),
    [
        ((0, 10, 30, 50), [2, 3]),  # trials at 30 already have the second rate
        ((0, 10, 31, 44), [2]),
        ((29, 30, 45, 60), [1, 2]),
        ((10, 20), []),
        ((50, 60), []),
    ],
    ids=str,
)
def test_decays_are_dashed_lines_before_the_first_column_that_they_concern(at, places):
    figure, _ = plots.layers(table(at=at))
    for axes in maps(figure):
        assert decays(axes) == places
        assert all(line.is_dashed() for line in axes.lines)


def test_the_decays_are_named_once_below_all_panels():
    figure, _ = plots.layers(table(regrows=(None, "gradient")))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["learning rate decays"]


def test_without_decays_there_is_neither_a_line_nor_a_legend():
    figure, _ = plots.layers(table(milestones=""))
    assert figure.legends == []
    assert not any(decays(axes) for axes in maps(figure))


@pytest.mark.parametrize("at", [(10, 20), (50, 60)], ids=str)
def test_decays_that_lie_beyond_the_columns_are_not_named(at):
    assert plots.layers(table(at=at))[0].legends == []


def test_a_layer_that_was_not_measured_everywhere_leaves_empty_cells():
    made = table(rates=(0.5,))
    made = made[(made["layers"] != "conv2") | (made["epoch"] == 30)]
    (axes,) = maps(plots.layers(made)[0])
    assert {column for row, column in cells(axes) if row == 1} == {2}
    assert np.ma.getmaskarray(meshes(axes)[0].get_array()).reshape(3, 4)[1].tolist() == [
        *(True, True, False, True)
    ]
    assert len(cells(axes)) == 9


def test_a_combination_that_was_not_measured_is_an_empty_panel():
    made = pd.concat([table(), table(rates=(0.5,), regrows=("gradient",))])
    figure, _ = plots.layers(made)
    assert [len(cells(axes)) for axes in maps(figure)] == [12, 12, 12, 0]


def test_other_trials_than_those_of_single_layers_are_left_out():
    others = [table(layers=(words,), gain=lambda *_: -50.0) for words in ("*", "conv?", "a b")]
    _, frame = plots.layers(pd.concat([*others, table()]))
    assert list(frame["layers"].unique()) == list(LAYERS)
    assert frame["mean"].min() > -50
    alone = plots.layers(table())[1]
    pd.testing.assert_frame_equal(frame, alone)


def test_final_gaps_may_differ_in_their_length_and_name_their_bar():
    made = table(lr_mode="remaining")
    made = made.assign(final_gap=made["plasticity"], plasticity=math.nan)
    made["recovery_epochs"] = 60 - made["epoch"]
    figure, frame = plots.layers(made, "final_gap")
    assert len(frame) == 24
    assert bar(figure).get_ylabel() == "Final gap (percentage points)"


def test_layers_leaves_its_table_as_it_is():
    made = table()
    before = made.copy(deep=True)
    plots.layers(made)
    pd.testing.assert_frame_equal(made, before)


def test_without_single_layers_it_is_said_how_to_measure_them():
    for words in ("*", "conv1 conv2", "conv*", "conv?"):
        with pytest.raises(ValueError, match=r"no trial prunes a single layer: grid\(\.\.\., lay"):
            plots.layers(table().assign(layers=words))
    with pytest.raises(ValueError, match="no trial prunes a single layer"):
        plots.layers(table()[:0])


def test_what_is_no_table_of_trials_is_refused():
    for name in ("layers", "plasticity"):
        with pytest.raises(ValueError, match="no table of trials that has plasticity and layers"):
            plots.layers(table().drop(columns=name))
    with pytest.raises(ValueError, match="no final_gap"):
        plots.layers(table(), "final_gap")


MIXED = {
    "criterion": ("magnitude", "random"),
    "scope": ("global", "erk"),
    "granularity": ("weight", "filter"),
    "pretrained_sparsity": (0.0, 0.9),
    "regrow_scope": ("layer", "global"),
    "dense": ("", "head"),
    "reestimate_batchnorm": (False, True),
    "recovery_epochs": (3, 6),
    "milestones": ("30 45", "20 45"),
}


@pytest.mark.parametrize("name", MIXED)
def test_settings_are_not_mixed_unnoticed(name):
    with pytest.raises(ValueError, match=rf"mixes {name} \("):
        plots.layers(pd.concat([table(**{name: value}) for value in MIXED[name]]))


def test_a_trial_is_not_counted_twice():
    with pytest.raises(ValueError, match="a seed is there twice"):
        plots.layers(pd.concat([table(), table()]))


def test_numbers_have_one_digit_behind_the_point_where_there_is_room():
    numbers = [0, 0.04, 0.06, 3.14, -3.14, 9.94, 9.96, 10, 10.4, -9.94, -9.96, -10, 85.6, -85.6]
    assert written(*numbers) == [
        *("0.0", "0.0", "0.1", "3.1", "-3.1", "9.9", "10", "10", "10"),
        *("-9.9", "-10", "-10", "86", "-86"),
    ]


def test_there_is_no_minus_nothing_and_no_number_without_its_room():
    numbers = [-0.0, -1e-9, -0.01, -0.04, -0.0499, *np.linspace(-12, 12, 97)]
    found = written(*numbers)
    assert found[:5] == ["0.0"] * 5
    assert not {"-0", "-0.0", "10.0", "-10.0"} & set(found)
    for text, number in zip(found, numbers, strict=True):
        assert float(text) == pytest.approx(number, abs=0.5001 if abs(number) > 9.9 else 0.0501)
    assert written(-0.01, 2, epochs=(0, 1)) == ["0.0", "2.0"]


@pytest.mark.parametrize(("reach", "linear"), [(0.5, True), (8, True), (8.01, False), (60, False)])
def test_colours_are_logarithmic_only_beyond_a_modest_reach(reach, linear):
    figure = drawn(-reach, reach / 4)
    (norm,) = {mesh.norm for axes in maps(figure) for mesh in meshes(axes)}
    assert isinstance(norm, SymLogNorm) is not linear
    assert (norm.vmin, norm.vmax) == (-reach, reach)
    # Nothing is white, and as far in one direction as in the other.
    assert norm(0) == pytest.approx(0.5)
    assert norm(reach / 4) - 0.5 == pytest.approx(0.5 - norm(-reach / 4))
    share = (norm(reach / 4) - 0.5) / 0.5
    assert share == pytest.approx(0.25) if linear else share > 0.3


def test_the_untrained_epoch_does_not_make_colours_logarithmic():
    figure = drawn(85, 2, -3, epochs=(0, 10, 20))
    (axes,) = maps(figure)
    assert not isinstance(meshes(axes)[0].norm, SymLogNorm)
    assert meshes(axes)[0].norm.vmax == 3


def test_a_logarithmic_bar_is_marked_with_round_numbers_within_its_reach():
    marks = bar(drawn(-60, 10)).get_yticks()
    assert sorted(marks) == [-50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50]
    assert sorted(bar(drawn(9, 1)).get_yticks()) == [-5, -2, -1, 0, 1, 2, 5]


def test_where_nothing_changes_everything_is_white():
    (axes,) = maps(drawn(0, 0))
    assert meshes(axes)[0].get_facecolors()[:, :3] == pytest.approx(np.full((2, 3), 0.97), abs=0.01)
    assert list(cells(axes).values()) == ["0.0", "0.0"]


def test_untrained_numbers_are_written_in_dark_grey():
    (axes,) = maps(drawn(85, 1, epochs=(0, 1)))
    (text,) = [text for text in axes.texts if text.get_text() == "85" or text.get_text() == "85.0"]
    assert to_rgb(text.get_color()) == to_rgb("0.25")
