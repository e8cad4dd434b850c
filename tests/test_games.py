"""The best and the last game of training: kept by sessions, shown again exactly as they were."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from omegaconf import OmegaConf

from rlhydra.build import load_config
from rlhydra.enjoy import kept_game, main
from rlhydra.games import FILE, read_game
from rlhydra.replay import moments, same_score, score_again
from rlhydra.schema import ConfigError
from tests.conftest import composed
from tests.trials import SMALL, settings, table, train

RANDOM = ("agent=random", "env.num_envs=3", "meta.max_session=1")


@pytest.mark.parametrize(
    "overrides",
    [
        ("env=cartpole", "env.max_frame=1500"),
        # The first games of a copy, later ones from the same seed, and after a new one.
        ("env=pendulum", "env.max_frame=4500"),
        # Each longer than the history that copies keep between games.
        ("env=pendulum", "env.max_t=1300", "env.max_frame=9000"),
        ("env=lunarlander", "env.max_frame=2500"),
        pytest.param(("env=breakout", "env.max_frame=4000"), marks=pytest.mark.slow),
        pytest.param(
            ("env=pong", "env.max_t=150", "env.max_frame=3000", "env.sticky=0"),
            marks=pytest.mark.slow,
        ),
        pytest.param(("env=hopper", "env.max_frame=3000"), marks=pytest.mark.slow),
        pytest.param(
            ("env=bipedal_walker", "env.max_t=120", "env.max_frame=3000"), marks=pytest.mark.slow
        ),
    ],
    ids=lambda overrides: " ".join(overrides[:2]),
)
def test_kept_games_are_those_of_the_rows_and_go_again_as_they_went(overrides, tmp_path):
    plain = settings(*RANDOM, *overrides)
    train(tmp_path, plain)
    config, rows = load_config(plain), table(tmp_path / "episodes.csv")
    best, last = read_game(tmp_path, "best"), read_game(tmp_path, "last")
    assert best.game.true_return == max(float(row["return"]) for row in rows)
    assert last.frame == int(rows[-1]["frame"])
    for kept in (best, last):
        game, recording = kept.game, kept.recording
        row = {"return": game.true_return, "length": game.length, "frame": kept.frame}
        assert any(all(float(each[k]) == v for k, v in row.items()) for each in rows)
        assert len(recording.actions) == recording.start + game.length
        assert same_score(score_again(config, recording), game.true_return)


@pytest.mark.parametrize("env", ["cartpole", pytest.param("pong", marks=pytest.mark.slow)])
def test_a_game_that_was_not_its_copys_first_is_drawn_as_it_was(env, tmp_path, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    plain = settings(*RANDOM, f"env={env}", "env.max_t=60", "env.max_frame=600")
    train(tmp_path, plain)
    kept = read_game(tmp_path, "last")
    assert kept.recording.start > 0
    seen = list(moments(load_config(plain), kept.recording, training=True))
    assert len(seen) == kept.game.length + 1
    assert same_score(seen[-1].score, kept.game.true_return)


def test_games_are_the_same_where_a_session_was_stopped_and_went_on(tmp_path):
    plain = settings(*RANDOM, "env.max_frame=1200")
    train(tmp_path / "whole", plain)
    train(tmp_path / "parts", plain, steps=150)
    (tmp_path / "parts" / FILE).unlink()  # all is in the checkpoint too
    train(tmp_path / "parts", plain)
    for name in ("best", "last"):
        one, other = (read_game(tmp_path / k, name) for k in ("whole", "parts"))
        assert (one.game, one.frame) == (other.game, other.frame)
        assert np.array_equal(one.recording.actions, other.recording.actions)


@pytest.fixture
def trial(tmp_path):
    """A trial of two sessions, without its parent process."""
    overrides = (*SMALL, *RANDOM, "env.max_frame=600", "seed=3")
    folder = tmp_path / "trial"
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(composed(*overrides), folder / ".hydra" / "config.yaml")
    for index in (0, 1):
        train(folder / f"session_{index}", settings(*overrides), index=index)
    sessions = [{"index": index, "status": "completed"} for index in (0, 1)]
    (folder / "trial.json").write_text(json.dumps({"status": "completed", "sessions": sessions}))
    return folder


def test_enjoy_shows_the_best_game_of_all_sessions(trial, tmp_path, capsys, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("MUJOCO_GL", "egl")
    scores = {
        index: max(float(row["return"]) for row in table(trial / f"session_{index}/episodes.csv"))
        for index in (0, 1)
    }
    winner = max(scores, key=lambda index: scores[index])
    before = {path: path.stat().st_mtime_ns for path in trial.rglob("*")}
    video = tmp_path / "best.mp4"
    assert main([str(trial), "--game", "best", "--video", str(video)]) == 0
    said, warned = capsys.readouterr()
    assert re.search(
        rf"the best game of session {winner}\n.*\nscore    {scores[winner]:.0f}\n", said
    )
    assert not warned
    assert video.stat().st_size > 1000
    assert {path: path.stat().st_mtime_ns for path in trial.rglob("*")} == before
    assert kept_game(trial, "last", 1 - winner)[0] == 1 - winner
    other = (trial / "session_0" / FILE, trial / "session_1" / FILE)
    other[0].write_bytes(other[1].read_bytes()[:-9])
    assert main([str(trial), "--game", "best"]) == 1
    assert "games.safetensors: it cannot be read" in capsys.readouterr().err
    for path in other:
        path.unlink()
    with pytest.raises(ConfigError, match="no game of this session was kept"):
        kept_game(trial, "best", None)
