"""`python -m rlhydra`: compose a configuration and run its trial, or with --multirun its trials."""

import sys
from typing import Any

import hydra

from rlhydra.choices import check_choices
from rlhydra.completion import module_script
from rlhydra.composition import CONF, register
from rlhydra.experiment import fail, run_job
from rlhydra.schema import ConfigError


@hydra.main(config_path=str(CONF), config_name="config", version_base="1.3")
def job(composed: Any) -> float | None:
    """Run one trial."""
    return run_job(composed)


def main() -> None:
    """Run the command line."""
    script = module_script(sys.argv)
    if script is not None:
        print(script)
        return
    register()
    try:
        check_choices(sys.argv[1:], CONF)
    except ConfigError as error:
        fail(error)
    job()


if __name__ == "__main__":
    main()
