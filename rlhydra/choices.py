"""Checks a command line's choices (`env=pong`) before Hydra, whose error lists all 130."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override, QuotedString
from hydra.errors import HydraException

from rlhydra.installed import installed_folders
from rlhydra.schema import ConfigError, near

FEW = 12  # as many choices an error shows


def check_choices(arguments: Sequence[str], conf: Path) -> None:
    """Raise ConfigError for a choice that is not in its group, or a file that is never read.

    `conf` is our folder of groups. What cannot be parsed is left to Hydra's own error.
    """
    if any(argument.startswith("hydra.searchpath=") for argument in arguments):
        return  # then there may be more choices than can be seen from here
    own = _config_dir(arguments)
    more = [*installed_folders().values(), *([] if own is None else [own])]
    folders = [conf, *dict.fromkeys(folder.resolve() for folder in more)]
    _check_hidden(folders)
    for override in _overrides(arguments):
        group = override.key_or_group
        is_ours = any((folder / group).is_dir() for folder in folders)
        if not is_ours or group.startswith("hydra"):
            continue
        known = _known(group, folders)
        for choice in _choices(override):
            if choice not in known:
                raise ConfigError(group, f"there is no choice {choice}{_instead(choice, known)}")


def _check_hidden(folders: Sequence[Path]) -> None:
    """Raise ConfigError where one folder has a file that another, searched before, has too."""
    ours = {f"{group}/{name}" for group, names in _registered().items() for name in names}
    found = {name: folders[0] / name for name in ours}
    for path in folders[0].rglob("*.yaml"):
        found[path.relative_to(folders[0]).as_posix()] = path
    for path, name in ((p, p.relative_to(f)) for f in folders[1:] for p in f.rglob("*.yaml")):
        other = found.setdefault(name.as_posix(), path)
        if other != path:
            owner = "rlhydra" if other.is_relative_to(folders[0]) else str(other.parent)
            problem = f"{owner} has its own {name}, which is found first; rename yours"
            raise ConfigError(str(path), problem)


def _config_dir(arguments: Sequence[str]) -> Path | None:
    """Return the folder that `--config-dir` names."""
    for option in ("--config-dir", "-cd"):
        for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
            if argument == option:
                return Path(following)
            if argument.startswith(f"{option}="):
                return Path(argument.removeprefix(f"{option}="))
    return None


def _overrides(arguments: Sequence[str]) -> Iterator[Override]:
    parser = OverridesParser.create()
    for argument in arguments:
        if argument.startswith("-") or "=" not in argument:
            continue
        try:
            override = parser.parse_override(argument)
        except HydraException:
            continue
        if not override.is_delete():
            yield override


def _choices(override: Override) -> Iterator[str]:
    """Yield the names that an override chooses: one, several (`[a,b]`), or those of a sweep."""
    value: Any = override.value()
    if isinstance(value, ChoiceSweep):
        yield from _names(value.list)
    elif not override.is_sweep_override():
        yield from _names(value)


def _names(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _names(item)
    elif value is not None:
        yield value.text if isinstance(value, QuotedString) else str(value)


def _known(group: str, folders: Sequence[Path]) -> set[str]:
    """Return the choices of a group: files, and what was registered without one."""
    files = [path.stem for folder in folders for path in (folder / group).glob("*.yaml")]
    return {*files, *(name.removesuffix(".yaml") for name in _registered().get(group, ()))}


def _registered() -> dict[str, list[str]]:
    """Return the choices without a file by group."""
    repo = ConfigStore.instance().repo
    return {group: list(names) for group, names in repo.items() if isinstance(names, dict)}


def _instead(choice: str, known: set[str]) -> str:
    """Return what to choose instead: the nearest names, or all where they are few."""
    guess = near(choice, sorted(known)) or near(choice.replace("_", ""), sorted(known))
    if guess:
        return guess
    if known and len(known) <= FEW:
        return f"; there are {', '.join(sorted(known))}"
    return f"; --help lists the {len(known)} there are"
