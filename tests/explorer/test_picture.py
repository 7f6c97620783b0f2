import io
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import granet_lab as gl
from granet_lab.explorer.lookup import Answer, Known, Line, Scene
from granet_lab.explorer.picture import Picture
from granet_lab.explorer.scenery import COLOURS, HEIGHT, WIDTH, Scenery
from granet_lab.explorer.setting import Setting

pytestmark = pytest.mark.filterwarnings("error")

EMPTY = Line([], [], [], [], [])
LAYERS = ["features.0.weight", "classifier.weight"]


def chosen(rate=0.5, **values):
    usual = {"lr": "frozen", "recovery_epochs": 1, "method": gl.methods.dense()} | values
    return Setting(pruning=gl.Pruning(rate=rate, regrow=usual.pop("regrow", None)), **usual)


A, B = chosen(), chosen(regrow="gradient")


def line(values, reach=0.0):
    """Of two seeds at each epoch, their interval reaching so far to both sides."""
    x, mean = list(values), list(values.values())
    low, high = [y - reach for y in mean], [y + reach for y in mean]
    return Line(x, mean, low, high, [2] * len(x))


TRUNK = line({0: 10.0, 1: 60.0, 2: 90.0, 3: 95.0, 4: 96.0})
GAIN = line({0: 60.0, 1: 2.0, 3: -1.0, 4: -3.0}, reach=0.5)


def known(name="A", setting=A, trunk=TRUNK, line=GAIN, lowest=30.0):
    return Known(name, setting, (0, 1), trunk, line, lowest)


def scene(*settings, difference=None, layers=LAYERS):
    return Scene(list(settings) or [known()], difference, layers)


def layer_counts(layers, after=2):
    return [
        {"layer": name, "size": 8, "before": 8, "after": after, "regenerated": 5} for name in layers
    ]


def measured(recipe, epoch, setting=A, curve=(40.0, 80.0, 88.0), layers=LAYERS, seed=0):
    points = [{"recovery_epoch": k, "test_acc": y} for k, y in enumerate(curve)]
    trial = setting.trial(recipe, epoch, seed)
    return Answer(trial, "measured", {"acc_before": 90.0}, points, layer_counts(layers))


def missing(recipe, epoch, setting=A, seed=0):
    return Answer(setting.trial(recipe, epoch, seed), "missing")


def both(recipe, epoch, setting=A):
    return {"A": [measured(recipe, epoch, setting, seed=seed) for seed in (0, 1)]}


@pytest.fixture(scope="module")
def picture():
    """One for all: what was drawn before must not matter."""
    run = gl.recipes.digits(model="mlp", epochs=4, milestones=(2,), train_size=200)
    return Picture(run, scene())


def opened(png):
    return Image.open(io.BytesIO(png))


def pixels(png):
    return np.asarray(opened(png).convert("RGB"), dtype=int)


def strokes(overlay, colour):
    """The lines of a colour: for each its points."""
    found = []
    for path in ElementTree.fromstring(overlay).iter("path"):
        shape = path.get("id")  # of a marker
        if shape is None and f"stroke: {colour.lower()}" in path.get("style", ""):
            numbers = [float(n) for n in re.findall(r"-?\d+\.?\d*", path.get("d"))]
            found.append(list(zip(numbers[::2], numbers[1::2], strict=True)))
    return found


def marker(overlay):
    """Where the marker stands on the axes of the accuracy."""
    (x, _), (also, _) = strokes(overlay, "#404040")[0]
    assert x == also
    return x


def marks(overlay):
    """The places of all markers."""
    uses = ElementTree.fromstring(overlay).iter("use")
    return [(float(use.get("x")), float(use.get("y"))) for use in uses if use.get("x")]


def written(overlay, text):
    """Where a text begins."""
    found = re.search(rf"<!-- {text} -->\s*<g [^>]*translate\(([\d.]+) ([\d.]+)\)", overlay)
    return float(found[1]), float(found[2])


def anonymous(overlay):
    """Without the names that every drawing chooses anew."""
    names = dict.fromkeys(re.findall(r'id="([pm][0-9a-f]{10})"', overlay))
    for i, name in enumerate(names):
        overlay = overlay.replace(name, f"name{i}")
    return overlay


