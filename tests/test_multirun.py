"""Sweeps by the command line: grids, searches, what goes wrong, what goes on."""

import csv
import json
import signal
import subprocess
import sys

import optuna
import pytest

from rlhydra.ranking import read_experiment
from tests.trials import environment, timeless, wait_for

TINY = (
    "env.max_frame=512",
    "meta.max_session=1",
    "meta.log_frequency=256",
    "meta.eval_frequency=256",
)
BASIC = "hydra/launcher=basic"
LRS = "agent.lr=1e-3,1e-4"


def start(folder, *overrides):
    """Start a sweep in `folder`; the caller ends it."""
    place = f"hydra.sweep.dir={folder}"
    return subprocess.Popen(
        [sys.executable, "-m", "rlhydra", "--multirun", place, *TINY, *overrides],
        cwd=folder.parent,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def sweep(folder, *overrides, timeout=300):
    """Run a sweep in `folder`; return its exit code and what it printed."""
    with start(folder, *overrides) as process:
        try:
            text, _ = process.communicate(timeout=timeout)
        finally:
            process.kill()
    return process.returncode, text


def resume(folder, *settings):
    command = [sys.executable, "-m", "rlhydra.resume", str(folder), *settings]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    return done.returncode, done.stdout + done.stderr


def study_of(folder):
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
    return optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))


def status(folder, number):
    path = folder / str(number) / "trial.json"
    return json.loads(path.read_text())["status"] if path.exists() else "queued"


WRONG = {
    ("agent.lrr=1,2",): "did you mean agent.lr",
    ("agent.lr=1e-3,fast",): "agent.lr=fast: agent.lr: expected a number",
    ("agent.gamma=interval(0, 2)",): "agent.gamma=2.0: agent.gamma: expected a number",
    ("env=cartpole,cartpoel",): "env: there is no choice cartpoel (did you mean cartpole",
    ("agent.horizon=32,33",): "agent.minibatch_size: 256 does not divide",
    ("search=ppo", "hydra.sweeper.sampler=tpee"): "did you mean tpe",
    ("meta.max_trial=0", "agent.lr=1,2"): "meta.max_trial: expected a number > 0",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_sweep_names_its_fault_and_writes_nothing(wrong, command_line, tmp_path):
    code, out, err = command_line("--multirun", BASIC, *wrong)
    assert code == 1
    assert WRONG[wrong] in out + err
    assert "Traceback" not in out + err
    assert not list(tmp_path.iterdir())


def test_a_sweep_is_one_folder_ranked_recorded_and_extended(tmp_path):
    folder = tmp_path / "sweep"
    search = (BASIC, "agent.lr=interval(1e-4, 1e-3)", "agent.epochs=2,4")
    code, text = sweep(folder, *search, "meta.max_trial=2")
    assert code == 0, text
    entries = read_experiment(folder)
    assert [entry.trial.status for entry in entries] == ["completed", "completed"]
    assert entries[0].score >= entries[1].score
    with (folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == ["1", "2"]
    assert float(rows[0]["objective"]) == entries[0].score
    assert "python -m rlhydra env.max_frame=512" in (folder / "report.md").read_text()
    before = [trial.params for trial in study_of(folder).trials]
    kept = (folder / "0" / "trial.json").read_bytes()

    code, text = resume(folder, "meta.max_trial=3")
    assert code == 0, text
    trials = study_of(folder).trials
    assert [trial.params for trial in trials[:2]] == before
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert (folder / "0" / "trial.json").read_bytes() == kept

    code, text = sweep(folder, BASIC, "agent.gamma=interval(0.9, 0.99)", "meta.max_trial=4")
    assert code == 1
    assert "choose another folder" in text


def test_a_failing_trial_is_recorded_and_does_not_end_the_others(tmp_path):
    folder = tmp_path / "sweep"
    combination = ("agent.horizon=int(interval(32, 33))", "seed=3")
    code, text = sweep(folder, BASIC, *combination, "meta.max_trial=2")
    assert code == 1
    assert sorted(status(folder, number) for number in (0, 1)) == ["completed", "failed"]
    failed = next(n for n in (0, 1) if status(folder, n) == "failed")
    assert "does not divide" in text
    assert "Traceback" in (folder / str(failed) / "rlhydra.log").read_text()
    assert study_of(folder).trials[failed].state.name == "FAIL"


@pytest.mark.slow
def test_an_interrupted_sweep_goes_on(tmp_path):
    folder = tmp_path / "sweep"
    with start(folder, BASIC, LRS, "env.max_frame=100_000") as process:
        wait_for(lambda: (folder / "0" / "session_0" / "eval.csv").exists())
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    assert status(folder, 0) == "interrupted"
    assert status(folder, 1) == "queued"
    code, text = resume(folder, "env.max_frame=5000")
    assert code == 1
    assert "env.max_frame" in text
    code, text = resume(folder)
    assert code == 0, text
    assert [trial.state.name for trial in study_of(folder).trials] == ["COMPLETE"] * 2


@pytest.mark.ray
def test_ray_gives_what_the_basic_launcher_gives(tmp_path):
    ray, basic = tmp_path / "ray", tmp_path / "basic"
    for folder, more in ((ray, ()), (basic, (BASIC,))):
        code, text = sweep(folder, LRS, "meta.max_session=2", *more)
        assert code == 0, text
        assert "ray" not in text.replace(str(folder), "").lower()
    for trial in "01":
        for session in ("session_0", "session_1"):
            assert timeless(ray / trial / session) == timeless(basic / trial / session)


@pytest.mark.ray
@pytest.mark.parametrize("delay", [0.0, 2.0])
def test_a_sweep_whose_driver_was_killed_goes_on(tmp_path, delay):
    folder = tmp_path / "sweep"
    with start(folder, LRS, "env.max_frame=30_000") as process:
        wait_for(lambda: (folder / "0" / "session_0" / "eval.csv").exists(), 120)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(delay)
        process.kill()
    params = [trial.params for trial in study_of(folder).trials]
    code, text = resume(folder)
    assert code == 0, text
    trials = study_of(folder).trials
    assert [trial.params for trial in trials] == params
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 2
    for number in (0, 1):
        rows = (folder / str(number) / "session_0" / "eval.csv").read_text().splitlines()
        frames = [int(row.partition(",")[0]) for row in rows[1:]]
        assert frames == sorted(set(frames))
        assert frames[-1] >= 30_000
