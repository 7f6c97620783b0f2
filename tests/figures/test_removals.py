import itertools
import math

import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from rows import LATER, PLAIN

import granet_lab as gl
from granet_lab.experiments.tidy import COLUMNS
from granet_lab.figures import plots, removals

ASKED = PLAIN | LATER | {"model": "mlp", "epoch": 10, "rate": 0.5, "regrow": None}
# (layer, weight, fate). The largest is 4: of 40 bins each is 0.1 wide.
WEIGHTS = [
    ("a", 0.05, "removed"),
    ("a", -0.07, "removed"),
    ("a", 0.0, "inactive"),
    ("a", -4.0, "kept"),
    ("b", 0.02, "regrown"),
    ("b", 0.15, "kept"),
    ("b", -0.25, "kept"),
    ("b", 3.95, "kept"),
    ("b", 0.0, "inactive"),
]
# Accuracies before, just after and after recovery, of seeds 0 and 1.
ACCURACIES = {"magnitude": ((90, 92), (60, 70), (88, 89)), "random": ((90, 92), (10, 14), (80, 84))}


def weights(**changes):
    """Weights as from ``Lab.weights``."""
    rows = [
        {"layer": layer, "weight": weight, "active": fate != "inactive", "fate": fate}
        | ASKED
        | {"seed": 0}
        | changes
        for layer, weight, fate in WEIGHTS
    ]
    # Came back from among those that had been inactive before: no active weight.
    came = {"layer": "a", "weight": 0.0, "active": False, "fate": "regrown"}
    return pd.DataFrame([*rows, rows[0] | came]).astype({"regrow": object})


def table(accuracies=ACCURACIES, **changes):
    """A tidy table as from ``Lab.measure``."""
    rows = [
        ASKED
        | {"criterion": name, "seed": seed, "status": "ok", "note": ""}
        | {f"acc_{stage}": float(found[i][seed]) for i, stage in enumerate(removals._STAGES)}
        | changes
        for (name, found), seed in itertools.product(accuracies.items(), (0, 1))
    ]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"regrow": object})


@pytest.fixture(scope="module")
def drawn():
    return plots.removal(weights(), table())


def part(frame, panel, **where):
    found = frame[frame["panel"] == panel]
    for name, value in where.items():
        found = found[found[name] == value]
    return found


def bars(container):
    return [(bar.get_x(), bar.get_width(), bar.get_height()) for bar in container]


def test_removal_returns_a_figure_and_the_frame_behind_it(drawn):
    figure, frame = drawn
    assert isinstance(figure, Figure)
    assert list(frame) == ["panel", "criterion", "x", "value", "low", "high", "of"]
    assert frame["panel"].value_counts().to_dict() == {"size": 40, "layer": 2, "accuracy": 6}
    assert set(part(frame, "size")["criterion"]) == {"magnitude"}


def test_bins_hold_the_active_weights_by_absolute_value_and_those_of_them_that_go(drawn):
    sizes = part(drawn[1], "size")
    assert sizes["x"].tolist() == pytest.approx([0.1 * (i + 1) for i in range(40)])
    # 0.05, 0.07 and 0.02 (it came back, at zero) go; 0.15, 0.25, 3.95 and 4 stay.
    assert {i: n for i, n in enumerate(sizes["of"]) if n} == {0: 3, 1: 1, 2: 1, 39: 2}
    assert {i: n for i, n in enumerate(sizes["value"]) if n} == {0: 3}
    assert sizes["of"].sum() == weights()["active"].sum() == 7


def test_layers_have_their_share_of_what_is_removed(drawn):
    layers = part(drawn[1], "layer").set_index("x")
    assert layers["value"].to_dict() == {"a": 2, "b": 1}
    assert layers["of"].to_dict() == {"a": 3, "b": 4}
    assert layers["of"].sum() == part(drawn[1], "size")["of"].sum()
    assert layers["value"].sum() == part(drawn[1], "size")["value"].sum()


def test_layers_stand_in_the_order_of_the_weights_and_not_of_their_names():
    made = weights()
    made = pd.concat([made[made["layer"] == name] for name in ("b", "a")])
    figure, frame = plots.removal(made, table())
    assert part(frame, "layer")["x"].tolist() == ["b", "a"]
    assert [tick.get_text() for tick in figure.axes[1].get_yticklabels()] == ["b", "a"]


