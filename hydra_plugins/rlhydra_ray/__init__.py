"""hydra-ray-launcher for trials: nothing to set up, quiet, safe, and no failure ends the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn
from hydra_plugins.hydra_ray_launcher.ray_launcher import RayLauncher


class RayTrials(RayLauncher):
    """Runs each trial as a Ray task, on this machine or on a cluster that runs already."""

    def slots(self) -> int:
        """Return how many trials can run at once."""
        return self._cluster().slots(self)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run one trial for each list of overrides, numbered from `initial_job_idx`."""
        return self._cluster().launch(self, job_overrides, initial_job_idx)

    def _cluster(self) -> Any:
        # Plugins are imported at every start, also of a single trial: Ray is not needed there.
        from rlhydra.loopback import keep_private

        if self.ray_cfg.init.address == "local":
            keep_private()
        from rlhydra import cluster

        return cluster
