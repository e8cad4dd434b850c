"""The frame clock of a session: drives schedules, logging and evaluation checkpoints."""

from __future__ import annotations


class Clock:
    """Counts frames up to `max_frame`; one frame is one decision in one environment copy."""

    def __init__(self, max_frame: int, frame: int = 0) -> None:
        self.max_frame = max_frame
        self.frame = frame
        self._previous = frame

    @property
    def own(self) -> int:
        """Frames of this session alone; less than `frame` where others count on the same clock."""
        return self.frame

    @property
    def done(self) -> bool:
        """Whether `max_frame` was reached or overshot."""
        return self.frame >= self.max_frame

    @property
    def progress(self) -> float:
        """The elapsed share of `max_frame`, in [0, 1]."""
        return min(self.frame / self.max_frame, 1.0)

    def tick(self, frames: int) -> None:
        """Advance by one vector step of `frames` frames."""
        self._previous = self.frame
        self.frame += frames

    def due(self, every: int) -> bool:
        """Whether the last tick crossed a multiple of `every`, or was the run's last.

        A crossing test: 16 copies step over most multiples of 1000 without ever landing on one.
        """
        return self.done or self.frame // every > self._previous // every
