"""Completion in a real bash, as a user's keys would ask for it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trials import environment

BASH = shutil.which("bash")
# What readline does at a tab: split the line, call the function, take its answer.
TAB = """
eval "$("$PYTHON" -m rlhydra --shell-completion install=bash)"
function=$(complete -p python | sed 's/.*-F \\([^ ]*\\).*/\\1/')
for COMP_LINE in "$@"; do
    COMP_POINT=${#COMP_LINE}; COMP_WORDS=($COMP_LINE); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    COMPREPLY=(); $function; echo "${COMPREPLY[*]}"
done
"""


@pytest.mark.skipif(BASH is None, reason="there is no bash")
@pytest.mark.slow
def test_choices_and_settings_are_completed_behind_python_m(tmp_path):
    python = Path(sys.executable).parent / "python"
    lines = [
        f"{python} -m rlhydra env=car",
        f"{python} -m rlhydra --multirun env=pong agent.l",
        f"{python} -m rlhydra env=acrobot agent=ppo_",
        f"{python} script.py env=car",
    ]
    done = subprocess.run(
        [BASH, "-c", TAB, "bash", *lines],
        env={**environment(), "PYTHON": str(python)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == [
        "env=car_racing env=carnival env=cartpole",
        "agent.lam= agent.lr.",  # where it is a schedule there are keys below
        "agent=ppo_gru agent=ppo_lstm",
        "",
    ], done.stderr