def test_the_background_is_a_png_twice_as_dense_as_it_is_shown(picture):
    background = opened(picture.background)
    assert background.format == "PNG"
    assert background.size == (2 * WIDTH, 2 * HEIGHT)


def test_the_overlay_has_the_shape_of_the_background(picture, recipe):
    overlay = ElementTree.fromstring(picture.overlay(2, both(recipe, 2)))
    assert overlay.tag == "svg"
    left, top, width, height = map(float, overlay.get("viewBox").split())
    assert (left, top) == (0, 0)
    assert width / height == pytest.approx(WIDTH / HEIGHT)


@pytest.mark.parametrize(("epoch", "rate"), [(0, "0.1"), (1, "0.1"), (2, "0.01"), (4, "0.01")])
def test_the_overlay_tells_a_screen_reader_where_it_stands(picture, recipe, epoch, rate):
    overlay = ElementTree.fromstring(picture.overlay(epoch, both(recipe, epoch)))
    assert overlay.get("role") == "img"
    assert overlay.get("aria-label") == f"epoch {epoch}, learning rate {rate}"


def test_at_the_end_of_the_run_the_learning_rate_is_that_of_its_last_epoch(recipe):
    overlay = Picture(replace(recipe, milestones=(2, 4)), scene()).overlay(4, {})
    assert 'aria-label="epoch 4, learning rate 0.01"' in overlay


def test_the_overlay_has_no_style_for_the_rest_of_the_page(picture, recipe):
    overlay = ElementTree.fromstring(picture.overlay(2, both(recipe, 2)))
    assert not {"style", "script"} & {element.tag for element in overlay.iter()}


def test_whatever_an_overlay_refers_to_is_in_it(picture, recipe):
    overlay = picture.overlay(2, both(recipe, 2, B))
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', overlay))
    assert used
    assert used <= set(re.findall(r'id="([^"]+)"', overlay))


def test_clips_of_two_pictures_on_one_page_have_different_names(recipe):
    clips = [
        set(re.findall(r'clipPath id="([^"]+)"', Picture(recipe, scene()).overlay(2, {})))
        for _ in range(2)
    ]
    assert clips[0]
    assert not clips[0] & clips[1]


def test_the_marker_goes_with_the_epoch_in_equal_steps(picture):
    places = [marker(picture.overlay(epoch, {})) for epoch in range(5)]
    assert np.diff(places) == pytest.approx([places[1] - places[0]] * 4, abs=1e-4)
    assert places[1] > places[0]


def test_the_marker_of_the_overlay_lies_where_the_still_has_it(picture):
    x = marker(picture.overlay(3, {})) * 2 * WIDTH / 676.8
    changed = (pixels(picture.still(3, {})) != pixels(picture.background)).any(2)[HEIGHT]
    first = np.flatnonzero(changed)[0]
    assert first - 1 <= x <= first + 3


def test_the_recovery_begins_at_the_epoch_and_goes_on_by_epochs(picture, recipe):
    overlays = [picture.overlay(epoch, {}) for epoch in (1, 2, 3)]
    overlay = picture.overlay(1, {"A": [measured(recipe, 1)]})
    loss, recovery = strokes(overlay, COLOURS["A"])[:2]
    assert [x for x, _ in loss] == pytest.approx([marker(overlays[0])] * 2, abs=1e-4)
    assert [x for x, _ in recovery] == pytest.approx([marker(o) for o in overlays], abs=1e-4)
    assert loss[1] == pytest.approx(recovery[0])
    assert recovery[0][1] > recovery[1][1] > recovery[2][1]


def test_several_seeds_have_a_thin_line_each_and_one_for_their_mean(picture, recipe):
    curves = (40.0, 80.0), (60.0, 90.0, 95.0)
    answers = {"A": [measured(recipe, 1, curve=curve) for curve in curves]}
    thin = strokes(picture.overlay(1, answers), COLOURS["A"])
    alone = strokes(picture.overlay(1, {"A": [measured(recipe, 1, curve=(50.0, 85.0))]}), "#0072B2")
    assert [len(stroke) for stroke in thin[:4]] == [2, 3, 2, 2]
    assert thin[2:4] == alone[:2]
    assert {thin[i][0][0] for i in (0, 1)} == {marker(picture.overlay(1, {}))}


