"""Notes of what is under way, as tests leave them and change them."""

import contextlib
import json

from granet_lab.experiments.execution.progress import SWEEP, named
from granet_lab.experiments.execution.telling import Teller

CURVE = [{"recovery_epoch": 0, "test_acc": 31.5}, {"recovery_epoch": 1, "test_acc": 90.0}]


def later(teller):
    """As if some time had passed since the last note and the last look."""
    teller._looked = 0.0
    for page in teller._pages.values():
        page._due = 0.0


class Task:
    """Tells of itself, and does not wait with writing it."""

    def __init__(self, folder, name, stop=None):
        self.folder, self.name, self.teller = folder, name, Teller(stop)

    def tell(self, done, of, curve=()):
        later(self.teller)
        self.teller.tell(self.folder, self.name, done, of, curve)

    def end(self):
        self.teller.end(self.folder, self.name)


@contextlib.contextmanager
def telling(run, work):
    """A task of a run for the length of a block."""
    task = Task(run.path, named(work))
    try:
        yield task
    finally:
        task.end()


def sweep(lab):
    return Task(lab.path, SWEEP)


def pages(folder):
    """The files with the notes of a run or a lab."""
    return sorted(folder.glob("progress/[!.]*"))


def amend(path, **changes):
    """Change who it is that tells, in a file of notes, or what all its tasks say."""
    first, *rest = path.read_text().splitlines(keepends=True)
    said = json.loads(first)
    if "pid" in changes:
        said["born"] = ""  # of whoever has that number
    for name, value in changes.items():
        if name in said:
            said[name] = value
        else:
            for task in said["tasks"].values():
                assert name in task
                task[name] = value
    path.write_text(json.dumps(said) + "\n" + "".join(rest))
