"""What is asked, and where the answers are kept."""

from granet_lab.experiments.lab import Lab
from granet_lab.experiments.store import Run
from granet_lab.experiments.tables import read_table, write_table
from granet_lab.experiments.trials import Trial, grid, layer_names

__all__ = ["Lab", "Run", "Trial", "grid", "layer_names", "read_table", "write_table"]
