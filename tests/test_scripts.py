import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = [ROOT / ".ci" / "run"]
SCRIPTS += sorted(
    path for path in (ROOT / "scripts").iterdir() if path.is_file() and not path.suffix
)

# Stands for python3 and for .venv/bin/python: it makes environments and installs in no time, and
# writes down what it was asked for.
PYTHON = """#!/bin/sh
case "$*" in
*"-m venv "*) echo venv >>"$LOG"; mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
*"-m pip --version"*) ;;
*"-m pip install "*) echo "$*" | grep -q "\\[dev\\]" && echo dev >>"$LOG" || echo base >>"$LOG"
    sleep 0.1; eval "${PIP:-}" ;;
*"-m rlhydra"*) shift 2; pwd -P; printf '<%s>\\n' "$@" ;;
*) exec "$REAL" "$@" ;;
esac
"""


class Checkout:
    def __init__(self, folder):
        self.root, self.bin, self.log = folder / "a b", folder / "bin", folder / "log"
        self.root.mkdir()
        self.bin.mkdir()
        shutil.copytree(ROOT / "scripts", self.root / "scripts")
        (self.root / "pyproject.toml").write_text("")
        (self.root / "constraints.txt").write_text("")
        self.python(PYTHON)

    def python(self, text):
        for name in ("python3", "python3.13", "python3.12", "python3.11"):
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)

    def start(self, *command, cwd=None, pip=""):
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "LOG": str(self.log), "REAL": sys.executable, "PIP": pip}
        command = command or (self.root / "scripts" / "run",)
        return subprocess.Popen(
            command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *command, **kwargs):
        process = self.start(*command, **kwargs)
        out, err = process.communicate(timeout=30)
        return process.returncode, out, err

    @property
    def done(self):
        return self.log.read_text().split() if self.log.exists() else []


@pytest.fixture
def checkout(tmp_path):
    return Checkout(tmp_path)


@pytest.mark.parametrize(
    "script", SCRIPTS, ids=lambda script: f"{script.parent.name}/{script.name}"
)
def test_scripts_are_executable_and_parse(script):
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)


def test_run_sets_up_once_and_works_where_the_caller_stands(checkout, tmp_path):
    link, there = tmp_path / "a link", tmp_path / "some where"
    link.symlink_to(checkout.root / "scripts" / "run")
    there.mkdir()
    for _ in range(2):
        code, out, _ = checkout.run(link, "env=pong", "two words", cwd=there)
        assert (code, out.splitlines()) == (0, [str(there), "<env=pong>", "<two words>"])
    assert checkout.done == ["venv", "base"]


def test_a_change_of_the_pins_installs_again(checkout):
    checkout.run()
    (checkout.root / "constraints.txt").write_text("numpy==2.0.0")
    checkout.run()
    assert checkout.done == ["venv", "base", "base"]


def test_an_environment_for_developers_serves_run(checkout):
    checkout.run(checkout.root / "scripts" / "setup", "dev")
    checkout.run()
    assert checkout.done == ["venv", "dev"]


def test_an_environment_for_run_is_extended_for_developers(checkout):
    checkout.run()
    checkout.run(checkout.root / "scripts" / "setup", "dev")
    assert checkout.done == ["venv", "base", "dev"]


def test_first_starts_at_the_same_time_set_up_once(checkout):
    starts = [checkout.start() for _ in range(3)]
    for start in starts:
        start.communicate(timeout=30)
    assert [start.returncode for start in starts] == [0, 0, 0]
    assert checkout.done == ["venv", "base"]


def test_a_killed_installation_is_made_anew(checkout):
    code, _, err = checkout.run(pip="kill -9 $$")
    assert code == 1
    assert "pip ended with code 137" in err
    assert checkout.run()[0] == 0
    assert checkout.done == ["venv", "base", "venv", "base"]


def test_a_failed_installation_is_told_and_tried_again(checkout):
    code, _, err = checkout.run(pip="echo no such package; exit 1")
    assert code == 1
    assert "no such package\nscripts/setup: pip ended with code 1" in err
    assert checkout.run()[0] == 0
    assert checkout.done == ["venv", "base", "base"]


def test_a_link_to_another_environment_is_never_cleared(checkout, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "precious").touch()
    (checkout.root / ".venv").symlink_to(theirs)
    assert checkout.run()[0] == 0
    assert (theirs / "precious").exists()
    assert not (checkout.root / ".venv").is_symlink()


def test_an_old_python_is_one_clear_error(checkout):
    checkout.python('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 && exit\nexit 1\n')
    code, out, err = checkout.run()
    assert (code, out) == (1, "")
    assert err == (
        "scripts/setup: rlhydra needs Python 3.11 or newer as python3, found Python 3.9.2: "
        "install it and start again\n"
    )
