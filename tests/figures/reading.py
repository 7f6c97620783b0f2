"""What the figures' tests read off a figure."""

import pytest
from matplotlib.collections import LineCollection


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def band(axes, colour):
    """All corners of bands and ends of error bars of a colour."""
    found = set()
    for collection in axes.collections:
        is_bar = isinstance(collection, LineCollection)
        shade = collection.get_edgecolor() if is_bar else collection.get_facecolor()
        if len(shade) and tuple(shade[0][:3]) == pytest.approx(colour):
            for path in collection.get_paths():
                found |= {(float(x), round(float(y), 9)) for x, y in path.vertices}
    return found
