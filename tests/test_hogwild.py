import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from rlhydra.agent.agent import Diverged
from rlhydra.agent.descent import Descent
from rlhydra.checkpoint import Checkpoints
from rlhydra.clock import Clock
from rlhydra.config import OptimizerConfig
from rlhydra.hogwild import Hogwild
from rlhydra.net.moments import Moments, RewardScaler
from rlhydra.resources import SHARED_FILE
from rlhydra.schema import ConfigError
from tests.test_trial import fault
from tests.trials import ROOT, environment, run, start, table, wait_for

OPTIMUM = torch.tensor([3.0, -2.0])
ADAM = OptimizerConfig("Adam", {"eps": 1e-5})
RMSPROP = OptimizerConfig("RMSprop", {"alpha": 0.99, "eps": 1e-5})
OPTIMIZERS = pytest.mark.parametrize("optimizer", [ADAM, RMSPROP], ids=["Adam", "RMSprop"])
MODES = pytest.mark.parametrize("live", [True, False], ids=["live", "copy"])


class Toy:
    """An agent that is a point, on its way down a quadratic."""

    def __init__(self, optimizer, start=0.0):
        self.point = nn.Parameter(torch.full((2,), start))
        self.descent = Descent(optimizer, [self.point], 0.0, None)

    def shared(self):
        return (self.descent,)

    def step(self, lr):
        self.descent.step((self.point - OPTIMUM).square().sum(), lr)


def join(folder, agent, session, sessions=2, *, live=True, frame=0, returns=()):
    clock = Clock(1000, frame)
    return Hogwild(folder, agent, clock, returns, session, sessions, live=live)


def toys(folder, sessions, optimizer, live):
    made = [Toy(optimizer) for _ in range(sessions)]
    for index, toy in enumerate(made):
        toy.hogwild = join(folder, toy, index, sessions, live=live)
    return made


