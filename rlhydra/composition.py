"""What Hydra composes from: our folder of choices, and what YAML files cannot say."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from rlhydra.env.shipped import register_games

_PACKAGE = Path(__file__).resolve().parent
# In a wheel conf/ lies inside the package, in a checkout beside it.
CONF = next(path for path in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if path.is_dir())

# Arguments that go to constructors of other libraries: any key is welcome there without a `+`.
FREE_FORM = ("env.kwargs", "env.eval_kwargs", "agent.optimizer.kwargs")


def register() -> None:
    """Teach Hydra what our configuration files use; once in each process that composes."""
    OmegaConf.register_new_resolver("unused_folder", unused_folder, use_cache=True, replace=True)
    ConfigStore.instance().store(name="free_form", node=_free_form())
    register_games()


def unused_folder(parent: str) -> str:
    """Make and return `parent`/<date>_<time>, with a number behind where that is taken."""
    name = time.strftime("%Y-%m-%d_%H-%M-%S")
    for number in itertools.count(1):
        folder = Path(parent) / (name if number == 1 else f"{name}_{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue  # started in the same second
        return str(folder)
    raise AssertionError


def _free_form() -> DictConfig:
    """Return empty groups that accept any key, though Hydra closes all others."""
    node = OmegaConf.create()
    for key in FREE_FORM:
        OmegaConf.update(node, key, {})
        OmegaConf.set_struct(OmegaConf.select(node, key), value=False)
    return node
