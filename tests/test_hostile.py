"""Nobody gets in: dependencies, secrets, folders made by strangers."""

import contextlib
import importlib.metadata
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rlhydra.build import load_config
from rlhydra.enjoy import main as enjoy
from rlhydra.experiment import check
from rlhydra.record import read_yaml
from rlhydra.report import main as report
from rlhydra.resume import main as resume
from rlhydra.schema import ConfigError
from tests.conftest import composed
from tests.test_multirun import start as start_sweep
from tests.trials import SMALL, environment, run, wait_for

ROOT = Path(__file__).parents[1]

# The first releases without the holes known in each.
FLOORS = {"torch": (2, 10), "ray": (2, 55), "hydra-core": (1, 3, 8)}


def numbers(version):
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))


@pytest.mark.parametrize("name", FLOORS)
def test_dependencies_have_no_known_holes(name):
    floor = FLOORS[name]
    (pinned,) = re.findall(rf"^{name}==(\S+)", (ROOT / "constraints.txt").read_text(), re.M)
    assert numbers(pinned) >= floor
    allowed = re.search(rf'"{name}(\[\w+\])?>=([\d.]+)', (ROOT / "pyproject.toml").read_text())
    assert allowed is not None and numbers(allowed[2]) >= floor
    assert numbers(importlib.metadata.version(name)) >= floor


def test_what_is_shown_of_a_configuration_keeps_secrets_to_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET", "hidden")
    path = tmp_path / "config.yaml"
    path.write_text("a: ${oc.env:SECRET}\nb: ${a}\nc: ${oc.decode:${oc.env:SECRET}}\nd: ${e}\ne: 3")
    shown = read_yaml(path, resolve=True)
    assert "hidden" not in str(shown)
    assert (shown["b"], shown["d"]) == ("${oc.env:SECRET}", 3)


@pytest.mark.slow
def test_a_secret_is_in_no_file_of_a_run(tmp_path, monkeypatch):
    folder = tmp_path / "trial"
    monkeypatch.setenv("SECRET_NUMBER", "0.512345678")
    monkeypatch.setenv("SECRET_TEXT", "rgb_array")
    number = "agent.max_grad_norm=${oc.env:SECRET_NUMBER}"
    text = "env.kwargs.render_mode=${oc.env:SECRET_TEXT}"
    code, said = run(folder, *SMALL, "meta.max_session=1", number, text)
    assert code == 0, said
    secrets = (b"12345678", struct.pack("<d", 0.512345678), b"rgb_array")
    contents = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert not [p for p, data in contents.items() if any(secret in data for secret in secrets)]


@pytest.mark.parametrize("command", [resume, report, enjoy])
def test_a_stranger_s_folder_cannot_lead_out_of_itself(tmp_path, command, capsys):
    """Links are refused before anything is read or written."""
    folder = tmp_path / "trial"
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text("seed: 0")
    (folder / "trial.json").write_text("{}")
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (folder / "plots").symlink_to(tmp_path)
    (folder / "report.md").symlink_to(mine)
    assert command([str(folder)]) == 1
    said = capsys.readouterr()
    assert "is a link to" in said.out + said.err
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("command", [resume, enjoy])
def test_code_in_a_stranger_s_folder_is_not_run(tmp_path, command, monkeypatch, capsys):
    folder = tmp_path / "trial"
    (folder / ".hydra").mkdir(parents=True)
    target = "{_target_: evil.Evil}"
    (folder / ".hydra" / "config.yaml").write_text(
        f"seed: 0\nmeta: {{}}\nagent: {target}\nenv: {target}\n"
    )
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'was here')!r}, 'w')")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    assert command([str(folder)]) == 1
    assert not (tmp_path / "was here").exists()


