"""What several test modules share: the real configuration, composed, and the real command line."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

# Before numpy is there, as in a session's process: its own threads spin, and starve all others.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from rlhydra import __main__
from rlhydra.composition import CONF, register


def composed(*overrides: str) -> DictConfig:
    """Compose the shipped configuration as the command line does."""
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


@pytest.fixture
def command_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run `python -m rlhydra ...` here, in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    handlers, level = logging.root.handlers[:], logging.root.level

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rlhydra", *arguments])
        GlobalHydra.instance().clear()
        OmegaConf.clear_resolvers()
        code = 0
        try:
            __main__.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        # Hydra's handlers write to this test's streams, which the next test does not have.
        logging.root.handlers[:], logging.root.level = handlers, level
        said = capfd.readouterr()
        return code, said.out, said.err

    return run
