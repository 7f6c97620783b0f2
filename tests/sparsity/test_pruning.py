import math
import warnings
from dataclasses import FrozenInstanceError
from itertools import pairwise

import pytest
import torch
from drawing import BATCH, DENSE, EMPTY, RATES, SHAPES, linear, make_net, quiet, some_masks, within
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from torch import nn

from granet_lab.sparsity import Context, Masks, Pruning, criterion, prune, prune_to
from granet_lab.sparsity.allocation import SCHEMES
from granet_lab.sparsity.criteria import CRITERIA
from granet_lab.sparsity.pruning import EmptyLayerWarning
from granet_lab.sparsity.regrowths import REGROWTHS

SCOPES = ["global", *SCHEMES]
GRANULARITIES = ["weight", "filter", "2:4"]
QUICK = [name for name in CRITERIA if CRITERIA[name].rounds == 1]
IN_ROUNDS = [name for name in CRITERIA if CRITERIA[name].rounds > 1]
many = settings(max_examples=25, deadline=None)
some = settings(max_examples=8, deadline=None)
few = settings(max_examples=2, deadline=None)


def equal_net():
    net = make_net()
    for name in SHAPES:
        nn.init.constant_(net.get_parameter(name), 0.1)
    return net


NETS = {"random": make_net(), "equal": equal_net()}


@st.composite
def some_networks(draw, layers=(1, 3)):
    """Linear and convolutional layers of any shape, equal and zero weights and any masks."""
    flat = st.tuples(st.integers(1, 5), st.integers(1, 9))
    square = st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 2), st.integers(1, 3))
    shapes = draw(st.lists(st.one_of(flat, square), min_size=layers[0], max_size=layers[1]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    weights, masks = [], {}
    for i, shape in enumerate(shapes):
        largest = draw(st.sampled_from([0, 1, 3, 1000]))
        density = draw(st.sampled_from([0, 0.3, 0.7, 1, 1]))
        integers = torch.randint(-largest, largest + 1, shape, generator=generator)
        weights.append(nn.Parameter(integers.float()))
        masks[str(i)] = torch.rand(shape, generator=generator) < density
    return Context(nn.ParameterList(weights), Masks(masks))


def make_context(masks=None, weights="random", **more):
    return Context(NETS[weights], masks, batches=[BATCH], **more)


@pytest.fixture
def own_criteria(monkeypatch):
    monkeypatch.setattr(CRITERIA, "_entries", dict(CRITERIA._entries))


def four_layers():
    """Names 0.weight to 3.weight with 2, 4, 6 and 8 weights, the smallest in the middle."""
    return nn.Sequential(
        linear([50, 60]), linear([1, 2], [3, 4]), linear(*[[5, 6]] * 3), linear(*[[70, 80]] * 4)
    )


def one_by_one(mask):
    return [bool(flag) for flag in mask.flatten()]


def check_the_rate(name, scope, rate, before, weights):
    after = prune(make_context(before, weights), Pruning(rate=rate, criterion=name, scope=scope))
    assert before.active - after.active == round(rate * before.active)
    assert within(after, before)


@quiet
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", QUICK)
@some
@given(rate=RATES, before=some_masks(), weights=st.sampled_from(list(NETS)))
@example(rate=0, before=DENSE, weights="random")
@example(rate=1, before=DENSE, weights="equal")
@example(rate=0.5, before=DENSE, weights="equal")
@example(rate=0.5, before=EMPTY, weights="random")
def test_prune_removes_exactly_the_rate_of_the_active_weights(name, scope, rate, before, weights):
    check_the_rate(name, scope, rate, before, weights)


@quiet
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", IN_ROUNDS)
@few
@given(rate=RATES, before=some_masks(), weights=st.sampled_from(list(NETS)))
def test_prune_in_rounds_removes_exactly_the_rate(name, scope, rate, before, weights):
    check_the_rate(name, scope, rate, before, weights)


@quiet
@pytest.mark.parametrize("scope", SCOPES)
@many
@given(rate=RATES, context=some_networks())
def test_the_rate_is_exact_for_layers_of_any_shape_and_weights(scope, rate, context):
    before = context.masks
    after = prune(context, Pruning(rate=rate, scope=scope))
    assert before.active - after.active == round(rate * before.active)
    assert within(after, before)


@quiet
@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_prunes_a_convolutional_network(name):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3))
    batch = (torch.randn(5, 2, 4, 4), torch.tensor([0, 1, 2, 0, 1]))
    context = Context(net, batches=[batch])
    assert prune(context, Pruning(rate=0.5, criterion=name)).active == 45
    filters = prune(context, Pruning(rate=0.5, criterion=name, granularity="filter"))
    assert_whole(filters, context.masks)
    assert 0 < filters.active < 90


@quiet
@many
@given(rate=RATES, context=some_networks())
def test_uniform_scope_is_within_one_weight_of_the_rate_in_every_layer(rate, context):
    before, after = context.masks, prune(context, Pruning(rate=rate, scope="uniform"))
    share = after.active / max(1, before.active)
    for layer, active in before.counts().items():
        assert abs(after.counts()[layer] - share * active) < 1 + 1e-9