def test_several_seeds_are_added_up():
    made = pd.concat([weights(), weights(seed=1)], ignore_index=True)
    frame = plots.removal(made, table())[1]
    alone = plots.removal(weights(), table())[1]
    for panel in ("size", "layer"):
        for name in ("value", "of"):
            assert part(frame, panel)[name].tolist() == (2 * part(alone, panel)[name]).tolist()
    pd.testing.assert_frame_equal(part(frame, "accuracy"), part(alone, "accuracy"))


def test_accuracies_are_means_over_seeds_with_their_interval(drawn):
    accuracies = part(drawn[1], "accuracy")
    means = accuracies.pivot_table(index="criterion", columns="x", values="value")
    assert means.loc["magnitude"].to_dict() == {"before": 91, "pruned": 65, "after": 88.5}
    assert means.loc["random"].to_dict() == {"before": 91, "pruned": 12, "after": 82}
    for row in accuracies.itertuples():
        seeds = ACCURACIES[row.criterion][removals._STAGES.index(row.x)]
        # Of two values the interval of the mean reaches from one to the other.
        assert (row.low, row.high) == seeds


def test_bars_are_the_bins_of_the_frame(drawn):
    figure, frame = drawn
    sizes = part(frame, "size")
    kept, removed = figure.axes[0].containers
    for container, name in ((kept, "of"), (removed, "value")):
        found = bars(container)
        assert [height for *_, height in found] == sizes[name].tolist()
        assert [x + width for x, width, _ in found] == pytest.approx(sizes["x"].tolist())
        assert {round(width, 9) for _, width, _ in found} == {0.1}
    assert to_rgb(kept[0].get_facecolor()) != to_rgb(removed[0].get_facecolor())
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        *("kept", "removed")
    ]


def test_bars_of_the_layers_are_their_shares_and_say_of_how_many(drawn):
    layers = drawn[0].axes[1]
    whole, removed = layers.containers
    assert [bar.get_width() for bar in whole] == [1, 1]
    assert [bar.get_width() for bar in removed] == pytest.approx([2 / 3, 1 / 4])
    assert [text.get_text() for text in layers.texts] == ["67% of 3", "25% of 4"]
    assert [tick.get_text() for tick in layers.get_yticklabels()] == ["a", "b"]
    assert layers.get_ylim()[0] > layers.get_ylim()[1]  # the first is at the top


def test_lines_are_the_accuracies_and_the_others_are_grey(drawn):
    costs = drawn[0].axes[2]
    lines = {tuple(line.get_ydata()): line for line in costs.lines}
    assert {(91, 65, 88.5), (91, 12, 82)} <= lines.keys()
    assert all(list(line.get_xdata()) in ([0, 1, 2], []) for line in costs.lines)
    assert lines[91, 65, 88.5].get_label() == "magnitude"
    grey = to_rgb(lines[91, 12, 82].get_color())
    assert len(set(grey)) == 1
    assert len(set(to_rgb(lines[91, 65, 88.5].get_color()))) > 1
    assert [text.get_text() for text in costs.texts] == ["91.0", "65.0", "88.5"]
    assert [t.get_text() for t in costs.get_legend().get_texts()] == [
        *("magnitude", "other criteria")
    ]
    (band,) = costs.collections
    corners = {(float(x), float(y)) for x, y in band.get_paths()[0].vertices}
    assert corners == {(0, 90), (0, 92), (1, 60), (1, 70), (2, 88), (2, 89)}


def test_the_figure_says_what_was_pruned_and_when(drawn):
    title = drawn[0].get_suptitle()
    assert title.startswith("magnitude, global: 50% of the weights")
    assert title.endswith("after epoch 10")
    ticks = [tick.get_text() for tick in drawn[0].axes[2].get_xticklabels()]
    assert ticks == ["before", "pruned", "6 epochs\nlater"]
    figure, _ = plots.removal(weights(recovery_epochs=1), table(recovery_epochs=1))
    assert figure.axes[2].get_xticklabels()[2].get_text() == "1 epoch\nlater"


def test_a_criterion_alone_has_no_others_in_its_legend():
    alone = {"magnitude": ACCURACIES["magnitude"]}
    figure, _ = plots.removal(weights(), table(alone))
    costs = figure.axes[2]
    assert [text.get_text() for text in costs.get_legend().get_texts()] == ["magnitude"]
    assert len(costs.lines) == 1


