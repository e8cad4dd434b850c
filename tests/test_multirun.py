"""Sweeps by the command line: grids, searches, what goes wrong, what goes on."""

import contextlib
import csv
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest

from rlhydra.cluster import private_folder
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


def start(folder, *overrides, module="rlhydra"):
    """Start a sweep in `folder`; the caller ends it."""
    arguments = ["--multirun", f"hydra.sweep.dir={folder}", *TINY, *overrides]
    if module == "rlhydra.resume":
        arguments = [str(folder)]
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
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


def command(module, folder, *arguments):
    line = [sys.executable, "-m", f"rlhydra.{module}", str(folder), *arguments]
    done = subprocess.run(
        line, env=environment(), capture_output=True, text=True, timeout=300, check=False
    )
    return done.returncode, done.stdout + done.stderr


def resume(folder, *settings):
    return command("resume", folder, *settings)


def processes(folder):
    """Return the command lines, of processes that run, in which `folder` is named."""
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    return [line for line in lines if str(folder).encode() in line]


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
    ("agent.horizon=33,34",): "agent.minibatch_size: 256 does not divide",
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
    assert f"python -m rlhydra.validate {folder}" in (folder / "report.md").read_text()
    assert len(list(folder.glob("[01]/hparams/events.out.tfevents*"))) == 2
    before = [trial.params for trial in study_of(folder).trials]
    kept = (folder / "0" / "trial.json").read_bytes()

    code, text = resume(folder, "meta.max_trial=3", "meta.keep_trials=1")
    assert code == 0, text
    best = read_experiment(folder)[0].number
    assert [path.parts[-3] for path in folder.glob("*/session_0/checkpoints")] == [str(best)]
    trials = study_of(folder).trials
    assert [trial.params for trial in trials[:2]] == before
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 3
    assert (folder / "0" / "trial.json").read_bytes() == kept

    code, text = sweep(folder, BASIC, "agent.gamma=interval(0.9, 0.99)", "meta.max_trial=4")
    assert code == 1
    assert "choose another folder" in text


def test_a_failing_trial_is_recorded_and_does_not_end_the_others(tmp_path):
    folder = tmp_path / "sweep"
    faults = ("env._target_=tests.broken.BrokenEnvironment", "env.fault.session=0,9",
              "+env.fault={point:step,kind:exception,session:0}", "meta.max_retries=0")  # fmt: skip
    code, text = sweep(folder, BASIC, "agent.horizon=33,32", *faults)
    assert code == 1
    assert [status(folder, number) for number in range(4)] == ["failed"] * 3 + ["completed"]
    assert "does not divide" in text
    assert "Traceback" in (folder / "0" / "rlhydra.log").read_text()
    assert "broken on purpose" in text
    assert [trial.state.name for trial in study_of(folder).trials] == ["FAIL"] * 3 + ["COMPLETE"]


@pytest.mark.slow
def test_the_best_trials_run_again_with_fresh_seeds(tmp_path):
    folder = tmp_path / "sweep"
    assert sweep(folder, BASIC, "agent.lr=1e-3,1e-4,1e-5", "agent.gamma=0.9")[0] == 0
    best = [entry.number for entry in read_experiment(folder)[:2]]
    code, text = command("validate", folder, "--best=2", "--seeds=3")
    assert code == 0, text
    again = {entry.number: entry.again for entry in read_experiment(folder) if entry.again}
    assert sorted(again) == sorted(best)
    for trial in again.values():
        assert [session.seed for session in trial.sessions] == [1, 1, 1]
        assert trial.config["agent"]["gamma"] == 0.9
    assert "with fresh seeds" in (folder / "report.md").read_text()
    kept = (folder / "validate" / str(best[0]) / "trial.json").read_bytes()
    assert command("validate", folder, "--best=1", "--seeds=3")[0] == 0
    assert (folder / "validate" / str(best[0]) / "trial.json").read_bytes() == kept
    code, text = command("validate", folder, "--best=1", "--seeds=4")
    assert code == 1
    assert "another meta.max_session" in text


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
def test_a_sweep_whose_driver_was_killed_goes_on(tmp_path):
    folder = tmp_path / "sweep"
    with start(folder, LRS, "env.max_frame=30_000") as process:
        wait_for(lambda: (folder / "0" / "session_0" / "eval.csv").exists(), 120)
        process.kill()
    finish(folder)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("seed", range(2))
def test_a_sweep_whose_driver_is_killed_again_and_again_goes_on(tmp_path, seed):
    folder, moment = tmp_path / "sweep", random.Random(seed)
    for again in range(5):
        module = "rlhydra.resume" if again else "rlhydra"
        with start(folder, LRS, "env.max_frame=30_000", module=module) as process:
            wait_for((folder / "multirun.yaml").exists)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(moment.uniform(0, 15))
            process.kill()
    finish(folder)


def finish(folder):
    """Go on with a sweep of two trials to its end; see that nothing was lost or done twice."""
    params = [trial.params for trial in study_of(folder).trials if len(trial.params) == 1]
    code, text = resume(folder)
    assert code == 0, text
    trials = study_of(folder).trials
    assert [trial.params for trial in trials][: len(params)] == params
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 2
    assert not [path for path in folder.iterdir() if path.name.isdigit() and path.name not in "01"]
    wait_for(lambda: not processes(folder))
    assert not private_folder(folder).exists()
    for number in (0, 1):
        rows = (folder / str(number) / "session_0" / "eval.csv").read_text().splitlines()
        frames = [int(row.partition(",")[0]) for row in rows[1:]]
        assert frames == sorted(set(frames))
        assert frames[-1] >= 30_000


@pytest.mark.slow
@pytest.mark.ray
def test_a_trial_whose_process_is_killed_goes_on_and_ends_no_other(tmp_path):
    """Ray starts it again from its checkpoint, twice; then it has failed."""
    folder = tmp_path / "sweep"
    limits = ("meta.num_cpus=1", "env.max_frame=60_000")
    with start(folder, LRS, *limits, "meta.checkpoint_interval=0") as process:
        killed = [None]
        for _ in range(3):
            killed.append(wait_for(lambda: other_worker(folder / "0", killed[-1]), 120))
            os.kill(killed[-1], signal.SIGKILL)
        text, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert [status(folder, number) for number in (0, 1)] == ["failed", "completed"]
    assert "its process ended" in text


def other_worker(folder, before):
    """Return the parent of the trial's session, where it is another than `before`."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{folder}\0".encode() in (path / "cmdline").read_bytes():
                parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
                worker = (path.parent / parent / "cmdline").read_bytes().startswith(b"ray::")
                if worker and int(parent) != before:
                    return int(parent)
    return None