@quiet
@many
@given(rate=RATES, before=some_masks())
def test_global_scope_keeps_no_weight_smaller_than_one_it_removes(rate, before):
    after = prune(make_context(before), Pruning(rate=rate))
    sizes = {name: NETS["random"].get_parameter(name).detach().abs() for name in SHAPES}
    kept = torch.cat([sizes[n][after[n]] for n in SHAPES]).tolist()
    removed = torch.cat([sizes[n][before[n] & ~after[n]] for n in SHAPES]).tolist()
    assert min(kept, default=math.inf) >= max(removed, default=0)


def test_global_scope_ranks_all_layers_together():
    net = nn.Sequential(linear([1, 2], [3, 4]), linear([30, -40]))
    after = prune(Context(net), Pruning(rate=0.5))
    assert after["0.weight"].tolist() == [[False, False], [False, True]]
    assert after["1.weight"].tolist() == [[True, True]]


def test_uniform_scope_ranks_each_layer_by_itself():
    net = nn.Sequential(linear([1, 2], [3, 4]), linear([30, -40]))
    after = prune(Context(net), Pruning(rate=0.5, scope="uniform"))
    assert after["0.weight"].tolist() == [[False, False], [True, True]]
    assert after["1.weight"].tolist() == [[False, True]]


def test_the_rate_is_that_of_the_current_non_zeros():
    masks = Masks({"weight": torch.tensor([[True, True, True, True, False, False]])})
    net = linear([1, 2, 3, 4, 50, 60])
    after = prune(Context(net, masks), Pruning(rate=0.5))
    assert after["weight"].tolist() == [[False, False, True, True, False, False]]


@quiet
@pytest.mark.parametrize("scope", SCOPES)
def test_of_equal_weights_the_lower_index_stays(scope):
    after = prune(make_context(weights="equal"), Pruning(rate=0.5, scope=scope))
    for mask in after.values():
        count = int(mask.count_nonzero())
        assert mask.flatten().tolist() == [True] * count + [False] * (mask.numel() - count)


@quiet
def test_of_equal_weights_in_several_layers_the_first_layer_stays():
    after = prune(make_context(weights="equal"), Pruning(rate=0.5))
    assert after.counts() == {"0.weight": 12, "2.weight": 9, "4.weight": 0}


def test_in_a_layer_of_zeros_the_lower_index_stays():
    net = nn.Sequential(linear([0, 0, 0, 0]), linear([3, 0, -2, 0]))
    after = prune(Context(net), Pruning(rate=0.5))
    assert one_by_one(after["0.weight"]) == [True, True, False, False]
    assert one_by_one(after["1.weight"]) == [True, False, True, False]


@quiet
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("granularity", ["weight", "filter"])
def test_ties_do_not_depend_on_the_order_in_which_masks_are_given(scope, granularity):
    turned = Masks(dict(reversed(list(DENSE.items()))))
    pruning = Pruning(rate=0.52, scope=scope, granularity=granularity)
    given_in_order = prune(make_context(DENSE, "equal"), pruning)
    assert prune(make_context(turned, "equal"), pruning) == given_in_order


def test_masks_from_a_file_are_pruned_like_those_that_were_saved(tmp_path):
    net = nn.Sequential(*[linear([1, 1]) for _ in range(12)])
    masks = Masks.dense(net)
    masks.save(tmp_path / "masks.safetensors")
    loaded = Masks.load(tmp_path / "masks.safetensors")
    pruning = Pruning(rate=0.25, scope="uniform")
    assert prune(Context(net, loaded), pruning) == prune(Context(net, masks), pruning)


def test_erk_scope_fills_what_a_layer_has_left_and_passes_on_the_rest():
    # Shares 3 : 4 : 11. Keeping 6 would put 1, 1.33 and 3.67; the third layer has one weight left.
    net = nn.Sequential(linear([1, 2]), linear([1, 2], [3, 4]), linear(*[[k] for k in range(10)]))
    masks = {name: mask.clone() for name, mask in Masks.dense(net).items()}
    masks["2.weight"][1:] = False
    after = prune_to(Context(net, Masks(masks)), 10 / 16, scope="erk")
    assert after.counts() == {"0.weight": 2, "1.weight": 3, "2.weight": 1}


def test_under_uniform_scope_prune_to_looks_at_sizes_and_prune_at_what_is_there():
    net = nn.Sequential(linear([1, 2, 3, 4]), linear([1, 2, 3, 4]))
    context = Context(
        net, {"0.weight": torch.arange(4)[None] > 1, "1.weight": torch.ones(1, 4) > 0}
    )
    assert list(prune_to(context, 0.5, scope="uniform").counts().values()) == [2, 2]
    assert list(prune(context, Pruning(rate=1 / 3, scope="uniform")).counts().values()) == [1, 3]


def check_the_sparsity(name, scope, way, before):
    sparsity = before.sparsity + way * (1 - before.sparsity)
    after = prune_to(make_context(before), sparsity, name, scope)
    assert after.total - after.active == round(sparsity * before.total)
    assert within(after, before)


@quiet
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", QUICK)
@some
@given(way=RATES, before=some_masks())
@example(way=0, before=DENSE)
@example(way=1, before=DENSE)
def test_prune_to_meets_its_sparsity_exactly(name, scope, way, before):
    check_the_sparsity(name, scope, way, before)


