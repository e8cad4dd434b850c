"""The Atari games as choices of the group `env`, without a file each."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from hydra.core.config_store import ConfigStore

# For several players: ale-py ships the ROMs, but its emulator has no rules for them, and ends the
# process that loads one.
UNPLAYABLE = frozenset({"combat", "joust", "maze_craze", "warlords"})


def register_games() -> None:
    """Offer every game that ale-py plays as `env=<snake_case>`."""
    store = ConfigStore.instance()
    if "pong.yaml" in store.repo.get("env", {}):
        return  # the second time in a process; the first takes 50 ms
    for rom in games():
        node = {
            "defaults": [{"override /family": "atari"}],
            "env": {"id": f"ALE/{game_name(rom)}-v5"},
        }
        store.store(name=rom, group="env", package="_global_", node=node)


def games() -> list[str]:
    """Return the ROMs of the games that ale-py plays, without the 0.1 s that importing it takes."""
    spec = find_spec("ale_py")
    assert spec is not None
    assert spec.origin is not None
    shipped = {path.stem for path in (Path(spec.origin).parent / "roms").glob("*.bin")}
    return sorted(shipped - UNPLAYABLE)


def game_name(rom: str) -> str:
    """Return the name in Gymnasium's ids of a game: `ms_pacman` is `MsPacman`."""
    return rom.title().replace("_", "")
