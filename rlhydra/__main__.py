"""`python -m rlhydra`: compose a configuration and run its trial, or with --multirun its trials."""

from pathlib import Path
from typing import Any

import hydra

from rlhydra.experiment import register, run_job

_PACKAGE = Path(__file__).resolve().parent
# In a wheel conf/ lies inside the package, in a checkout beside it.
CONF = next(path for path in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if path.is_dir())


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
