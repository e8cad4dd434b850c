"""Early stopping: each trial's own process reports to the study and asks whether to stop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from rlhydra.config import Config
from rlhydra.metrics import Curve, session_metrics, trial_metrics
from rlhydra.pruners import make_pruner
from rlhydra.record import read_table
from rlhydra.search import open_study, trial_of

Row = tuple[int, int, float]  # frame, optimizer step, return


class Judge:
    """Judges a trial by the mean of `meta.metric` over its sessions, at each eval checkpoint.

    A step is a frame that all sessions have reached. A metric that is not defined is the worst.
    """

    def __init__(
        self, folder: Path, number: int, config: Config, random_return: float | None
    ) -> None:
        scheduler, max_frame = config.meta.search_scheduler, config.env.max_frame
        self._study = open_study(folder, make_pruner(scheduler, max_frame))
        self._trial = trial_of(self._study, number)
        self._metric = config.meta.metric
        # The frames between which a trial can be stopped.
        self._grace = math.inf if scheduler is None else scheduler.grace_period
        self._max_frame = max_frame
        self._random_return = random_return
        frozen = self._study.get_trials(deepcopy=False)[number]
        self._reported: int = frozen.last_step or 0
        self._lost = False
        scored = 1 if config.meta.distributed else config.meta.max_session
        paths = (folder / str(number) / f"session_{k}" for k in range(scored))
        self._rows = [_rows(path / "eval.csv") for path in paths]

    def report(self, session: int, frame: int, opt_step: int, value: float | None) -> bool:
        """Take in an eval row of a session; return whether the trial is to stop."""
        rows = self._rows[session]
        while rows and rows[-1][0] >= frame:  # a session that went on from its checkpoint
            rows.pop()
        rows.append((frame, opt_step, math.nan if value is None else value))
        frames = sorted({row[0] for rows in self._rows for row in rows if row[0] > self._reported})
        reached = min((rows[-1][0] if rows else 0) for rows in self._rows)
        stop = False
        for step in frames:
            if step > reached and not self._lost:
                break
            stop = stop or self._judge(step)
        return stop

    def lose(self, session: int) -> None:
        """Count a session that diverged or failed as the worst from here on."""
        self._lost = True

    def _judge(self, step: int) -> bool:
        value = math.nan if self._lost else self._value(step)
        self._trial.report(value, step)
        self._reported = step
        if not self._grace <= step < self._max_frame:
            return False
        return math.isnan(value) or self._trial.should_prune()

    def _value(self, step: int) -> float:
        curves = [_curve([row for row in rows if row[0] <= step]) for rows in self._rows]
        if self._metric == "consistency":
            mean = trial_metrics(curves, self._random_return)["consistency"]["mean"]
            return math.nan if mean is None else mean
        each = [_metrics(curve, self._random_return)[self._metric] for curve in curves]
        return float(np.mean([math.nan if value is None else value for value in each]))


def _metrics(curve: Curve, random_return: float | None) -> Mapping[str, float | None]:
    return session_metrics(curve.frame, curve.opt_step, curve.return_mean, random_return)


def _curve(rows: list[Row]) -> Curve:
    columns = np.array(rows, np.float64).reshape(len(rows), 3)
    return Curve(columns[:, 0], columns[:, 1], columns[:, 2])


def _rows(path: Path) -> list[Row]:
    table = read_table(path)
    columns = (table["frame"], table["opt_step"], table["return_mean"])
    return [(int(f), int(o), float(r)) for f, o, r in zip(*columns, strict=True)]
