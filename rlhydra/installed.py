"""The choices (agents, environments, …) that installed packages bring."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from rlhydra.schema import ConfigError

GROUP = "rlhydra.conf"


@cache
def installed_folders() -> dict[str, Path]:
    """Return the folders of YAML files by the packages whose entry points name them.

    `my_agents.conf` names the folder `conf` of the package `my_agents`, which is not imported.

    Raises:
        ConfigError: where there is no such folder.
    """
    found: dict[str, Path] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        package, _, name = point.value.rpartition(".")
        spec = find_spec(package) if package else None
        places = [] if spec is None else spec.submodule_search_locations or []
        folders = [Path(place) / name for place in places if (Path(place) / name).is_dir()]
        if not folders:
            problem = f"expected package.folder, got {point.value}, where no folder is"
            raise ConfigError(f"entry point {GROUP}:{point.name}", problem)
        found[point.name] = folders[0]
    return found