def test_the_loss_by_pruning_begins_at_the_mean_of_the_unpruned_seeds(picture, recipe):
    def loss(*befores):
        seeds = [replace(measured(recipe, 1), row={"acc_before": y}) for y in befores]
        found = strokes(picture.overlay(1, {"A": seeds}), COLOURS["A"])
        return next(stroke for stroke in found if len(stroke) == 2)

    assert loss(80.0, 90.0) == loss(85.0)
    assert loss(85.0) != loss(80.0)


def test_each_setting_has_its_colour(recipe):
    picture = Picture(recipe, scene(known(), known("B", B), difference=EMPTY))
    seeds = [measured(recipe, 1, B), measured(recipe, 1, B, seed=1)]
    overlay = picture.overlay(1, {"A": [], "B": seeds})
    recoveries = [
        [stroke for stroke in strokes(overlay, COLOURS[name]) if len(stroke) == 3] for name in "AB"
    ]
    assert [len(found) for found in recoveries] == [0, 3]


def test_a_seed_without_a_curve_has_no_part_in_the_mean(picture, recipe):
    whole = measured(recipe, 1)
    nothing = Answer(A.trial(recipe, 1, 1), "diverged", {"acc_before": 10.0})
    both = picture.overlay(1, {"A": [whole, nothing]})
    assert anonymous(both) == anonymous(picture.overlay(1, {"A": [whole]}))


@pytest.mark.parametrize(("points", "dots"), [(1, 1), (12, 12), (13, 2), (40, 2)])
def test_a_short_recovery_has_a_dot_at_each_epoch_and_a_long_one_at_its_ends(
    picture, recipe, points, dots
):
    answer = measured(recipe, 2, curve=np.linspace(50, 90, points), layers=[])
    assert len(marks(picture.overlay(2, {"A": [answer]}))) == dots


def test_the_chosen_epoch_is_ringed_on_the_line_of_what_is_measured(picture):
    (_, _), (on_the_line, _) = (stroke[0] for stroke in strokes(picture.overlay(3, {}), "#404040"))
    ((x, y),) = marks(picture.overlay(3, {}))
    assert x == pytest.approx(on_the_line, abs=1e-4)
    assert marks(picture.overlay(2, {})) == []
    ((_, higher),) = marks(picture.overlay(1, {}))
    assert higher < y


def test_a_ring_outside_its_panel_lies_at_the_edge(picture):
    (stroke, _) = strokes(picture.overlay(0, {}), "#404040")
    ((_, y),) = marks(picture.overlay(0, {}))
    assert y == pytest.approx(min(y for _, y in stroke), abs=1e-4)


def test_the_marker_stands_in_every_panel_of_epochs(picture, recipe):
    assert len(strokes(picture.overlay(2, {}), "#404040")) == 2
    two = Picture(recipe, scene(known(), known("B", B), difference=GAIN))
    assert len(strokes(two.overlay(2, {}), "#404040")) == 3


def test_what_is_not_measured_is_said_and_nothing_else(picture, recipe):
    seeds = [missing(recipe, 2), measured(recipe, 2)]
    assert "<!-- not measured yet -->" in picture.overlay(2, {"A": seeds[:1]})
    assert "not measured yet" not in picture.overlay(2, {"A": seeds})
    assert "not measured yet" not in picture.overlay(2, {"A": seeds[1:]})
    under_way = Answer(A.trial(recipe, 2, 0), "under way")
    assert "not measured yet" not in picture.overlay(2, {"A": [under_way]})


def test_of_two_settings_the_one_that_is_not_measured_is_named(recipe):
    picture = Picture(recipe, scene(known(), known("B", B), difference=EMPTY))
    answers = {"A": [measured(recipe, 2)], "B": [missing(recipe, 2, B)]}
    overlay = picture.overlay(2, answers)
    assert "B: not measured yet" in overlay
    assert "A: not measured yet" not in overlay
    neither = picture.overlay(2, {"A": [missing(recipe, 2)], "B": [missing(recipe, 2, B)]})
    (left, high), (also_left, low) = (written(neither, f"{x}: not measured yet") for x in "AB")
    assert abs(left - also_left) < 1
    assert low - high > 10


