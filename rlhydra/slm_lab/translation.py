"""A spec as a whole: what became of each of its keys, and the settings and search space of it."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from rlhydra.slm_lab.convert import shipped_ids
from rlhydra.slm_lab.rules import RULES
from rlhydra.slm_lab.spec import NoEqualError, Settings, Spec, fill

GRID = ("grid_search",)
CHOICE = ("choice", *GRID)


class Row(NamedTuple):
    """One key of a spec, its value, and what became of it in words."""

    key: str
    value: Any
    became: str


@dataclass
class Translation:
    """What a spec is here."""

    rows: list[Row] = field(default_factory=list[Row])
    settings: Settings = field(default_factory=Settings)
    space: dict[str, str] = field(default_factory=dict[str, str])  # Hydra's ranges by setting
    grid: bool = True  # the space has nothing to sample
    missing: dict[str, str] = field(default_factory=dict[str, str])  # why, by key


def translate(spec: Spec, dropped: Collection[str]) -> Translation:
    """Return what the spec is here, but for the keys that are `dropped`, which say nothing then."""
    silent = fill(spec)
    found = Translation()
    for key, value in _leaves(spec.tree):
        became = "dropped" if _within(key, dropped) else _take(found, spec, key, value)
        found.rows.append(Row(key, value, became + ("; its default" if key in silent else "")))
    for key, value in _leaves(spec("search", {}), keep=()):
        if not _within(f"search.{key}", dropped):
            _vary(found, spec, key, value, dropped)
    return found


def origin(place: str, spec: Spec) -> str:
    """Return the key of the spec that became our setting `place`."""
    made: dict[str, str] = {}
    for key, value in _leaves(spec.tree):
        try:
            became = _became(key, value, spec)
        except NoEqualError:
            continue
        made |= {} if isinstance(became, str) else dict.fromkeys(became, key)
    nearest = max((name for name in made if place.startswith(name)), key=len, default=place)
    return made.get(nearest, place)


def _leaves(tree: Any, where: str = "", keep: Collection[str] = RULES) -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values, as deep as there are rules; the search is apart."""
    for name, value in cast("dict[str, Any]", tree).items():
        key = f"{where}{name}"
        if key == "search":
            continue
        if isinstance(value, dict) and key not in keep:
            yield from _leaves(value, f"{key}.", keep)
        else:
            yield key, value


def _within(key: str, names: Collection[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _became(key: str, value: Any, spec: Spec) -> Settings | str:
    if key in RULES:
        return RULES[key].convert(value, spec)
    if key.startswith("env.") and not spec.atari:
        return {f"env.kwargs.{key.removeprefix('env.')}": value}  # as its own loader takes it
    raise NoEqualError("this key is not known here")


def _take(found: Translation, spec: Spec, key: str, value: Any) -> str:
    try:
        became = _became(key, value, spec)
    except NoEqualError as error:
        found.missing[key] = str(error)
        return f"NO EQUAL: {error}"
    if isinstance(became, str):
        return became
    found.settings.update(became)
    return _described(became)


def _described(settings: Settings) -> str:
    """Write settings as on a command line; those of one group follow its first."""
    words: list[str] = []
    group = None
    for place, value in settings.items():
        parent, _, last = place.rpartition(".")
        words.append(f"{f'.{last}' if parent and parent == group else place}={written(value)}")
        group = parent
    if settings.get("env") in shipped_ids() and "env.id" not in settings:
        words.append(f"({shipped_ids()[settings['env']]})")
    return " ".join(words)


def _vary(
    found: Translation, spec: Spec, search_key: str, value: Any, dropped: Collection[str]
) -> None:
    key, _, kind = search_key.rpartition("__")
    try:
        probes, text = _range(kind, value)
        tried = [_settings(spec, key, probe, dropped) for probe in probes]
        places = {
            place
            for place in set().union(*tried)
            if any(settings.get(place) != tried[0].get(place) for settings in tried)
        }
        if len(places) != 1:
            named = ", ".join(sorted(places)) or "no setting"
            raise NoEqualError(f"it varies {named}; a space here varies settings one by one")
        (place,) = places
        values = ", ".join(written(settings[place]) for settings in tried)
    except NoEqualError as error:
        found.missing[f"search.{search_key}"] = str(error)
        became = f"NO EQUAL: {error}"
    else:
        found.space[place] = text.format(values)
        found.grid = found.grid and kind in GRID
        became = f"{place}={found.space[place]}"
    found.rows.append(Row(f"search.{search_key}", value, became))


def _range(kind: str, value: Any) -> tuple[list[Any], str]:
    """Return the values to try, and how Hydra writes what lies between them."""
    if kind in CHOICE:
        return value, "choice({})"
    if kind in ("qrandint", "quniform"):
        low, high, step = value
        steps = round((high - low) / step)
        return [low + i * step for i in range(steps + 1)], "choice({})"
    forms = {
        "uniform": "interval({})",
        "loguniform": "tag(log, interval({}))",
        "randint": "int(interval({}))",
    }
    if kind not in forms:
        raise NoEqualError(
            f"__{kind} does not exist here; there are {', '.join((*CHOICE, *forms))}"
        )
    low, high = value
    return [low, high - 1 if kind == "randint" else high], forms[kind]


def _settings(spec: Spec, key: str, value: Any, dropped: Collection[str]) -> Settings:
    """Return all settings with another value under one key."""
    other = Spec(copy.deepcopy(spec.tree))
    other.put(key, value)
    found: Settings = {}
    for name, each in _leaves(other.tree):
        if _within(name, dropped):
            continue
        try:
            became = _became(name, each, other)
        except NoEqualError:
            if key.startswith(name):
                raise
            continue
        found.update({} if isinstance(became, str) else became)
    return found


def written(value: Any) -> str:
    """Write a value as Hydra reads it."""
    if isinstance(value, dict):
        pairs = (f"{k}: {written(v)}" for k, v in cast("dict[str, Any]", value).items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, list):
        return f"[{','.join(map(written, cast('list[Any]', value)))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.10g}" if isinstance(value, float) else str(value)
