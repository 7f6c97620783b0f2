import pytest

import granet_lab as gl
from granet_lab.figures import plots


def test_schedules_are_those_of_the_methods():
    asked = [gl.methods.rigl(0.9), gl.methods.granet_st(0.9), gl.methods.gmp(0.9, start=4)]
    figure, frame = plots.schedules(asked, epochs=16)
    found = frame.set_index(["value", "method", "epoch"])["mean"].sort_index()
    assert (found["sparsity", "rigl"] == 0.9).all()
    assert found["sparsity", "granet_st", 0] == 0.5
    assert found["sparsity", "granet_st", 11] == found["sparsity", "gmp", 16] == 0.9
    assert found["sparsity", "gmp", 4] == 0 < found["sparsity", "gmp", 5]
    assert found["regrow_fraction", "rigl", 0] == 0.5
    assert found["regrow_fraction", "rigl", 8] == pytest.approx((0.5 + 0.005) / 2)
    assert "gmp" not in found["regrow_fraction"].index
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["Sparsity", "Fraction of a layer dropped and regrown"]


def test_schedules_on_top_of_one_another_are_dashed_and_of_one_name_told_apart():
    figure, frame = plots.schedules(
        [gl.methods.granet(0.9), gl.methods.granet(0.9, interval=7)], 16
    )
    assert set(frame["method"]) == {"granet 0.9", "granet 0.9 (interval 7)"}
    one, other = figure.axes[0].get_lines()
    assert (one.get_linestyle(), other.get_linestyle()) == ("-", "--")
    apart, _ = plots.schedules([gl.methods.gmp(0.9), gl.methods.gmp(0.5)], 16)
    assert {line.get_linestyle() for line in apart.axes[0].get_lines()} == {"-"}


def test_schedules_that_do_not_fit_and_none_at_all_are_refused():
    with pytest.raises(ValueError, match="stop 9 lies beyond the run of 8 epochs"):
        plots.schedules([gl.methods.gmp(0.9, stop=9)], 8)
    with pytest.raises(ValueError, match="there is no method"):
        plots.schedules([], 8)