@quiet
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", IN_ROUNDS)
@few
@given(way=RATES, before=some_masks())
def test_prune_to_in_rounds_meets_its_sparsity_exactly(name, scope, way, before):
    check_the_sparsity(name, scope, way, before)


@quiet
@pytest.mark.parametrize("scope", SCOPES)
@many
@given(way=RATES, context=some_networks())
def test_prune_to_is_exact_for_layers_of_any_shape_and_weights(scope, way, context):
    before = context.masks
    sparsity = before.sparsity + way * (1 - before.sparsity)
    after = prune_to(context, sparsity, scope=scope)
    assert after.total - after.active == round(sparsity * before.total)
    assert within(after, before)


@quiet
@pytest.mark.parametrize("scope", SCOPES)
@some
@given(before=some_masks())
def test_prune_to_the_sparsity_that_there_is_changes_nothing(scope, before):
    assert prune_to(make_context(before), before.sparsity, scope=scope) == before


@some
@given(way=RATES, before=some_masks())
def test_prune_to_refuses_a_network_that_is_sparser_already(way, before):
    assume(before.active < before.total)
    sparsity = way * (before.sparsity - 0.6 / before.total)
    with pytest.raises(ValueError, match=r"the network has [01][.\d]* already"):
        prune_to(make_context(before), sparsity)


@pytest.mark.parametrize("sparsity", [-0.1, 1.1, math.nan, None])
def test_prune_to_refuses_a_sparsity_outside_0_to_1(sparsity):
    with pytest.raises(ValueError, match="sparsity"):
        prune_to(make_context(), sparsity)


def test_prune_to_refuses_unknown_names_and_lists_the_valid_ones():
    with pytest.raises(ValueError, match="'layer': choose from global, er, erk, uniform"):
        prune_to(make_context(), 0.5, scope="layer")
    with pytest.raises(ValueError, match=r"'luck': choose from .*magnitude"):
        prune_to(make_context(), 0.5, criterion="luck")
    with pytest.raises(ValueError, match=r"'channel': choose from weight, filter, or N:M"):
        prune_to(make_context(), 0.5, granularity="channel")
    with pytest.raises(ValueError, match=r"'stem': choose from 0\.weight, 2\.weight, 4\.weight"):
        prune_to(make_context(), 0.5, dense="stem")


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan, None, "half"])
def test_a_pruning_refuses_a_rate_outside_0_to_1(rate):
    with pytest.raises(ValueError, match="rate"):
        Pruning(rate=rate)


@pytest.mark.parametrize(
    ("field", "valid"),
    [
        ("criterion", list(CRITERIA)),
        ("scope", SCOPES),
        ("regrow", ["None", *REGROWTHS]),
        ("regrow_scope", ["layer", "global"]),
    ],
)
def test_a_pruning_refuses_an_unknown_name_and_lists_the_valid_ones(field, valid):
    with pytest.raises(ValueError, match=r"unknown .* 'magic': choose from") as raised:
        Pruning(rate=0.5, **{field: "magic"})
    listed = str(raised.value).partition("choose from ")[2].split(", ")
    assert sorted(listed) == sorted(valid)


@pytest.mark.parametrize("granularity", ["channel", "4:2", "2:2", "0:4", "2:4:8", "2 : 4", None])
def test_a_pruning_refuses_an_unknown_granularity_and_says_what_is_known(granularity):
    with pytest.raises(ValueError, match=r"choose from weight, filter, or N:M such as 2:4"):
        Pruning(rate=0.5, scope="uniform", granularity=granularity)


def test_a_pruning_refuses_a_regrow_scope_without_regrowth():
    with pytest.raises(ValueError, match="choose a regrow, too"):
        Pruning(rate=0.5, regrow_scope="global")
    assert Pruning(rate=0.5, regrow="random", regrow_scope="global").regrow_scope == "global"


@pytest.mark.parametrize("field", ["layers", "dense"])
@pytest.mark.parametrize("value", [None, ["0.weight"], str.isupper])
def test_a_pruning_names_its_layers_in_one_string(field, value):
    with pytest.raises(ValueError, match=f"{field} must be names in one string"):
        Pruning(rate=0.5, **{field: value})


def test_prunings_that_differ_in_spaces_between_names_are_equal():
    spaced = Pruning(rate=0.5, layers="  first   last ", dense=" \n")
    assert spaced == Pruning(rate=0.5, layers="first last", dense="")
    assert hash(spaced) == hash(Pruning(rate=0.5, layers="first last", dense=""))


def test_a_pruning_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Pruning(rate=0.5).rate = 0.6


@pytest.mark.parametrize("granularity", ["weight", "filter"])
@pytest.mark.parametrize("scope", SCOPES)
def test_rate_1_empties_every_layer_and_names_them_in_a_warning(scope, granularity):
    with pytest.warns(EmptyLayerWarning, match=r"0\.weight, 2\.weight, 4\.weight"):
        after = prune(make_context(), Pruning(rate=1, scope=scope, granularity=granularity))
    assert after == EMPTY


