"""Draws a sweep: the trials' curves together, parallel coordinates, the parameters' importances."""

# pyright: reportUnknownMemberType=false
# (the types that matplotlib ships leave **kwargs unknown)

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlhydra.metrics import FloatArray
from rlhydra.picture import BLUE, GREY, INK, POINTS, VERMILION, draw, main_axes, thin, x_axis
from rlhydra.ranking import Entry, short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEST = 3  # trials that are drawn in colour
SHADES = (BLUE, "#56b4e9", "#009e73")


def draw_curves(entries: Sequence[Entry], path: Path) -> bool:
    """Draw the mean return of each trial's sessions; return whether there was anything to draw."""
    curves = [(entry, _curve(entry)) for entry in entries]
    curves = [(entry, x, y) for entry, (x, y) in curves if len(x)]
    if not curves:
        return False

    def content(figure: Figure) -> None:
        axes = main_axes(figure)
        scale = x_axis(axes, "frame", max(float(x[-1]) for _, x, _ in curves))
        for entry, x, y in reversed(curves):
            best = entry.rank <= BEST
            pruned = entry.trial.status == "pruned"
            colour = SHADES[entry.rank - 1] if best else VERMILION if pruned else GREY
            label = f"trial {entry.number}" if best else None
            axes.plot(*thin(x / scale, y)[:2], color=colour, linewidth=2 if best else 0.9,
                      alpha=1 if best else 0.5, label=label,
                      marker="." if len(x) == 1 else "")  # fmt: skip
            if pruned:
                axes.plot(x[-1] / scale, y[-1], "x", color=VERMILION, markersize=4)
        axes.set_ylabel("return, mean of the sessions")
        axes.set_xlim(left=0)
        axes.legend(frameon=False, fontsize=8, reverse=True)  # the best first
        axes.set_title("Trials (× stopped early)", loc="left", fontsize=9, color=INK)

    draw(path, (6.4, 3.7), content)
    return True


def _curve(entry: Entry) -> tuple[FloatArray, FloatArray]:
    """Return the mean over the sessions at the frames that all have."""
    curves = [session.eval for session in entry.trial.sessions if session.counted]
    rows = min((len(table) for table in curves), default=0)
    if not rows:
        return np.empty(0), np.empty(0)
    x = curves[0]["frame"][:rows]
    y = np.mean([table["return_mean"][:rows] for table in curves], axis=0)
    valid = np.isfinite(y)
    step = max(1, int(valid.sum()) // POINTS)
    return x[valid][::step], y[valid][::step]


def draw_parallel(entries: Sequence[Entry], path: Path) -> bool:
    """Draw each trial as a line through its parameters; return whether there was any to draw."""
    scored = [entry for entry in entries if entry.score is not None]
    keys = list(entries[0].params) if entries else []
    if len(scored) < 2 or not keys:
        return False
    columns = [_column([entry.params[key] for entry in scored]) for key in keys]
    score = np.array([entry.score for entry in scored], np.float64)
    columns.append(_scaled(score, [f"{score.min():.4g}", f"{score.max():.4g}"]))
    names = [*short_names(keys).values(), "score"]

    def content(figure: Figure) -> None:
        axes = figure.add_axes((0.06, 0.12, 0.88, 0.76))
        for i in range(len(scored) - 1, -1, -1):
            height = columns[-1][0][i]
            line = [heights[i] for heights, _ in columns]
            axes.plot(range(len(columns)), line, color=BLUE, alpha=0.15 + 0.85 * height,
                      linewidth=0.8 + 1.4 * height)  # fmt: skip
        for place, (_, ticks) in enumerate(columns):
            _coordinate(axes, place, ticks)
        axes.set_xticks(range(len(names)), names, fontsize=8)
        axes.set_yticks([])
        axes.set_xlim(-0.3, len(names) - 0.5)
        for spine in axes.spines.values():
            spine.set_visible(False)

    draw(path, (max(4.0, 1.3 * len(names)), 3.4), content)
    return True


Column = tuple[FloatArray, dict[float, str]]


def _coordinate(axes: Axes, place: int, ticks: Mapping[float, str]) -> None:
    axes.axvline(place, color=GREY, linewidth=0.8)
    for height, text in ticks.items():
        axes.text(place + 0.04, height, text, fontsize=7, color=INK, va="center")


def _column(texts: Sequence[str]) -> Column:
    """Return heights from 0 to 1: numbers by their value, or order of magnitude, others listed."""
    try:
        values = np.array([float(text) for text in texts])
    except ValueError:
        values = None
    if values is None or not np.isfinite(values).all() or len(set(texts)) <= 5:
        kinds = sorted(set(texts), key=_sort_key)
        heights = np.linspace(0, 1, len(kinds)) if len(kinds) > 1 else np.array([0.5])
        places = {kind: float(height) for kind, height in zip(kinds, heights, strict=True)}
        ticks = {height: kind[:14] for kind, height in places.items()}
        return np.array([places[text] for text in texts]), ticks
    low, high = values.min(), values.max()
    labels = [f"{low:.3g}", f"{high:.3g}"]
    return _scaled(np.log(values) if low > 0 and high / low > 20 else values, labels)


def _scaled(values: FloatArray, labels: Sequence[str]) -> Column:
    spread = values.max() - values.min()
    heights = (values - values.min()) / spread if spread else np.full(len(values), 0.5)
    return heights, {0.0: labels[0], 1.0: labels[1]}


def _sort_key(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return math.inf, text


def draw_importances(weights: Mapping[str, float], path: Path) -> bool:
    """Draw how much each parameter decides whether a score is good; return whether it did."""
    if not weights:
        return False
    keys = sorted(weights, key=lambda key: weights[key])
    names = short_names(keys)

    def content(figure: Figure) -> None:
        axes = figure.add_axes((0.28, 0.16, 0.66, 0.78))
        axes.barh([names[key] for key in keys], [weights[key] for key in keys], color=BLUE)
        axes.set_xlabel("share in what makes a score good (PED-ANOVA)")
        axes.tick_params(labelsize=8)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)

    draw(path, (5.6, 0.9 + 0.3 * len(keys)), content)
    return True
