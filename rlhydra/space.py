"""The space of a sweep: what the command line and the search space vary, and over which values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, QuotedString
from hydra.errors import HydraException

from rlhydra.schema import ConfigError, near

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Choices:
    """Values that are listed: as they are written in an override, and as a study knows them."""

    key: str
    texts: tuple[str, ...]
    values: tuple[Value, ...]

    def text(self, value: Value) -> str:
        """Write `value` as an override's."""
        return self.texts[self.values.index(value)]

    def samples(self) -> tuple[str, ...]:
        """Return the values whose check is the check of the axis."""
        return self.texts


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, both included, `log` if by their order of magnitude."""

    key: str
    low: float
    high: float
    whole: bool
    log: bool

    def text(self, value: Value) -> str:
        """Write `value` as an override's."""
        return repr(value)

    def samples(self) -> tuple[str, ...]:
        """Return the ends and a value between: a setting that wants whole numbers says so there."""
        middle = (self.low + self.high) / 2 if not self.log else math.sqrt(self.low * self.high)
        if self.whole:
            return repr(int(self.low)), repr(round(middle)), repr(int(self.high))
        return repr(self.low), repr(middle), repr(self.high)


Axis = Choices | Interval


@dataclass(frozen=True)
class Space:
    """What all trials share, and the axes on which they differ."""

    fixed: tuple[str, ...]
    axes: tuple[Axis, ...]
    sampled: bool  # meta.max_trial trials are sampled; else the trials are the grid of all values

    def grid(self) -> list[dict[str, Value]]:
        """Return all points, the last axis varying fastest."""
        listed = [axis for axis in self.axes if isinstance(axis, Choices)]
        points = itertools.product(*(axis.values for axis in listed))
        return [dict(zip((axis.key for axis in listed), point, strict=True)) for point in points]

    def overrides(self, point: Mapping[str, Value]) -> list[str]:
        """Return the whole command line of the trial at `point`."""
        return [*self.fixed, *(f"{axis.key}={axis.text(point[axis.key])}" for axis in self.axes)]

    def probes(self) -> Iterable[list[str]]:
        """Return command lines that try each value, or each end, of each axis once."""
        samples = [axis.samples() for axis in self.axes]
        for i in range(max(map(len, samples), default=1)):
            texts = (values[min(i, len(values) - 1)] for values in samples)
            varied = zip(self.axes, texts, strict=True)
            yield [*self.fixed, *(f"{axis.key}={text}" for axis, text in varied)]


def read_space(params: Mapping[str, Any], arguments: Sequence[str], loader: Any) -> Space:
    """Return the space of a search's `params` and of the command line, which wins.

    Raises:
        ConfigError: for an expression that is none, or cannot be sampled.
    """
    space = {key: _parse(f"{key}={text}", loader) for key, text in params.items()}
    line = [_parse(argument, loader) for argument in arguments]
    named = {override.get_key_element().lstrip("+") for override in line}
    varied = [o for key, o in space.items() if key.lstrip("+") not in named] + line
    axes = [_axis(override) for override in varied if override.is_sweep_override()]
    fixed = [override.input_line or "" for override in varied if not override.is_sweep_override()]
    sampled = bool(space) or any(isinstance(axis, Interval) for axis in axes)
    return Space(tuple(fixed), tuple(axes), sampled)


def check_names(space: Space, known: Iterable[str], is_group: Callable[[str], bool]) -> None:
    """Raise ConfigError where an axis varies what does not exist."""
    known = list(known)
    for axis in space.axes:
        name = axis.key.partition("@")[0]
        if not (name.startswith("+") or name in known or is_group(name)):
            problem = f"there is no such setting to search{near(name, known)}"
            raise ConfigError(name, problem)


def _parse(text: str, loader: Any) -> Override:
    try:
        return OverridesParser.create(config_loader=loader).parse_override(text)
    except HydraException as error:
        problem = "expected interval(a, b), choice(a, b), range(a, b) or a value"
        raise ConfigError(text, f"{problem}: {str(error).splitlines()[0]}") from None


def _axis(override: Override) -> Axis:
    key = override.get_key_element()
    if override.is_interval_sweep():
        return _interval(key, cast("IntervalSweep", override.value()))
    texts = tuple(override.sweep_string_iterator())
    values = tuple(map(_plain, cast("Iterable[Any]", override.sweep_iterator())))
    if not texts:
        raise ConfigError(key, f"expected at least one value, got {override.get_value_string()}")
    # 1, 1.0 and true are equal in Python; a study tells equal values apart only as texts.
    distinct = len(set(values)) == len(values) == len(set(texts))
    return Choices(key, texts, values if distinct else texts)


def _interval(key: str, interval: IntervalSweep) -> Interval:
    low, high = interval.start, interval.end
    assert low is not None
    assert high is not None
    log = "log" in interval.tags
    whole = "int" in interval.tags or (isinstance(low, int) and isinstance(high, int))
    if low >= high or (log and low <= 0):
        least = "0 < a < b" if log else "a < b"
        raise ConfigError(key, f"expected interval(a, b) with {least}, got {low}, {high}")
    return Interval(key, low, high, whole, log)


def _plain(value: Any) -> Value:
    """Return a listed value as a study can keep it: a scalar as it is, others as text."""
    if isinstance(value, QuotedString):
        return value.text
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return Override._get_value_element_as_str(value)  # pyright: ignore[reportPrivateUsage]