def test_texts_stand_beside_the_marker_where_there_is_room(recipe):
    run = replace(recipe, epochs=60, milestones=(30,))
    picture = Picture(run, scene())

    def beyond(epoch, text):
        overlay = picture.overlay(epoch, {"A": [missing(run, epoch)]})
        return written(overlay, text)[0] - marker(overlay)

    start, middle, end = (beyond(epoch, f"epoch {epoch}, .*?") for epoch in (0, 30, 60))
    assert start == pytest.approx(0, abs=2)
    assert end < 1.8 * middle < -50
    assert 4 < beyond(0, "not measured yet") < 10
    assert 4 < beyond(30, "not measured yet") < 10
    assert beyond(60, "not measured yet") < -50


def test_texts_at_the_marker_stay_inside_the_picture(recipe):
    run = replace(recipe, epochs=60, milestones=(30,))
    picture = Picture(run, scene())
    for epoch in (0, 30, 60):
        still = pixels(picture.still(epoch, {"A": [missing(run, epoch)]}))
        edge = np.concatenate([still[:, :4], still[:, -4:]], axis=1)
        assert (edge == 255).all()


def test_sparsity_before_and_after_pruning_and_regenerated_is_where_its_axis_says(picture, recipe):
    answer = measured(recipe, 2, B, curve=())
    overlay = picture.overlay(2, {"A": [answer]})
    before, after, regenerated = np.reshape(marks(overlay), (3, 2, 2))
    # Of 8 weights 8, then 2, then 5 are active.
    full = (after - before)[:, 0] / 0.75
    assert full == pytest.approx([full[0]] * 2)
    assert full[0] == pytest.approx(1 / 1.08 * 86.335, rel=1e-3)
    assert (regenerated - before)[:, 0] == pytest.approx(0.375 * full)
    assert (before[:, 1] == after[:, 1]).all()
    ways = np.array([stroke for stroke in strokes(overlay, COLOURS["A"]) if len(stroke) == 2])
    assert ways == pytest.approx(np.stack([before, after], axis=1))


def test_the_sparsity_of_several_seeds_is_their_mean(picture, recipe):
    def places(*afters):
        counts = [layer_counts(LAYERS, after) for after in afters]
        found = [replace(measured(recipe, 2, curve=()), layers=layers) for layers in counts]
        return marks(picture.overlay(2, {"A": found}))

    assert np.array(places(2, 6)) == pytest.approx(np.array(places(4)))


def test_dots_of_two_settings_stand_above_each_other_in_the_row_of_their_layer(recipe):
    alone, two = (
        Picture(recipe, scene(*settings, difference=difference))
        for settings, difference in (([], None), ([known(), known("B", B)], EMPTY))
    )
    answer = measured(recipe, 2, curve=())
    (_, first), (_, second), *_ = marks(alone.overlay(2, {"A": [answer]}))
    # Rows 0 and 1 of an axis that goes from -0.6 to 1.6.
    assert [first, second] == pytest.approx([32.832 + (i + 0.6) / 2.2 * 199.728 for i in (0, 1)])
    heights = sorted({y for _, y in marks(two.overlay(2, {"A": [answer], "B": [answer]}))})
    row = heights[2] - heights[0]
    assert heights[1] - heights[0] == pytest.approx(0.36 * row)
    assert heights[3] - heights[2] == pytest.approx(0.36 * row)


def test_regenerated_connections_are_shown_where_there_are_any(picture, recipe):
    without, with_ = (
        picture.overlay(2, {"A": [measured(recipe, 2, setting, curve=())]}) for setting in (A, B)
    )
    assert with_.count("<use") == without.count("<use") + len(LAYERS)


def test_layers_of_another_network_than_the_named_ones_are_not_drawn(picture, recipe):
    strange = picture.overlay(2, {"A": [measured(recipe, 2, curve=(), layers=["a", "b", "c"])]})
    nothing = picture.overlay(2, {"A": [measured(recipe, 2, curve=(), layers=[])]})
    assert anonymous(strange) == anonymous(nothing)


