import contextlib
import json
import os
import resource
import subprocess
import sys

import pytest

import rlhydra.checkpoint
import rlhydra.files
from rlhydra.agent.agent import Diverged
from rlhydra.checkpoint import Checkpoints
from rlhydra.files import Growing
from rlhydra.ranking import read_experiment
from tests.test_multirun import study_of, sweep
from tests.test_trial import fault
from tests.trials import SMALL, Line, run, settings, start, table, timeless, train, wait_for

ONE = (*SMALL, "meta.max_session=1", "meta.checkpoint_interval=0")
MEMORY = (
    *("agent=ddqn_per", "agent.learning_starts=200", "agent.train_frequency=16"),
    *("agent.updates_per_train=1", "agent.batch_size=32"),
)


POINTS = [
    *(("start", 1), ("step", 150), ("evaluate", 30)),
    *(("checkpoint", 6), ("tensors", 12), ("row", 9)),
]


def here(folder, *overrides, **plan):
    """Train with a fault within this process; what the plan patches is put back."""
    channel = Line()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rlhydra.checkpoint, "write_beside", rlhydra.checkpoint.write_beside)
        patch.setattr(rlhydra.files, "write_beside", rlhydra.files.write_beside)
        patch.setattr(Growing, "append", Growing.append)
        return train(folder, settings(*ONE, *overrides, *fault(**plan)), channel=channel), channel


@pytest.mark.parametrize("agent", [(), MEMORY], ids=["ppo", "ddqn_per"])
@pytest.mark.parametrize(("point", "at"), [("checkpoint", 3), ("tensors", 7), ("row", 9)])
def test_a_disk_that_is_full_for_a_while_changes_no_result(tmp_path, point, at, agent):
    train(tmp_path / "once", settings(*ONE, *agent))
    ending, channel = here(
        tmp_path / "full",
        *agent,
        point=point,
        kind="full",
        at=at,
        session=0,
        marker=tmp_path / "m",
    )
    assert ending == "completed"
    assert any("No space left" in message.get("note", "") for message in channel.told)
    assert timeless(tmp_path / "full") == timeless(tmp_path / "once")


def test_a_slow_disk_changes_no_result(tmp_path):
    train(tmp_path / "once", settings(*ONE))
    plan = {"kind": "slow", "session": 0, "marker": tmp_path / "m"}
    assert here(tmp_path / "slow", point="tensors", at=4, **plan)[0] == "completed"
    assert timeless(tmp_path / "slow") == timeless(tmp_path / "once")


@pytest.fixture
def disk(tmp_path):
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
    if sys.platform != "linux" or os.geteuid() or subprocess.call(mount):
        pytest.skip("only root can mount a small file system")
    yield folder
    subprocess.check_call(["umount", "--lazy", str(folder)])


def fill(disk):
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


@pytest.mark.parametrize("agent", [(), MEMORY], ids=["ppo", "ddqn_per"])
def test_a_disk_that_is_really_full_for_a_while_changes_no_result(tmp_path, disk, agent):
    plain = settings(*ONE, *agent)
    train(tmp_path / "once", plain)
    seen = []

    class Filling(Line):
        """Looks at every step."""

        steps_done = 0

        @property
        def stopped(self):
            self.steps_done += 1
            if self.steps_done == 60:
                fill(disk)
            if self.steps_done == 200:
                state = Checkpoints.read(disk / "session" / "checkpoints" / "latest.json")
                seen.append(state["frame"])
                (disk / "filler").unlink()
            return False

        @stopped.setter
        def stopped(self, value):
            pass

    channel = Filling()
    assert train(disk / "session", plain, channel=channel) == "completed"
    assert 0 < seen[0] <= 60 * plain["env"]["num_envs"]
    assert any("No space left" in message.get("note", "") for message in channel.told)
    assert timeless(disk / "session") == timeless(tmp_path / "once")


@pytest.mark.slow
def test_a_trial_on_a_full_disk_fails_and_goes_on_when_there_is_room(tmp_path, disk):
    (disk / "trial").mkdir()
    overrides = (*ONE, "env.max_frame=20000")
    with start(disk / "trial", *overrides) as process:
        wait_for((disk / "trial" / "session_0" / "checkpoints" / "best.json").exists)
        fill(disk)
        code = process.wait(120)
    assert code == 1
    (disk / "filler").unlink()
    code, text = run(disk / "trial", *overrides)
    assert code == 0, text
    train(tmp_path / "once", settings(*overrides))
    assert timeless(disk / "trial" / "session_0") == timeless(tmp_path / "once")


def test_a_disk_that_stays_full_fails_and_keeps_the_last_good_checkpoint(tmp_path):
    with pytest.raises(OSError, match="No space left"):
        here(tmp_path / "full", point="checkpoint", kind="full", at=4, session=0)
    assert train(tmp_path / "full", settings(*ONE)) == "completed"
    train(tmp_path / "once", settings(*ONE))
    assert timeless(tmp_path / "full") == timeless(tmp_path / "once")


