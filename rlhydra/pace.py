"""How fast the sessions of a trial go, and when each of them will have ended."""

import heapq
from collections import deque
from collections.abc import Sequence
from statistics import fmean, linear_regression
from typing import Literal

SHORTEST_WINDOW = 5.0  # seconds


class Pace:
    """Frames against time of one session.

    `rate` is taken over the last half of its time: long enough for rollouts that alternate with
    learning, short enough to forget a start that was faster or slower.
    """

    def __init__(self) -> None:
        self.phase: Literal["queued", "running", "ended"] = "queued"
        self.frame = 0
        self.heard = 0.0
        self.rate: float | None = None
        self._first: tuple[float, int] | None = None
        self._points: deque[tuple[float, int]] = deque()

    def add(self, now: float, frame: int) -> None:
        """Take a new point.

        Begins anew with a frame below the last one, after a restart, and until the first progress,
        as start-up tells nothing of the speed.
        """
        if self._first is None or frame < self.frame or frame == self._first[1]:
            self._first = (now, frame)
            self._points.clear()
        self.heard, self.frame = now, frame
        points = self._points
        window = max(SHORTEST_WINDOW, (now - self._first[0]) / 2)
        # About a hundred points tell as much as ten thousand.
        if len(points) > 1 and now - points[-2][0] < window / 100:
            points.pop()
        points.append((now, frame))
        while len(points) > 2 and points[0][0] < now - window:
            points.popleft()
        self.rate = self._slope()

    def _slope(self) -> float | None:
        # Least squares: the difference of the ends would depend on where in a rollout they fall.
        if len(self._points) < 2 or self._points[0][0] == self._points[-1][0]:
            return None
        times, frames = zip(*self._points, strict=True)
        slope = linear_regression(times, frames).slope
        return slope if slope > 0 else None

    @property
    def seconds(self) -> float:
        """Time from the first message to the last."""
        return self.heard - self._first[0] if self._first else 0.0

    @property
    def average(self) -> float | None:
        """Frames per second from the first message to the last."""
        return (
            (self.frame - self._first[1]) / self.seconds if self._first and self.seconds else None
        )


def time_left(paces: Sequence[Pace], max_frame: int, now: float) -> list[float | None]:
    """Return the seconds until each session ends, waiting in the queue included.

    None where it has ended or nothing is known yet. Queued sessions are thought to start one by one
    as running ones end; what has no rate of its own gets the mean of the others.
    """
    rates = [pace.average if pace.phase == "ended" else pace.rate for pace in paces]
    known = [rate for rate in rates if rate]
    left: list[float | None] = [None] * len(paces)
    if not known:
        return left
    ends: list[float] = []
    for index, pace in enumerate(paces):
        if pace.phase == "running":
            silence = now - pace.heard if pace.rate else 0.0
            end = max(0.0, (max_frame - pace.frame) / (rates[index] or fmean(known)) - silence)
            left[index] = end
            heapq.heappush(ends, end)
    for index, pace in enumerate(paces):
        if pace.phase == "queued" and ends:
            end = heapq.heappop(ends) + (max_frame - pace.frame) / fmean(known)
            left[index] = end
            heapq.heappush(ends, end)
    return left
