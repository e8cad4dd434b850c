import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.trials import SMALL, frames, settings, start, timeless, train, wait_for

LONG = (*SMALL, "env.max_frame=60000", "meta.max_session=3")


def processes(folder):
    """The processes whose command line names `folder`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(folder).encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def assert_whole(folder):
    for path in folder.glob("session_*/*.csv"):
        assert path.read_bytes().endswith(b"\n")
        frames(path)
    assert not list(folder.rglob("*.writing"))


def stop(process, number, within=10.0):
    started = time.monotonic()
    process.send_signal(number)
    code = process.wait(within + 5)
    assert time.monotonic() - started < within
    return code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_sessions_start_and_others_train(tmp_path, number):
    """On two cores the third session waits; on one the second does."""
    folder = tmp_path / "trial"
    with start(folder, *LONG) as process:
        wait_for(lambda: (folder / "session_0" / "session.log").exists())
        if number == signal.SIGINT:
            wait_for((folder / "session_0" / "checkpoints" / "best.json").exists)
        assert stop(process, number) == 128 + number
    assert processes(folder) == []
    assert_whole(folder)
    trial = json.loads((folder / "trial.json").read_text())
    assert trial["status"] == "interrupted"
    assert {session["status"] for session in trial["sessions"]} == {"interrupted"}
    if number == signal.SIGINT:
        assert (folder / "session_0" / "checkpoints" / "latest.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_a_trial_stopped_at_random_moments_ends_as_if_it_had_not_been(tmp_path, seed):
    folder = tmp_path / "trial"
    generator = random.Random(seed)
    overrides = (*SMALL, "env.max_frame=9000", "meta.max_session=2", "meta.rigorous_eval=2")
    code, stops = 1, 0
    while code:
        with start(folder, *overrides) as process:
            try:
                code = process.wait(generator.uniform(0.2, 8) if stops < 6 else 120)
            except subprocess.TimeoutExpired:
                number = generator.choice([signal.SIGTERM, signal.SIGINT])
                code = stop(process, number)
                assert code in (0, 128 + number, -number), code
                stops += 1
        assert_whole(folder)
        assert processes(folder) == []
    for index in (0, 1):
        train(tmp_path / f"once_{index}", settings(*overrides), index=index)
        assert timeless(folder / f"session_{index}") == timeless(tmp_path / f"once_{index}")


@pytest.mark.slow
def test_evaluation_is_cut_short_and_done_again(tmp_path):
    folder = tmp_path / "trial"
    overrides = (*SMALL, "env=pendulum", "env.max_frame=900", "meta.max_session=1")
    overrides += ("meta.rigorous_eval=16", "meta.eval_episodes=8")
    with start(folder, *overrides) as process:
        wait_for((folder / "session_0" / "checkpoints" / "latest.json").exists)
        time.sleep(1.5)
        assert stop(process, signal.SIGTERM) == 143
    with start(folder, *overrides) as process:
        assert process.wait(120) == 0
    train(tmp_path / "once", settings(*overrides))
    assert timeless(folder / "session_0") == timeless(tmp_path / "once")


@pytest.mark.slow
def test_a_second_signal_ends_at_once(tmp_path):
    folder = tmp_path / "trial"
    with start(folder, *LONG) as process:
        wait_for((folder / "session_0" / "checkpoints" / "best.json").exists)
        for session in set(processes(folder)) - {process.pid}:
            os.kill(session, signal.SIGSTOP)  # it cannot answer the first
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        assert stop(process, signal.SIGTERM, within=1.0) == 143
    wait_for(lambda: not processes(folder), timeout=5)
    assert json.loads((folder / "trial.json").read_text())["status"] == "interrupted"


@pytest.mark.slow
def test_a_session_that_does_not_answer_is_killed_in_time(tmp_path):
    folder = tmp_path / "trial"
    with start(folder, *LONG) as process:
        wait_for((folder / "session_0" / "checkpoints" / "best.json").exists)
        for session in processes(folder):
            if session != process.pid:
                os.kill(session, signal.SIGSTOP)
        (folder / "session_0" / ".half.writing").touch()  # as if stopped while it writes
        assert stop(process, signal.SIGTERM, within=10.0) == 143
    assert processes(folder) == []
    assert_whole(folder)


@pytest.mark.slow
def test_sigusr1_writes_a_checkpoint_and_training_goes_on(tmp_path):
    folder = tmp_path / "trial"
    latest = folder / "session_0" / "checkpoints" / "latest.json"
    with start(folder, *LONG, "env.max_frame=200000") as process:
        wait_for(latest.exists)
        wait_for(lambda: len(frames(folder / "session_0" / "eval.csv")) > 3)
        assert json.loads(latest.read_text())["frame"] == 0
        process.send_signal(signal.SIGUSR1)
        frame = wait_for(lambda: json.loads(latest.read_text())["frame"])
        wait_for(lambda: frames(folder / "session_0" / "eval.csv")[-1] > frame)
        assert stop(process, signal.SIGTERM) == 143
