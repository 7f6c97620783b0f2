import itertools
import math

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from reading import band, legend_of
from rows import PLAIN, framed

from granet_lab.experiments.tidy import COLUMNS
from granet_lab.figures import plots
from granet_lab.figures.panels import label

EPOCHS = (0, 10, 30, 50)
WORDS = {
    "none": "no regeneration",
    "gradient": "gradient regeneration",
    "random": "random regeneration",
    0.0: "dense",
    0.9: "pre-trained at sparsity 0.9",
}


def gain(epoch, rate, regrow, seed):
    """Percentage points: training in epoch 0, later a loss that regrowth makes smaller."""
    return 85.0 + seed if epoch == 0 else -5 * rate - epoch / 20 + (regrow is not None) + seed / 4


def table(
    at=EPOCHS,
    rates=(0.5, 0.9),
    regrows=(None, "gradient"),
    seeds=(0, 1, 2),
    value="plasticity",
    gain=gain,
    **changes,
):
    """A tidy table as from ``Lab.measure``."""
    rows = [
        PLAIN
        | {"epoch": epoch, "rate": rate, "regrow": regrow, "seed": seed}
        | {"lr": 0.1 if epoch < 30 else 0.01, "plasticity": math.nan, "final_gap": math.nan}
        | {value: gain(epoch, rate, regrow, seed)}
        | changes
        for epoch, rate, regrow, seed in itertools.product(at, rates, regrows, seeds)
    ]
    return framed(rows, COLUMNS)


def gaps(**changes):
    """Trials on the remaining schedule: the later the epoch, the shorter."""
    made = table(value="final_gap", lr_mode="remaining", **changes)
    return made.assign(recovery_epochs=60 - made["epoch"])


def losses(pruned=lambda *place: 90 + gain(*place), at=(10, 30, 50), **changes):
    """Trials that know the accuracy before pruning, 90%, and just after it."""
    made = table(at=at, gain=pruned, **changes)
    return made.assign(acc_before=90.0, acc_pruned=made["plasticity"], plasticity=math.nan)


def sparse(**changes):
    return table(**{"pretrained_sparsity": 0.9, "method": "static", **changes})


def curves(at=(10, 30), rates=(0.5, 0.9), regrows=(None, "gradient"), **changes):
    """Recovery curves as from ``Lab.curves``."""
    rows = [
        PLAIN
        | {"epoch": epoch, "rate": rate, "regrow": regrow, "seed": seed}
        | {"acc_before": 90.0 + seed, "recovery_epoch": k}
        | {"test_acc": 89.0 + seed - 60 * rate / (1 + k) + (regrow is not None)}
        | changes
        for epoch, rate, regrow, seed, k in itertools.product(
            at, rates, regrows, (0, 1, 2), range(4)
        )
    ]
    return framed(rows)


def history(kinds=((0.0, "dense"), (0.9, "static")), last=40, milestones="20 30"):
    """Histories as from ``Lab.history``."""
    rows = [
        {"dataset": "digits", "model": "convnet", "seed": seed, "milestones": milestones}
        | {"method": method, "pretrained_sparsity": sparsity, "epoch": epoch}
        | {"test_acc": 10.0 if epoch == 0 else 95 - 5 * sparsity - 10 / epoch + seed}
        for (sparsity, method), seed, epoch in itertools.product(kinds, (0, 1, 2), range(last + 1))
    ]
    return pd.DataFrame(rows)


DRAW = {
    "plasticity": (lambda: plots.plasticity(table()), "epoch", "regrow"),
    "final_gap": (lambda: plots.final_gap(gaps()), "epoch", "regrow"),
    "damage": (lambda: plots.damage(losses(), hue="regrow"), "epoch", "regrow"),
    "recovery": (lambda: plots.recovery(curves(), epoch=30), "recovery_epoch", "regrow"),
    "trunk": (lambda: plots.trunk(history()), "epoch", "pretrained_sparsity"),
    "trunk of few epochs": (
        lambda: plots.trunk(history(last=8, milestones="4 6")),
        "epoch",
        "pretrained_sparsity",
    ),
    "dense and sparse": (
        lambda: plots.plasticity(pd.concat([table(), sparse()])),
        "epoch",
        "regrow",
    ),
    "final_gap at the end": (lambda: plots.final_gap(gaps(at=(0, 30, 60))), "epoch", "regrow"),
}


