import contextlib
import json
import random

import pytest
import torch

from rlhydra.build import load_config
from rlhydra.checkpoint import Checkpoints
from rlhydra.schema import ConfigError
from rlhydra.session import Session
from tests.trials import SMALL, Line, run, settings, start, table, timeless, train, wait_for

OFF_POLICY = (
    "agent.learning_starts=200",
    "agent.batch_size=32",
    "agent.buffer_size=1000",
    "agent.train_frequency=8",
)
PONG = ("env=pong", "env.num_envs=2", "env.max_frame=300", "meta.eval_frequency=100")

# Settings of a session that is interrupted, and how many vector steps it is left alone at most.
FAST = {
    "ppo": ((), 150),
    "ppo-rigorous": (
        # An evaluation that takes longer than it is left alone would never be done.
        (
            "meta.rigorous_eval=2",
            "env.max_t=60",
            "agent.normalise_obs=true",
            "agent.normalise_reward=true",
        ),
        150,
    ),
    "ppo-pendulum": (("env=pendulum",), 150),
    "ddqn_per": (("agent=ddqn_per", *OFF_POLICY), 150),
}
SLOW = {
    "sac-pendulum": (
        ("agent=sac", "env=pendulum", *OFF_POLICY, "env.max_frame=1000"),
        50,
    ),
    "a2c": (("agent=a2c", "agent.normalise_obs=true"), 150),
    "reinforce": (("agent=reinforce",), 150),
    "sarsa": (("agent=sarsa",), 150),
    "ppo_lstm": (("agent=ppo_lstm",), 150),
    "ppo_gru": (("agent=ppo_gru", "env=pendulum"), 150),
    "rainbow": (("agent=rainbow", *OFF_POLICY), 150),
    "dueling_dqn": (("agent=dueling_dqn", "env=acrobot", *OFF_POLICY), 150),
    "sac": (("agent=sac", *OFF_POLICY), 150),
    "td3": (("agent=td3", "env=pendulum", *OFF_POLICY), 150),
    "ddpg": (("agent=ddpg", "env=pendulum", *OFF_POLICY), 150),
    "crossq": (("agent=crossq", "env=pendulum", *OFF_POLICY), 150),
    "ppo-lunarlander": (("env=lunarlander", "env.max_frame=6000"), 300),
    "ddqn_per-lunarlander": (("agent=ddqn_per", "env=lunarlander", *OFF_POLICY), 150),
    "ppo-bipedal": (("env=bipedal_walker", "env.max_frame=20000"), 1000),
    "ppo-hopper": (("env=hopper", "env.max_frame=4000"), 300),
    "sac-hopper": (("agent=sac", "env=hopper", *OFF_POLICY, "agent.n_step=3"), 100),
    "a2c-ant": (("agent=a2c", "env=ant", "env.max_frame=2000"), 150),
    "ppo-pong": ((*PONG, "agent.horizon=32", "agent.minibatch_size=16", "agent.epochs=1"), 60),
    "ddqn_per-pong": (
        (*PONG, "agent=ddqn_per", "agent.learning_starts=50", "agent.batch_size=4",
         "agent.buffer_size=200", "agent.train_frequency=8"), 60,
    ),
    "ppo-breakout-rigorous": (
        (*PONG, "env=breakout", "env.max_t=60", "meta.rigorous_eval=1", "agent.horizon=32",
         "agent.minibatch_size=16", "agent.epochs=1"), 150,
    ),
}  # fmt: skip


def interrupted(folder, plain, generator, longest=150):
    """Train with interruptions after random numbers of steps; return how many there were."""
    for times in range(1000):
        if train(folder, plain, steps=generator.randrange(1, longest)) == "completed":
            return times
    raise AssertionError


