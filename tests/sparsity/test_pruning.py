import math
import warnings
from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import nn

from granet_lab.sparsity import Context, Masks, Pruning, criterion, prune, prune_to, regenerate
from granet_lab.sparsity.allocation import SCHEMES
from granet_lab.sparsity.criteria import CRITERIA
from granet_lab.sparsity.regrowths import REGROWTHS
from granet_lab.sparsity.surgery import EmptyLayerWarning

SCOPES = ["global", *SCHEMES]
SHAPES = {"0.weight": (4, 3), "2.weight": (5, 4), "4.weight": (2, 5)}  # 12 + 20 + 10 = 42
BATCH = (torch.linspace(-1, 1, 18).reshape(6, 3), torch.tensor([0, 1, 1, 0, 1, 0]))

quiet = pytest.mark.filterwarnings("ignore::granet_lab.sparsity.surgery.EmptyLayerWarning")


def make_net(weights="random"):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    if weights == "equal":
        for name in SHAPES:
            nn.init.constant_(net.get_parameter(name), 0.1)
    return net


NETS = {"random": make_net(), "equal": make_net("equal")}


@st.composite
def some_masks(draw):
    """Masks of any density, layers that are empty or full included."""
    made = {}
    for name, shape in SHAPES.items():
        size = math.prod(shape)
        some = st.lists(st.booleans(), min_size=size, max_size=size)
        flags = draw(st.one_of(some, st.just([False] * size), st.just([True] * size)))
        made[name] = torch.tensor(flags).reshape(shape)
    return Masks(made)


DENSE = Masks.dense(NETS["random"])
EMPTY = Masks({name: torch.zeros(shape, dtype=torch.bool) for name, shape in SHAPES.items()})
RATES = st.one_of(st.floats(0, 1), st.sampled_from([0, 0.2, 0.5, 0.9, 0.98, 1]))


def make_context(masks=None, weights="random", **more):
    return Context(NETS[weights], masks, batches=[BATCH], **more)


def within(inner, outer):
    return all((inner[name] <= outer[name]).all() for name in outer)


@pytest.fixture
def own_criteria(monkeypatch):
    monkeypatch.setattr(CRITERIA, "_entries", dict(CRITERIA._entries))


def linear(*rows):
    net = nn.Linear(len(rows[0]), len(rows), bias=False)
    net.weight.data = torch.tensor(rows, dtype=torch.float32)
    return net


@quiet
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", CRITERIA)
@settings(max_examples=20)
@given(rate=RATES, before=some_masks(), weights=st.sampled_from(list(NETS)))
@example(rate=0, before=DENSE, weights="random")
@example(rate=1, before=DENSE, weights="equal")
@example(rate=0.5, before=DENSE, weights="equal")
@example(rate=0.5, before=EMPTY, weights="random")
def test_prune_removes_exactly_the_rate_of_the_active_weights(name, scope, rate, before, weights):
    after = prune(make_context(before, weights), Pruning(rate=rate, criterion=name, scope=scope))
    assert before.active - after.active == round(rate * before.active)
    assert within(after, before)


@quiet
@pytest.mark.parametrize("name", CRITERIA)
@settings(max_examples=40)
@given(rate=RATES, before=some_masks())
def test_uniform_scope_is_within_one_weight_of_the_rate_in_every_layer(name, rate, before):
    after = prune(make_context(before), Pruning(rate=rate, criterion=name, scope="uniform"))
    share = after.active / max(1, before.active)
    for layer, active in before.counts().items():
        assert abs(after.counts()[layer] - share * active) < 1 + 1e-9


@quiet
@settings(max_examples=40)
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


@quiet
@pytest.mark.parametrize("scope", SCOPES)
def test_ties_do_not_depend_on_the_order_in_which_masks_are_given(scope):
    turned = Masks(dict(reversed(list(DENSE.items()))))
    pruning = Pruning(rate=0.52, scope=scope)
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


@quiet
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", CRITERIA)
@settings(max_examples=20)
@given(way=RATES, before=some_masks())
@example(way=0, before=DENSE)
@example(way=1, before=DENSE)
def test_prune_to_meets_its_sparsity_exactly(name, scope, way, before):
    sparsity = before.sparsity + way * (1 - before.sparsity)
    after = prune_to(make_context(before), sparsity, name, scope)
    assert after.total - after.active == round(sparsity * before.total)
    assert within(after, before)


@quiet
@pytest.mark.parametrize("scope", SCOPES)
@settings(max_examples=20)
@given(before=some_masks())
def test_prune_to_the_sparsity_that_there_is_changes_nothing(scope, before):
    assert prune_to(make_context(before), before.sparsity, scope=scope) == before


@settings(max_examples=20)
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


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan, None, "half"])
def test_a_pruning_refuses_a_rate_outside_0_to_1(rate):
    with pytest.raises(ValueError, match="rate"):
        Pruning(rate=rate)


