"""The training core: recipes, data, networks, and the loop that trains them."""

from granet_lab.training import recipes
from granet_lab.training.data import Dataset, Split, dataset, from_arrays
from granet_lab.training.models import model
from granet_lab.training.recipes import Recipe

__all__ = ["Dataset", "Recipe", "Split", "dataset", "from_arrays", "model", "recipes"]