def test_the_still_has_everything_and_its_note(picture, recipe):
    still = picture.still(2, both(recipe, 2))
    assert opened(still).format == "PNG"
    assert opened(still).size == (2 * WIDTH, 2 * HEIGHT)
    assert (pixels(still) != pixels(picture.background)).any()
    noted = pixels(picture.still(2, both(recipe, 2), note="A still picture"))
    rows = np.flatnonzero((noted != pixels(still)).any((1, 2)))
    assert rows.min() > 1.8 * HEIGHT
    picture.overlay(4, both(recipe, 4))
    assert picture.still(2, both(recipe, 2)) == still


def test_a_saved_picture_is_a_png_and_a_pdf_of_what_is_shown(picture, recipe, tmp_path):
    shown = pixels(picture.still(2, both(recipe, 2)))
    picture.overlay(4, both(recipe, 4))
    paths = picture.save(tmp_path / "new" / "epoch2-rate-0.5", 2, both(recipe, 2))
    assert [path.name for path in paths] == ["epoch2-rate-0.5.png", "epoch2-rate-0.5.pdf"]
    assert paths[1].read_bytes().startswith(b"%PDF")
    saved = pixels(paths[0].read_bytes())
    blue = [int(COLOURS["A"][i : i + 2], 16) for i in (1, 3, 5)]
    assert saved.shape[:2] == (2 * HEIGHT, 2 * WIDTH)
    assert (saved == blue).all(2).sum() > 100
    assert (saved == shown).all()


def test_a_picture_is_the_same_after_it_was_saved_and_shown_still(picture, recipe, tmp_path):
    answers = both(recipe, 2)
    before = anonymous(picture.overlay(2, answers))
    picture.save(tmp_path / "saved", 3, both(recipe, 3))
    picture.still(1, {"A": [missing(recipe, 1)]}, note="still")
    assert anonymous(picture.overlay(2, answers)) == before


def test_the_same_epoch_is_drawn_the_same_by_the_same_picture_and_by_another(picture, recipe):
    first, second = (picture.overlay(2, both(recipe, 2)) for _ in range(2))
    other = Picture(recipe, scene())
    assert other.background == picture.background
    assert anonymous(first) == anonymous(second) == anonymous(other.overlay(2, both(recipe, 2)))
    assert anonymous(picture.overlay(3, both(recipe, 3))) != anonymous(first)


def test_nothing_of_the_epochs_before_stays_in_the_figure(picture, recipe):
    def artists():
        figure = picture._scenery.figure
        return [len(part.get_children()) for part in (figure, *figure.axes)]

    picture.overlay(2, both(recipe, 2, B))
    before = artists()
    for epoch in range(5):
        picture.overlay(epoch, both(recipe, epoch, B))
        picture.overlay(epoch, {"A": [missing(recipe, epoch)]})
    picture.still(3, {}, note="still")
    picture.overlay(2, both(recipe, 2, B))
    assert artists() == before


REMAINING = chosen(lr="remaining", recovery_epochs=None)
SPARSE = chosen(method=gl.methods.static(0.8))
KINDS = {
    "one": scene(),
    "two": scene(known(), known("B", B), difference=GAIN),
    "two methods": scene(known(), known("B", SPARSE), difference=EMPTY),
    "remaining": scene(known(setting=REMAINING)),
    "not to compare": scene(known(), known("B", REMAINING), difference=EMPTY),
    "empty": scene(known(trunk=EMPTY, line=EMPTY, lowest=None), layers=[]),
    "two empty": scene(
        *(known(name, s, EMPTY, EMPTY, None) for name, s in (("A", A), ("B", B))),
        difference=EMPTY,
        layers=[],
    ),
    "without layers": scene(layers=[]),
    "diverged": scene(known(trunk=line({0: 10.0, 1: 9.0}), line=EMPTY, lowest=None)),
    "in training": scene(known(trunk=line({0: 10.0}), line=EMPTY, lowest=None)),
    "without its history": scene(known(trunk=EMPTY)),
    "untrained alone": scene(known(line=line({0: 60.0}))),
    "perfect": scene(known(trunk=line({0: 100.0, 4: 100.0}), lowest=100.0)),
    "hopeless": scene(known(trunk=line({0: 0.0, 4: 0.0}), lowest=0.0)),
    "deep": scene(layers=[f"blocks.{i}.convolution.weight" for i in range(60)]),
}


