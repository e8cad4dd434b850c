"""What `import rlhydra` offers: training, results as arrays, agents that act."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
import threading

import gymnasium
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import rlhydra
from rlhydra import ConfigError, Result, load, train
from tests.conftest import composed
from tests.documents import ROOT
from tests.trained import untrained

SHORT = ("env.max_frame=600", "meta.max_session=1", "meta.progress=false")


def test_the_public_names():
    assert rlhydra.__all__ == ["ConfigError", "Player", "Result", "load", "train"]
    assert set(rlhydra.__all__) <= set(dir(rlhydra))
    for name in rlhydra.__all__:
        assert getattr(rlhydra, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = rlhydra.trian


def test_importing_the_package_is_light():
    code = (
        "import sys, rlhydra\nassert not {'torch', 'hydra', 'numpy'} & set(sys.modules)\n"
        "from rlhydra import train\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(*SHORT, "seed=5", folder=tmp_path_factory.mktemp("train") / "it's a trial")


def test_training_returns_metrics_data_pictures_and_the_agent(trained):
    assert trained.status == "completed"
    assert trained.objective == trained.metrics["final_return"]["mean"]
    (session,) = trained.sessions
    assert session.eval["frame"].tolist() == [504, 600]
    assert session.episodes["return"].sum() == session.episodes["length"].sum() <= 600
    assert "loss/policy" in session.train
    assert "return_by_frame.png" in [path.name for path in trained.plots]
    assert trained.agent.act(np.zeros(4)) in (0, 1)


def test_the_folder_is_as_the_command_line_leaves_it(trained):
    own = trained.folder / ".hydra"
    assert OmegaConf.load(own / "config.yaml") == composed(*SHORT, "seed=5")
    assert OmegaConf.load(own / "overrides.yaml") == [*SHORT, "seed=5"]
    hydra = OmegaConf.load(own / "hydra.yaml").hydra
    assert hydra.runtime.choices.env == "cartpole"
    assert hydra.runtime.output_dir == str(trained.folder)


def test_training_again_in_a_folder_gives_its_result(trained):
    before = (trained.folder / "session_0" / "eval.csv").read_bytes()
    again = train(*SHORT, "seed=5", folder=trained.folder)
    assert again.metrics == trained.metrics == Result(trained.folder).metrics
    assert (trained.folder / "session_0" / "eval.csv").read_bytes() == before
    with pytest.raises(ConfigError, match="holds a trial with another seed"):
        train(*SHORT, "seed=6", folder=trained.folder)


@pytest.mark.slow
def test_training_works_in_a_thread_and_where_hydra_is_in_use(tmp_path):
    from hydra import initialize_config_dir

    (tmp_path / "conf").mkdir()
    found = []
    with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        work = threading.Thread(target=lambda: found.append(train(*SHORT, folder=tmp_path / "t")))
        work.start()
        work.join()
    assert [result.status for result in found] == ["completed"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("agent.lr=fast", "agent.lr: expected a number"),
        ("env=cartpoel", "cartpole"),
        ("agent.nonsense=1", "nonsense"),
        ("agent.lr=1,2", "Ambiguous value for argument 'agent.lr=1,2'"),
    ],
)
def test_a_wrong_setting_is_an_error_and_writes_nothing(override, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train(override, folder=tmp_path / "trial")
    assert not (tmp_path / "trial").exists()


def test_a_folder_of_ones_own_choices(tmp_path):
    (tmp_path / "env").mkdir()
    text = "# @package _global_\ndefaults:\n  - override /family: classic\nenv:\n  id: NoSuch-v0\n"
    (tmp_path / "env" / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match="NoSuch-v0"):
        train("env=mine", folder=tmp_path / "trial", config_dir=tmp_path)


def test_a_loaded_agent_acts_for_one_observation_and_for_a_batch(tmp_path):
    player = load(untrained(tmp_path / "trial"))
    env = gymnasium.make("CartPole-v1")
    obs, _ = env.reset(seed=0)
    env.step(player.act(obs))
    batch = np.stack([obs, -obs, obs * 0])
    actions = player.act(batch)
    assert actions.shape == (3,)
    assert actions.tolist() == [player.act(one) for one in batch]
    assert {int(player.act(obs, sample=True)) for _ in range(50)} == {0, 1}
    with pytest.raises(ValueError, match=r"expected an observation of shape \(4,\) or \(N, 4\)"):
        player.act(np.zeros(3))


def test_actions_are_the_environments_own(tmp_path):
    player = load(untrained(tmp_path / "trial", "env=pendulum"))
    torque = player.act(np.array([1, 0, 0]))
    assert gymnasium.make("Pendulum-v1").action_space.contains(torque)
    greatest = player.agent.head.mode  # the agent's own actions lie in [-1, 1]
    player.agent.head.mode = lambda output: torch.ones_like(greatest(output))
    assert player.act(np.zeros((2, 3))).tolist() == [[2], [2]]


def test_loading_takes_the_best_session_and_leaves_the_world_as_it_was(tmp_path):
    folder = untrained(tmp_path / "trial", scores=(3.0, 9.0, 9.0))
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    torch.manual_seed(1)
    state, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    assert load(folder).session == 1
    assert load(folder, session=2).session == 2
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == legacy).all()  # noqa: NPY002
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == files


def test_loading_says_what_is_missing(tmp_path):
    with pytest.raises(ConfigError, match="expected a trial's folder"):
        load(tmp_path)
    folder = untrained(tmp_path / "trial")
    with pytest.raises(ConfigError, match=r"session_7.*expected the best weights"):
        load(folder, session=7)
    (folder / "session_0" / "eval.csv").write_text("frame,return_mean\n10,\n")
    with pytest.raises(ConfigError, match="no session has a score yet"):
        load(folder)


def test_the_page_of_the_api_is_complete():
    text = (ROOT / "docs" / "api.md").read_text("utf-8")
    for function in (train, load, Result):
        signature = str(inspect.signature(function)).replace("'", "")
        assert f"```text\n{function.__name__}{signature}\n```" in text
    for kind in (Result, rlhydra.Player):
        section = re.search(rf"^## `{kind.__name__}`$(.*?)^## ", text, re.M | re.S)[1]
        told = set(re.findall(r"^\| `(\w+)` \|", section, re.M))
        public = {name for name in vars(kind) if not name.startswith("_")}
        assert public <= told, kind
    for name in re.findall(r"^\| `(rlhydra\.[\w.]+)` \|", text, re.M):
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name
    assert all(f"## `{name}`" in text for name in rlhydra.__all__)