@pytest.fixture(scope="module", params=DRAW)
def drawn(request):
    """(figure, frame, the horizontal column, the column that the lines differ in)."""
    draw, x, hue = DRAW[request.param]
    return *draw(), x, hue


def panels(figure, frame):
    """Each panel with its part of the frame, row by row."""
    facets = [name for name in ("pretrained_sparsity", "rate") if "rate" in frame]
    parts = [part for _, part in frame.groupby(facets)] if facets else [frame]
    return list(zip(figure.axes, parts, strict=True))


def line_of(axes, level):
    return next(line for line in axes.lines if line.get_label() == WORDS[level])


def colour_of(axes, level):
    return to_rgb(line_of(axes, level).get_color())


def points(axes, colour):
    """All points that lines and markers of a colour go through."""
    lines = [line for line in axes.lines if to_rgb(line.get_color()) == colour]
    pairs = [pair for line in lines for pair in zip(line.get_xdata(), line.get_ydata())]  # noqa: B905
    return sorted((float(x), float(y)) for x, y in pairs)


def vertical_lines(axes):
    spans = [(line.get_xdata(), line.get_ydata(), line) for line in axes.lines]
    return {
        x[0]: line for x, y, line in spans if len(x) == 2 and x[0] == x[1] and list(y) == [0, 1]
    }


def test_a_plot_returns_a_figure_and_the_frame_behind_it(drawn):
    figure, frame, x, hue = drawn
    facets = [] if "rate" not in frame else ["pretrained_sparsity", "rate"]
    assert isinstance(figure, Figure)
    assert list(frame) == [*facets, hue, x, "mean", "low", "high", "n"]
    assert (frame["n"] == 3).all()


def test_lines_go_through_the_means_of_the_frame(drawn):
    figure, frame, x, hue = drawn
    for axes, part in panels(figure, frame):
        for level, rows in part.groupby(hue):
            expected = list(zip(rows[x].astype(float), rows["mean"], strict=True))
            assert points(axes, colour_of(axes, level)) == expected


def test_bands_and_bars_span_the_intervals_of_the_frame(drawn):
    figure, frame, x, hue = drawn
    for axes, part in panels(figure, frame):
        for level, rows in part.groupby(hue):
            corners = [*zip(rows[x], rows["low"]), *zip(rows[x], rows["high"])]  # noqa: B905
            expected = {(float(x), round(float(y), 9)) for x, y in corners}
            assert band(axes, colour_of(axes, level)) == expected


def test_the_legend_names_every_line_once(drawn):
    figure, frame, _, hue = drawn
    named = legend_of(figure)
    assert len(named) == len(set(named))
    assert {WORDS[level] for level in frame[hue].unique()} <= set(named)


def test_axes_are_labelled_with_units(drawn):
    figure, frame, x, _ = drawn
    labels = {axes.get_xlabel() for axes in figure.axes} | {a.get_ylabel() for a in figure.axes}
    accuracy = x == "recovery_epoch" or "rate" not in frame
    assert any("Epoch" in label for label in labels)
    assert any("(%)" in label if accuracy else "(percentage points)" in label for label in labels)


def test_pyplot_and_its_parameters_are_left_alone():
    before = dict(mpl.rcParams)
    for draw, _, _ in DRAW.values():
        draw()
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []


@pytest.mark.parametrize(
    ("draw", "made"),
    [
        (plots.plasticity, table()),
        (plots.final_gap, gaps()),
        (plots.damage, losses(regrows=(None,))),
        (lambda made: plots.recovery(made, epoch=30), curves()),
        (plots.trunk, history(last=5)),
    ],
    ids=["plasticity", "final_gap", "damage", "recovery", "trunk"],
)
def test_a_plot_leaves_its_table_as_it_is(draw, made):
    before = made.copy(deep=True)
    draw(made)
    pd.testing.assert_frame_equal(made, before)


def test_means_are_those_by_hand():
    _, frame = plots.plasticity(table(rates=(0.5,), regrows=(None,)))
    # -2.5 - epoch / 20 and 0, 1/4, 1/2 for the seeds.
    assert frame["mean"].tolist() == pytest.approx([86, -2.75, -3.75, -4.75])


def test_there_is_a_panel_for_each_network_and_rate_that_was_measured():
    figure, frame = plots.plasticity(pd.concat([table(rates=(0.5, 0.98)), sparse(rates=(0.5,))]))
    assert [axes.get_title() for axes in figure.axes] == [
        "dense, rate 0.5",
        "dense, rate 0.98",
        "pre-trained at sparsity 0.9, rate 0.5",
    ]
    assert len(frame.groupby(["pretrained_sparsity", "rate"])) == 3


