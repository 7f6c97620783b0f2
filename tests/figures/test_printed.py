import math

import pandas as pd
import pytest
from rows import COMPARISON, compared

from granet_lab.figures import plots

MEASURES = ["test_acc", "deviation", "low", "high", "n"]
MEANS = ["sparsity", "training_flops", "inference_flops", "exploration", "seconds"]


def over_seeds(*accuracies, method="gmp", **changes):
    """Runs of one method at one sparsity."""
    rows = [(method, 0.9, seed, found, 0.4, 0.1) for seed, found in enumerate(accuracies)]
    return compared(rows, **changes)


def of(summary, method, sparsity):
    return summary.set_index(["method", "asked_sparsity"]).loc[(method, sparsity)]


def line_of(printed, method):
    (line,) = [
        one for one in printed.splitlines() if one.startswith((f"| {method} ", f"{method} "))
    ]
    return line


def test_a_summary_by_hand():
    summary = plots.method_summary(compared())
    assert list(summary) == ["method", "asked_sparsity", *MEASURES, *MEANS]
    # Two seeds a point apart deviate by 1 / sqrt(2); their interval is from one to the other.
    gmp = of(summary, "gmp", 0.9)
    assert gmp[MEASURES].tolist() == pytest.approx([97.5, 1 / math.sqrt(2), 97, 98, 2])
    same = of(summary, "granet_st", 0.9)
    assert same[MEASURES].tolist() == pytest.approx([97, 0, 97, 97, 2])
    assert of(summary, "dense", 0.0)[MEASURES].tolist() == pytest.approx(
        [99.25, 0.5 / math.sqrt(2), 99, 99.5, 2]
    )


def test_one_seed_has_no_deviation_and_no_interval():
    one = of(plots.method_summary(compared()), "gmp", 0.98)
    assert one[["test_acc", "low", "high", "n"]].tolist() == [90, 90, 90, 1]
    assert math.isnan(one["deviation"])


def test_a_summary_has_the_means_of_what_it_costs():
    table = over_seeds(97.0, 98.0).assign(
        sparsity=[0.9, 0.92],
        training_flops=[0.4, 0.6],
        inference_flops=[0.1, 0.2],
        exploration=[0.5, 0.7],
        seconds=[10.0, 14.0],
    )
    (found,) = plots.method_summary(table)[MEANS].to_numpy().tolist()
    assert found == pytest.approx([0.91, 0.5, 0.15, 0.6, 12])


def test_a_summary_keeps_the_order_of_its_table():
    places = [("set", 0.98), ("set", 0.9), ("dense", 0.0), ("gmp", 0.9)]
    rows = [(*place, seed, 90.0, 0.4, 0.1) for seed in (1, 0) for place in places]
    summary = plots.method_summary(compared(rows))
    assert [*zip(summary["method"], summary["asked_sparsity"], strict=True)] == places
    assert summary.index.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("found", [(1.0, 2.0, 4.0), (90.0, 90.5, 97.0, 91.0, 90.0), (5.0, 5.0)])
def test_the_interval_lies_around_the_mean_and_within_the_seeds(found):
    (row,) = plots.method_summary(over_seeds(*found)).to_dict("records")
    assert row["n"] == len(found)
    assert row["deviation"] == pytest.approx(pd.Series(found).std(ddof=1))
    assert min(found) <= row["low"] <= row["test_acc"] <= row["high"] <= max(found)
    assert (row["low"] < row["high"]) == (len(set(found)) > 1)


@pytest.mark.parametrize("status", ["failed", "diverged"])
def test_runs_that_are_not_finished_are_left_out(status):
    table = over_seeds(97.0, 98.0, 10.0)
    table.loc[2, "status"] = status
    (row,) = plots.method_summary(table).to_dict("records")
    assert (row["test_acc"], row["n"], row["high"]) == (97.5, 2, 98)
    whole = compared().assign(status=["ok"] * 7 + [status])
    assert ("granet_st", 0.98) not in plots.method_summary(whole).set_index(
        ["method", "asked_sparsity"]
    ).index


def test_a_summary_leaves_its_table_as_it_is():
    table = compared()
    plots.method_summary(table)
    plots.method_table(table, spread="interval")
    pd.testing.assert_frame_equal(table, compared())


@pytest.mark.parametrize("draw", [plots.method_summary, plots.method_table])
def test_what_does_not_belong_together_is_refused(draw):
    with pytest.raises(ValueError, match="granet_st: a seed is there twice"):
        draw(pd.concat([compared(), compared(COMPARISON[-1:])]))
    for name in ("dataset", "model"):
        with pytest.raises(ValueError, match=rf"mixes {name} \(.*other.*\): select one"):
            draw(pd.concat([compared(), compared(**{name: "other"})]))
    with pytest.raises(ValueError, match="no run is finished"):
        draw(compared(status="failed"))


