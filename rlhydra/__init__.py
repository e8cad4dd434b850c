"""Deep reinforcement learning experiments on Hydra: `train` one, `load` what it learned."""

import os
import sys
from importlib import import_module

TYPE_CHECKING = False  # typing is imported later: see below
if TYPE_CHECKING:
    from rlhydra.player import Player, load
    from rlhydra.schema import ConfigError
    from rlhydra.training import Result, train

# `python -m` imports from where it was started, whatever comes first by its name. A run's folder
# may be a stranger's: nothing in it is code. What was imported above came before us.
_SIGNS = ("trial.json", "multirun.yaml", ".hydra")
if any(os.path.exists(f"{p or '.'}/{name}") for p in sys.path[:1] for name in _SIGNS):  # noqa: PTH110
    del sys.path[0]

__all__ = ["ConfigError", "Player", "Result", "load", "train"]

# Imported at first use: most of the package does without Hydra, and all but `load` without torch.
_HOMES = {
    "ConfigError": "rlhydra.schema",
    "Player": "rlhydra.player",
    "Result": "rlhydra.training",
    "load": "rlhydra.player",
    "train": "rlhydra.training",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