def test_one_network_gives_one_row_of_panels_by_rate():
    figure, _ = plots.plasticity(sparse(rates=(0.9, 0.2, 0.5)))
    assert [a.get_title() for a in figure.axes] == ["rate 0.2", "rate 0.5", "rate 0.9"]
    assert len({a.get_position().y0 for a in figure.axes}) == 1


def test_the_lowest_panel_of_every_column_names_its_axis():
    figure, _ = plots.plasticity(pd.concat([table(rates=(0.5, 0.98)), sparse(rates=(0.5,))]))
    named = {axes.get_title(): axes.get_xlabel() for axes in figure.axes}
    assert named == {
        "dense, rate 0.5": "",
        "dense, rate 0.98": "Epoch of pruning",
        "pre-trained at sparsity 0.9, rate 0.5": "Epoch of pruning",
    }


@pytest.mark.parametrize(
    ("figure", "epochs"),
    [
        (lambda: plots.plasticity(table())[0], [30, 45]),
        (lambda: plots.final_gap(gaps())[0], [30, 45]),
        (lambda: plots.trunk(history())[0], [20, 30]),
    ],
    ids=["plasticity", "final_gap", "trunk"],
)
def test_learning_rate_decays_are_dashed_lines_at_their_epochs(figure, epochs):
    for axes in figure().axes:
        found = vertical_lines(axes)
        assert sorted(found) == epochs
        assert all(line.is_dashed() for line in found.values())


def test_the_decays_are_named_once_in_the_legend():
    figure, _ = plots.plasticity(table())
    assert legend_of(figure).count("learning rate decays") == 1


def test_without_decays_there_are_no_vertical_lines():
    figure, _ = plots.plasticity(table(milestones=""))
    assert not any(vertical_lines(axes) for axes in figure.axes)
    assert "learning rate decays" not in legend_of(figure)


def test_recovery_draws_the_accuracy_before_pruning_as_a_dotted_line():
    figure, _ = plots.recovery(curves(), epoch=30)
    for axes in figure.axes:
        line = next(line for line in axes.lines if line.get_label() == "before pruning")
        assert list(line.get_ydata()) == pytest.approx([91, 91])
        assert line.get_linestyle() == ":"


def test_recovery_draws_the_epoch_that_was_asked_for():
    early = curves(at=(10,)).assign(test_acc=10.0)
    figure, frame = plots.recovery(pd.concat([early, curves(at=(30,))]), epoch=10)
    assert set(frame["mean"]) == {10}
    assert "epoch 10" in figure.get_suptitle()


@pytest.mark.parametrize(("at_start", "text"), [(85, "▲ 85"), (-60, "▼ -60")])
def test_the_untrained_epoch_does_not_set_the_limits_but_is_written_at_the_edge(at_start, text):
    def steep(epoch, rate, regrow, seed):
        return at_start if epoch == 0 else gain(epoch, rate, regrow, seed)

    figure, frame = plots.plasticity(table(gain=steep))
    for axes, part in panels(figure, frame):
        low, high = axes.get_ylim()
        late = part[part["epoch"] > 0]
        assert low <= late["low"].min()
        assert late["high"].max() <= high
        assert high - low < 10
        assert [note.get_text() for note in axes.texts] == [text]


@pytest.mark.parametrize(
    ("at_start", "texts"),
    [((-39, 1, 41), ["▲", "▼"]), ((-1, 0, 30), ["▲ 10", "▼"]), ((60, 61, 62), ["▲ 61"])],
)
def test_the_interval_of_the_untrained_epoch_has_an_arrow_where_it_is_cut(at_start, texts):
    def steep(epoch, rate, regrow, seed):
        return at_start[seed] if epoch == 0 else 1.0 + seed / 100

    made = table(rates=(0.9,), regrows=(None,), seeds=(0, 1, 2), gain=steep)
    figure, frame = plots.plasticity(made)
    for axes, part in panels(figure, frame):
        low, high = axes.get_ylim()
        (start,) = part[part["epoch"] == 0].itertuples()
        assert (start.high > high, start.low < low) == (True, "▼" in texts)
        assert [note.get_text() for note in axes.texts] == texts


