"""What people look at."""

from granet_lab.figures import plots

__all__ = ["plots"]
