"""A session's best and last game of training: what shows them again, on disk in one small file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rlhydra.env.environment import Environment, Game, Recording
from rlhydra.files import write_atomically
from rlhydra.schema import ConfigError

FILE = "games.safetensors"
KEPT = ("best", "last")


class KeptGame(NamedTuple):
    """A finished game, the session's frame at its end, and what shows it again."""

    game: Game
    frame: int
    recording: Recording


class Games:
    """Keeps the games in memory; `write` puts them on disk."""

    def __init__(self, folder: Path, state: dict[str, Any] | None) -> None:
        self._path = folder / FILE
        self._kept = {} if state is None else {name: _load(each) for name, each in state.items()}
        self.unwritten_best = False

    def add(self, env: Environment, frame: int) -> None:
        """Take in the games that ended with the last step of `env`."""
        best = max(env.games, key=lambda game: game.true_return)
        last = KeptGame(best, frame, env.recording(best))
        self._kept["last"] = last
        if "best" not in self._kept or best.true_return > self._kept["best"].game.true_return:
            self._kept["best"] = last
            self.unwritten_best = True

    def state(self) -> dict[str, Any]:
        """Return the games as arrays and JSON values."""
        return {
            name: {
                "actions": kept.recording.actions,
                "facts": [*kept.game, kept.frame, kept.recording.seed, kept.recording.start],
            }
            for name, kept in self._kept.items()
        }

    def write(self) -> None:
        """Replace the file.

        Raises:
            OSError: where the disk is full.
        """
        state = self.state()
        if state:
            facts = {name: json.dumps(each["facts"]) for name, each in state.items()}
            actions = {name: each["actions"] for name, each in state.items()}
            write_atomically(self._path, save(actions, facts))
        self.unwritten_best = False


def read_game(folder: Path, name: str) -> KeptGame:
    """Return the game `name`, best or last, of the session in `folder`.

    Raises:
        ConfigError: where there is none, or the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise ConfigError(str(path), "no game of this session was kept; none has ended yet")
    try:
        with safe_open(str(path), "numpy") as file:
            facts = json.loads(file.metadata()[name])
            return _load({"actions": file.get_tensor(name), "facts": facts})
    except (SafetensorError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(str(path), f"it cannot be read: {error}") from error


def _load(state: dict[str, Any]) -> KeptGame:
    facts: Sequence[Any] = state["facts"]
    copy, true_return, length, frame, seed, start = facts
    recording = Recording(seed, start, state["actions"])
    return KeptGame(Game(copy, true_return, length), frame, recording)
