"""Draws the learning curves of several trials on one environment."""

# pyright: reportUnknownMemberType=false
# (the types that matplotlib ships leave **kwargs unknown)

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rlhydra.metrics import FloatArray, mean_band
from rlhydra.picture import BLUE, GREEN, GREY, PURPLE, VERMILION, draw, head, main_axes, x_axis
from rlhydra.plot import curve, on_one_grid, random_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rlhydra.comparison import Compared

COLOURS = (BLUE, VERMILION, GREEN, PURPLE, "#56b4e9", "#e69f00", GREY)
DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)))  # for more trials than colours


def draw_comparison(entries: Sequence[Compared], path: Path) -> bool:
    """Draw mean and band of each trial; return whether there was anything to draw."""
    curves = [(entry, _curves(entry)) for entry in entries]
    curves = [(entry, lines) for entry, lines in curves if lines]
    if not curves:
        return False

    def content(figure: Figure) -> None:
        axes = main_axes(figure)
        x_axis(axes, "frame", max(float(x[-1]) for _, lines in curves for x, _ in lines))
        for place, (entry, lines) in enumerate(curves):
            grid, values = on_one_grid(lines)
            colour = COLOURS[place % len(COLOURS)]
            style = DASHES[place // len(COLOURS) % len(DASHES)]
            axes.plot(grid, values.mean(axis=0), color=colour, linewidth=1.8, linestyle=style,
                      label=entry.label, marker="o" if len(grid) == 1 else "")  # fmt: skip
            if len(lines) > 1 and entry.trial.replicates:
                low, high = mean_band(values)
                axes.fill_between(grid, low, high, color=colour, alpha=0.18, linewidth=0)
        random_line(axes, curves[0][0].trial.random_return)
        axes.set_ylabel("return")
        axes.set_xlim(left=0)
        head(figure, axes, curves[0][0].trial.env, "mean and 95 % interval")
        axes.legend(loc="best")  # names of trials are too long for a line above

    draw(path, (6.4, 3.7), content)
    return True


def _curves(entry: Compared) -> list[tuple[FloatArray, FloatArray]]:
    lines = [curve(s, "frame") for s in entry.trial.sessions if s.counted]
    return [(x, y) for x, y in lines if len(x)]