@pytest.mark.parametrize(
    "name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_interruptions_leave_no_trace(tmp_path, name):
    overrides, longest = (FAST | SLOW)[name]
    plain = settings(*overrides)
    train(tmp_path / "once", plain)
    assert interrupted(tmp_path / "often", plain, random.Random(0), longest) >= 3
    assert timeless(tmp_path / "often") == timeless(tmp_path / "once")


@pytest.mark.parametrize("agent", ["ppo_lstm", "reinforce", "sarsa", "ddqn_per"])
def test_where_games_cannot_be_restored_new_ones_begin(tmp_path, agent):
    plain = settings(
        f"agent={agent}", "env=gym", "env.id=tests.environments:Drifting-v0", "env.num_envs=4",
        "env.max_frame=600", *(("agent.n_step=3", *OFF_POLICY) if agent == "ddqn_per" else ()),
    )  # fmt: skip
    train(tmp_path, plain, steps=101)
    before = (tmp_path / "episodes.csv").read_bytes()
    line = Line()
    session = Session(load_config(plain), 0, tmp_path, line)
    with contextlib.closing(session):
        assert session.run() == "completed"
    assert any("does not replay exactly" in message.get("note", "") for message in line.told)
    assert (tmp_path / "episodes.csv").read_bytes().startswith(before)
    for row in table(tmp_path / "episodes.csv"):  # whole games only: the n-th frame is worth n
        length = int(row["length"])
        assert float(row["return"]) == length * (length + 1) / 2
    if agent == "ddqn_per":
        batch = session.agent.replay.sample(4096)
        assert torch.equal(batch.obs[:, 0], batch.next_obs[:, 0]), "games were joined"


def test_a_crash_goes_back_to_the_checkpoint_and_cuts_rows_off(tmp_path):
    plain = settings("meta.checkpoint_interval=0")
    train(tmp_path / "once", plain)

    class Crash(Line):
        def send(self, **message):
            super().send(**message)
            if len(self.told) == 4:
                raise RuntimeError

    plain_reports = settings("meta.checkpoint_interval=0", "meta.rigorous_eval=1")
    train(tmp_path / "reference", plain_reports)
    for number in range(3):
        channel = Crash()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("rlhydra.session.REPORT_EVERY", 0.0)
            if number < 2:
                with pytest.raises(RuntimeError):
                    train(tmp_path / "crashed", plain_reports, channel=channel)
    train(tmp_path / "crashed", plain_reports)
    assert timeless(tmp_path / "crashed") == timeless(tmp_path / "reference")


def test_a_damaged_latest_state_changes_nothing_in_the_end(tmp_path, caplog):
    plain = settings()
    train(tmp_path / "once", plain)
    for steps in (60, 60, 60):
        train(tmp_path / "damaged", plain, steps=steps)
    latest = tmp_path / "damaged" / "checkpoints" / "latest.json"
    latest.write_text(latest.read_text().replace("1", "2", 1))
    train(tmp_path / "damaged", plain)
    assert "going on from the checkpoint before" in caplog.text
    assert timeless(tmp_path / "damaged") == timeless(tmp_path / "once")


def test_damaged_best_weights_are_replaced(tmp_path):
    plain = settings()
    train(tmp_path, plain, steps=200)
    (best,) = (tmp_path / "checkpoints").glob("weights-*")
    best.write_bytes(best.read_bytes()[:-1])
    line = Line()
    train(tmp_path, plain, channel=line)
    assert any("best weights are damaged" in message.get("note", "") for message in line.told)
    assert Checkpoints(tmp_path / "checkpoints").has_best()


def test_rows_without_a_checkpoint_are_no_new_start(tmp_path):
    plain = settings()
    train(tmp_path, plain, steps=100)
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    with pytest.raises(ConfigError, match="holds rows but no checkpoint"):
        train(tmp_path, plain)


def test_a_longer_run_goes_on_from_a_shorter_one(tmp_path):
    train(tmp_path, settings("env.max_frame=1000"))
    short = (tmp_path / "episodes.csv").read_bytes()
    assert train(tmp_path, settings("env.max_frame=2000")) == "completed"
    assert (tmp_path / "episodes.csv").read_bytes().startswith(short)
    assert Checkpoints.read(tmp_path / "checkpoints" / "latest.json")["frame"] == 2000


def test_a_trial_is_interrupted_resumed_finished_repeated_and_prolonged(tmp_path):
    folder = tmp_path / "trial"
    long = (*SMALL, "env.max_frame=60_000", "meta.max_session=1")
    with start(folder, *long) as process:
        wait_for(lambda: list(folder.glob("session_0/checkpoints/best.json")))
        process.terminate()
        assert process.wait(20) == 143
    trial = json.loads((folder / "trial.json").read_text())
    assert (trial["status"], trial["objective"]) == ("interrupted", None)
    assert 0 < trial["sessions"][0]["frame"] < 60_000
    assert run(folder, module="rlhydra.resume")[0] == 0
    train(tmp_path / "once", settings(*long))
    assert timeless(folder / "session_0") == timeless(tmp_path / "once")

    before = (folder / "trial.json").read_bytes()
    code, text = run(folder, *long)
    assert code == 0
    assert (folder / "trial.json").read_bytes() == before
    code, text = run(folder, *long, "agent.gamma=0.5", "seed=1")
    assert code == 1 and "agent.gamma, seed" in text


@pytest.mark.slow
def test_a_finished_trial_is_prolonged(tmp_path):
    folder = tmp_path / "trial"
    assert run(folder, *SMALL, "meta.max_session=2")[0] == 0
    assert run(folder, *SMALL, "meta.max_session=2", "env.max_frame=4000")[0] == 0
    trial = json.loads((folder / "trial.json").read_text())
    assert [session["frame"] for session in trial["sessions"]] == [4000, 4000]
    assert table(folder / "session_1" / "eval.csv")[-1]["frame"] == "4000"


def test_resume_refuses_what_is_no_trial(tmp_path):
    code, text = run(tmp_path, module="rlhydra.resume")
    assert code == 1 and "expected the folder of a trial" in text
