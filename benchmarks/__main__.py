"""All benchmarks that need neither a browser nor a download, one after the other.

python -m benchmarks [--repeats 3]
"""

from __future__ import annotations

import argparse
import subprocess
import sys

import torch

NAMES = ("training", "scaling", "pruning", "demo")


def main() -> None:
    """Each in a process of its own: what one leaves in memory does not slow the next."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = str(parser.parse_args().repeats)
    for name in (*NAMES, *(["gpu"] if torch.cuda.is_available() else [])):
        words = [sys.executable, "-m", f"benchmarks.{name}", "--repeats", repeats]
        print(f"# python {' '.join(words[1:])}\n", flush=True)
        subprocess.run(words, check=True)
        print(flush=True)
    if not torch.cuda.is_available():
        print("There is no GPU here; where there is one, this measures it, too.")


if __name__ == "__main__":
    main()