OPEN = "open({path!r}, 'w')\n"
MODULES = {
    "evil.Evil": ("evil.py", ""),
    "evil.Half": ("evil.py", "class Half: pass\n"),
    "evil.inner.Evil": ("evil/__init__.py", ""),
    "evil.inner.agents.Evil": ("evil/__init__.py", "class Evil: pass\nclass EvilConfig: pass\n"),
}


@pytest.mark.parametrize("target", MODULES)
@pytest.mark.parametrize("group", ["agent", "env", "id"])
def test_an_installed_module_that_is_not_for_us_is_not_imported(
    tmp_path, monkeypatch, target, group
):
    """Whatever a configuration names: importing it would be running it."""
    name, text = MODULES[target]
    path = tmp_path / "packages" / name
    (path.parent / "inner").mkdir(parents=True)
    (path.parent / "inner" / "__init__.py").touch()
    path.write_text(OPEN.format(path=str(tmp_path / "was here")) + text)
    monkeypatch.syspath_prepend(tmp_path / "packages")
    key = {"id": "env.id"}.get(group, f"{group}._target_")
    value = f"{target.rpartition('.')[0]}:Evil-v0" if group == "id" else target
    config = composed()
    OmegaConf.update(config, key, value)
    with pytest.raises(ConfigError, match=key):
        check(config)
    with pytest.raises(ConfigError) if group != "id" else contextlib.nullcontext():
        load_config(OmegaConf.to_container(config, resolve=True))
    assert not (tmp_path / "was here").exists()


@pytest.mark.slow
@pytest.mark.ray
def test_a_sweep_resumed_within_its_folder_imports_nothing_of_it(tmp_path):
    settings = (*SMALL, "meta.max_session=1", "agent.lr=1e-3,1e-4")
    with start_sweep(tmp_path / "sweep", *settings) as sweep:
        wait_for((tmp_path / "sweep" / "multirun.yaml").exists)
        sweep.kill()
    for name in ("numpy", "yaml", "hydra", "psutil", "torch"):
        (tmp_path / "sweep" / f"{name}.py").write_text("raise SystemExit('run')")
    command = [sys.executable, "-m", "rlhydra.resume", "."]
    done = subprocess.run(
        command, cwd=tmp_path / "sweep", env=environment(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("module", ["numpy", "typing"])
def test_started_in_a_stranger_s_folder_nothing_of_it_is_imported(tmp_path, module):
    (tmp_path / "trial.json").write_text("{}")
    (tmp_path / f"{module}.py").write_text("open('was here', 'w')")
    command = [sys.executable, "-m", "rlhydra.report", "."]
    subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, check=False)
    assert not (tmp_path / "was here").exists()


SWEEPS = {
    "hydra.callbacks.evil._target_=os.system": "if it is yours",
    "+experiment@hydra.callbacks=evil": "if it is yours",
    "agent='../../../evil'": "if it is yours",
    "--config-path=evil": "no override",
    "hydra.launcher.ray.init.runtime_env.py_executable=evil": "if it is yours",
    "hydra/launcher='../../evil'": "if it is yours",
    "agent=ppo": "if they are yours: --config-dir evil",
}


@pytest.mark.parametrize("override", SWEEPS)
def test_a_stranger_s_sweep_is_not_gone_on_with_by_its_own_code(
    tmp_path, override, monkeypatch, capsys
):
    def start(*command):
        raise AssertionError(command)

    monkeypatch.setattr(os, "execve", start)
    hydra = {
        "overrides": {"hydra": [], "task": []},
        "runtime": {"config_sources": [{"provider": "main", "path": "conf"}]},
    }
    hydra["overrides"]["hydra" if "launcher" in override else "task"].append(override)
    if override == "agent=ppo":
        hydra["runtime"]["config_sources"].append({"provider": "command-line", "path": "evil"})
    OmegaConf.save({"hydra": hydra}, tmp_path / "multirun.yaml")
    (tmp_path / "study.journal").touch()
    assert resume([str(tmp_path)]) == 1
    assert SWEEPS[override] in capsys.readouterr().err