@MODES
@OPTIMIZERS
@pytest.mark.parametrize("sessions", [2, 4])
def test_sessions_find_the_optimum_of_a_quadratic_together(tmp_path, sessions, optimizer, live):
    made = toys(tmp_path, sessions, optimizer, live)
    for i in range(1600 // sessions):
        for toy in made:
            toy.step(0.1 * (1 - i * sessions / 1600))
    for toy in made:
        toy.step(0.0)
        assert torch.allclose(toy.point, OPTIMUM, atol=1e-2)


# A process that steps down the quadratic as fast as it can.
RUNNER = """
import sys
from pathlib import Path
from rlhydra.config import OptimizerConfig
from tests.test_hogwild import Toy, join
folder, index, live, name = sys.argv[1:]
toy = Toy(OptimizerConfig(name, {"eps": 1e-5}))
join(Path(folder), toy, int(index), live=live == "True")
for i in range(4000):
    toy.step(0.05 * (1 - i / 4000))
"""


@MODES
@OPTIMIZERS
@pytest.mark.slow
def test_processes_find_it_at_the_same_time(tmp_path, optimizer, live):
    command = [sys.executable, "-c", RUNNER, str(tmp_path)]
    kwargs = {"env": environment(), "cwd": ROOT}
    both = [
        subprocess.Popen([*command, index, str(live), optimizer.name], **kwargs) for index in "01"
    ]
    assert [process.wait(120) for process in both] == [0, 0]
    last = Toy(optimizer)
    joined = join(tmp_path, last, 1)
    assert torch.allclose(last.point, OPTIMUM, atol=1e-2)
    assert 7000 < joined.opt_step <= 8000  # counted without a lock


@MODES
@OPTIMIZERS
def test_sessions_in_turn_step_as_one_would(tmp_path, optimizer, live):
    """A gradient that were added to the one before would show at the second step."""
    alone, (one, two) = Toy(optimizer), toys(tmp_path, 2, optimizer, live)
    for _ in range(20):
        for toy in (one, two):
            toy.descent.refresh()
            toy.step(0.05)
            alone.step(0.05)
            assert torch.equal(toy.point, alone.point)
    assert one.hogwild.opt_step == two.hogwild.opt_step == 40


def test_a_copy_moves_with_its_own_steps_alone(tmp_path):
    one, two = toys(tmp_path, 2, ADAM, live=False)
    before = one.point.detach().clone()
    two.step(0.1)
    assert torch.equal(one.point, before)
    with one.hogwild.latest():
        assert torch.equal(one.point, two.point)
    assert torch.equal(one.point, before)
    one.step(0.0)
    assert torch.equal(one.point, two.point)


def test_what_is_live_moves_with_every_step(tmp_path):
    one, two = toys(tmp_path, 2, ADAM, live=True)
    two.step(0.1)
    assert torch.equal(one.point, two.point) and one.point.abs().sum() > 0


@MODES
def test_what_is_not_finite_is_kept_from_the_others(tmp_path, live):
    one, two = toys(tmp_path, 2, ADAM, live)
    one.step(0.1)
    with pytest.raises(Diverged):
        two.descent.step(two.point.sum() * torch.nan, 0.1)
    one.step(0.1)
    assert one.point.isfinite().all() and one.hogwild.opt_step == 2


def test_who_comes_later_takes_over_what_is_there(tmp_path):
    first, second = Toy(ADAM), Toy(ADAM, start=5.0)
    first.step(0.5)
    moments = first.descent.state()
    join(tmp_path, first, 1)
    join(tmp_path, second, 0)
    assert torch.equal(second.point, first.point)
    assert torch.equal(second.descent.state()["exp_avg"], moments["exp_avg"])
    assert second.descent.steps == 1


def test_the_file_of_another_trial_is_refused(tmp_path):
    join(tmp_path, Toy(ADAM), 0)
    with pytest.raises(ConfigError, match="other settings"):
        join(tmp_path, Toy(RMSPROP), 1)
    content = (tmp_path / SHARED_FILE).read_bytes()
    (tmp_path / SHARED_FILE).write_bytes(b"\xff" * len(content))
    with pytest.raises(ConfigError, match="damaged"):
        join(tmp_path, Toy(ADAM), 1)


def test_the_clock_counts_for_all(tmp_path):
    one, two = (toy.hogwild.clock for toy in toys(tmp_path, 2, ADAM, live=True))
    one.tick(600)
    two.tick(300)
    assert two.frame == 900 and two.progress == 0.9
    assert two.due(500)
    one.tick(100)
    assert one.done and not two.done
    again = join(tmp_path, Toy(ADAM), 1, frame=400)  # from an older checkpoint
    assert again.clock.frame == 1000 and again.clock.done


def test_a_new_file_begins_where_the_checkpoints_are(tmp_path):
    assert join(tmp_path, Toy(ADAM), 1, frame=400).clock.frame == 400
    assert join(tmp_path, Toy(ADAM), 0, frame=408).clock.frame == 408


def test_the_last_returns_are_those_of_all(tmp_path):
    one, two = (toy.hogwild for toy in toys(tmp_path, 2, ADAM, live=True))
    for i in range(150):
        hogwild = (one, two)[i % 2]
        hogwild.clock.tick(1)
        hogwild.add([SimpleNamespace(true_return=float(i))])
    assert one.returns == two.returns == [float(i) for i in range(50, 150)]
    (tmp_path / "new").mkdir()
    three = join(tmp_path / "new", Toy(ADAM), 0, returns=[1.0, 2.0])
    assert three.returns == [1.0, 2.0]


def test_one_session_s_nan_reaches_no_returns_or_statistics(tmp_path):
    one, two = (toy.hogwild for toy in toys(tmp_path, 2, ADAM, live=True))
    one.add([SimpleNamespace(true_return=3.0)])
    two.add([SimpleNamespace(true_return=float("nan"))])
    assert one.returns == [3.0]
    parts = [RewardScaler(2, 0.99), RewardScaler(2, 0.99)]
    memory = parts[0].shared()
    for part in parts:
        part.share(memory, live=False)
    ended = np.zeros((4, 2), np.bool_)
    assert np.isnan(parts[1](np.full((4, 2), np.nan), ended)).all()
    assert np.isfinite(parts[0](np.ones((4, 2)), ended)).all()


def test_statistics_are_those_of_all(tmp_path):
    generator = np.random.default_rng(0)
    batches = generator.normal(3, 2, (6, 10, 4))
    parts = [Moments((4,)), Moments((4,)), Moments((4,))]
    memory = parts[0].shared()
    for part in parts[:2]:
        part.share(memory, live=False)
    for i, batch in enumerate(batches):
        parts[i % 2].add(batch)
        parts[2].add(batch)
    assert np.allclose(parts[1].mean, parts[2].mean)
    assert np.allclose(parts[1].variance, parts[2].variance)
    assert parts[1].count == 60


TINY = ("meta.progress=false", "meta.log_frequency=500", "meta.eval_frequency=500")
AGENTS = {
    "a2c": (),
    "ppo": ("agent.normalise_obs=true", "agent.normalise_reward=true"),
    "ddqn_per": (),
    "rainbow": ("agent.learning_starts=1000", "agent.train_frequency=64"),
    "sac": ("agent.learning_starts=1000", "agent.train_frequency=64"),
    "td3": ("env=pendulum", "agent.learning_starts=1000", "agent.train_frequency=64"),
    "ppo_gru": (),
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["shared", "synced"])
@pytest.mark.parametrize("agent", AGENTS)
def test_a_trial_counts_the_frames_of_all_sessions(tmp_path, agent, mode):
    folder = tmp_path / "t"
    code, text = run(
        folder, *TINY, f"agent={agent}", *AGENTS[agent], f"meta.distributed={mode}",
        "meta.max_session=2", "env.max_frame=6000",
    )  # fmt: skip
    assert code == 0, text
    rows = [table(folder / f"session_{k}" / "eval.csv") for k in (0, 1)]
    frames = [int(row["frame"]) for row in rows[0]]
    assert 6000 <= frames[-1] < 6100 and frames == sorted(frames) and not rows[1]
    steps = [int(row["opt_step"]) for row in rows[0]]
    assert steps == sorted(steps) and steps[-1] > 0
    games = [table(folder / f"session_{k}" / "episodes.csv") for k in (0, 1)]
    assert sum(int(row["length"]) for pair in games for row in pair) <= 6100
    assert not list(folder.glob(f"*{SHARED_FILE}*"))
    metric = json.loads((folder / "trial.json").read_text())["metrics"]["final_return"]
    assert len(metric["sessions"]) == 1 and metric["low"] is None


@pytest.mark.slow
def test_a_trial_that_was_stopped_goes_on_with_all_it_had(tmp_path):
    folder = tmp_path / "t"
    settings = (*TINY, "agent=a2c", "meta.distributed=shared", "meta.max_session=2")
    frame = folder / "session_0" / "eval.csv"
    with start(folder, *settings, "env.max_frame=1e7") as trial:
        try:
            wait_for(lambda: frame.exists() and len(table(frame)) > 5)
            trial.send_signal(signal.SIGTERM)
            assert trial.wait(10) == 143
        finally:
            trial.kill()
    before = int(table(frame)[-1]["frame"])
    weights = np.fromfile(folder / SHARED_FILE, np.float32)
    assert np.isfinite(weights).all()
    code, text = run(folder, *settings, f"env.max_frame={before + 6000}")
    assert code == 0, text
    frames = [int(row["frame"]) for row in table(frame)]
    assert before in frames and before + 6000 <= frames[-1] < before + 7000
    assert not (folder / SHARED_FILE).exists()


def processes(folder, index):
    """Return the processes that run session `index` of the trial in `folder`."""
    wanted = f"{folder}\0{index}\0".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize("mode", ["shared", "synced"])
def test_a_killed_session_leaves_the_others_training(tmp_path, mode, retries, victim):
    folder = tmp_path / "t"
    settings = ("agent=dqn", f"meta.distributed={mode}", "meta.max_session=2")
    more = (f"meta.max_retries={retries}", "env.max_frame=60000")
    with start(folder, *TINY, *settings, *more) as trial:
        try:
            log = folder / f"session_{victim}" / "episodes.csv"
            wait_for(lambda: log.exists() and len(table(log)) > 20)
            os.kill(processes(folder, victim)[0], signal.SIGKILL)
            text, _ = trial.communicate(timeout=300)
        finally:
            trial.kill()
    summary = json.loads((folder / "trial.json").read_text())
    sessions = [session["status"] for session in summary["sessions"]]
    other = 1 - victim
    assert sessions[other] == "completed"
    state = Checkpoints.read(folder / f"session_{other}" / "checkpoints" / "latest.json")
    assert all(torch.isfinite(tensor).all() for tensor in state["agent"]["net"].values())
    assert state["frame"] >= 60_000
    if retries:
        assert trial.returncode == 0, text
        assert sessions == ["completed", "completed"]
        assert int(table(folder / "session_0" / "eval.csv")[-1]["frame"]) >= 60_000
    else:
        assert (trial.returncode, summary["status"]) == (1, "failed")
        assert "SIGKILL" in summary["sessions"][victim]["error"]
        assert summary["objective"] is None


@pytest.mark.slow
def test_a_session_that_diverges_leaves_the_others_training(tmp_path):
    folder = tmp_path / "t"
    plan = fault(point="step", kind="diverge", at=100, session=1)
    settings = ("agent=a2c", "meta.distributed=shared", "meta.max_session=2", "env.max_frame=20000")
    code, _ = run(folder, *TINY, *settings, *plan)
    summary = json.loads((folder / "trial.json").read_text())
    assert (code, summary["status"]) == (1, "diverged")
    assert [session["status"] for session in summary["sessions"]] == ["completed", "diverged"]
    assert int(table(folder / "session_0" / "eval.csv")[-1]["frame"]) >= 20_000


@pytest.mark.slow
@pytest.mark.parametrize("sessions", [2, 4])
@pytest.mark.parametrize("mode", ["shared", "synced"])
@pytest.mark.parametrize("agent", ["a2c", "ppo"])
def test_cartpole_is_solved(tmp_path, agent, mode, sessions):
    code, text = run(
        tmp_path / "t", "meta.progress=false", f"agent={agent}", f"meta.distributed={mode}",
        f"meta.max_session={sessions}", f"env.max_frame={300_000 if agent == 'ppo' else 500_000}",
        timeout=900,
    )  # fmt: skip
    assert code == 0, text
    rows = table(tmp_path / "t" / "session_0" / "eval.csv")
    assert max(float(row["return_mean"]) for row in rows if row["return_mean"]) >= 475
