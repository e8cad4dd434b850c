import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from rlhydra.lock import sole_owner, sole_writer
from rlhydra.resources import Share, available_gpus, share
from rlhydra.schema import ConfigError
from tests.trials import SMALL, run, settings, timeless, train

BROKEN = ("env._target_=tests.broken.BrokenEnvironment",)
META = SimpleNamespace(
    max_session=4,
    distributed=False,
    num_cpus=None,
    num_gpus=None,
    search_resources=None,
    search_scheduler=None,
)


def fault(**plan):
    items = ",".join(f"{key}:{value}" for key, value in plan.items())
    return (*BROKEN, "+env.fault={" + items + "}")


def meta(**changes):
    return SimpleNamespace(**{**vars(META), **changes})


def resources(cpu=None, gpu=None):
    return SimpleNamespace(cpu=cpu, gpu=gpu)


@pytest.mark.parametrize(
    ("settings", "cores", "expected"),
    [
        ({}, 2, (2, 1)),
        ({}, 16, (4, 1)),
        ({"num_cpus": 16}, 16, (4, 4)),
        ({"num_cpus": 16}, 6, (4, 1)),
        ({"num_cpus": 1}, 16, (1, 1)),
        ({"num_cpus": 0.5}, 16, (1, 1)),
        ({"num_cpus": 3.9}, 16, (3, 1)),
        ({"max_session": 1, "num_cpus": 8}, 4, (1, 4)),
        ({"num_cpus": 1, "search_resources": resources(cpu=2)}, 16, (2, 1)),
        ({"num_cpus": 2, "search_resources": resources(gpu=0.5)}, 16, (2, 1)),
        ({"num_cpus": 8, "distributed": "shared"}, 16, (4, 2)),
    ],
)
def test_sessions_and_threads_fit_the_cores(settings, cores, expected):
    dealt = share(meta(**settings), cores, ())
    assert (dealt.parallel, dealt.threads) == expected
    assert dealt.parallel * dealt.threads <= cores


@pytest.mark.parametrize(
    ("settings", "gpus", "expected"),
    [
        ({}, "", ["", "", "", ""]),
        ({}, "01", ["0", "1", "0", "1"]),
        ({}, "012345", ["0", "1", "2", "3"]),
        ({"num_gpus": 1}, "01", ["0", "0", "0", "0"]),
        ({"num_gpus": 0}, "01", ["", "", "", ""]),
        ({"search_resources": resources(gpu=0.125)}, "01", ["0", "0", "0", "0"]),
        ({"distributed": "synced"}, "01", ["", "", "", ""]),
    ],
)
def test_gpus_are_dealt_out_evenly(settings, gpus, expected):
    dealt = share(meta(**settings), 4, tuple(gpus))
    assert [dealt.environment(k)["CUDA_VISIBLE_DEVICES"] for k in range(4)] == expected


def test_sessions_that_train_one_learner_run_side_by_side():
    assert share(meta(distributed="synced"), 2, ()) == Share(4, 1, ())


def test_gpus_that_others_may_not_see_do_not_exist(monkeypatch):
    for visible, expected in {"": (), "-1": (), "2, 5": ("2", "5")}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert available_gpus() == expected


def test_a_folder_in_use_is_refused_by_its_owners_name(tmp_path):
    with sole_owner(tmp_path):
        again = sole_owner(tmp_path)
        with pytest.raises(ConfigError, match=r"process \d+ on \S+ is running"):
            again.__enter__()
    with sole_owner(tmp_path):
        pass


def test_a_dead_owners_lock_is_no_obstacle(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".owner.json").write_text('{"pid": 1, "host": "elsewhere"}')
    with sole_owner(tmp_path), sole_writer(tmp_path, lambda: False):
        pass
    assert not (tmp_path / ".owner.json").exists()


def test_one_broken_session_hurts_no_other(tmp_path):
    folder = tmp_path / "trial"
    plan = fault(point="step", kind="exception", at=100, session=0)
    overrides = (*SMALL, *plan, "meta.max_session=2", "meta.max_retries=1", "meta.progress=null")
    code, text = run(folder, *overrides)
    assert code == 1
    assert "session 0 failed: RuntimeError: broken on purpose; trying again" in text
    trial = json.loads((folder / "trial.json").read_text())
    assert (trial["status"], trial["objective"]) == ("failed", None)
    assert [session["status"] for session in trial["sessions"]] == ["failed", "completed"]
    assert trial["sessions"][0]["error"] == "RuntimeError: broken on purpose"
    assert trial["sessions"][1]["error"] is None
    final = trial["metrics"]["final_return"]
    assert len(final["sessions"]) == 1 and final["mean"] is not None
    assert set(trial) == {
        *("status", "objective", "metric", "metrics", "sessions", "random_return"),
        *("versions", "git_commit", "config_hash"),
    }
    logged = (folder / "session_0" / "session.log").read_text()
    assert logged.count("Traceback (most recent call last)") == 2
    # In a process of its own, beside another, or here: the same.
    train(tmp_path / "here", settings(*plan, "meta.max_session=2"), index=1)
    assert timeless(folder / "session_1") == timeless(tmp_path / "here")


def test_a_share_names_no_device_without_gpus():
    assert Share(1, 2, ()).environment(3)["CUDA_VISIBLE_DEVICES"] == ""
    assert replace(Share(1, 2, ()), gpus=("7",)).environment(3)["CUDA_VISIBLE_DEVICES"] == "7"