@pytest.mark.parametrize("granularity", ["weight", "filter"])
@pytest.mark.parametrize("scope", SCOPES)
@some
@given(context=some_networks())
def test_rate_0_changes_nothing(scope, granularity, context):
    pruning = Pruning(rate=0, scope=scope, granularity=granularity)
    assert prune(context, pruning) == context.masks


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("name", CRITERIA)
def test_empty_masks_stay_empty_without_a_warning(name, granularity):
    pruning = Pruning(rate=0.5, criterion=name, scope="uniform", granularity=granularity)
    with warnings.catch_warnings():
        warnings.simplefilter("error", EmptyLayerWarning)
        assert prune(make_context(EMPTY), pruning) == EMPTY


def test_an_emptied_layer_is_named_and_the_masks_are_right():
    net = nn.Sequential(linear([5, 6]), linear([1, 2]).requires_grad_(False), linear([7], [8]))
    with pytest.warns(EmptyLayerWarning) as caught:
        after = prune(Context(net), Pruning(rate=0.5))
    assert [str(w.message) for w in caught] == ["pruning left no weight in 1.weight"]
    assert after.counts() == {"0.weight": 1, "1.weight": 0, "2.weight": 2}


def test_a_layer_that_was_empty_before_is_not_warned_of_again():
    masks = {name: mask.clone() for name, mask in DENSE.items()}
    masks["2.weight"][:] = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after = prune(make_context(Masks(masks)), Pruning(rate=0.5, scope="uniform"))
    assert after.empty_layers() == ["2.weight"]


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("verb", ["prune", "prune_to"])
def test_the_warning_points_to_the_line_that_pruned(verb, scope):
    operations = {
        "prune": lambda: prune(make_context(), Pruning(rate=1, scope=scope)),
        "prune_to": lambda: prune_to(make_context(), 1, scope=scope),
    }
    with pytest.warns(EmptyLayerWarning) as caught:
        operations[verb]()
    assert caught[0].filename == __file__


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_scores_of_nan_are_refused_with_layer_and_criterion(own_criteria, granularity):
    @criterion
    def doubtful(context):
        scores = {name: w.abs() for name, w in context.weights().items()}
        scores["2.weight"][1, 2] = math.nan
        return scores

    pruning = Pruning(rate=0.5, criterion="doubtful", scope="uniform", granularity=granularity)
    with pytest.raises(ValueError, match=r"'doubtful' scores 2\.weight with NaN"):
        prune(make_context(), pruning)
    with pytest.raises(ValueError, match=r"'doubtful' scores 2\.weight with NaN"):
        prune_to(make_context(), 0.5, "doubtful", "uniform", granularity)


def test_weights_of_nan_are_refused_with_layer_and_criterion():
    net = linear([1, math.nan])
    with pytest.raises(ValueError, match="'magnitude' scores weight with NaN"):
        prune(Context(net), Pruning(rate=0.5))


@pytest.mark.parametrize(
    ("granularity", "expected"),
    [
        ("weight", [[1, 0, 0, 1], [0, 0, 0, 0]]),
        ("filter", [[1, 0, 0, 1], [0, 0, 0, 0]]),
        ("2:4", [[1, 0, 0, 1], [1, 0, 0, 1]]),
    ],
)
def test_only_the_scores_of_active_weights_are_looked_at(own_criteria, granularity, expected):
    @criterion
    def relative(context):
        return {name: w / w.abs() for name, w in context.weights().items()}

    masks = Masks({"weight": torch.tensor([[True, False, False, True]] * 2)})
    net = linear([3, 0, 0, 2], [3, 0, 0, 2])
    pruning = Pruning(rate=0.5, criterion="relative", scope="uniform", granularity=granularity)
    after = prune(Context(net, masks), pruning)
    assert after["weight"].int().tolist() == expected


@pytest.mark.parametrize("fields", [{"layers": "0* 4*"}, {"dense": "2.weight"}])
def test_the_scores_of_layers_that_do_not_take_part_are_not_looked_at(own_criteria, fields):
    @criterion
    def elsewhere(context):
        scores = {name: w.abs() for name, w in context.weights().items()}
        return scores | {"2.weight": torch.full((5, 4), math.nan)}

    after = prune(make_context(), Pruning(rate=0.5, criterion="elsewhere", **fields))
    assert (after.counts()["2.weight"], after.active) == (20, 31)


@pytest.fixture
def beyond_all_numbers(own_criteria):
    """A criterion that gives the weights 1, 2, 3, ... the scores inf, 1, 2, -inf, inf, 1, ..."""

    @criterion
    def beyond(context):
        scores = torch.tensor([math.inf, 1.0, 2.0, -math.inf])
        return {n: scores[(w.long() - 1) % 4] for n, w in context.weights().items()}


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (1 / 8, [1, 1, 1, 1, 1, 1, 1, 0]),  # of the two -inf the later one goes
        (2 / 8, [1, 1, 1, 0, 1, 1, 1, 0]),
        (5 / 8, [1, 0, 1, 0, 1, 0, 0, 0]),
        (6 / 8, [1, 0, 0, 0, 1, 0, 0, 0]),
        (7 / 8, [1, 0, 0, 0, 0, 0, 0, 0]),
    ],
)
def test_infinite_scores_are_ranked_first_and_last(beyond_all_numbers, rate, expected):
    net = linear([1, 2, 3, 4, 5, 6, 7, 8])
    after = prune(Context(net), Pruning(rate=rate, criterion="beyond"))
    assert one_by_one(after["weight"]) == [bool(flag) for flag in expected]


