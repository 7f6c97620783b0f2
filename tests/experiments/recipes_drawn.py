"""Recipes that hypothesis draws."""

from hypothesis import strategies as st

import granet_lab as gl
from granet_lab.sparsity.criteria import CRITERIA
from granet_lab.sparsity.methods import SparseTraining
from granet_lab.training.recipe import PRECISIONS

SCOPES = st.sampled_from(["global", "uniform", "er", "erk"])
METHODS = st.just(gl.methods.dense()) | st.builds(
    SparseTraining,
    initial_sparsity=st.floats(0, 1),
    criterion=st.sampled_from(list(CRITERIA)),
    scope=SCOPES,
)
# Each field of a recipe, as digits() has it or not.
CHANGES = {
    "model": st.sampled_from(["convnet", "mlp"]),
    "epochs": st.integers(1, 200),
    "batch_size": st.integers(1, 500),
    "lr": st.floats(0, 10),
    "milestones": st.sets(st.integers(0, 200), max_size=3).map(sorted),
    "gamma": st.floats(0, 1),
    "momentum": st.floats(0.1, 1),
    "nesterov": st.booleans(),
    "weight_decay": st.floats(0, 1),
    "warmup_epochs": st.integers(0, 5),
    "label_smoothing": st.floats(0, 1),
    "augment": st.sampled_from([None, "crop", "crop_flip"]),
    "precision": st.sampled_from(PRECISIONS),
    "train_size": st.none() | st.integers(1, 900),
    "method": METHODS,
    "seed": st.integers(0, 2**40),
    "threads": st.integers(1, 8),
    "norm_decay": st.booleans(),
}
# What goes with a folder of images alone.
FOLDERS = {
    "dataset": st.just("folder:birds"),
    "image_size": st.none() | st.integers(1, 300),
}
BASES = st.sampled_from([gl.recipes.digits, gl.recipes.resnet20_cifar10])
RECIPES = st.builds(
    lambda base, few, folder: base(**few, **folder),
    BASES,
    st.fixed_dictionaries({}, optional=CHANGES),
    st.just({}) | st.fixed_dictionaries(FOLDERS),
)
