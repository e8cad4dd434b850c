import json
import resource

import pytest

import rlhydra.checkpoint
from rlhydra.agent.agent import Diverged
from rlhydra.checkpoint import Checkpoints
from rlhydra.files import Growing
from tests.test_trial import fault
from tests.trials import SMALL, Line, run, settings, start, timeless, train, wait_for

ONE = (*SMALL, "meta.max_session=1", "meta.checkpoint_interval=0")


def here(folder, *overrides, **plan):
    """Train with a fault within this process; what the plan patches is put back."""
    channel = Line()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rlhydra.checkpoint, "write_beside", rlhydra.checkpoint.write_beside)
        patch.setattr(Growing, "append", Growing.append)
        return train(folder, settings(*ONE, *overrides, *fault(**plan)), channel=channel), channel


@pytest.mark.parametrize(("point", "at"), [("checkpoint", 3), ("row", 5)])
def test_a_disk_that_is_full_for_a_while_changes_no_result(tmp_path, point, at):
    train(tmp_path / "once", settings(*ONE))
    ending, channel = here(
        tmp_path / "full", point=point, kind="full", at=at, session=0, marker=tmp_path / "m"
    )
    assert ending == "completed"
    assert any("No space left" in message.get("note", "") for message in channel.told)
    assert timeless(tmp_path / "full") == timeless(tmp_path / "once")


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
@pytest.mark.parametrize("agent", ["ppo", "a2c", "dqn"])
@pytest.mark.parametrize("kind", ["exception", "kill"])
@pytest.mark.parametrize(
    ("point", "at"), [("start", 1), ("step", 150), ("evaluate", 30), ("checkpoint", 6), ("row", 9)]
)
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
