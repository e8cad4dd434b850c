"""Lets Hydra find the choices of installed packages. Hydra looks for plugins here alone."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from rlhydra.installed import installed_folders


class InstalledChoices(SearchPathPlugin):
    """Appends the folders that packages name in the entry point group `rlhydra.conf`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add them behind ours, which are searched first."""
        for package, folder in installed_folders().items():
            search_path.append(provider=package, path=folder.resolve().as_uri())
