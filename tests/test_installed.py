"""Choices that installed packages bring by the entry point group `rlhydra.conf`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rlhydra import ConfigError, train
from rlhydra.choices import check_choices
from rlhydra.composition import CONF, register
from rlhydra.installed import installed_folders
from tests.trials import environment

ENV = "# @package _global_\ndefaults:\n  - override /family: classic\nenv:\n  id: {}\n"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Make packages that look installed: each has its own choices of environments."""
    monkeypatch.syspath_prepend(tmp_path)
    installed_folders.cache_clear()

    def make(name, envs, value=None):
        folder = tmp_path / name / "conf" / "env"
        folder.mkdir(parents=True)
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('imported')\n")
        for choice, env_id in envs.items():
            (folder / f"{choice}.yaml").write_text(ENV.format(env_id))
        facts = tmp_path / f"{name}-1.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        points = f"[rlhydra.conf]\n{name} = {value or f'{name}.conf'}\n"
        (facts / "entry_points.txt").write_text(points)
        return tmp_path

    yield make
    installed_folders.cache_clear()


def test_their_choices_are_found_and_listed_without_importing_them(install):
    folder = install("their_tasks", {"their_pole": "CartPole-v1"})
    path = f"{environment()['PYTHONPATH']}:{folder}"
    command = [sys.executable, "-m", "rlhydra", "env=their_pole", "--cfg", "job", "-p", "env"]
    done = subprocess.run(
        command, env={**environment(), "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert "id: CartPole-v1" in done.stdout, done.stderr
    register()
    with pytest.raises(ConfigError, match="did you mean their_pole"):
        check_choices(["env=their_pol"], CONF)


def test_training_from_python_finds_them(install, tmp_path):
    install("their_tasks", {"their_ghost": "NoSuch-v0"})
    with pytest.raises(ConfigError, match="NoSuch-v0"):
        train("env=their_ghost", folder=tmp_path / "trial")


def test_files_of_one_name_are_refused(install):
    install("their_tasks", {"twice": "CartPole-v1"})
    install("other_tasks", {"twice": "Acrobot-v1"})
    register()
    with pytest.raises(ConfigError, match=r"twice\.yaml: .*other_tasks/conf/env has its own"):
        check_choices(["env=cartpole"], CONF)


def test_an_entry_point_to_nowhere_is_named(install):
    install("their_tasks", {}, value="their_tasks.config")
    with pytest.raises(ConfigError, match=r"rlhydra\.conf:their_tasks: expected package\.folder"):
        installed_folders()
