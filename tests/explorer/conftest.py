import json

import pytest

from granet_lab.experiments import files
from granet_lab.experiments.identity import SCHEMA, describe, identity
from granet_lab.experiments.results import Results
from granet_lab.experiments.tidy import trial_columns

ACCURACIES = ("before", "pruned", "after", "trunk", "final_unpruned")
ANSWERS = (*(f"acc_{name}" for name in ACCURACIES), "plasticity", "final_gap")


@pytest.fixture
def put_trial(lab):
    """Write a trial's file as if it had been measured."""

    def put_trial(trial, curve=(), layers=(), **row):
        found = {
            "row": trial_columns(trial) | dict.fromkeys(ANSWERS) | {"seconds": 1.0} | row,
            "curve": [{"recovery_epoch": k, "test_acc": y} for k, y in enumerate(curve)],
        }
        if layers is not None:
            found["layers"] = list(layers)
        path = lab.run(trial.recipe).trial_path(identity(trial))
        files.write_json(path, found)
        return path

    return put_trial


@pytest.fixture
def put_history(lab):
    """Write a run: its accuracy after each epoch so far, and whether it diverged then."""

    def put_history(recipe, accuracies, diverged=False):
        rows = [{"epoch": i, "test_acc": y, "seconds": 1.0} for i, y in enumerate(accuracies)]
        rows += [{"epoch": len(rows), "diverged": "training diverged"}] * diverged
        text = "".join(json.dumps(row) + "\n" for row in rows)
        path = lab.run(recipe).path
        files.write_json(path / "recipe.json", {"schema": SCHEMA, "recipe": describe(recipe)})
        files.write(path / "history.jsonl", text.encode())

    return put_history


@pytest.fixture
def results(lab):
    """What the lab holds of some recipes."""

    def results(*recipes):
        found = Results(lab.path)
        found.refresh(recipes)
        return found

    return results
