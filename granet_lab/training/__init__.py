"""The training core: recipes, and the loop that trains what they describe."""

from granet_lab.training import recipes
from granet_lab.training.recipe import Recipe

__all__ = ["Recipe", "recipes"]