def test_a_final_gap_with_nothing_left_to_train_stands_apart_too():
    def end(epoch, rate, regrow, seed):
        return -80.0 if epoch == 60 else seed * (1 + epoch) / 50

    figure, _ = plots.final_gap(gaps(at=(0, 30, 60), regrows=(None,), gain=end))
    for axes in figure.axes:
        assert list(line_of(axes, "none").get_xdata()) == [30]
        assert axes.get_ylim()[0] > -10
        assert [note.get_text() for note in axes.texts] == ["▼ -80"]


def test_an_untrained_epoch_within_the_limits_is_not_written_at_the_edge():
    figure, _ = plots.plasticity(table(gain=lambda epoch, rate, regrow, seed: seed + epoch / 50))
    assert not any(axes.texts for axes in figure.axes)


def test_differences_of_a_hair_are_not_magnified_to_the_height_of_a_panel():
    figure, _ = plots.plasticity(table(gain=lambda epoch, rate, regrow, seed: seed / 1000))
    for axes in figure.axes:
        low, high = axes.get_ylim()
        assert high - low >= 2


def test_the_trunk_shows_all_but_the_first_twentieth_of_training():
    figure, frame = plots.trunk(history())
    low, high = figure.axes[0].get_ylim()
    late = frame[frame["epoch"] > 2]
    assert low <= late["low"].min()
    assert late["high"].max() <= high
    assert low > 60


def test_an_untrained_epoch_alone_is_drawn_and_its_lines_are_named():
    figure, _ = plots.plasticity(table(at=(0,)))
    low, high = figure.axes[0].get_ylim()
    assert low <= 86 <= high
    assert {"no regeneration", "gradient regeneration"} <= set(legend_of(figure))


def test_trials_without_a_value_are_left_out():
    made = table(rates=(0.5,), regrows=(None,))
    made.loc[(made["epoch"] == 10) & (made["seed"] == 2), "plasticity"] = math.nan
    _, frame = plots.plasticity(made)
    assert dict(zip(frame["epoch"], frame["n"], strict=True)) == {0: 3, 10: 2, 30: 3, 50: 3}


def test_plasticity_draws_the_frozen_and_final_gap_the_remaining_trials():
    both = pd.concat([table(), gaps(gain=lambda *_: -9.0)])
    assert set(plots.final_gap(both)[1]["mean"]) == {-9.0}
    assert -9.0 not in set(plots.plasticity(both)[1]["mean"])


def test_lines_may_differ_in_another_column():
    made = [table(regrows=(None,), criterion=name) for name in ("magnitude", "random")]
    figure, frame = plots.plasticity(pd.concat(made), hue="criterion")
    assert list(frame["criterion"].unique()) == ["magnitude", "random"]
    assert {"magnitude", "random"} <= set(legend_of(figure))


def two_settings(name, *values, make=table, **changes):
    return pd.concat([make(**changes, **{name: value}) for value in values])


MIXED = {
    "dataset": ("digits", "cifar10"),
    "model": ("convnet", "resnet20"),
    "criterion": ("magnitude", "random"),
    "scope": ("global", "erk"),
    "granularity": ("weight", "filter"),
    "regrow_scope": ("layer", "global"),
    "layers": ("*", "first"),
    "dense": ("", "last"),
    "reestimate_batchnorm": (False, True),
    "recovery_epochs": (3, 6),
    "epochs": (60, 80),
    "milestones": ("30 45", "20 45"),
    "lr": (0.1, 0.01),
}


@pytest.mark.parametrize("name", MIXED)
def test_settings_are_not_mixed_unnoticed(name):
    with pytest.raises(ValueError, match=rf"mixes {name}"):
        plots.plasticity(two_settings(name, *MIXED[name]))


def test_methods_of_one_sparsity_are_not_mixed_unnoticed():
    with pytest.raises(ValueError, match="mixes method"):
        plots.plasticity(pd.concat([sparse(), sparse(method="rigl")]))


def test_regrowths_are_not_mixed_when_lines_differ_in_something_else():
    with pytest.raises(ValueError, match=r"mixes regrow \(gradient, none\)"):
        plots.plasticity(table(), hue="criterion")


def test_recovery_does_not_mix_settings():
    made = two_settings("criterion", "magnitude", "random", make=curves)
    with pytest.raises(ValueError, match=r"mixes criterion \(magnitude, random\)"):
        plots.recovery(made, epoch=30)


