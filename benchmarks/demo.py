"""What the demo takes in an empty folder: the network trained, all trials measured, all drawn.

python -m benchmarks.demo [--repeats 3]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.targets import Target
from benchmarks.timing import heading, in_turn

COMMAND = Path(sys.executable).with_name("granet-lab")


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    print(f"{heading()}\n")
    found = in_turn({"demo": demo}, parser.parse_args().repeats, warm_up=False)["demo"]
    print(Target("the demo, in an empty folder", 60, statistics.median(found), "s"))


def demo() -> None:
    """In a process and a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([COMMAND, "demo"], cwd=folder, check=True, capture_output=True)


if __name__ == "__main__":
    main()
