"""From the command line to trials: checks before anything is written, then a trial a Hydra job."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from rlhydra.config import Config, NetConfig, differing_keys, parse
from rlhydra.env.environment import Environment, action_kind
from rlhydra.files import refuse_links
from rlhydra.lock import sole_owner
from rlhydra.record import best_weights
from rlhydra.schema import ConfigError, FitError
from rlhydra.targets import target_class
from rlhydra.trial import Trial

JOURNAL = "study.journal"  # in a sweep's folder


def check(composed: DictConfig) -> Config:
    """Return the configuration, with all checked that can be checked before anything is written.

    Raises:
        ConfigError: for a bad setting or an environment that does not exist.
        FitError: for settings that do not go together, as an agent that cannot act there.
    """
    config = parse(composed)
    env_class = target_class(config.env_target, Environment)
    obs_space, action_space = env_class.spaces(config.env)
    kind = action_kind(action_space)
    if kind not in config.agent.actions:
        name = config.agent_target.rpartition(".")[2]
        able = ", ".join(config.agent.actions)
        problem = f"{name} acts in {able} action spaces; {config.env.id} has {action_space}"
        raise FitError("agent", problem)
    for net in vars(config.agent).values():
        if isinstance(net, NetConfig):
            net.kind_for(obs_space.shape)
    return config


def check_start(config: Config) -> None:
    """Raise ConfigError where the weights that training shall start from are not there."""
    if config.agent.init_from is not None:
        best_weights(Path(config.agent.init_from))


class Check(Callback):
    """Ends a wrong command line before Hydra makes a folder for it."""

    def on_run_start(self, config: DictConfig, **_: Any) -> None:
        """Check the configuration, and the folder if it was used before."""
        try:
            composed = without_hydra(config)
            checked = check(composed)
            check_start(checked)
            check_folder(Path(str(config.hydra.run.dir)), composed)
            if checked.meta.search_scheduler is not None and checked.meta.progress is not False:
                print("meta.search_scheduler stops trials of a sweep, not this single one")
        except ConfigError as error:
            # Hydra turns a callback's exceptions into warnings; SystemExit passes.
            fail(error)


def without_hydra(config: DictConfig) -> DictConfig:
    """Return the configuration of the trial alone."""
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def fail(error: ConfigError) -> NoReturn:
    """End with the message on stderr and exit code 1."""
    print(f"rlhydra: {error}", file=sys.stderr)
    sys.exit(1)


def check_folder(folder: Path, composed: DictConfig) -> None:
    """Raise ConfigError where `folder` holds links, or a trial of another configuration."""
    refuse_links(folder)
    before = folder / ".hydra" / "config.yaml"
    if not (folder / "trial.json").exists() or not before.exists():
        return
    saved = OmegaConf.load(before)
    assert isinstance(saved, DictConfig)
    keys = differing_keys(saved, composed)
    if keys:
        raise ConfigError(
            str(folder), f"holds a trial with another {', '.join(keys)}; choose another folder"
        )


def run_job(composed: DictConfig) -> float | None:
    """Run the trial of a Hydra job in its folder; return its objective."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir).resolve()
    names = {group: str(hydra.runtime.choices.get(group)) for group in ("agent", "env")}
    if hydra.mode == RunMode.MULTIRUN:
        # Imported here, as it brings Optuna, which a trial alone does without.
        from rlhydra.sweep_trial import run_in_sweep

        return run_in_sweep(composed, folder, names, int(hydra.job.num))
    try:
        with sole_owner(folder):
            trial = Trial(composed, folder, names)
            code = trial.run()
    except ConfigError as error:
        fail(error)
    if code:
        sys.exit(code)
    return trial.objective


def quoted(text: str) -> str:
    """Write `text` as the value of an override."""
    return "'" + text.replace("'", "\\'") + "'"