def test_nan_ends_the_session_before_it_reaches_the_parameters(tmp_path):
    with pytest.raises(Diverged):
        here(tmp_path / "nan", point="step", kind="diverge", at=100, session=0)
    state = Checkpoints.read(tmp_path / "nan" / "checkpoints" / "latest.json")
    assert all(tensor.isfinite().all() for tensor in state["agent"]["net"].values())


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["ppo", "ddqn_per", "sac"])
@pytest.mark.parametrize("kind", ["exception", "kill"])
@pytest.mark.parametrize(("point", "at"), POINTS)
def test_a_session_that_fails_once_ends_as_if_it_had_not(tmp_path, agent, point, at, kind):
    overrides = (*ONE, f"agent={agent}", "meta.rigorous_eval=1")
    train(tmp_path / "once", settings(*overrides))
    plan = fault(point=point, kind=kind, at=at, session=0, marker=tmp_path / "marker")
    code, _ = run(tmp_path / "trial", *overrides, *plan)
    assert (tmp_path / "marker").exists()
    trial = json.loads((tmp_path / "trial" / "trial.json").read_text())
    assert (code, trial["status"]) == (0, "completed"), trial["sessions"]
    assert timeless(tmp_path / "trial" / "session_0") == timeless(tmp_path / "once")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", pytest.param("ray", marks=pytest.mark.ray)])
@pytest.mark.parametrize("kind", ["exception", "kill"])
@pytest.mark.parametrize(("point", "at"), POINTS)
def test_a_sweep_in_which_sessions_fail_once_ends_as_if_they_had_not(
    tmp_path, point, at, kind, launcher
):
    overrides = (*ONE, "meta.rigorous_eval=1", "agent.lr=1e-3,1e-4")
    plan = fault(point=point, kind=kind, at=at, session=0, marker=tmp_path / "marker")
    code, text = sweep(tmp_path / "sweep", f"hydra/launcher={launcher}", *overrides, *plan)
    assert (tmp_path / "marker").exists()
    assert code == 0, text
    assert [entry.trial.status for entry in read_experiment(tmp_path / "sweep")] == [
        "completed"
    ] * 2
    for number, lr in enumerate(("1e-3", "1e-4")):
        train(tmp_path / lr, settings(*overrides[:-1], f"agent.lr={lr}"))
        assert timeless(tmp_path / "sweep" / str(number) / "session_0") == timeless(tmp_path / lr)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["full", "slow"])
def test_a_score_that_the_study_could_not_be_told_is_told_with_the_next(tmp_path, kind):
    plan = fault(point="study", kind=kind, at=3, session=0, marker=tmp_path / "marker")
    halving = "meta.search_scheduler={grace_period:100000,reduction_factor:2}"
    sampled = ("agent.lr=interval(1e-4,1e-3)", "meta.max_trial=1", halving)
    code, text = sweep(tmp_path / "sweep", "hydra/launcher=basic", *ONE, *sampled, *plan)
    assert (tmp_path / "marker").exists()
    assert code == 0, text
    (trial,) = study_of(tmp_path / "sweep").trials
    rows = table(tmp_path / "sweep" / "0" / "session_0" / "eval.csv")
    assert sorted(trial.intermediate_values) == [int(row["frame"]) for row in rows]


@pytest.mark.slow
def test_divergence_is_not_tried_again(tmp_path):
    plan = fault(point="step", kind="diverge", at=100, session=1)
    code, text = run(tmp_path / "trial", *SMALL, "meta.max_session=2", "meta.progress=null", *plan)
    trial = json.loads((tmp_path / "trial" / "trial.json").read_text())
    assert code == 1 and "trying again" not in text
    assert (trial["status"], trial["objective"]) == ("diverged", None)
    assert [session["status"] for session in trial["sessions"]] == ["completed", "diverged"]
    assert "nan" in trial["sessions"][1]["error"]


@pytest.mark.slow
def test_files_that_may_not_grow_fail_the_trial_and_it_goes_on_later(tmp_path):
    """A limit of the system's own on the size of files, as near to a full disk as a test gets."""
    folder = tmp_path / "trial"
    overrides = (*ONE, "env.max_frame=20000")
    limit = (100_000, 100_000)  # a state of PPO takes 120 kB
    code, _ = run(
        folder, *overrides, "meta.max_retries=0",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )  # fmt: skip
    trial = json.loads((folder / "trial.json").read_text())
    assert code == 1
    assert (trial["status"], trial["objective"]) == ("failed", None)
    assert run(folder, *overrides)[0] == 0
    train(tmp_path / "once", settings(*overrides))
    assert timeless(folder / "session_0") == timeless(tmp_path / "once")


@pytest.mark.slow
def test_sessions_of_a_killed_trial_end_by_themselves(tmp_path):
    folder = tmp_path / "trial"
    overrides = (*SMALL, "env.max_frame=30000", "meta.max_session=2")
    with start(folder, *overrides) as process:
        wait_for(lambda: len(list(folder.glob("session_*/checkpoints/best.json"))) == 2)
        process.kill()
    # No wait: the new sessions wait for the old ones, which write their last checkpoints.
    assert run(folder, *overrides)[0] == 0
    for index in (0, 1):
        train(tmp_path / f"once_{index}", settings(*overrides), index=index)
        assert timeless(folder / f"session_{index}") == timeless(tmp_path / f"once_{index}")
