"""`python -m rlhydra.import_spec SPEC NAME`: an SLM Lab spec as an experiment of ours."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.text import Text

from rlhydra.experiment import check, without_hydra
from rlhydra.schema import ConfigError
from rlhydra.slm_lab.spec import Spec, read_spec
from rlhydra.slm_lab.translation import Row, Translation, origin, translate, written
from rlhydra.training import composed

MARK = "by python -m rlhydra.import_spec"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; return the exit code."""
    options = _options(arguments)
    try:
        return _import(options, Console(highlight=False, emoji=False))
    except ConfigError as error:
        print(f"rlhydra: {error}", file=sys.stderr)
        return 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m rlhydra.import_spec",
        description="Turn a spec of SLM Lab into an experiment: a file, and the command line that "
        "runs it. Says what became of each key, and fails by name on what does not exist here.",
    )
    parser.add_argument("spec", type=Path, metavar="SPEC.json", help="a spec file, JSON or YAML")
    parser.add_argument("name", metavar="NAME", help="of the spec in it")
    parser.add_argument("values", nargs="*", metavar="VARIABLE=VALUE", help="for its ${VARIABLE}s")
    parser.add_argument(
        "--drop", action="append", default=[], metavar="KEY", help="leave a key out"
    )
    parser.add_argument(
        "--to", type=Path, default=Path("slm_lab"), help="folder to write (slm_lab)"
    )
    options = parser.parse_args(arguments)
    if any("=" not in value for value in options.values):
        parser.error("values of variables are given as VARIABLE=VALUE, such as env=CartPole-v1")
    return options


def _import(options: argparse.Namespace, console: Console) -> int:
    values = dict(str(text).split("=", 1) for text in options.values)
    spec = read_spec(options.spec, options.name, values)
    found = translate(spec, options.drop)
    _say(found.rows, console)
    if found.missing:
        for key, why in found.missing.items():
            print(f"rlhydra: {key}: {why}", file=sys.stderr)
        flags = " ".join(f"--drop {key}" for key in found.missing)
        print(f"Nothing was written. To go on without: {flags}", file=sys.stderr)
        return 1
    name = "_".join([options.name, *values.values()]).replace("/", "_")
    files = _files(name, options, found)
    with tempfile.TemporaryDirectory() as folder:
        _write(Path(folder), files)
        _check(name, Path(folder), spec)
    for path in _write(options.to, files):
        console.print(Text(f"wrote  {path}"), soft_wrap=True)
    for label, command in _commands(name, options.to, found).items():
        console.print(Text(f"{label:<6} {command}"), soft_wrap=True)
    return 0


def _say(rows: Sequence[Row], console: Console) -> None:
    """Print what became of each key, below it: keys are too long for columns."""
    for row in rows:
        lost = row.became.startswith("NO EQUAL")
        console.print(Text.assemble((f"{row.key}: ", "bold"), written(row.value)), soft_wrap=True)
        console.print(Text(f"    {row.became}", "red" if lost else "dim"), soft_wrap=True)


def _files(name: str, options: argparse.Namespace, found: Translation) -> dict[str, str]:
    settings = dict(found.settings)
    agent, env = settings.pop("agent"), settings.pop("env")
    head = f"# @package _global_\n# {options.name} of {options.spec.name}, {MARK}\n"
    tree: dict[str, Any] = {
        "defaults": [{"override /agent": agent}, {"override /env": env}],
        **_nested(settings),
    }
    files = {f"experiment/{name}.yaml": head + yaml.safe_dump(tree, sort_keys=False)}
    if not found.grid:
        head = f"# @package hydra.sweeper.params\n# {options.name}, {MARK}\n"
        lines = yaml.safe_dump(found.space, sort_keys=False, width=1000)
        files[f"search/{name}.yaml"] = head + lines
    return files


def _nested(settings: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for place, value in settings.items():
        *parents, last = place.split(".")
        branch = tree
        for part in parents:
            branch = branch.setdefault(part, {})
        branch[last] = value
    return tree


def _check(name: str, folder: Path, spec: Spec) -> None:
    """Compose the experiment; an error names the key of the spec that it comes from."""
    try:
        check(without_hydra(composed([f"experiment={name}"], config_dir=folder)))
    except ConfigError as error:
        place, _, problem = str(error).partition(": ")
        raise ConfigError(origin(place, spec), f"{problem} ({place})") from error


def _write(folder: Path, files: dict[str, str]) -> list[Path]:
    paths = [folder / name for name in files]
    for path in paths:
        if path.exists() and MARK not in path.read_text(encoding="utf-8"):
            raise ConfigError(str(path), "is a file of yours; choose another folder with --to")
    for path, text in zip(paths, files.values(), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return paths


def _commands(name: str, folder: Path, found: Translation) -> dict[str, str]:
    words = ["python", "-m", "rlhydra", "--config-dir", str(folder), f"experiment={name}"]
    commands = {"train": shlex.join(words)}
    if found.space:
        words.insert(3, "--multirun")
        grid = [f"{place}={values}" for place, values in found.space.items()]
        words += grid if found.grid else [f"search={name}"]
        commands["search"] = shlex.join(words)
    return commands


if __name__ == "__main__":
    sys.exit(main())
