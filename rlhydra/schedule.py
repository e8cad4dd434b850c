"""Hyperparameters that change with the frame clock."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from rlhydra.schema import Fraction, Positive, Range

Kind = Literal["linear", "exponential", "step"]


@dataclass(frozen=True)
class Schedule:
    """A value that moves from `start` to `end` between two moments of the run."""

    start: Annotated[float, Range(low=0)]
    end: Annotated[float, Range(low=0)]
    kind: Kind = "linear"  # exponential: equal ratios; step: `steps` equal drops
    after: Annotated[int, Range(low=0)] = 0  # frames before it begins to move
    until: Annotated[int, Positive] | None = None  # frame of arrival; null: `fraction` of the run
    fraction: Annotated[float, Fraction] = 1.0  # share of max_frame at which it arrives
    steps: Annotated[int, Positive] = 4

    def __post_init__(self) -> None:
        if self.kind == "exponential" and min(self.start, self.end) <= 0:
            raise ValueError("an exponential schedule needs start and end above 0")

    def at(self, frame: int, max_frame: int) -> float:
        """Return the value at `frame`."""
        arrival = self.until if self.until is not None else self.fraction * max_frame
        moved = min(max((frame - self.after) / max(arrival - self.after, 1), 0.0), 1.0)
        if self.kind == "exponential":
            return self.start * (self.end / self.start) ** moved
        if self.kind == "step":
            moved = math.floor(moved * self.steps) / self.steps
        return self.start + (self.end - self.start) * moved


Scheduled = float | Schedule


def value_at(value: Scheduled, frame: int, max_frame: int) -> float:
    """Return a constant or scheduled hyperparameter at `frame`."""
    return value.at(frame, max_frame) if isinstance(value, Schedule) else value
