"""The pages of docs/environments: the example is used as it says, the tables are true."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from rlhydra.baseline import known
from rlhydra.composition import CONF
from rlhydra.config import parse
from rlhydra.env.environment import Environment
from rlhydra.targets import target_class
from rlhydra.wording import count
from tests.conftest import composed

PAGES = Path(__file__).parent.parent / "docs" / "environments"
PAGE = PAGES / "index.md"
ROW = re.compile(r"^\| `(\w+)` \| `(\S+)` \| .* \| (\S+) \| ([-\d.,]*)\D.* \|$", re.MULTILINE)


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "corridor.py").write_text(block("python"))
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "corridor.yaml").write_text(block("yaml"))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("corridor", None)
    gymnasium.registry.pop("Corridor-v0", None)


@pytest.mark.parametrize("named", [False, True])
def test_an_environment_of_ones_own(named, folder):
    by_id = ["env=gym", "env.id=corridor:Corridor-v0", "env.kwargs.length=8"]
    by_name = [f"hydra.searchpath=[file://{folder}]", "env=corridor"]
    config = parse(composed(*(by_name if named else by_id)))
    assert config.meta.eval_frequency == 1000
    env = target_class(config.env_target, Environment)(config.env, 2, np.random.SeedSequence(0))
    env.reset()
    games = []
    for _ in range(20):
        env.step(np.array([1, 1]))
        games += env.games
    assert games
    assert all(1 <= game.length == -game.true_return <= 8 for game in games)


@pytest.mark.parametrize("family", ["classic", "box2d", "mujoco"])
def test_the_table_of_a_family_lists_its_environments_as_they_are(family):
    rows = ROW.findall((PAGES / f"{family}.md").read_text(encoding="utf-8"))
    shipped = [
        path for path in (CONF / "env").glob("*.yaml") if f"/family: {family}" in path.read_text()
    ]
    assert sorted(name for name, *_ in rows) == sorted(path.stem for path in shipped)
    for name, identity, frames, mean in rows:
        config = parse(composed("agent=random", f"env={name}"))
        assert (config.env.id, count(config.env.max_frame)) == (identity, frames)
        entry = known().get(identity)
        assert mean == ("" if entry is None else f"{entry['mean']:,.1f}")