def test_a_mixture_among_runs_that_failed_does_not_matter():
    broken = compared(status="failed", model="other")
    summary = plots.method_summary(pd.concat([compared(), compared(status="diverged"), broken]))
    pd.testing.assert_frame_equal(summary, plots.method_summary(compared()))


def test_a_table_in_markdown_by_hand():
    assert plots.method_table(compared()).splitlines() == [
        "| method | 90% | 98% | training FLOPs | inference FLOPs |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| dense | 99.25 ± 0.35 | 99.25 ± 0.35 | 1.000 | 1.000 |",
        "| gmp | **97.50 ± 0.71** | 90.00 | 0.300 | 0.030 |",
        "| granet-st | 97.00 ± 0.00 | **93.00** | 0.100 | 0.040 |",
    ]


def test_a_table_in_latex_by_hand():
    lines = plots.method_table(compared(), "latex").splitlines()
    assert lines[:4] == [
        r"\begin{tabular}{lrrrr}",
        r"\toprule",
        r"method & 90\% & 98\% & training FLOPs & inference FLOPs \\",
        r"\midrule",
    ]
    assert lines[5] == r"gmp & \textbf{97.50 $\pm$ 0.71} & 90.00 & 0.300 & 0.030 \\"
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]


def test_equal_means_are_both_the_best():
    rows = [r if r[:2] != ("gmp", 0.9) else (*r[:3], 97.0, *r[4:]) for r in COMPARISON]
    printed = plots.method_table(compared(rows))
    assert printed.count("**97.00 ± 0.00**") == 2


def test_means_that_are_printed_alike_are_all_the_best():
    table = pd.concat([over_seeds(97.004), over_seeds(96.996, method="set")])
    assert plots.method_table(table).count("**97.00**") == 2


def test_the_dense_network_is_never_the_best():
    printed = plots.method_table(compared())
    assert "**" not in line_of(printed, "dense")
    assert printed.count("**") == 4
    lone = plots.method_table(compared([row for row in COMPARISON if row[0] != "dense"]))
    assert lone.splitlines()[2:] == printed.splitlines()[3:]


def test_rows_stand_as_in_the_table_and_columns_by_sparsity():
    rows = [(name, s, 0, 90.0, 0.4, 0.1) for name in ("set", "gmp") for s in (0.995, 0.5)]
    head, _, *lines = plots.method_table(compared(rows)).splitlines()
    assert head == "| method | 50% | 99.5% | training FLOPs | inference FLOPs |"
    assert [line.split(" | ")[0] for line in lines] == ["| set", "| gmp"]


def test_what_was_not_measured_is_a_dash():
    rows = [row for row in COMPARISON if row[:2] != ("gmp", 0.98)]
    line = line_of(plots.method_table(compared(rows)), "gmp")
    assert line == "| gmp | **97.50 ± 0.71** | - | - | - |"


def test_a_cost_that_is_not_known_is_a_dash():
    table = compared(inference_flops=math.nan)
    assert line_of(plots.method_table(table), "granet-st").endswith(" | 0.100 | - |")


def test_a_table_with_intervals_by_hand():
    assert plots.method_table(compared(), spread="interval").splitlines()[2:] == [
        "| dense | 99.25 [99.00, 99.50] | 99.25 [99.00, 99.50] | 1.000 | 1.000 |",
        "| gmp | **97.50 [97.00, 98.00]** | 90.00 | 0.300 | 0.030 |",
        "| granet-st | 97.00 [97.00, 97.00] | **93.00** | 0.100 | 0.040 |",
    ]
    latex = plots.method_table(compared(), "latex", "interval")
    expected = r"gmp & \textbf{97.50 [97.00, 98.00]} & 90.00 & 0.300 & 0.030 \\"
    assert line_of(latex, "gmp") == expected


def test_deviations_are_printed_where_nothing_else_is_asked():
    assert plots.method_table(compared(), spread="deviation") == plots.method_table(compared())


def test_an_unknown_style_or_spread_is_refused():
    with pytest.raises(ValueError, match="unknown style 'html': choose from markdown, latex"):
        plots.method_table(compared(), "html")
    with pytest.raises(ValueError, match="unknown spread 'range': choose from deviation, interval"):
        plots.method_table(compared(), spread="range")


def test_bold_is_what_is_the_largest_as_printed():
    # 90.025 is printed as 90.03, and rounded to 90.02.
    seeds = [("gmp", 90.02), ("gmp", 90.03), ("set", 90.03), ("set", 90.03)]
    rows = [(name, 0.9, k % 2, found, 0.1, 0.1) for k, (name, found) in enumerate(seeds)]
    lines = plots.method_table(compared(rows)).splitlines()[2:]
    assert [line.split("|")[2].strip() for line in lines] == [
        "**90.03 ± 0.01**",
        "**90.03 ± 0.00**",
    ]
