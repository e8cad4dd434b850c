"""README.md and docs/: every command composes, every snippet runs, every table is complete."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep

from rlhydra import import_spec
from rlhydra.choices import check_choices
from rlhydra.composition import CONF, register
from rlhydra.config import MetaConfig
from rlhydra.experiment import check
from rlhydra.installed import installed_folders
from tests.documents import PAGES, ROOT, Command, blocks, commands, write_files

COMMANDS = [command for page in PAGES for command in commands(page)]
RUNS = list({str(c): c for c in COMMANDS if c.module == "rlhydra"}.values())
TOOLS = list({str(c): c for c in COMMANDS if c.module != "rlhydra"}.values())
PLAIN = ("--multirun", "-m", "--help")  # options that change nothing in what is composed
VALUED = ("--cfg", "--package", "-p", "-c", "--info", "--shell-completion")

README = ROOT / "README.md"
AGENT_PAGE = ROOT / "docs" / "adding-an-agent.md"


def split(arguments: list[str]) -> tuple[list[str], str | None]:
    """Return the overrides of a command line, and its --config-dir."""
    rest, folder = list(arguments), None
    overrides: list[str] = []
    while rest:
        word = rest.pop(0)
        if word == "--config-dir":
            folder = rest.pop(0)
        elif word in VALUED:
            rest.pop(0)
        elif word not in PLAIN and not word.startswith("--"):
            overrides.append(word)
    return overrides, folder


def one_point(overrides: list[str]) -> list[str]:
    """Return the overrides of the first trial of a sweep."""
    point: list[str] = []
    for override in OverridesParser.create().parse_overrides(overrides):
        value = override.value()
        if isinstance(value, ChoiceSweep):
            point.append(f"{override.input_line.split('=', 1)[0]}={value.list[0]}")
        elif not override.is_sweep_override():
            point.append(str(override.input_line))
    return point


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the files that the pages show, importable."""
    for page in (README, AGENT_PAGE, ROOT / "docs" / "from-slm-lab.md"):
        write_files(page, tmp_path)
    page = ROOT / "docs" / "environments" / "index.md"
    (tmp_path / "corridor.py").write_text(blocks(page, "python")[0], "utf-8")
    (tmp_path / "my_conf" / "env" / "corridor.yaml").write_text(blocks(page, "yaml")[0], "utf-8")
    # As if the package of the page were installed.
    facts = tmp_path / "my_agents-0.1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: my-agents\nVersion: 0.1\n")
    points = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]["entry-points"]
    lines = [f"{name} = {value}" for name, value in points["rlhydra.conf"].items()]
    (facts / "entry_points.txt").write_text("\n".join(["[rlhydra.conf]", *lines, ""]))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    installed_folders.cache_clear()
    yield tmp_path
    installed_folders.cache_clear()
    for name in [name for name in sys.modules if name.startswith("my_agents")]:
        del sys.modules[name]


@pytest.mark.parametrize("command", RUNS, ids=str)
def test_every_command_line_composes(command, project):
    overrides, folder = split(command.arguments)
    if folder == "slm_lab":  # what the page's line before makes
        (line,) = (tool for tool in TOOLS if tool.module == "rlhydra.import_spec")
        assert import_spec.main(line.arguments) == 0
    # Launchers say where trials run, and some are not installed here.
    elsewhere = ("hydra/launcher=", "hydra.launcher.")
    overrides = [o for o in overrides if "FOLDER" not in o and not o.startswith(elsewhere)]
    overrides = one_point(overrides)
    options = []
    if folder is not None:
        options = [f"--config-dir={folder}"]
    register()
    check_choices([*options, *overrides], CONF)
    if folder is not None:
        overrides.append(f"hydra.searchpath=['file://{project / folder}']")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        check(compose("config", overrides))


@pytest.mark.parametrize("command", TOOLS, ids=str)
def test_every_tool_exists(command):
    assert importlib.util.find_spec(command.module) is not None


