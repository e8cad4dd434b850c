"""Draws a trial and its sessions, as PNG and SVG, from the files that they left."""

# pyright: reportUnknownMemberType=false
# (the types that matplotlib ships leave **kwargs unknown)

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlhydra.metrics import FloatArray, mean_band
from rlhydra.picture import (
    BLUE,
    GREEN,
    GREY,
    INK,
    POINTS,
    PURPLE,
    VERMILION,
    count,
    draw,
    head,
    main_axes,
    smooth,
    thin,
    tick,
    x_axis,
)
from rlhydra.record import SessionRecord, Table, TrialRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROWS = 50_000  # rows of a file that are read for a picture
DOTS = 4_000  # episodes drawn one by one

COLOURS = {"loss": VERMILION, "policy": BLUE, "schedule": PURPLE}

Line = tuple[FloatArray, FloatArray]


def draw_trial(trial: TrialRecord, folder: Path) -> list[Path]:
    """Draw the learning curves against frames and wall time into `folder`; return the PNG files.

    Without an eval row there is nothing to draw.
    """
    if not any(len(curve(session, "frame")[0]) for session in trial.sessions):
        return []
    frames, seconds = folder / "return_by_frame.png", folder / "return_by_wall_time.png"
    draw(frames, (6.4, 3.7), lambda figure: _trial(figure, trial, "frame"))
    draw(seconds, (6.4, 3.7), lambda figure: _trial(figure, trial, "wall_time"))
    return [frames, seconds]