def test_trunk_does_not_mix_settings():
    made = pd.concat([history(last=5), history(last=5).assign(model="resnet20")])
    with pytest.raises(ValueError, match=r"mixes model \(convnet, resnet20\)"):
        plots.trunk(made)


def test_settings_that_differ_between_epochs_alone_are_no_mixture_of_final_gaps():
    _, frame = plots.final_gap(gaps())
    assert len(frame) == 16


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.plasticity(table()[:0]),
        lambda: plots.final_gap(gaps()[:0]),
        lambda: plots.recovery(curves()[:0], epoch=30),
        lambda: plots.recovery(pd.DataFrame(), epoch=30),
        lambda: plots.trunk(history()[:0]),
    ],
    ids=["plasticity", "final_gap", "recovery", "recovery of nothing measured", "trunk"],
)
def test_an_empty_table_is_refused(draw):
    with pytest.raises(ValueError, match=r"no |empty"):
        draw()


def test_a_table_of_the_other_continuation_is_refused_in_words():
    with pytest.raises(ValueError, match="no final_gap"):
        plots.final_gap(table())
    with pytest.raises(ValueError, match="no plasticity"):
        plots.plasticity(gaps())


def test_recovery_of_an_epoch_that_was_not_measured_lists_those_that_were():
    with pytest.raises(ValueError, match="epoch 20: choose from 10, 30"):
        plots.recovery(curves(), epoch=20)


@pytest.mark.parametrize("hue", ["colour", "rate"])
def test_lines_cannot_differ_in_what_the_table_lacks_or_the_panels_show(hue):
    with pytest.raises(ValueError, match=hue):
        plots.plasticity(table(regrows=(None,)), hue=hue)


def test_a_line_has_the_same_colour_in_every_figure():
    three = ("random", "gradient", None)
    figures = [
        plots.plasticity(table())[0],
        plots.plasticity(sparse(regrows=three))[0],
        plots.final_gap(gaps())[0],
        plots.recovery(curves(), epoch=30)[0],
    ]
    for level in ("none", "gradient"):
        assert len({colour_of(axes, level) for figure in figures for axes in figure.axes}) == 1


@pytest.mark.parametrize("regrow", ["gradient", "random"])
def test_a_line_keeps_its_colour_when_it_is_alone(regrow):
    all_three, _ = plots.plasticity(table(regrows=(None, "gradient", "random")))
    alone, _ = plots.plasticity(table(regrows=(regrow,)))
    assert colour_of(alone.axes[0], regrow) == colour_of(all_three.axes[0], regrow)


def test_lines_differ_in_colour_and_marker():
    axes = plots.plasticity(table(regrows=(None, "gradient", "random")))[0].axes[0]
    lines = [line_of(axes, level) for level in ("none", "gradient", "random")]
    assert len({line.get_color() for line in lines}) == 3
    assert len({line.get_marker() for line in lines}) == 3


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("figures") / "new" / "gap at 0.5"
    return path, plots.save(plots.plasticity(table(rates=(0.5,)))[0], path)


def test_save_writes_a_png_and_a_pdf_under_the_name_that_it_is_given(saved):
    path, written = saved
    assert written == [path.parent / "gap at 0.5.png", path.parent / "gap at 0.5.pdf"]
    assert sorted(path.parent.iterdir()) == sorted(written)


def test_saved_files_are_what_their_endings_say(saved):
    png, pdf = (path.read_bytes() for path in saved[1])
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert pdf.startswith(b"%PDF-")
    assert min(len(png), len(pdf)) > 5000


def test_a_saved_png_has_200_dots_per_inch(saved):
    figure, _ = plots.plasticity(table(rates=(0.5,)))
    pixels = int.from_bytes(saved[1][0].read_bytes()[16:20], "big")
    assert pixels == pytest.approx(200 * figure.get_figwidth(), abs=1)


def test_a_trial_is_not_counted_twice():
    with pytest.raises(ValueError, match="a seed is there twice"):
        plots.plasticity(pd.concat([table(), table()]))


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.plasticity(table(), hue="epoch"),
        lambda: plots.recovery(curves(), epoch=30, hue="recovery_epoch"),
    ],
    ids=["plasticity", "recovery"],
)
def test_lines_cannot_differ_in_what_runs_along_the_axis(draw):
    with pytest.raises(ValueError, match="lines cannot differ in"):
        draw()


