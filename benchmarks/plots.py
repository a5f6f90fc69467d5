"""Plots of a row's figures: a bar for hostnet, one for what it is compared with, and a mark at the target."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from benchmarks.measure import Figure

# The same figures give the same file; text stays text.
mpl.rcParams.update({"svg.hashsalt": "hostnet", "svg.fonttype": "none", "font.size": 9, "axes.spines.right": False})
OURS, NOOP, BARE, TARGET = "#2f6f9f", "#b9c6d1", "#8aa37b", "#c0392b"
_BAR = 0.38


def draw(title: str, figures: Sequence[Figure], path: Path) -> None:
    """Draw a row: a panel for each unit, a group of bars for each figure.

    Args:
        title: The row's.
        figures: The row's.
        path: Where the SVG is written.
    """
    units = list(dict.fromkeys(figure.unit for figure in figures))
    counts = [sum(figure.unit == unit for figure in figures) for unit in units]
    canvas = Canvas(figsize=(8, 0.9 + 0.42 * sum(counts) + 0.5 * len(units)), layout="constrained")
    panels = canvas.subplots(len(units), squeeze=False, gridspec_kw={"height_ratios": counts})
    canvas.suptitle(title)
    for (panel,), unit in zip(panels, units, strict=True):
        _panel(panel, [figure for figure in figures if figure.unit == unit], unit)
    handles, labels = panels[0][0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    canvas.savefig(path, metadata={"Date": None})


def _panel(axes: Axes, figures: Sequence[Figure], unit: str) -> None:
    """One panel, the first figure at the top."""
    places = range(len(figures))
    noop, bare = ([getattr(figure, name) or 0 for figure in figures] for name in ("noop", "bare"))
    axes.barh([at - _BAR / 2 for at in places], [figure.ours for figure in figures], _BAR, color=OURS, label="hostnet")
    if any(noop):
        axes.barh([at + _BAR / 2 for at in places], noop, _BAR, color=NOOP, label="no-op")
    if any(bare):
        axes.barh([at + _BAR / 2 for at in places], bare, _BAR, left=noop, color=BARE, label="bare tool")
    limits = [(at, figure.limit) for at, figure in zip(places, figures, strict=True) if figure.limit is not None]
    if limits:
        marks, values = zip(*limits, strict=True)
        axes.scatter(values, marks, marker="|", s=200, color=TARGET, label="target", zorder=3)
    axes.set_yticks(list(places), [figure.what for figure in figures])
    axes.invert_yaxis()
    axes.set_xlabel(unit)