def test_only_rows_at_the_same_epoch_and_rate_are_compared():
    others = [table(epoch=30, acc_pruned=0.0), table(rate=0.9, acc_pruned=0.0)]
    frame = plots.removal(weights(), pd.concat([*others, table()]))[1]
    pd.testing.assert_frame_equal(frame, plots.removal(weights(), table())[1])


def test_removal_leaves_its_tables_as_they_are():
    made = weights(), table()
    before = [one.copy(deep=True) for one in made]
    plots.removal(*made)
    for one, same in zip(made, before, strict=True):
        pd.testing.assert_frame_equal(one, same)


def test_a_criterion_that_the_table_does_not_have_is_named_with_its_place():
    alone = {"random": ACCURACIES["random"]}
    for made in (table(alone), table(epoch=30), table(rate=0.9), table()[:0]):
        with pytest.raises(ValueError, match=r"no 'magnitude' at epoch 10 and rate 0\.5"):
            plots.removal(weights(), made)


MIXED = {
    "scope": ("global", "erk"),
    "granularity": ("weight", "filter"),
    "regrow": (None, "gradient"),
    "layers": ("*", "first"),
    "dense": ("", "last"),
    "reestimate_batchnorm": (False, True),
    "model": ("mlp", "convnet"),
    "lr_mode": ("frozen", "remaining"),
}
OF_WEIGHTS = {**MIXED, "criterion": ("magnitude", "random"), "epoch": (10, 30), "rate": (0.5, 0.9)}


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_weights_of_several_settings_are_not_added_up_unnoticed(name):
    made = pd.concat([weights(**{name: value}) for value in OF_WEIGHTS[name]])
    with pytest.raises(ValueError, match=rf"mixes {name} \("):
        plots.removal(made, table())


@pytest.mark.parametrize("name", MIXED)
def test_accuracies_of_several_settings_are_not_averaged_unnoticed(name):
    made = pd.concat([table(**{name: value}) for value in MIXED[name]])
    with pytest.raises(ValueError, match=rf"mixes {name} \("):
        plots.removal(weights(), made)


def test_accuracies_of_another_setting_than_that_of_the_weights_are_refused():
    with pytest.raises(ValueError, match="scope"):
        plots.removal(weights(scope="global"), table(scope="erk"))


def test_another_criterion_whose_recovery_diverged_does_not_hide_this_one():
    lost = {**ACCURACIES, "random": (*ACCURACIES["random"][:2], (math.nan, math.nan))}
    figure, frame = plots.removal(weights(), table(lost))
    assert len(part(frame, "accuracy", criterion="magnitude")) == 3
    assert (91, 65, 88.5) in [tuple(line.get_ydata()) for line in figure.axes[2].lines]


def test_a_measured_network_is_drawn_with_all_its_active_weights(lab, sparse_recipe):
    asked = gl.grid(sparse_recipe, epoch=2, rate=0.25, criterion=["magnitude", "lamp"])
    made = lab.measure(asked, workers=1, progress=False)
    _, frame = plots.removal(lab.weights(asked[:1]), made)
    for panel in ("size", "layer"):
        assert part(frame, panel)["of"].sum() == 3480
        assert part(frame, panel)["value"].sum() == 870
    assert part(frame, "layer")["x"].tolist() == ["1.weight", "3.weight", "5.weight"]
    sizes = part(frame, "size")
    # Of magnitudes the smallest go: a bin is emptied before the next one is touched.
    partly = sizes[(sizes["value"] > 0) & (sizes["value"] < sizes["of"])]
    assert len(partly) <= 1
    pruned = part(frame, "accuracy", criterion="magnitude", x="pruned")["value"]
    assert pruned.tolist() == [made.acc_pruned[0]]


@pytest.mark.parametrize(
    ("share", "told"),
    [(0, "0%"), (1, "100%"), (0.9, "90%"), (0.995, "99.50%"), (0.9998, "99.98%"), (0.001, "0.10%")],
)
def test_shares_of_nothing_and_of_all_are_exact(share, told):
    assert removals.percent(share) == told


def test_without_weights_there_is_nothing_to_draw():
    with pytest.raises(ValueError, match="there are no weights to draw"):
        plots.removal(weights()[:0], table())
