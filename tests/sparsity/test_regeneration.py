import math

import pytest
import torch
from drawing import BATCH, DENSE, EMPTY, RATES, linear, make_net, quiet, some_masks, within
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from granet_lab.sparsity import Context, Masks, Pruning, prune, regenerate, regrowth
from granet_lab.sparsity.allocation import SCHEMES
from granet_lab.sparsity.regrowths import REGROW_SCOPES, REGROWTHS

many = settings(max_examples=25, deadline=None)
some = settings(max_examples=10, deadline=None)


@st.composite
def some_pruned(draw):
    """Layers of any shape, their masks before and after pruning, and scores that often tie."""
    flat = st.tuples(st.integers(1, 5), st.integers(1, 5))
    square = st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 2), st.integers(1, 3))
    shapes = draw(st.lists(st.one_of(flat, square), min_size=1, max_size=3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    before, after, scores = {}, {}, {}
    for i, shape in enumerate(shapes):
        density, left = draw(st.tuples(*[st.sampled_from([0, 0.3, 0.7, 1])] * 2))
        whole = draw(st.booleans())  # pruned as filters are
        noise = torch.rand(shape[:1] if whole else shape, generator=generator)
        before[str(i)] = torch.rand(shape, generator=generator) < density
        kept = (noise < left).reshape(-1, *[1] * (len(shape) - 1)) if whole else noise < left
        after[str(i)] = before[str(i)] & kept
        largest = draw(st.sampled_from([0, 1, 1000]))
        scores[str(i)] = torch.randint(largest + 1, shape, generator=generator).float()
    return Masks(before), Masks(after), scores


def make_context(masks=None):
    return Context(make_net(), masks, batches=[BATCH])


def flags(*rows):
    return torch.tensor(rows).bool()


@pytest.fixture(scope="module", autouse=True)
def weights_as_scores():
    """A regrowth that takes the network's own weights for scores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(REGROWTHS, "_entries", dict(REGROWTHS._entries))

        @regrowth
        def weights(context):
            return context.weights()

        yield


def grow(scores, before, after, **more):
    """What comes back by the scores that are given."""
    model = nn.ParameterDict({name: nn.Parameter(score.float()) for name, score in scores.items()})
    context = Context(model, Masks(before))
    return regenerate(context, Masks(before), Masks(after), "weights", **more)


@quiet
@pytest.mark.parametrize("scope", ["global", *SCHEMES])
@pytest.mark.parametrize("regrow", REGROWTHS)
@some
@given(rate=RATES, before=some_masks())
@example(rate=1, before=DENSE)
@example(rate=0.5, before=EMPTY)
def test_as_many_come_back_as_were_removed_in_every_layer(regrow, scope, rate, before):
    context = make_context(before)
    after = prune(context, Pruning(rate=rate, scope=scope))
    grown = regenerate(context, before, after, regrow)
    assert grown.counts() == before.counts()
    assert within(after, grown)


@quiet
@pytest.mark.parametrize("regrow", REGROWTHS)
@some
@given(rate=RATES, before=some_masks())
@example(rate=1, before=DENSE)
@example(rate=0.5, before=EMPTY)
def test_as_many_come_back_as_were_removed_in_all_layers_together(regrow, rate, before):
    context = make_context(before)
    after = prune(context, Pruning(rate=rate))
    grown = regenerate(context, before, after, regrow, scope="global")
    assert grown.active == before.active
    assert within(after, grown)


@quiet
@pytest.mark.parametrize("granularity", ["weight", "filter"])
@pytest.mark.parametrize("scope", REGROW_SCOPES)
@pytest.mark.parametrize("rate", [0, 0.5, 0.98, 1])
@pytest.mark.parametrize("regrow", REGROWTHS)
def test_on_a_dense_network_every_regrowth_brings_every_weight_back(
    regrow, rate, scope, granularity
):
    context = make_context()
    after = prune(context, Pruning(rate=rate, granularity=granularity))
    assert regenerate(context, context.masks, after, regrow, granularity, scope) == DENSE


def best(scores, free, count):
    """The free places with the highest scores, in the order that is given, by sorting."""
    ranked = sorted((place for place in scores if free[place]), key=lambda place: -scores[place])
    return set(ranked[:count])


@many
@given(pruned=some_pruned())
def test_what_scores_highest_comes_back_in_each_layer(pruned):
    before, after, scores = pruned
    grown = grow(scores, before, after)
    for name, mask in after.items():
        free = {i: not kept for i, kept in enumerate(mask.flatten().tolist())}
        values = dict(enumerate(scores[name].flatten().tolist()))
        back = (grown[name] & ~mask).flatten().nonzero().flatten().tolist()
        assert set(back) == best(values, free, before.counts()[name] - after.counts()[name])
        assert (mask <= grown[name]).all()


@many
@given(pruned=some_pruned())
def test_what_scores_highest_over_all_layers_comes_back_under_global_scope(pruned):
    before, after, scores = pruned
    grown = grow(scores, before, after, scope="global")
    values, free, back = {}, {}, set()
    for name, mask in after.items():
        for i, score in enumerate(scores[name].flatten().tolist()):
            values[name, i], free[name, i] = score, not mask.flatten()[i]
            if grown[name].flatten()[i] and free[name, i]:
                back.add((name, i))
    assert back == best(values, free, before.active - after.active)
    assert within(after, grown)


@many
@given(pruned=some_pruned(), scope=st.sampled_from(REGROW_SCOPES))
def test_the_empty_filters_with_the_highest_sums_come_back_whole(pruned, scope):
    before, after, scores = pruned
    grown = grow(scores, before, after, granularity="filter", scope=scope)
    values = {
        (n, i): float(row.sum()) for n, found in scores.items() for i, row in enumerate(found)
    }
    free = {(n, i): not after[n][i].any() for n, i in values}
    lost = [place for place in values if free[place] and before[place[0]][place[1]].any()]
    expected = set()
    for group in [list(scores)] if scope == "global" else [[name] for name in scores]:
        own = {place: score for place, score in values.items() if place[0] in group}
        expected |= best(own, free, sum(place in own for place in lost))
    for name, i in values:
        kept, found = after[name][i], grown[name][i]
        assert found.all() if (name, i) in expected else torch.equal(found, kept)


def test_without_regrowth_the_masks_stay_as_pruning_left_them():
    context = make_context()
    after = prune(context, Pruning(rate=0.5))
    assert regenerate(context, context.masks, after, None) == after


@pytest.mark.parametrize("granularity", ["weight", "filter"])
@pytest.mark.parametrize("scope", REGROW_SCOPES)
def test_regenerating_leaves_the_masks_it_is_given_as_they_are(scope, granularity):
    context = make_context()
    after = prune(context, Pruning(rate=0.5, scope="uniform", granularity=granularity))
    copy = Masks({name: mask.clone() for name, mask in after.items()})
    assert regenerate(context, context.masks, after, "random", granularity, scope) != copy
    assert after == copy
    assert context.masks == DENSE


def test_of_equal_scores_the_lower_index_comes_back():
    net = linear([1, 1, 1, 1, 1, 1])
    before = Masks({"weight": flags([0, 1, 0, 1, 1, 1])})
    after = Masks({"weight": flags([0, 0, 0, 0, 1, 1])})
    context = Context(
        net,
        before,
        batches=[(torch.zeros(2, 6), torch.zeros(2))],
        loss_fn=lambda outputs, targets: outputs.mean(),
    )
    grown = regenerate(context, before, after, "gradient")
    assert grown["weight"].int().tolist() == [[1, 1, 0, 0, 1, 1]]


@pytest.mark.parametrize("granularity", ["weight", "filter"])
def test_of_equal_scores_under_global_scope_the_first_layer_comes_first(granularity):
    scores = {"a": torch.ones(2, 1), "b": torch.ones(3, 1)}
    before = {"a": flags([0], [0]), "b": flags([1], [1], [1])}
    after = {"a": flags([0], [0]), "b": flags([0], [0], [0])}
    grown = grow(scores, before, after, scope="global", granularity=granularity)
    assert (grown["a"].flatten().tolist(), grown["b"].flatten().tolist()) == (
        [True, True],
        [True, False, False],
    )


@pytest.mark.parametrize(
    ("scope", "first", "second"),
    [("layer", [[0, 1]], [[1], [0]]), ("global", [[1, 1]], [[0], [0]])],
)
def test_what_each_layer_lost_comes_back_there_or_wherever_the_gradient_is_largest(
    scope, first, second
):
    # The output is B A x, the loss its sum. With h = A x = 1.4 the gradients are
    # dL/dA = (2 + 3) x = (20, 50) and dL/dB = (h, h) = (1.4, 1.4).
    net = nn.Sequential(linear([0.1, 0.1]), linear([2], [3]))
    before = Masks({"0.weight": flags([1, 0]), "1.weight": flags([1], [0])})
    after = Masks({"0.weight": flags([0, 0]), "1.weight": flags([0], [0])})
    batch = (torch.tensor([[4.0, 10.0]]), torch.zeros(1))
    context = Context(net, before, batches=[batch], loss_fn=lambda outputs, _: outputs.sum())
    grown = regenerate(context, before, after, "gradient", scope=scope)
    assert grown["0.weight"].int().tolist() == first
    assert grown["1.weight"].int().tolist() == second


def test_filters_come_back_by_the_sum_of_absolute_gradients():
    # The gradient of row k is c_k x: absolute sums 4, 10, 2 and 6, though all plain sums are 0.
    net, c = linear([1, 1], [1, 1], [1, 1], [1, 1]), torch.tensor([2.0, -5.0, 1.0, 3.0])
    batch = (torch.tensor([[1.0, -1.0]]), torch.zeros(1))
    before = Masks({"weight": flags([1, 1], [0, 0], [1, 1], [1, 0])})
    after = Masks({"weight": flags([0, 0], [0, 0], [0, 0], [1, 0])})
    context = Context(net, before, batches=[batch], loss_fn=lambda out, _: (out * c).sum())
    grown = regenerate(context, before, after, "gradient", "filter")
    assert grown["weight"].int().tolist() == [[1, 1], [1, 1], [0, 0], [1, 0]]


def test_a_filters_sum_counts_and_not_its_largest_score():
    scores = {"a": torch.tensor([[9.0, 0, 0], [4, 4, 4], [0, 0, 10]])}
    before = {"a": flags([1, 1, 1], [0, 0, 0], [0, 0, 0])}
    after = {"a": flags([0, 0, 0], [0, 0, 0], [0, 0, 0])}
    grown = grow(scores, before, after, granularity="filter")
    assert grown["a"].int().tolist() == [[0, 0, 0], [1, 1, 1], [0, 0, 0]]


def test_a_filter_that_lost_some_of_its_weights_does_not_come_back():
    scores = {"a": torch.tensor([[9.0, 9], [1, 1]])}
    before = {"a": flags([1, 1], [0, 0])}
    after = {"a": flags([1, 0], [0, 0])}
    grown = grow(scores, before, after, granularity="filter")
    assert grown["a"].int().tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize("scope", REGROW_SCOPES)
@pytest.mark.parametrize("granularity", ["weight", "filter"])
def test_scores_of_nan_are_refused_with_layer_and_regrowth(scope, granularity):
    scores = {"a": torch.ones(2, 2), "b": torch.tensor([[1, math.nan], [1, 1]])}
    before = {"a": flags([1, 1], [1, 1]), "b": flags([1, 1], [1, 1])}
    after = {"a": flags([1, 1], [1, 1]), "b": flags([0, 0], [1, 1])}
    with pytest.raises(ValueError, match="'weights' scores b with NaN"):
        grow(scores, before, after, scope=scope, granularity=granularity)


@pytest.mark.parametrize("granularity", ["weight", "filter"])
def test_only_the_scores_of_inactive_weights_are_looked_at(granularity):
    scores = {"a": torch.tensor([[math.nan, math.nan], [1, 1], [2, 2]])}
    before, after = {"a": flags([1, 1], [1, 1], [0, 0])}, {"a": flags([1, 1], [0, 0], [0, 0])}
    grown = grow(scores, before, after, granularity=granularity)
    assert grown["a"].int().tolist() == [[1, 1], [0, 0], [1, 1]]


@pytest.mark.parametrize(
    ("lost", "expected"),
    [(1, [0, 1, 0, 0]), (2, [0, 1, 1, 0]), (3, [1, 1, 1, 0]), (4, [1, 1, 1, 1])],
)
def test_infinite_scores_come_back_first_and_last(lost, expected):
    scores = {"a": torch.tensor([[0, math.inf, 7, -math.inf]])}
    before, after = {"a": torch.arange(4)[None] < lost}, {"a": flags([0, 0, 0, 0])}
    assert grow(scores, before, after)["a"].int().tolist() == [expected]
    columns = [{"a": next(iter(values.values())).T} for values in (scores, before, after)]
    assert grow(*columns, granularity="filter")["a"].flatten().int().tolist() == expected


def test_more_active_weights_after_pruning_than_before_are_refused_by_name():
    fewer = {name: mask.clone() for name, mask in DENSE.items()}
    fewer["2.weight"][0, :3] = False
    context = make_context(DENSE)
    with pytest.raises(ValueError, match=r"2\.weight has 3 more active weights"):
        regenerate(context, Masks(fewer), DENSE, "random")


def test_unknown_names_are_refused_with_a_list_of_the_known_ones():
    context = make_context()
    with pytest.raises(ValueError, match=r"unknown regrowth 'hope': choose from gradient, "):
        regenerate(context, DENSE, DENSE, "hope")
    with pytest.raises(ValueError, match=r"unknown regrow_scope 'erk': choose from layer, global"):
        regenerate(context, DENSE, DENSE, "random", scope="erk")
    with pytest.raises(ValueError, match=r"unknown granularity 'channel': choose from weight, fil"):
        regenerate(context, DENSE, DENSE, "random", "channel")
    with pytest.raises(ValueError, match="cannot regrow with granularity 2:4"):
        regenerate(context, DENSE, DENSE, "random", "2:4")


def test_masks_of_another_network_are_not_regenerated():
    with pytest.raises(ValueError, match="masks do not fit the model"):
        regenerate(Context(linear([3, 2])), DENSE, DENSE, "random")


@pytest.mark.parametrize("scope", REGROW_SCOPES)
def test_nothing_comes_back_in_layers_that_take_no_part(scope):
    net = nn.Sequential(linear([1, 2], [3, 4]), linear([5, 6], [7, 8]))
    before = Masks({"0.weight": flags([1, 1], [1, 1]), "1.weight": flags([1, 1], [0, 0])})
    after = Masks({"0.weight": flags([0, 0], [1, 1]), "1.weight": flags([1, 1], [0, 0])})
    context = Context(net, before)
    for choice in ({"dense": "last"}, {"layers": "0.weight"}):
        grown = regenerate(context, before, after, "random", scope=scope, **choice)
        assert grown.counts() == {"0.weight": 4, "1.weight": 2}


def test_unknown_layers_are_refused_by_name():
    context = make_context()
    with pytest.raises(ValueError, match=r"no layer is named 'nine': choose from 0\.weight"):
        regenerate(context, DENSE, DENSE, "random", layers="nine")


@pytest.mark.parametrize("scope", REGROW_SCOPES)
@pytest.mark.parametrize("granularity", ["weight", "filter"])
def test_a_pruning_says_all_that_regeneration_asks(scope, granularity):
    pruning = Pruning(
        rate=0.5,
        regrow="random",
        granularity=granularity,
        regrow_scope=scope,
        layers="0.weight 2.weight",
        dense="first",
    )
    context = make_context()
    after = prune(context, pruning)
    expected = regenerate(
        context, DENSE, after, "random", granularity, scope, "0.weight 2.weight", "first"
    )
    assert regenerate(context, DENSE, after, pruning) == expected
