"""granet_lab: a laboratory for pruning plasticity and neuroregeneration.

lab = Lab("data/runs"); table = lab.measure(grid(recipes.digits(), epoch=[10, 30], rate=[0.5, 0.9]))
"""

import lazy_loader

__version__ = "0.1.0"

# Loaded on first use: the core runs without seaborn and Jupyter, `--help` without torch.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "sparsity",
        "datasets",
        "models",
        "training",
        "experiments",
        "figures",
        "explorer",
        "reproduction",
    ],
    submod_attrs={
        "sparsity": [
            "Context",
            "Masks",
            "Pruning",
            "allocate",
            "criterion",
            "methods",
            "prune",
            "prune_to",
            "regenerate",
            "regrowth",
        ],
        "datasets": ["Dataset", "Split", "add_dataset", "dataset", "from_arrays"],
        "models": ["model"],
        "training": ["Recipe", "recipes"],
        "experiments": [
            "Lab",
            "Run",
            "Trial",
            "grid",
            "layer_names",
            "read_table",
            "write_table",
        ],
        "figures": ["plots"],
        "explorer": ["explore", "watch"],
        "reproduction": ["reproduce"],
    },
)
