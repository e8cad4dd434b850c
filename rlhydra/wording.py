"""How numbers, times and tables are written for people."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def number(value: float | None) -> str:
    """Write a return or a metric in about 8 characters; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "-"
    size = abs(value)
    if size >= 1e6 or 0 < size < 0.01:
        return f"{value:.2e}"
    return f"{value:,.0f}" if size >= 1e4 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def count(frames: float | None) -> str:
    """Write a number of frames in at most 6 characters: 9,999, 123.4k, 12.35M."""
    if frames is None:
        return "-"
    if frames < 10_000:
        return f"{frames:,.0f}"
    size, unit = max(pair for pair in ((1e3, "k"), (1e6, "M"), (1e9, "G")) if frames >= pair[0])
    return f"{frames / size:.4g}{unit}"


def duration(seconds: float | None) -> str:
    """Write a time as 0:05, 12:34, 1:02:03 or 2d 03h; a dash where it is unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    if hours >= 24:
        return f"{hours // 24}d {hours % 24:02d}h"
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def digits(value: float | None, places: int = 4) -> str:
    """Write so many digits, more than the console: metrics near 1 differ in the third."""
    if value is None:
        return "-"
    return f"{value:.0f}" if abs(value) >= 1e4 else f"{value:.{places}g}"


def bounds(metric: Mapping[str, Any]) -> str:
    """Write the interval of a metric, or nothing where it has none."""
    if metric["low"] is None:
        return ""
    return f"[{digits(metric['low'])}, {digits(metric['high'])}]"


def markdown_table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table in Markdown."""
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