def test_a_filter_with_an_infinite_score_stays(beyond_all_numbers):
    net = linear([3, 3], [1, 2], [3, 4], [3, 3])  # sums 4, inf, -inf, 4
    pruning = Pruning(rate=0.5, criterion="beyond", granularity="filter")
    after = prune(Context(net), pruning)
    assert after["weight"].int().tolist() == [[1, 1], [1, 1], [0, 0], [0, 0]]


def test_an_infinite_score_is_the_best_of_its_group(beyond_all_numbers):
    net = linear([4, 3, 2, 1, 3, 4, 4, 4])  # scores -inf 2 1 inf, 2 -inf -inf -inf
    pruning = Pruning(rate=0.5, criterion="beyond", scope="uniform", granularity="2:4")
    after = prune(Context(net), pruning)
    assert after["weight"].int().tolist() == [[0, 1, 0, 1, 1, 1, 0, 0]]


@quiet
def test_an_active_weight_beats_inactive_ones_of_its_group_whatever_its_score(beyond_all_numbers):
    masks = Masks({"weight": torch.tensor([[False, False, True, True]])})
    pruning = Pruning(rate=0.5, criterion="beyond", scope="uniform", granularity="2:4")
    after = prune(Context(linear([1, 1, 4, 4]), masks), pruning)
    assert after["weight"].int().tolist() == [[0, 0, 1, 1]]


def test_a_layer_without_scores_is_named(own_criteria):
    @criterion
    def forgetful(context):
        scores = context.weights()
        del scores["2.weight"]
        return scores

    with pytest.raises(ValueError, match=r"'forgetful' gives no score of shape \(5, 4\) for 2\.w"):
        prune(make_context(), Pruning(rate=0.5, criterion="forgetful"))


def test_a_layer_with_scores_of_another_shape_is_named(own_criteria):
    @criterion
    def turned(context):
        return {name: w.T for name, w in context.weights().items()}

    with pytest.raises(ValueError, match=r"'turned' gives no score of shape \(4, 3\) for 0\.w"):
        prune(make_context(), Pruning(rate=0.5, criterion="turned"))


@pytest.mark.parametrize("scores", [None, {"weight": [1.0, 2.0]}, {"weight": torch.ones(1, 2) > 0}])
def test_what_is_not_a_dict_of_numbers_is_no_scores(own_criteria, scores):
    @criterion
    def wrong(context):
        return scores

    with pytest.raises(ValueError, match="'wrong' gives no"):
        prune(Context(linear([3, 2])), Pruning(rate=0.5, criterion="wrong"))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [2, 0, 0, 8]),
        ({"layers": "1.weight 2.weight"}, [2, 0, 5, 8]),  # half of 10
        ({"layers": "[12]*"}, [2, 0, 5, 8]),
        ({"layers": "[12]*", "scope": "uniform"}, [2, 2, 3, 8]),
        ({"layers": "first last"}, [0, 4, 6, 5]),  # 50 and 60 are smaller than 70 and 80
        ({"dense": "first last"}, [2, 0, 5, 8]),
        ({"dense": "first"}, [2, 0, 1, 8]),  # 9 of 18 go
        ({"dense": "last", "scope": "uniform"}, [1, 2, 3, 8]),
        ({"layers": "?.weight", "dense": "0.* 3.*"}, [2, 0, 5, 8]),
        ({"layers": "3.weight first", "dense": "last"}, [1, 4, 6, 8]),
    ],
)
@quiet
def test_the_rate_is_of_the_weights_of_the_layers_that_take_part(fields, expected):
    after = prune(Context(four_layers()), Pruning(rate=0.5, **fields))
    assert list(after.counts().values()) == expected


@quiet
@pytest.mark.parametrize("scope", SCOPES)
@many
@given(
    rate=RATES,
    context=some_networks(layers=(2, 4)),
    layers=st.sampled_from(["*", "first", "last", "0 1", "first last"]),
    dense=st.sampled_from(["", "first", "last", "1"]),
)
def test_layers_that_do_not_take_part_stay_as_they_are(scope, rate, context, layers, dense):
    last = str(len(context.masks) - 1)
    named = {"*": set(context.masks), "first": {"0"}, "last": {last}, "": set(), "1": {"1"}}
    named |= {"0 1": {"0", "1"}, "first last": {"0", last}}
    part = named[layers] - named[dense]
    pruning = Pruning(rate=rate, scope=scope, layers=layers, dense=dense)
    if not part:
        with pytest.raises(ValueError, match="no layer is left to prune"):
            prune(context, pruning)
        return
    before, after = context.masks, prune(context, pruning)
    assert all(torch.equal(after[n], before[n]) for n in before if n not in part)
    active = sum(before.counts()[name] for name in part)
    assert before.active - after.active == round(rate * active)


@pytest.mark.parametrize("field", ["layers", "dense"])
@pytest.mark.parametrize("name", ["stem.weight", "9", "stem.*", "0.weight 9.weight", "First"])
def test_a_name_that_no_layer_has_raises_an_error_that_lists_the_layers(field, name):
    wrong = name.split()[-1]
    pruning = Pruning(rate=0.5, **{field: name})
    listed = r"choose from 0\.weight, 1\.weight, 2\.weight, 3\.weight"
    with pytest.raises(
        ValueError, match=f"no layer is named '{wrong}': {listed}".replace("*", ".")
    ):
        prune(Context(four_layers()), pruning)


