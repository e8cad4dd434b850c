"""`python -m rlhydra`: compose a configuration and run its trial, or with --multirun its trials."""

from typing import Any

import hydra

from rlhydra.composition import CONF, register
from rlhydra.experiment import run_job


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def job(composed: Any) -> float | None:
    """Run one trial."""
    return run_job(composed)


def main() -> None:
    """Run the command line."""
    register()
    job()


if __name__ == "__main__":
    main()
