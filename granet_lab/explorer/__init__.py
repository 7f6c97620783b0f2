"""The sliders: what was measured as a picture to drag through, and what was not at a press."""

from granet_lab.explorer.explorer import Explorer, explore
from granet_lab.explorer.watch import Watch, watch

__all__ = ["Explorer", "Watch", "explore", "watch"]
