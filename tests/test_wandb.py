"""`python -m rlhydra.wandb`: a trial's rows as Weights & Biases takes them."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from rlhydra.record import read_trial
from rlhydra.wandb import main, rows
from tests.test_report import make_trial
from tests.trials import environment

INSTALLED = importlib.util.find_spec("wandb") is not None


def test_rows_are_by_frame_under_the_tags_of_tensorboard(tmp_path):
    (session,) = read_trial(make_trial(tmp_path / "trial", (10.0,))).sessions
    found = list(rows(session))
    assert [row["frame"] for row in found] == [5, 10, 12, 20, 30]
    assert found[0] == {"frame": 5, "game/return": 3, "game/length": 3}
    assert found[3] == {
        "frame": 20, "time/fps": 100, "time/opt_step": 2, "loss/policy": -0.1, "loss/value": 1e4,
        "schedule/lr": 0.001, "eval/return": 6, "eval/return_std": 3, "eval/episodes": 2,
    }  # fmt: skip


@pytest.mark.skipif(INSTALLED, reason="it is installed")
def test_what_is_missing_is_named(tmp_path, capsys):
    assert main([str(make_trial(tmp_path / "trial", (10.0,)))]) == 1
    assert "pip install 'rlhydra[wandb]'" in capsys.readouterr().err


@pytest.mark.skipif(not INSTALLED, reason="needs the extra wandb")
@pytest.mark.slow
def test_a_trial_is_sent_offline(tmp_path):
    folder = make_trial(tmp_path / "trial", (10.0, 20.0))
    places = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}
    command = [sys.executable, "-m", "rlhydra.wandb", str(folder)]
    done = subprocess.run(
        command, env={**environment(), **places}, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    logs = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(logs) == 2
    assert all(b"eval/return" in path.read_bytes() for path in logs)
