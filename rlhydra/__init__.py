"""Deep reinforcement learning experiments on Hydra: `train` one, `load` what it learned."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhydra.player import Player, load
    from rlhydra.schema import ConfigError
    from rlhydra.training import Result, train

__all__ = ["ConfigError", "Player", "Result", "load", "train"]

# Imported at first use: most of the package does without Hydra, and all but `load` without torch.
_HOMES = {
    "ConfigError": "rlhydra.schema",
    "Player": "rlhydra.player",
    "Result": "rlhydra.training",
    "load": "rlhydra.player",
    "train": "rlhydra.training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
