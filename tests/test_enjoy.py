"""`python -m rlhydra.enjoy`: games played, scored and filmed, and the run's folder left alone."""

from __future__ import annotations

import os
import re

import imageio
import numpy as np
import pytest

from rlhydra import load
from rlhydra.enjoy import main, play_games
from rlhydra.film import points, show, tiled
from rlhydra.replay import Moment, frame_rate, moments
from tests.trained import untrained


@pytest.fixture
def no_display(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    # What enjoy sets where there is no display: given here, it does not stay set for other tests.
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setenv("MUJOCO_GL", os.environ.get("MUJOCO_GL", "egl"))


@pytest.mark.usefixtures("no_display")
def test_games_are_scored_and_filmed_and_the_folder_is_only_read(tmp_path, capsys):
    folder, video = untrained(tmp_path / "trial"), tmp_path / "videos" / "games.mp4"
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert main([str(folder), "--episodes", "5", "--sample", "--video", str(video)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"CartPole-v1, the best agent of session 0\nscores   (\d+ ?){5}\n", out)
    assert re.search(r"mean     \S+  95 % \[\S+, \S+\]  over 5 games", out)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    scores = [int(word) for word in re.search(r"scores +(.*)", out)[1].split()]
    reader = imageio.get_reader(video)
    assert reader.get_meta_data()["fps"] == frame_rate(load(folder).config) == 50
    assert reader.count_frames() == pytest.approx(max(scores[:4]) + 1 + 50, abs=1)


@pytest.mark.usefixtures("no_display")
def test_the_same_seed_plays_the_same_games(tmp_path, capsys):
    folder = untrained(tmp_path / "trial")
    said = []
    for seed in ("1", "1", "2"):
        assert main([str(folder), "--episodes", "20", "--sample", "--seed", seed]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != said[2]


@pytest.mark.parametrize(
    "overrides",
    [
        ("env=cartpole",),
        ("env=pendulum", "env.max_t=30"),
        ("env=lunarlander", "env.max_t=60"),
        pytest.param(("env=pong", "env.max_t=70"), marks=pytest.mark.slow),
    ],
    ids=lambda overrides: overrides[0],
)
@pytest.mark.usefixtures("no_display")
def test_a_game_is_shown_as_it_was_played(overrides, tmp_path):
    player = load(untrained(tmp_path / "trial", *overrides))
    for one in play_games(player, 2, sample=True):
        seen = list(moments(player.config, one.recording))
        assert len(seen) == one.game.length + 1
        assert seen[-1].score == pytest.approx(one.game.true_return)
        assert seen[-1].image.dtype == np.uint8
        assert seen[-1].image.shape[2] == 3
        assert (seen[0].image != seen[-1].image).any()


def test_tiles_stay_until_the_last_game_has_ended():
    def game(length):
        image = np.full((20, 30, 3), 200, np.uint8)
        return [Moment(image, float(step), step) for step in range(length)]

    pictures = list(tiled([game(2), game(5), game(3)], rate=4))
    assert len(pictures) == 5 + 4
    assert {picture.shape for picture in pictures} == {pictures[0].shape}
    height, width = pictures[0].shape[:2]
    corner = np.s_[height // 4 : height // 2 - 5, 20 : width // 2 - 20]
    assert (pictures[1][corner] == 200).all()
    assert (pictures[2][corner] < 200).all()  # it is over


@pytest.mark.usefixtures("no_display")
def test_the_window_shows_every_picture():
    seen = []

    def pictures():
        for level in (0, 100, 200):
            seen.append(level)
            yield np.full((40, 60, 3), level, np.uint8)

    show(pictures(), 1000.0, "games")
    assert seen == [0, 100, 200]


def test_scores_read_as_games_count_them():
    assert [points(score) for score in (-21.0, 12_345.0, 0.5, -1135.9)] == [
        "-21",
        "12,345",
        "0.50",
        "-1135.9",
    ]


def test_a_bad_folder_is_one_line(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    err = capsys.readouterr().err
    assert err.startswith("rlhydra: ")
    assert "expected a trial's folder" in err
    assert err.count("\n") == 1
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--episodes", "0"])