def assert_whole(after, before):
    """Of every filter all active weights are left, or none."""
    for name, mask in after.items():
        for kept, had in zip(mask, before[name], strict=True):
            assert torch.equal(kept, had) or not kept.any()


def whole_filters(context, names):
    """Layer, index, L1 norm and number of active weights of each filter that has any."""
    weights = context.weights()
    for name in names:
        for i, (row, mask) in enumerate(zip(weights[name], context.masks[name], strict=True)):
            if mask.any():
                yield name, i, float((row.abs() * mask).sum()), int(mask.sum())


def closest(context, names, keep):
    """The filters that stay, by trying every prefix of the ranking."""
    ranked = sorted(whole_filters(context, names), key=lambda found: -found[2])
    prefixes = [ranked[:k] for k in range(len(ranked) + 1)]
    best = min(prefixes, key=lambda prefix: abs(sum(found[3] for found in prefix) - keep))
    return {(name, i) for name, i, _, _ in best}


@quiet
@many
@given(rate=RATES, context=some_networks())
def test_whole_filters_go_as_many_as_come_closest_to_the_rate(rate, context):
    after = prune(context, Pruning(rate=rate, granularity="filter"))
    assert_whole(after, context.masks)
    keep = context.masks.active - round(rate * context.masks.active)
    stay = {(n, i) for n, mask in after.items() for i, row in enumerate(mask) if row.any()}
    assert stay == closest(context, list(after), keep)


@quiet
@pytest.mark.parametrize("scope", SCHEMES)
@many
@given(rate=RATES, context=some_networks())
def test_whole_filters_come_closest_in_each_layer_to_what_the_scope_gives_it(scope, rate, context):
    after = prune(context, Pruning(rate=rate, scope=scope, granularity="filter"))
    assert_whole(after, context.masks)
    meant = prune(context, Pruning(rate=rate, scope=scope)).counts()
    for name, mask in after.items():
        stay = {(name, i) for i, row in enumerate(mask) if row.any()}
        assert stay == closest(context, [name], meant[name])


def test_filters_are_ranked_by_their_l1_norms_over_all_layers():
    # Norms 5, 6, 4 in the first layer, 2 weights each; 9 and 3 in the second, 3 weights each.
    net = nn.Sequential(linear([-5, 0], [3, -3], [2, 2]), linear([3, 3, -3], [1, 1, 1]))
    after = prune(Context(net), Pruning(rate=0.5, granularity="filter"))
    # 6 of 12 are to stay. Best first 3, 5, 7, ... would: 5 and 7 are as close, the fewer it is.
    assert after["0.weight"].int().tolist() == [[0, 0], [1, 1], [0, 0]]
    assert after["1.weight"].int().tolist() == [[1, 1, 1], [0, 0, 0]]


def test_filters_are_ranked_in_each_layer_by_itself_unless_the_scope_is_global():
    net = nn.Sequential(linear([-5, 0], [3, -3], [2, 2], [9, 0]), linear([30, 30], [10, 10]))
    after = prune(Context(net), Pruning(rate=0.5, scope="uniform", granularity="filter"))
    assert after["0.weight"].int().tolist() == [[0, 0], [1, 1], [0, 0], [1, 1]]
    assert after["1.weight"].int().tolist() == [[1, 1], [0, 0]]


def test_a_filter_of_a_convolution_is_all_that_makes_one_output_channel():
    net = nn.Conv2d(2, 3, (1, 2), bias=False)
    net.weight.data = torch.tensor(
        [[[[1.0, 1]], [[1, 1]]], [[[0, 0]], [[0, 5]]], [[[2, 0]], [[2, 2]]]]
    )
    after = prune(Context(net), Pruning(rate=1 / 3, granularity="filter"))
    assert [bool(row.all()) for row in after["weight"]] == [False, True, True]
    assert not after["weight"][0].any()


def test_a_filters_norm_is_that_of_its_active_weights():
    masks = Masks({"weight": torch.tensor([[True, True, False], [True, True, True]])})
    net = linear([2, 2, 100], [1, 1, 1])
    after = prune(Context(net, masks), Pruning(rate=0.4, granularity="filter"))
    assert after["weight"].int().tolist() == [[1, 1, 0], [0, 0, 0]]  # 2 is closer to 3 than 5


def test_of_equal_filters_the_first_stay_and_dense_spares_the_classes():
    net = nn.Sequential(linear([1, 1], [1, 1], [1, 1], [1, 1]), linear([0.1, 0.1], [0.1, 0.1]))
    after = prune(Context(net), Pruning(rate=0.5, granularity="filter", dense="last"))
    assert after["0.weight"].int().tolist() == [[1, 1], [1, 1], [0, 0], [0, 0]]
    assert after["1.weight"].all()


@pytest.mark.parametrize(
    ("n", "m", "expected"),
    [
        (2, 4, [1, 0, 1, 0, 1, 1, 0, 0, 1, 1]),
        (1, 4, [1, 0, 0, 0, 1, 0, 0, 0, 1, 0]),
        (3, 5, [1, 0, 1, 1, 0, 1, 1, 0, 1, 0]),
        (1, 2, [1, 0, 1, 0, 1, 0, 1, 0, 1, 0]),
    ],
)
def test_a_pattern_keeps_the_best_of_every_group_as_by_hand(n, m, expected):
    net = linear([9, -1, 8, 4, 3, 3, 1, 1, 2, 1])
    pruning = Pruning(rate=1 - n / m, scope="uniform", granularity=f"{n}:{m}")
    assert prune(Context(net), pruning)["weight"].int().tolist() == [expected]


