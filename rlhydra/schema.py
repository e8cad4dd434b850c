"""Reads plain data into frozen dataclasses, and says precisely what is wrong with it."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union

T = TypeVar("T")


class ConfigError(Exception):
    """Bad input, found before any work: shown in one or two lines, without a traceback."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}" if where else problem)


class FitError(ConfigError):
    """Settings that are right by themselves and do not go together."""


@dataclass(frozen=True)
class Range:
    """The closed interval [`low`, `high`] of a number; `above` and `below` are its open ends."""

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        named = ((">=", self.low), (">", self.above), ("<=", self.high), ("<", self.below))
        return " and ".join(f"{sign} {bound:g}" for sign, bound in named if bound is not None)


Positive = Range(above=0)
NonNegative = Range(low=0)
Fraction = Range(low=0, high=1)


def read(cls: type[T], data: Any, where: str = "") -> T:
    """Return `data` as an instance of the frozen dataclass `cls`.

    Counts may be written `1e7` or `10_000_000`. `where` is the dotted path of `data` in the
    configuration.

    Raises:
        ConfigError: for an unknown, missing, mistyped or out-of-range value, by its full name.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(where, f"expected a group of settings, got {_show(data)}")
    fields = {f.name: f for f in dataclasses.fields(typing.cast("Any", cls))}
    hints = typing.get_type_hints(cls, include_extras=True)
    values: dict[str, Any] = {}
    for key, value in typing.cast("Mapping[Any, Any]", data).items():
        if key not in fields:
            raise ConfigError(_join(where, key), f"no such setting{near(str(key), fields)}")
        values[key] = _convert(hints[key], value, _join(where, key))
    for name, field in fields.items():
        optional = (
            field.default is not dataclasses.MISSING
            or field.default_factory is not dataclasses.MISSING
        )
        if name not in values and not optional:
            raise ConfigError(_join(where, name), "this setting is missing")
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigError(where, str(error)) from error


def near(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean a, b?)` for the names in `known` that look like `word`, or nothing."""
    matches = difflib.get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f" (did you mean {', '.join(matches)}?)" if matches else ""


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _show(value: object) -> str:
    return "null" if value is None else repr(value) if isinstance(value, str) else str(value)


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Return `value` converted to the annotation `hint`."""
    if hint is Any:
        return value
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return _in_range(_convert(arguments[0], value, where), arguments[1], where)
    if origin is Literal:
        return _choice(arguments, value, where)
    if origin in (Union, types.UnionType):
        return _alternative(arguments, value, where)
    if origin is tuple:
        return _sequence(arguments[0], value, where)
    if origin is dict:
        return _mapping(arguments[1], value, where)
    if dataclasses.is_dataclass(hint):
        return read(typing.cast("type[Any]", hint), value, where)
    return _SCALARS[hint](value, where)


def _in_range(value: Any, allowed: Range, where: str) -> Any:
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, (int, float)) and number not in allowed:
            raise ConfigError(where, f"expected a number {allowed}, got {number}")
    return value


def _choice(choices: Sequence[Any], value: Any, where: str) -> Any:
    for choice in choices:
        if value == choice and isinstance(value, bool) == isinstance(choice, bool):
            return choice
    named = ", ".join(str(c).lower() if isinstance(c, bool) else str(c) for c in choices)
    raise ConfigError(where, f"expected one of {named}; got {_show(value)}")


def _alternative(hints: Sequence[Any], value: Any, where: str) -> Any:
    """Convert to the first alternative that fits, or raise the last one's error."""
    if value is None:
        if type(None) in hints:
            return None
        raise ConfigError(where, "expected a value, got null")
    present = [h for h in hints if h is not type(None)]
    groups = [h for h in present if _is_group(h)]
    if isinstance(value, Mapping) and groups:
        return _convert(groups[0], value, where)
    plain = [h for h in present if h not in groups] or present
    for hint in plain[:-1]:
        try:
            return _convert(hint, value, where)
        except ConfigError:
            continue
    return _convert(plain[-1], value, where)


def _is_group(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint) or typing.get_origin(hint) is dict


def _sequence(hint: Any, value: Any, where: str) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ConfigError(where, f"expected a list such as [64, 64], got {_show(value)}")
    items = typing.cast("Sequence[Any]", value)
    return tuple(_convert(hint, item, f"{where}[{i}]") for i, item in enumerate(items))


def _mapping(hint: Any, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(where, f"expected a group such as {{key: value}}, got {_show(value)}")
    items = typing.cast("Mapping[Any, Any]", value)
    return {str(k): _convert(hint, v, _join(where, k)) for k, v in items.items()}


def _number(value: Any, where: str) -> float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise ConfigError(where, f"expected a number, got {_show(value)}") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigError(where, f"expected a number, got {_show(value)}")
    if not math.isfinite(value):
        raise ConfigError(where, f"expected a finite number, got {value}")
    return value


def _float(value: Any, where: str) -> float:
    return float(_number(value, where))


def _int(value: Any, where: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        number = _number(value, where)
    except ConfigError:
        raise ConfigError(where, f"expected a whole number, got {_show(value)}") from None
    if number != int(number):
        raise ConfigError(where, f"expected a whole number, got {value}")
    return int(number)


def _bool(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(where, f"expected true or false, got {_show(value)}")
    return value


def _str(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(where, f"expected text, got {_show(value)}")
    return value


_SCALARS = {int: _int, float: _float, bool: _bool, str: _str}
