"""Nobody gets in: dependencies, secrets, folders made by strangers."""

import importlib.metadata
import os
import re
from pathlib import Path

import pytest

from rlhydra.enjoy import main as enjoy
from rlhydra.record import read_yaml
from rlhydra.report import main as report
from rlhydra.resume import main as resume
from tests.trials import SMALL, run

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
def test_a_secret_is_in_no_file_of_a_run(tmp_path):
    folder = tmp_path / "trial"
    os.environ["RLHYDRA_TEST_SECRET"] = "0.512345678"
    try:
        secret = "agent.max_grad_norm=${oc.env:RLHYDRA_TEST_SECRET}"
        code, text = run(folder, *SMALL, "meta.max_session=1", secret)
    finally:
        del os.environ["RLHYDRA_TEST_SECRET"]
    assert code == 0, text
    found = [
        path for path in folder.rglob("*") if path.is_file() and b"12345678" in path.read_bytes()
    ]
    assert not found


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
