"""Criteria: a score for every prunable weight; the highest scores are kept.

A criterion takes a :class:`~granet_lab.sparsity.context.Context` and returns a tensor for every
prunable weight, by name and of its shape. Only the scores of active weights are looked at. A new
one is a function with ``@criterion`` above it, here or in a notebook.

Notation: w a weight, L the mean loss of the context's batches, g = dL/dw, H = dg/dw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from granet_lab import checks
from granet_lab.randomness import child
from granet_lab.registry import Registry
from granet_lab.sparsity.context import Context, gradients_of
from granet_lab.sparsity.flow import synaptic_flow

Scores = dict[str, Tensor]
Criterion = Callable[[Context], Scores]

CRITERIA: Registry[Criterion] = Registry("criterion", batches=1, rounds=1)


def criterion(function: Criterion | None = None, /, *, batches: int = 1, rounds: int = 1):
    """Register a criterion under its function's name; a decorator, with or without arguments.

    A lab keeps results under that name: give the function another once it means something else.

    Args:
        function: context -> a score for every prunable weight.
        batches: how many batches a trial shows it.
        rounds: in how many steps the weights go, each scored anew on what the last one left; the
            number of active weights falls by the same factor in each.
    """
    return CRITERIA.register(
        function,
        batches=checks.count("batches", batches, minimum=1),
        rounds=checks.count("rounds", rounds, minimum=1),
    )


@criterion
def magnitude(context: Context) -> Scores:
    """|w| (Han et al. 2015)."""
    return {name: weight.abs() for name, weight in context.weights().items()}


@criterion
def random(context: Context) -> Scores:
    """Uniform noise: the control that every other criterion has to beat."""
    return uniform_noise(context, "random criterion")


@criterion
def lamp(context: Context) -> Scores:
    """w^2 / sum of all v^2 in the layer with |v| >= |w|: magnitude that adapts to the layer.

    Lee et al. 2021, equation 4. Ranked over all layers it keeps at least one weight in each that
    has any other than zero, as long as there are enough.
    """
    weights = context.weights()
    return {
        name: _lamp(weights[name].masked_fill(~mask, 0)) for name, mask in context.masks.items()
    }


def _lamp(weight: Tensor) -> Tensor:
    """The scores of one layer; zero for weights that are."""
    sizes = weight.abs().flatten()
    order = sizes.argsort(stable=True)
    squares = sizes.double() ** 2
    sums = squares[order].flip(0).cumsum(0).flip(0)
    sums = torch.empty_like(sums).scatter_(0, order, sums)
    scores = squares / sums.clamp_min(torch.finfo(sums.dtype).tiny)
    return scores.view(weight.shape)


@criterion(batches=10)
def taylor(context: Context) -> Scores:
    """(g w)^2, the mean over batches: the squared change of the loss, to first order.

    Molchanov et al. 2019, equation 8.
    """
    weights, total = context.weights(), {}
    for gradients in context.batch_gradients():
        for name, weight in weights.items():
            found = (gradients[name] * weight) ** 2 / len(context.batches)
            total[name] = total[name] + found if name in total else found
    return total


@criterion
def snip(context: Context) -> Scores:
    """|g w|, the sensitivity of the loss to the connection (Lee et al. 2019, equation 6).

    Without the paper's division by the sum over all weights, which changes no order.
    """
    weights = context.weights()
    return {name: (g * weights[name]).abs() for name, g in context.gradients().items()}


@criterion
def grasp(context: Context) -> Scores:
    """w Hg: kept is what the gradient flow g^T g would miss most.

    Wang et al. 2020, equation 8 and algorithm 1, whose score is -w Hg and whose highest scores
    are pruned; without their temperature in the softmax.
    """
    weights, products = context.weights(), context.hessian_gradient_product()
    return {name: weight * products[name] for name, weight in weights.items()}


@criterion
def fisher(context: Context) -> Scores:
    """w^2 F / 2, F the mean of g^2 over single examples: optimal brain damage, with the diagonal
    of the empirical Fisher information in place of the Hessian's.

    LeCun et al. 1990, equation 5; Theis et al. 2018, section 2.2.
    """
    total = {name: torch.zeros_like(weight) for name, weight in context.weights().items()}
    examples = sum(len(targets) for _, targets in context.batches)
    for gradients in context.example_gradients():
        for name, g in gradients.items():
            total[name].addcmul_(g, g, value=1 / examples)
    return {name: weight**2 * total[name] / 2 for name, weight in context.weights().items()}


@criterion(rounds=100)
def synflow(context: Context) -> Scores:
    """|w| dR/d|w|, R the sum of the outputs for an input of ones with every |w| for w.

    Tanaka et al. 2020, equation 3 and algorithm 1. The data's values are not looked at, only
    their shape. A weight on no path to an output scores zero; so do those that make an attention's
    queries and keys, for all inputs are alike. See
    :func:`~granet_lab.sparsity.flow.synaptic_flow`.
    """
    flow, weights = synaptic_flow(context)
    found = gradients_of(flow, weights)
    return {name: (weight * found[name]).detach() for name, weight in weights.items()}


def scored(score: Criterion, context: Context) -> Scores:
    """What a score gives, if it has left everything as it was.

    Raises:
        ValueError: it has changed the network, or drawn from torch's own generator.
    """
    before = _footprint(context.model)
    found = score(context)
    for name, state in _footprint(context.model).items():
        if state != before.get(name):
            raise ValueError(f"{score.__name__!r} has changed {name}: a score must leave it alone")
    return found


def _footprint(model: nn.Module) -> dict[str, object]:
    """What changes when somebody writes into a network, or draws a random number."""
    tensors = (*model.named_parameters(), *model.named_buffers())
    versions = {name: (id(t), t._version) for name, t in tensors}
    gradients = {f"the gradient of {n}": id(p.grad) for n, p in model.named_parameters()}
    modes = {"the mode of the network": [module.training for module in model.modules()]}
    drawn = {"torch's own generator": torch.get_rng_state().numpy().tobytes()}
    return {**versions, **gradients, **modes, **drawn}


def checked(scores: Scores, ranked: Mapping[str, Tensor], name: str) -> Scores:
    """The scores, if there is one for every weight and none that is ranked is NaN."""
    if not isinstance(scores, Mapping):
        raise ValueError(f"{name!r} gives no dict of scores but {type(scores).__name__}")
    for layer, mask in ranked.items():
        score = scores.get(layer)
        if not isinstance(score, Tensor) or score.shape != mask.shape or score.dtype == torch.bool:
            raise ValueError(f"{name!r} gives no score of shape {tuple(mask.shape)} for {layer}")
        if (score.isnan() & mask).any():
            raise ValueError(f"{name!r} scores {layer} with NaN")
    return scores


def uniform_noise(context: Context, purpose: str) -> Scores:
    """Numbers in [0, 1) for every prunable weight: the same for the same context and purpose."""
    generator = child(context.generator, purpose)
    return {
        name: torch.rand(w.shape, generator=generator, device=generator.device).to(w.device)
        for name, w in context.weights().items()
    }
