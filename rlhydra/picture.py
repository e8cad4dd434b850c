"""The paper for every picture: style, colours, axes and labels, and how data is thinned for it."""

# pyright: reportUnknownMemberType=false
# (the types that matplotlib ships leave **kwargs unknown)

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlhydra.metrics import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 400  # points of a line: more than the eye resolves

# Okabe and Ito's colours, told apart by colour-blind readers and in grey. The paper stays white on
# a dark screen too, where a transparent picture would lose its letters.
INK, GREY, BLUE, VERMILION, GREEN, PURPLE = (
    "#1a1a1a", "#6b6b6b", "#0072b2", "#d55e00", "#009e73", "#a3568a",
)  # fmt: skip
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.titley": 1.0,  # else matplotlib measures every tick to place a title
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "figure.facecolor": "white",
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.4,
    "lines.solid_capstyle": "round",
    "text.color": INK,
    "xtick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.color": GREY,
    "ytick.labelcolor": INK,
    "svg.hashsalt": "rlhydra",
}


def draw(path: Path, size: tuple[float, float], content: Callable[[Figure], None]) -> None:
    """Write `path` and the SVG of the same name; `size` in inches, `content` fills it."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size)
        content(figure)
        figure.savefig(path, dpi=200, metadata={"Software": None})
        figure.savefig(path.with_suffix(".svg"), dpi=200, metadata={"Date": None})


def main_axes(figure: Figure, height: float | None = None) -> Axes:
    """Add axes below room for title and legend: `height` inches, by default what there is."""
    width, total = figure.get_size_inches()
    inches = height or total - 1.16
    return figure.add_axes(
        (0.72 / width, (total - 0.66 - inches) / total, 1 - 0.96 / width, inches / total)
    )


def x_axis(axes: Axes, column: str, end: float, ticks: int = 6) -> float:
    """Label the x axis and return the number by which its values are to be divided."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(ticks, steps=(1, 2, 5, 10)))
    if column == "frame":
        axes.set_xlabel("frames")
        axes.xaxis.set_major_formatter(FuncFormatter(count))
        return 1.0
    units = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
    scale, unit = next((pair for pair in units if end >= 3 * pair[0]), units[-1])
    axes.set_xlabel(f"wall time ({unit})")
    return scale


def head(figure: Figure, axes: Axes, title: str, subtitle: str) -> None:
    """Write the title, and the legend between it and the data where it can hide nothing."""
    inch = 1 / (axes.get_position().height * figure.get_size_inches()[1])
    place: dict[str, Any] = {"y": 1 + 0.4 * inch, "transform": axes.transAxes}
    axes.text(0, s=title, fontsize=11, fontweight="bold", **place)
    axes.text(1, s=subtitle, color=GREY, horizontalalignment="right", **place)
    corner = (0, 1 + 0.06 * inch)
    axes.legend(loc="lower left", bbox_to_anchor=corner, ncols=5, borderaxespad=0, borderpad=0)


def count(value: float, _: object = None) -> str:
    """Label a count on an axis: 0, 950, 5k, 20k, 2.5M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def thin(x: FloatArray, y: FloatArray, points: int = POINTS) -> tuple[FloatArray, ...]:
    """Return x and y (mean, minimum, maximum) of at most `points` runs of rows, without NaN."""
    valid = np.isfinite(x) & np.isfinite(y)
    x, y = x[valid], y[valid]
    starts = np.unique(np.linspace(0, len(x), min(len(x), points), endpoint=False, dtype=int))
    if not len(starts):
        return x, y, y, y
    counts = np.diff(np.append(starts, len(x)))
    means = (np.add.reduceat(values, starts) / counts for values in (x, y))
    return (*means, np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts))


def smooth(values: FloatArray, window: int) -> FloatArray:
    """Return the mean of the last `window` values (of fewer at the start)."""
    sums = np.concatenate(([0.0], np.cumsum(values)))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def tick(value: float, _: object = None) -> str:
    """Label a value in little room: 12k, 1040, 0.25, 2e−4."""
    if 0 < abs(value) < 1e-3:
        digits, _, exponent = f"{value:.1e}".partition("e")
        text = f"{digits.removesuffix('.0')}e{int(exponent)}"
    else:
        text = count(value) if abs(value) >= 1e4 else f"{value:.4g}"
    return text.replace("-", "−")