def draw_session(trial: TrialRecord, session: SessionRecord, folder: Path) -> Path | None:
    """Draw one session's returns, losses and schedules into `folder`; return the PNG file.

    Without a row in any file there is nothing to draw.
    """
    episodes, train = session.episodes(ROWS), session.train(ROWS)
    panels = _panels(train)
    if not (len(episodes) or len(session.eval) or panels):
        return None
    end = max((t["frame"][-1] for t in (episodes, session.eval, train) if len(t)), default=0) or 1

    def content(figure: Figure) -> None:
        _returns(figure, trial, session, episodes, end)
        for i, name in enumerate(panels):
            axes = _small_axes(figure, i, len(panels), end)
            _panel(axes, name, train["frame"], train[name])

    path = folder / f"session_{session.index}.png"
    rows = -(-len(panels) // 3)
    draw(path, (7.2, 3.2 + 1.35 * rows + 0.25 * (rows > 0)), content)
    return path


def curve(session: SessionRecord, column: str) -> Line:
    """Return the session's evaluations against a column, those that have a value."""
    x, y = session.eval[column], session.eval["return_mean"]
    valid = np.isfinite(x) & np.isfinite(y)
    return x[valid], y[valid]


def _trial(figure: Figure, trial: TrialRecord, column: str) -> None:
    curves = [(session.counted, *curve(session, column)) for session in trial.sessions]
    curves = [(counts, x, y) for counts, x, y in curves if len(x)]
    axes = main_axes(figure)
    scale = x_axis(axes, column, max(x[-1] for _, x, _ in curves))
    counted = [(x / scale, y) for counts, x, y in curves if counts]
    lost = [(x / scale, y) for counts, x, y in curves if not counts]
    if counted:
        _mean_and_band(axes, counted)
    for i, (x, y) in enumerate(lost):
        axes.plot(*thin(x, y)[:2], color=VERMILION, linewidth=1, linestyle=(0, (4, 2)),
                  label="lost" if i == 0 else "")  # fmt: skip
    random_line(axes, trial.random_return)
    axes.set_ylabel("return (evaluation)" if trial.rigorous else "return (mean of last 100 games)")
    axes.set_xlim(left=0)
    head(figure, axes, _title(trial), _sessions(trial, len(curves)))


def _mean_and_band(axes: Axes, curves: Sequence[Line]) -> None:
    """Draw the sessions faintly, and over them the mean and its band where all have values."""
    number = len(curves)
    grid, values = on_one_grid(curves)
    marker = "o" if len(grid) == 1 else ""
    (mean,) = axes.plot(grid, values.mean(axis=0), color=BLUE, linewidth=2.2, marker=marker)
    mean.set_label("return" if number == 1 else f"mean of {number}")
    if number == 1:
        return
    low, high = mean_band(values)
    label = "95 % interval" if number > 2 else "spread"
    axes.fill_between(grid, low, high, color=BLUE, alpha=0.2, linewidth=0, label=label)
    for i, (x, y) in enumerate(curves):
        axes.plot(*thin(x, y)[:2], color=BLUE, linewidth=0.8, alpha=max(0.12, 1.2 / number),
                  zorder=1.9, marker="." if len(x) == 1 else "",
                  label="sessions" if i == 0 else "")  # fmt: skip


def on_one_grid(curves: Sequence[Line]) -> Line:
    """Interpolate all curves at common points from the last first row to the first last row."""
    first = max(float(x[0]) for x, _ in curves)
    last = min(float(x[-1]) for x, _ in curves)
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    grid = grid[(grid >= first) & (grid <= last)]
    if len(grid) > POINTS:
        grid = np.linspace(first, last, POINTS)
    return grid, np.stack([np.interp(grid, x, y) for x, y in curves])


def _returns(
    figure: Figure, trial: TrialRecord, session: SessionRecord, episodes: Table, end: float
) -> None:
    axes = main_axes(figure, height=2.0)
    x_axis(axes, "frame", end)
    if len(episodes):
        _episodes(axes, episodes)
    x, y = curve(session, "frame")
    if len(x) and (trial.rigorous or not len(episodes)):
        axes.plot(*thin(x, y)[:2], color=VERMILION, linewidth=1.4, markersize=3.5,
                  marker="o" if len(x) < 50 else "", label="evaluation")  # fmt: skip
    random_line(axes, trial.random_return)
    axes.set_ylabel("return")
    axes.set_xlim(0, end)
    seed = "" if session.seed is None else f", seed {session.seed}"
    status = "" if session.status == "completed" else f", {session.status}"
    head(figure, axes, _title(trial), f"session {session.index}{seed}{status}")


def _episodes(axes: Axes, episodes: Table) -> None:
    valid = np.isfinite(episodes["return"])
    frame, returns = episodes["frame"][valid], episodes["return"][valid]
    every = max(1, -(-len(frame) // DOTS))
    alpha = float(np.clip(300 / max(len(frame) / every, 1), 0.18, 0.6))
    axes.plot(frame[::every], returns[::every], ".", color=GREY, alpha=alpha, markersize=3.5,
              markeredgewidth=0, rasterized=len(frame) > 500)  # fmt: skip
    axes.plot([], [], ".", color=GREY, alpha=0.8, markersize=4, markeredgewidth=0, label="game")
    window = max(1, min(round(100 / episodes.step), len(frame)), len(frame) // 50)
    x, y, *_ = thin(frame, smooth(returns, window))
    label = f"mean of the last {count(window * episodes.step)} games"
    axes.plot(x, y, color=BLUE, linewidth=2, label=label)


def _panels(train: Table) -> list[str]:
    """Name the columns that have something to show, losses first, speed last."""
    order = ("loss", "policy", "schedule")
    names = [
        name
        for name, values in train.columns.items()
        if name not in ("frame", "wall_time", "opt_step") and np.isfinite(values).any()
    ]

    def place(name: str) -> tuple[bool, int]:
        family = name.partition("/")[0]
        return name == "fps", order.index(family) if family in order else len(order)

    return sorted(names, key=place)


def _small_axes(figure: Figure, index: int, number: int, end: float) -> Axes:
    """Add the axes of one of the small multiples; only the lowest of a column has labels."""
    width, height = figure.get_size_inches()
    row, column = divmod(index, 3)
    left, bottom = 0.72 + column * 2.23, height - 4.3 - row * 1.35
    axes = figure.add_axes((left / width, bottom / height, 1.76 / width, 0.95 / height))
    axes.set_xlim(0, end)
    axes.tick_params(labelsize=8)
    x_axis(axes, "frame", end, ticks=3)
    if index + 3 < number:
        axes.set_xlabel("")
        axes.tick_params(labelbottom=False)
    return axes


def _panel(axes: Axes, name: str, frame: FloatArray, values: FloatArray) -> None:
    colour = COLOURS.get(name.partition("/")[0], GREEN)
    x, mean, low, high = thin(frame, values)
    noisy = len(x) > 60 and not name.startswith("schedule/")
    axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    if noisy:
        axes.plot(x, mean, color=colour, linewidth=0.6, alpha=0.45)
    axes.plot(x, smooth(mean, len(x) // 30) if noisy else mean, color=colour, linewidth=1.5,
              marker="o" if len(x) == 1 else "")  # fmt: skip
    axes.set_title(name, loc="left", fontsize=8.5, pad=3)
    _y_axis(axes, float(low.min()), float(high.max()))


def _y_axis(axes: Axes, floor: float, ceiling: float) -> None:
    """Scale and label a small axis: by powers where it spans more than three of them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    if floor > 0 and ceiling > 1000 * floor:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(numticks=4))
        axes.minorticks_off()
        return
    if ceiling - floor < 1e-3 * abs(ceiling):
        margin = 0.5 * abs(ceiling) or 1.0
        axes.set_ylim(floor - margin, ceiling + margin)
    axes.yaxis.set_major_locator(MaxNLocator(3, steps=(1, 2, 5, 10)))
    axes.yaxis.set_major_formatter(FuncFormatter(tick))


def random_line(axes: Axes, random_return: float | None) -> None:
    """Draw the random policy's return, where it is known."""
    if random_return is not None:
        axes.axhline(random_return, color=INK, linewidth=1, linestyle=(0, (1, 2)),
                     label=f"random ({tick(random_return)})")  # fmt: skip


def _title(trial: TrialRecord) -> str:
    return f"{trial.agent} on {trial.env}"


def _sessions(trial: TrialRecord, drawn: int) -> str:
    total = len(trial.sessions)
    sessions = f"{total} session{'s' * (total != 1)}"
    if not trial.replicates:
        return f"{sessions} training one set of parameters"
    return sessions if drawn == total else f"{drawn} of {sessions}"