@pytest.mark.parametrize(
    ("field", "valid"),
    [
        ("criterion", list(CRITERIA)),
        ("scope", SCOPES),
        ("granularity", ["weight"]),
        ("regrow", ["None", *REGROWTHS]),
    ],
)
def test_a_pruning_refuses_an_unknown_name_and_lists_the_valid_ones(field, valid):
    with pytest.raises(ValueError, match=r"unknown .* 'magic': choose from") as raised:
        Pruning(rate=0.5, **{field: "magic"})
    listed = str(raised.value).partition("choose from ")[2].split(", ")
    assert sorted(listed) == sorted(valid)


def test_a_pruning_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Pruning(rate=0.5).rate = 0.6


@pytest.mark.parametrize("scope", SCOPES)
def test_rate_1_empties_every_layer_and_names_them_in_a_warning(scope):
    with pytest.warns(EmptyLayerWarning, match=r"0\.weight, 2\.weight, 4\.weight"):
        after = prune(make_context(), Pruning(rate=1, scope=scope))
    assert after == EMPTY


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


def test_scores_of_nan_are_refused_with_layer_and_criterion(own_criteria):
    @criterion
    def doubtful(context):
        scores = {name: w.abs() for name, w in context.weights().items()}
        scores["2.weight"][1, 2] = math.nan
        return scores

    with pytest.raises(ValueError, match=r"'doubtful' scores 2\.weight with NaN"):
        prune(make_context(), Pruning(rate=0.5, criterion="doubtful"))


def test_weights_of_nan_are_refused_with_layer_and_criterion():
    net = linear([1, math.nan])
    with pytest.raises(ValueError, match="'magnitude' scores weight with NaN"):
        prune(Context(net), Pruning(rate=0.5))


def test_only_the_scores_of_active_weights_are_looked_at(own_criteria):
    @criterion
    def relative(context):
        return {name: w.abs() / w.abs() for name, w in context.weights().items()}

    masks = Masks({"weight": torch.tensor([[True, True, False]])})
    after = prune(Context(linear([3, 2, 0]), masks), Pruning(rate=0.5, criterion="relative"))
    assert after["weight"].tolist() == [[True, False, False]]


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


@quiet
@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("regrow", REGROWTHS)
@settings(max_examples=20)
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
@pytest.mark.parametrize("rate", [0, 0.5, 0.98, 1])
@pytest.mark.parametrize("regrow", REGROWTHS)
def test_on_a_dense_network_every_regrowth_brings_every_weight_back(regrow, rate):
    context = make_context()
    after = prune(context, Pruning(rate=rate))
    assert regenerate(context, context.masks, after, regrow) == DENSE


def test_without_regrowth_the_masks_stay_as_pruning_left_them():
    context = make_context()
    after = prune(context, Pruning(rate=0.5))
    assert regenerate(context, context.masks, after, None) == after


def test_regenerating_leaves_the_masks_it_is_given_as_they_are():
    context = make_context()
    after = prune(context, Pruning(rate=0.5))
    copy = Masks({name: mask.clone() for name, mask in after.items()})
    regenerate(context, context.masks, after, "random")
    assert after == copy


def test_of_equal_scores_the_lower_index_comes_back():
    net = linear([1, 1, 1, 1, 1, 1])
    before = Masks({"weight": torch.tensor([[False, True, False, True, True, True]])})
    after = Masks({"weight": torch.tensor([[False, False, False, False, True, True]])})
    context = Context(
        net,
        before,
        batches=[(torch.zeros(2, 6), torch.zeros(2))],
        loss_fn=lambda outputs, targets: outputs.mean(),
    )
    grown = regenerate(context, before, after, "gradient")
    assert grown["weight"].tolist() == [[True, True, False, False, True, True]]


def test_more_active_weights_after_pruning_than_before_are_refused_by_name():
    fewer = {name: mask.clone() for name, mask in DENSE.items()}
    fewer["2.weight"][0, :3] = False
    context = make_context(DENSE)
    with pytest.raises(ValueError, match=r"2\.weight has 3 more active weights"):
        regenerate(context, Masks(fewer), DENSE, "random")


@pytest.mark.parametrize("scores", [None, {"weight": [1.0, 2.0]}, {"weight": torch.ones(1, 2) > 0}])
def test_what_is_not_a_dict_of_numbers_is_no_scores(own_criteria, scores):
    @criterion
    def wrong(context):
        return scores

    with pytest.raises(ValueError, match="'wrong' gives no"):
        prune(Context(linear([3, 2])), Pruning(rate=0.5, criterion="wrong"))


def test_masks_of_another_network_are_not_regenerated():
    with pytest.raises(ValueError, match="masks do not fit the model"):
        regenerate(Context(linear([3, 2])), DENSE, DENSE, "random")
