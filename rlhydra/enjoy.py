"""`python -m rlhydra.enjoy FOLDER`: play a trial's best agent, score it, show it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from rlhydra.config import Config, target_class
from rlhydra.env.environment import Environment, Game, Recording
from rlhydra.evaluate import LONGEST
from rlhydra.film import draw_off_screen, has_display, points, show, tiled, write_video
from rlhydra.metrics import interval
from rlhydra.player import Player, load
from rlhydra.replay import Moment, frame_rate, moments, same_score
from rlhydra.schema import ConfigError
from rlhydra.session import stream
from rlhydra.wording import number

GAMES = 3  # a branch of the seed beside those of a session
COPIES = 16  # that play at once, at most


class Played(NamedTuple):
    """A game, and what shows it again; None where it was cut for its length."""

    game: Game
    recording: Recording | None


@dataclass(frozen=True)
class _Options:
    folder: Path
    episodes: int
    seed: int
    sample: bool | None
    session: int | None
    video: Path | None
    tiles: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; return the exit code."""
    options = _options(arguments)
    # Nothing in the folder is code, whoever made it and wherever we were started.
    place = options.folder.resolve()
    sys.path[:] = [path for path in sys.path if not Path(path).resolve().is_relative_to(place)]
    try:
        _enjoy(options)
    except ConfigError as error:
        print(f"rlhydra: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _options(arguments: Sequence[str] | None) -> _Options:
    parser = argparse.ArgumentParser(
        prog="python -m rlhydra.enjoy",
        description="Play the best agent of a trial: print its scores, and show its games in a "
        "window where there is a display, or in a video. The trial's folder is only read.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of a trial")
    parser.add_argument("--episodes", type=_count, default=10, metavar="N", help="games (10)")
    parser.add_argument("--seed", type=int, default=0, help="of the games (0)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--greedy", dest="sample", action="store_false", help="the likeliest actions")
    how.add_argument("--sample", action="store_true", help="actions drawn as in training")
    parser.set_defaults(sample=None)
    parser.add_argument("--session", type=int, metavar="K", help="whose agent (the best one's)")
    parser.add_argument("--video", type=Path, metavar="FILE.mp4", help="film the games")
    parser.add_argument("--tiles", type=_count, default=4, help="games side by side (4)")
    return _Options(**vars(parser.parse_args(arguments)))


def _count(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def _enjoy(options: _Options) -> None:
    player = load(options.folder, options.session)
    played = play_games(player, options.episodes, options.seed, options.sample)
    print(described(player, [one.game for one in played]))
    shown = [one for one in played if one.recording is not None][: options.tiles]
    if not shown or not (options.video or has_display()):
        return
    config, rate = player.config, frame_rate(player.config)
    pictures = tiled([_checked(config, one) for one in shown], rate)
    if not has_display():
        draw_off_screen()
    if options.video is None:
        show(pictures, rate, f"{config.env.id}, session {player.session}")
        return
    write_video(options.video, pictures, rate)
    print(f"video    {options.video}")


def play_games(
    player: Player, episodes: int, seed: int = 0, sample: bool | None = None
) -> list[Played]:
    """Play so many whole games, each from a seed of its own, and return them in order.

    Without `sample` actions are chosen as in the trial's evaluations.
    """
    env_class = target_class(player.config.env_target, Environment)
    played: list[Played] = []
    while len(played) < episodes:
        streams = stream(seed, player.session, GAMES, len(played))
        copies = min(COPIES, episodes - len(played))
        # Made anew: some environments reset differently once used, and would not replay.
        env = env_class(player.config.env, copies, streams, training=False)
        try:
            played += _first_games(player, env, streams, sample)
        finally:
            env.close()
    return played


def _first_games(
    player: Player, env: Environment, streams: np.random.SeedSequence, sample: bool | None
) -> list[Played]:
    """Play one game in each copy."""
    agent, meta = player.agent, player.config.meta
    env_seed, action_seed = streams.spawn(2)
    default = env.sampled if meta.eval_sample is None else meta.eval_sample
    generator = torch.Generator(agent.device).manual_seed(int(action_seed.generate_state(1)[0]))
    chosen = generator if (default if sample is None else sample) else None
    obs, memory = env.reset(env_seed), None
    ended: dict[int, Played] = {}
    for _ in range(LONGEST):
        action, memory = agent.play(obs, memory, chosen)
        _, obs = env.step(action)
        for game in env.games:
            if game.copy not in ended:
                ended[game.copy] = Played(game, env.recording(game))
        if len(ended) == env.num_envs:
            break
    cut = (Played(game, None) for game in env.running() if game.copy not in ended)
    ended |= {one.game.copy: one for one in cut}
    return [ended[copy] for copy in range(env.num_envs)]


def _checked(config: Config, played: Played) -> Generator[Moment]:
    """Show a game again, and tell where it did not go as it went."""
    score = 0.0
    assert played.recording is not None
    for moment in moments(config, played.recording):
        score = moment.score
        yield moment
    if not same_score(score, played.game.true_return):
        print(
            f"rlhydra: {config.env.id} does not replay exactly: the game shown scored "
            f"{points(score)}, the one played {points(played.game.true_return)}",
            file=sys.stderr,
        )


def described(player: Player, games: Sequence[Game]) -> str:
    """Return the scores of the games in a few lines."""
    scores = np.array([game.true_return for game in games])
    lengths = np.array([game.length for game in games])
    low, high = interval(scores)
    within = "" if low is None else f"  95 % [{number(low)}, {number(high)}]"
    shown = " ".join(points(score) for score in scores[:20])
    total = f"{len(scores)} game{'s' * (len(scores) != 1)}"
    lines = [
        f"{player.config.env.id}, the best agent of session {player.session}",
        f"scores   {shown}{' …' if len(scores) > 20 else ''}",
        f"mean     {number(float(scores.mean()))}{within}  over {total}",
        f"range    {points(float(scores.min()))} to {points(float(scores.max()))}",
        f"length   {number(float(lengths.mean()))} frames",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
