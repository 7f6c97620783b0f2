"""``granet-lab``: the laboratory's verbs, from a shell."""

from __future__ import annotations

import logging
import sys

import tyro

from granet_lab.cli.keeping import export, import_, prune_store, runs, verify
from granet_lab.cli.measuring import compare, measure, train
from granet_lab.cli.reporting import demo, plot, profile, reproduce

_VERBS = (demo, train, measure, compare, reproduce, plot, runs, profile)
_VERBS += (verify, prune_store, export, import_)
COMMANDS = {verb.__name__.rstrip("_").replace("_", "-"): verb for verb in _VERBS}


def main() -> None:
    """A laboratory for pruning plasticity: prune a network at any epoch, see what comes back."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.captureWarnings(True)
    try:
        tyro.extras.subcommand_cli_from_dict(COMMANDS, prog="granet-lab", description=main.__doc__)
    except (ValueError, OSError) as error:
        sys.exit(f"granet-lab: {_words(error)}")
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from what was finished", file=sys.stderr)
        sys.exit(130)


def _words(error: Exception) -> str:
    """An error in a line; what the system refuses by the file's name, without a number."""
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)