@quiet
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 5)])
@many
@given(context=some_networks())
def test_a_pattern_keeps_the_best_of_neighbours_along_the_input_dimension(n, m, context):
    pruning = Pruning(rate=1 - n / m, scope="uniform", granularity=f"{n}:{m}")
    before, after = context.masks, prune(context, pruning)
    for name, weight in context.weights().items():
        rows = weight.movedim(1, -1).reshape(-1, weight.shape[1])
        had = before[name].movedim(1, -1).reshape(rows.shape)
        has = after[name].movedim(1, -1).reshape(rows.shape)
        for row, old, new in zip(rows.tolist(), had.tolist(), has.tolist(), strict=True):
            for start in range(0, len(row), m):
                group = [i for i in range(start, min(start + m, len(row))) if old[i]]
                stay = sorted(group, key=lambda i: -abs(row[i]))[:n]
                assert [i for i in range(start, min(start + m, len(row))) if new[i]] == sorted(stay)


def test_a_patterns_groups_are_those_of_one_kernel_position():
    net = nn.Conv2d(4, 1, (1, 2), bias=False)
    net.weight.data = torch.tensor([[[[1.0, 8]], [[2, 7]], [[3, 6]], [[4, 5]]]])
    after = prune(Context(net), Pruning(rate=0.5, scope="uniform", granularity="2:4"))
    assert after["weight"][0, :, 0, 0].int().tolist() == [0, 0, 1, 1]
    assert after["weight"][0, :, 0, 1].int().tolist() == [1, 1, 0, 0]


def test_a_pattern_leaves_layers_alone_that_do_not_take_part():
    net = nn.Sequential(linear([4, 3, 2, 1]), linear([4, 3, 2, 1]), linear([4, 3, 2, 1]))
    pruning = Pruning(rate=0.75, scope="uniform", granularity="1:4", dense="first last")
    assert list(prune(Context(net), pruning).counts().values()) == [4, 1, 4]


@pytest.mark.parametrize(
    ("granularity", "rate", "scope"),
    [("2:4", 0.4, "uniform"), ("1:4", 0.5, "uniform"), ("2:4", 0.5, "global"), ("3:5", 0.4, "erk")],
)
def test_a_pattern_refuses_another_rate_or_scope(granularity, rate, scope):
    right = {"2:4": "0.5", "1:4": "0.75", "3:5": "0.4"}[granularity]
    with pytest.raises(ValueError, match=f'needs rate={right} and scope="uniform"'):
        Pruning(rate=rate, scope=scope, granularity=granularity)
    with pytest.raises(ValueError, match=f'needs sparsity={right} and scope="uniform"'):
        prune_to(make_context(), rate, scope=scope, granularity=granularity)


def test_a_pattern_takes_its_rate_in_as_many_digits_as_the_message_shows():
    assert Pruning(rate=0.666667, scope="uniform", granularity="1:3").rate == 0.666667


@pytest.mark.parametrize("regrow", REGROWTHS)
def test_a_pattern_refuses_regrowth(regrow):
    with pytest.raises(ValueError, match="granularity 2:4 has no room for regrow"):
        Pruning(rate=0.5, scope="uniform", granularity="2:4", regrow=regrow)


@quiet
@pytest.mark.parametrize("scope", SCOPES)
@many
@given(
    way=st.floats(0, 1.2),
    context=some_networks(layers=(2, 3)),
    dense=st.sampled_from(["first", "last", "0 1", lambda name: name == "1"]),
)
def test_prune_to_is_exact_in_the_whole_network_with_dense_layers(scope, way, context, dense):
    last = str(len(context.masks) - 1)
    whole = {"first": ["0"], "last": [last], "0 1": ["0", "1"]}.get(dense, ["1"])
    before = context.masks
    room = before.active - sum(before.counts()[name] for name in whole)
    sparsity = min(1.0, (before.total - before.active + way * room) / before.total)
    remove = round(sparsity * before.total) - (before.total - before.active)
    if len(whole) == len(before):
        with pytest.raises(ValueError, match="no layer is left"):
            prune_to(context, sparsity, scope=scope, dense=dense)
    elif remove > room:
        with pytest.raises(ValueError, match=f"{remove} weights have to go, .* have {room}$"):
            prune_to(context, sparsity, scope=scope, dense=dense)
    else:
        after = prune_to(context, sparsity, scope=scope, dense=dense)
        assert after.total - after.active == round(sparsity * after.total)
        assert all(torch.equal(after[name], before[name]) for name in whole)
        assert within(after, before)


@quiet
def test_prune_to_takes_from_the_others_what_a_dense_layer_keeps():
    after = prune_to(Context(four_layers()), 0.5, dense="last")  # 10 of 20
    assert list(after.counts().values()) == [2, 0, 0, 8]
    after = prune_to(Context(four_layers()), 0.3, scope="uniform", dense="last")  # 6 of 12
    assert list(after.counts().values()) == [1, 2, 3, 8]


