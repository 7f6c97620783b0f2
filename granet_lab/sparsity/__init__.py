"""Pruning for any ``nn.Module``: no dataset, no file, no experiment."""

from granet_lab.sparsity import analysis, batchnorm, cost, criteria, exchange, methods, naming
from granet_lab.sparsity.allocation import allocate
from granet_lab.sparsity.context import Context
from granet_lab.sparsity.criteria import criterion
from granet_lab.sparsity.masks import Masks, prunable
from granet_lab.sparsity.pruning import EmptyLayerWarning, Pruning, prune, prune_to
from granet_lab.sparsity.regeneration import regenerate
from granet_lab.sparsity.regrowths import regrowth

__all__ = [
    "Context",
    "EmptyLayerWarning",
    "Masks",
    "Pruning",
    "allocate",
    "analysis",
    "batchnorm",
    "cost",
    "criteria",
    "criterion",
    "exchange",
    "methods",
    "naming",
    "prunable",
    "prune",
    "prune_to",
    "regenerate",
    "regrowth",
]