def test_the_pages_have_commands_at_all():
    assert len(RUNS) > 30
    assert {"rlhydra.enjoy", "rlhydra.report", "rlhydra.resume"} <= {c.module for c in TOOLS}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_on_a_page_compiles(page):
    for text in blocks(page, "python"):
        compile(text, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
        if not target.startswith("https://"):
            assert (page.parent / target).exists(), target


def test_the_readme_is_short():
    assert len(README.read_text("utf-8").splitlines()) <= 150


def test_every_setting_of_meta_is_told_with_an_example():
    text = (ROOT / "docs" / "meta.md").read_text("utf-8")
    for field in dataclasses.fields(MetaConfig):
        assert re.search(rf"^`{field.name}`|^.*, `{field.name}`$", text, re.MULTILINE), field.name
        assert f"meta.{field.name}=" in text, field.name
    for preset in (CONF / "meta").glob("*.yaml"):
        assert f"| `{preset.stem}` |" in text


def test_every_agent_is_told():
    text = (ROOT / "docs" / "agents.md").read_text("utf-8")
    readme = README.read_text("utf-8")
    for path in (CONF / "agent").glob("*.yaml"):
        assert f"`{path.stem}`" in text
        assert f"`{path.stem}`" in readme


def test_every_bar_is_told():
    text = (ROOT / "docs" / "agents.md").read_text("utf-8")
    for row in yaml.safe_load((ROOT / "scripts" / "benchmark.yaml").read_text())["rows"]:
        if "bar" in row:
            frames = f"{row['frames']:,}".replace(",", " ")
            assert f"| `{row['agent']}` | `{row['env']}` | {frames} | {row['bar']} |" in text


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text("utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f": {page.name}\n" in menu, page.name


def run(folder: Path, *arguments: str, more: Path | None = None) -> str:
    """Run python with these arguments in `folder`, which it can import from."""
    path = os.pathsep.join(map(str, [ROOT, more or folder]))
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


SMALL = ("env.max_frame=1000", "meta.max_session=1")


@pytest.mark.slow
def test_the_agent_of_the_page_learns(project):
    arguments = ("agent=climber", "hydra.run.dir=climbed")
    out = run(project, "-m", "rlhydra", *arguments, "env.max_frame=30000", "meta.max_session=2")
    assert "completed" in out
    from rlhydra import Result

    assert Result(project / "climbed").metrics["best_return"]["mean"] > 150
    assert "over 3 games" in run(project, "-m", "rlhydra.enjoy", "climbed", "--episodes", "3")


@pytest.mark.slow
def test_the_package_of_the_page_installs_and_sweeps(project):
    shutil.rmtree(project / "my_agents-0.1.dist-info")
    site, away = project / "site", project / "away"
    away.mkdir()
    install = ("--no-build-isolation", "--no-deps", "--quiet", "--disable-pip-version-check")
    run(project, "-m", "pip", "install", *install, "--target", str(site), ".")
    sweep = ("--multirun", "agent=climber", "agent.noise=0.2,0.5", "hydra.sweep.dir=swept")
    run(away, "-m", "rlhydra", *sweep, *SMALL, more=site)
    assert len(list((away / "swept").glob("*/trial.json"))) == 2
    assert "climber" in run(away, "-m", "rlhydra", "--help", more=site)


@pytest.mark.slow
def test_the_python_of_the_page_runs(tmp_path):
    (tmp_path / "page.py").write_text("\n".join(blocks(ROOT / "docs" / "python.md", "python")))
    out = run(tmp_path, "page.py")
    assert re.search(r"^0\.98 \S+\n", out, re.MULTILINE)


@pytest.mark.slow
def test_the_tools_of_the_pages_run(tmp_path):
    run(tmp_path, "-m", "rlhydra", *SMALL, "hydra.run.dir=FOLDER")
    run(tmp_path, "-m", "rlhydra", *SMALL, "seed=1", "hydra.run.dir=OTHER_FOLDER")
    # The trial has one session; what takes overrides is for sweeps.
    seen = {(tool.module, " ".join(tool.arguments)) for tool in TOOLS}
    for module, line in sorted(seen):
        words = line.replace("--session 2", "--session 0").split()
        if "FOLDER" in words and "=" not in line and module != "rlhydra.wandb":
            run(tmp_path, "-m", module, *words)


def test_comments_and_options_are_no_overrides():
    command = Command("", "rlhydra", ["--config-dir", "x", "a=1", "--cfg", "job", "--multirun"])
    assert split(command.arguments) == (["a=1"], "x")
    assert one_point(["a=1,2", "b=interval(0, 1)", "c=[1,2]"]) == ["a=1", "c=[1,2]"]