def states(recipe, epoch, setting, layers):
    """A setting at an epoch, as it may be."""
    trial = setting.trial(recipe, epoch, 0)
    whole = measured(recipe, epoch, setting, layers=layers)
    return [
        [whole],
        [whole, replace(whole, curve=whole.curve[:1])],
        [missing(recipe, epoch, setting)],
        [Answer(trial, "diverged", {"acc_before": 90.0, "note": "loss is NaN"})],
        [replace(whole, state="diverged", layers=[])],
        [Answer(trial, "under way", curve=whole.curve[:2])],
        [replace(whole, row={"acc_before": None})],
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_every_scene_is_drawn_without_a_warning_at_every_epoch_in_every_state(recipe, kind):
    drawn = KINDS[kind]
    picture = Picture(recipe, drawn)
    assert len(opened(picture.background).getcolors(maxcolors=2**24)) > 10
    for state, epoch in enumerate([4, 2, 0, 2, 4, 0, 2]):
        answers = {
            known.name: states(recipe, epoch, known.setting, drawn.layers)[state]
            for known in drawn.known
        }
        overlay = ElementTree.fromstring(picture.overlay(epoch, answers))
        assert overlay.get("aria-label").startswith(f"epoch {epoch},")


def plotted(axes):
    """The points of each line that was plotted, without the rules across the panel."""
    lines = [tuple(line.get_data()) for line in axes.lines]
    return [(list(x), list(y)) for x, y in lines if len(x) and list(x) not in ([0, 1], [2, 2])]


def test_the_line_is_that_of_the_scene_and_epoch_0_stands_apart(recipe):
    axes = Scenery(recipe, scene()).lines
    assert plotted(axes) == [([1, 3, 4], [2.0, -1.0, -3.0]), ([0], [60.0])]


def test_under_the_remaining_schedule_the_last_epoch_stands_apart_too(recipe):
    axes = Scenery(recipe, scene(known(setting=REMAINING))).lines
    assert plotted(axes) == [([1, 3], [2.0, -1.0]), ([0, 4], [60.0, -3.0])]


def test_the_gain_of_untrained_networks_does_not_flatten_the_others(recipe):
    low, high = Scenery(recipe, scene()).lines.get_ylim()
    assert -5 < low < -3.5
    assert 2.5 < high < 4
    _, high = Scenery(recipe, scene(known(line=line({0: 60.0})))).lines.get_ylim()
    assert high > 60


def band(axes):
    """The lowest and the highest place of the band at each epoch."""
    places = np.concatenate([p.vertices for part in axes.collections for p in part.get_paths()])
    epochs = sorted({float(x) for x in places[:, 0]})
    heights = [places[places[:, 0] == epoch, 1] for epoch in epochs]
    return {epoch: (min(ys), max(ys)) for epoch, ys in zip(epochs, heights, strict=True)}


def test_the_band_is_the_interval_at_each_epoch(recipe):
    found = band(Scenery(recipe, scene()).lines)
    assert found == {1: (1.5, 2.5), 3: (-1.5, -0.5), 4: (-3.5, -2.5)}


def test_the_difference_has_a_panel_of_its_own(recipe):
    difference = line({0: 40.0, 1: 4.0, 4: -2.0}, reach=1.0)
    axes = Scenery(recipe, scene(known(), known("B", B), difference=difference)).difference
    assert plotted(axes) == [([1, 4], [4.0, -2.0]), ([0], [40.0])]
    assert band(axes) == {1: (3.0, 5.0), 4: (-3.0, -1.0)}
    low, high = axes.get_ylim()
    assert -4 < low < -3
    assert 5 < high < 6


def test_an_empty_panel_goes_from_a_point_less_to_a_point_more(recipe):
    low, high = Scenery(recipe, scene(known(line=EMPTY))).lines.get_ylim()
    assert -1.5 < low < -1
    assert 1 < high < 1.5


def test_whatever_is_measured_alone_zero_is_in_the_panel(recipe):
    for only in (line({2: 7.0}), line({2: -7.0}), EMPTY):
        low, high = Scenery(recipe, scene(known(line=only))).lines.get_ylim()
        assert low < 0 < high


def test_the_trunk_is_drawn_once_for_each_method(recipe):
    one = Scenery(recipe, scene(known(), known("B", B), difference=EMPTY)).trunk
    other = known("B", SPARSE, trunk=line({0: 9.0, 4: 80.0}))
    two = Scenery(recipe, scene(known(), other, difference=EMPTY)).trunk
    assert plotted(one) == [([0, 1, 2, 3, 4], TRUNK.mean)]
    assert plotted(two) == [([0, 1, 2, 3, 4], TRUNK.mean), ([0, 4], [9.0, 80.0])]


@pytest.mark.parametrize("lowest", [0.5, 30.0, 99.0, None])
def test_everything_from_the_lowest_recovery_to_the_best_epoch_is_in_the_panel(recipe, lowest):
    trunk = line({0: 90.0, 4: 96.0})
    low, high = Scenery(recipe, scene(known(trunk=trunk, lowest=lowest))).trunk.get_ylim()
    least = min(90.0, lowest or 100)
    assert least - 0.2 * (100 - least) < low < least
    assert 96 < high < 97.5


def test_a_point_more_weighs_more_the_nearer_it_is_to_everything(recipe):
    to_screen = Scenery(recipe, scene()).trunk.transData.transform
    heights = [to_screen((0, y))[1] for y in (0, 90, 99, 99.9)]
    steps = np.diff(heights)
    assert steps[0] == pytest.approx(steps[1], rel=0.1)
    assert 0.7 * steps[1] < steps[2] < steps[1]


def test_recoveries_beyond_the_end_of_the_run_have_room(recipe):
    long = Scenery(recipe, scene(known(setting=chosen(recovery_epochs=10)))).trunk
    assert long.get_xlim()[1] >= 14
    short = Scenery(recipe, scene(known(setting=REMAINING)))
    assert 4 < short.trunk.get_xlim()[1] < 4.2
    assert short.lines.get_xlim() == short.trunk.get_xlim()


def test_decays_of_the_learning_rate_are_marked_in_every_panel_of_epochs(recipe):
    drawn = Scenery(recipe, scene(known(), known("B", B), difference=GAIN))
    for axes in (drawn.trunk, drawn.lines, drawn.difference):
        assert [2, 2] in [list(line.get_xdata()) for line in axes.lines]


@pytest.mark.parametrize(
    ("settings", "title"),
    [
        ([A], "Plasticity (points)"),
        ([REMAINING], "Final gap (points)"),
        ([A, B], "Plasticity (points)"),
        ([A, REMAINING], "Plasticity or final gap (points)"),
    ],
    ids=["frozen", "remaining", "both frozen", "one of each"],
)
def test_the_line_is_called_by_what_it_measures(recipe, settings, title):
    shown = [known(name, setting) for name, setting in zip("AB", settings, strict=False)]
    difference = EMPTY if len(shown) == 2 else None
    assert Scenery(recipe, scene(*shown, difference=difference)).lines.get_ylabel() == title


def test_settings_are_named_in_words_and_two_of_them_by_a_letter(recipe):
    def names(*settings, difference=None):
        drawn = Scenery(recipe, scene(*settings, difference=difference))
        return [(text.get_text(), text.get_color()) for text in drawn.figure.texts]

    assert names(known()) == [(str(A), COLOURS["A"])]
    assert names(known(), known("B", B), difference=EMPTY) == [
        (f"A   {A}", COLOURS["A"]),
        (f"B   {B}", COLOURS["B"]),
    ]


def test_layers_have_short_names_and_no_more_of_them_than_can_be_read(recipe):
    def ticks(layers):
        axes = Scenery(recipe, scene(layers=layers)).sparsity
        places = axes.get_yticks()
        low, high = axes.get_ylim()
        assert all(high < place < low for place in (0, len(layers) - 1))
        return [t.get_text() for t in axes.get_yticklabels()], [int(place) for place in places]

    assert ticks(LAYERS) == (["features.0", "classifier"], [0, 1])
    names, places = ticks([f"blocks.{i}.convolution.weight" for i in range(60)])
    assert names[0] == "….convolution"
    assert places == list(range(0, 60, 4))
    assert all(len(name) <= 13 for name in names)