def test_damage_is_the_accuracy_just_after_pruning_minus_that_before_and_by_criterion():
    def pruned(epoch, rate, regrow, seed):
        return 60 + epoch / 10 + seed

    made = [losses(pruned, regrows=(None,), criterion=name) for name in ("snip", "magnitude")]
    made[0]["acc_before"] += 8
    figure, frame = plots.damage(pd.concat(made))
    assert list(frame)[2:] == ["criterion", "epoch", "mean", "low", "high", "n"]
    means = frame.groupby("criterion")["mean"].apply(list)
    # 60 + epoch / 10 and 0, 1, 2 for the seeds; minus 90, and 98 for snip. Twice, for two rates.
    assert means["magnitude"] == pytest.approx([-28, -26, -24] * 2)
    assert means["snip"] == pytest.approx([-36, -34, -32] * 2)
    assert {"magnitude", "snip"} <= set(legend_of(figure))
    assert figure.axes[0].get_ylabel() == "Change at once (percentage points)"


def test_damage_does_not_show_the_untrained_network():
    figure, frame = plots.damage(losses(at=(0, 10, 30), regrows=(None,)))
    assert set(frame["epoch"]) == {10, 30}
    assert not any(axes.texts for axes in figure.axes)


def test_damage_is_drawn_where_a_recovery_diverged_and_not_where_pruning_was_not_reached():
    made = losses(regrows=(None,), rates=(0.5,)).assign(acc_after=math.nan)
    made.loc[(made["epoch"] == 30) & (made["seed"] == 0), ["acc_before", "acc_pruned"]] = math.nan
    _, frame = plots.damage(made)
    assert dict(zip(frame["epoch"], frame["n"], strict=True)) == {10: 3, 30: 2, 50: 3}


def test_damage_needs_the_accuracies_around_pruning():
    with pytest.raises(ValueError, match="it has no acc_pruned and acc_before"):
        plots.damage(losses().drop(columns="acc_pruned"))
    with pytest.raises(ValueError, match="no damage"):
        plots.damage(losses().assign(acc_pruned=math.nan))


def test_damage_does_not_mix_settings():
    mixed = two_settings("reestimate_batchnorm", False, True, make=losses, regrows=(None,))
    with pytest.raises(ValueError, match=r"mixes reestimate_batchnorm \(False, True\)"):
        plots.damage(mixed)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("reestimate_batchnorm", True, "BatchNorm re-estimated"),
        ("reestimate_batchnorm", False, "BatchNorm as trained"),
        ("regrow_scope", "layer", "regrown layer by layer"),
        ("regrow_scope", "global", "regrown across layers"),
        ("dense", "", "no layer left dense"),
        ("dense", "first last", "first last dense"),
        ("layers", "*", "all layers"),
        ("layers", "block1.0.weight", "block1.0.weight"),
    ],
)
def test_values_of_the_later_columns_are_told_in_words(name, value, words):
    assert label(name, value) == words


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("reestimate_batchnorm", (False, True)),
        ("regrow_scope", ("global", "layer")),
        ("layers", ("*", "first")),
        ("dense", ("", "last")),
    ],
)
def test_lines_may_differ_in_a_later_column_and_are_named_in_words(name, values):
    figure, frame = plots.plasticity(two_settings(name, *values, regrows=("gradient",)), hue=name)
    assert list(frame[name].unique()) == list(values)
    assert {label(name, value) for value in values} <= set(legend_of(figure))


def test_damage_does_not_ask_how_training_went_on():
    frozen = losses(at=(10, 30), regrows=(None,))
    later = [frozen[frozen.epoch == e].assign(recovery_epochs=60 - e) for e in (10, 30)]
    remaining = pd.concat(later).assign(lr_mode="remaining")
    _, expected = plots.damage(frozen)
    for table in (remaining, pd.concat([frozen, remaining]), frozen.assign(recovery_epochs=0)):
        figure, frame = plots.damage(table)
        assert frame.equals(expected)
        assert len(legend_of(figure)) == len(legend_of(plots.damage(frozen)[0]))


def test_damage_does_not_ask_what_came_back():
    _, expected = plots.damage(losses(regrows=(None,)))
    _, frame = plots.damage(losses(lambda *place: 50, regrows=(None, "gradient")))
    assert frame[["epoch", "n"]].equals(expected[["epoch", "n"]])


def test_damage_of_the_untrained_network_alone_is_refused():
    with pytest.raises(ValueError, match="there is no damage to draw: epoch 0 alone"):
        plots.damage(losses(at=(0,), regrows=(None,)))