@quiet
@many
@given(way=st.floats(0, 1), context=some_networks())
def test_prune_to_comes_as_close_with_whole_filters_as_it_can(way, context):
    before = context.masks
    sparsity = before.sparsity + way * (1 - before.sparsity)
    after = prune_to(context, sparsity, granularity="filter")
    assert_whole(after, before)
    stay = {(n, i) for n, mask in after.items() for i, row in enumerate(mask) if row.any()}
    assert stay == closest(context, list(after), before.total - round(sparsity * before.total))


def test_prune_to_with_filters_and_a_dense_layer_comes_close_in_the_whole_network():
    # 6 of 12 have to go: three of the four filters of two weights that may.
    net = nn.Sequential(linear([1, 1], [4, 4], [2, 2], [3, 3]), linear([0.1, 0.1], [0.1, 0.1]))
    after = prune_to(Context(net), 0.5, granularity="filter", dense="last")
    assert after["0.weight"].int().tolist() == [[0, 0], [1, 1], [0, 0], [0, 0]]
    assert after["1.weight"].all()


def test_prune_to_a_pattern_spares_dense_layers():
    net = nn.Sequential(linear([1, 2, 3, 4], [4, 3, 2, 1]), linear([1, 1]))
    after = prune_to(Context(net), 0.5, scope="uniform", granularity="2:4", dense="last")
    assert after["0.weight"].int().tolist() == [[0, 0, 1, 1], [1, 1, 0, 0]]
    assert after["1.weight"].all()


@pytest.fixture
def in_three_rounds(own_criteria):
    """A criterion like magnitude that notes the masks that it sees."""
    seen = []

    @criterion(rounds=3)
    def thrice(context):
        seen.append(context.masks)
        return {name: w.abs() for name, w in context.weights().items()}

    return seen


def test_in_rounds_the_weights_shrink_by_the_same_factor_each_time(in_three_rounds):
    net = linear(*torch.arange(64).reshape(8, 8).tolist())
    after = prune(Context(net), Pruning(rate=7 / 8, criterion="thrice"))
    assert [masks.active for masks in in_three_rounds] == [64, 32, 16]
    assert one_by_one(after["weight"]) == [False] * 56 + [True] * 8
    assert all(within(b, a) for a, b in pairwise(in_three_rounds))


def test_prune_to_goes_in_rounds_from_what_is_there(in_three_rounds):
    masks = Masks({"weight": (torch.arange(128) < 64).reshape(8, 16)})
    after = prune_to(Context(linear(*[[1] * 16] * 8), masks), 1 - 8 / 128, "thrice")
    assert [seen.active for seen in in_three_rounds] == [64, 32, 16]
    assert after.active == 8


def test_rounds_leave_layers_alone_that_do_not_take_part(in_three_rounds):
    net = nn.Sequential(linear([9] * 8), linear(*torch.arange(64).reshape(8, 8).tolist()))
    after = prune(Context(net), Pruning(rate=7 / 8, criterion="thrice", dense="first"))
    assert [masks.active for masks in in_three_rounds] == [72, 40, 24]
    assert after.counts() == {"0.weight": 8, "1.weight": 8}


def test_each_round_scores_what_the_last_one_left(own_criteria):
    @criterion(rounds=2)
    def lonely(context):
        """A weight's size if the layer is whole, the opposite afterwards."""
        sign = 1 if context.masks["weight"].all() else -1
        return {"weight": sign * context.weights()["weight"]}

    after = prune(Context(linear([1, 2, 3, 4])), Pruning(rate=3 / 4, criterion="lonely"))
    assert one_by_one(after["weight"]) == [False, False, True, False]


def test_a_pattern_takes_one_round(in_three_rounds):
    pruning = Pruning(rate=0.5, criterion="thrice", scope="uniform", granularity="2:4")
    after = prune(Context(linear([1, 2, 3, 4])), pruning)
    assert len(in_three_rounds) == 1
    assert one_by_one(after["weight"]) == [False, False, True, True]


def test_rounds_are_exact_where_fewer_weights_in_total_are_more_in_one_layer(in_three_rounds):
    # The rounds keep 13, 11 and 10 of 6 + 6 + 2. In proportion 11 are 5 + 5 + 1, 10 are 4 + 4 + 2.
    net = nn.Sequential(linear([1] * 6), linear([1] * 6), linear([1] * 2))
    after = prune(Context(net), Pruning(rate=4 / 14, criterion="thrice", scope="uniform"))
    assert [masks.active for masks in in_three_rounds] == [14, 13, 11]
    assert after.active == 10


@quiet
@pytest.mark.parametrize("scope", SCOPES)
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(rate=RATES, context=some_networks())
def test_in_rounds_every_count_is_exact(in_three_rounds, scope, rate, context):
    in_three_rounds.clear()
    before = context.masks
    after = prune(context, Pruning(rate=rate, criterion="thrice", scope=scope))
    keep = before.active - round(rate * before.active)
    factor = max(keep, 1) / max(before.active, 1)
    assert [masks.active for masks in in_three_rounds] == [
        round(before.active * factor ** (i / 3)) for i in range(3)
    ]
    assert after.active == keep
    assert within(after, before)
    assert prune_to(context, 1 - keep / before.total, "thrice", scope).active == keep
