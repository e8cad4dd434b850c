"""The sweeper that `--multirun` uses: a grid, or a sampled search, recorded as an Optuna study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class ExperimentSweeper(Sweeper):
    """Hands the trials of an experiment to whatever launcher is configured."""

    def __init__(
        self,
        sampler: str,
        sampler_kwargs: Mapping[str, Any],
        wave: int | None,
        params: Mapping[str, Any],
    ) -> None:
        self.sampler = sampler
        self.sampler_kwargs = sampler_kwargs
        self.wave = wave
        self.params = params
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None
        self.launcher: Launcher | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra composed, and make the launcher."""
        self.config = config
        self.hydra_context = hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the trials that the command line and the search space describe."""
        # Plugins are imported at every start, also of a single trial: Optuna is not needed there.
        from rlhydra.sweep import Sweep

        assert self.config is not None
        assert self.hydra_context is not None
        assert self.launcher is not None
        sweep = Sweep(self.config, self.hydra_context.config_loader, self.launcher)
        return sweep.run(
            arguments, dict(self.params), self.sampler, dict(self.sampler_kwargs), self.wave
        )
