"""What is asked, and where the answers are kept."""

from granet_lab.experiments.lab import Lab
from granet_lab.experiments.plasticity import Trial, grid
from granet_lab.experiments.store import Run
from granet_lab.experiments.tables import read_table, write_table

__all__ = ["Lab", "Run", "Trial", "grid", "read_table", "write_table"]
