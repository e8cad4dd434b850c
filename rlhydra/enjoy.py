"""`python -m rlhydra.enjoy FOLDER`: play a trial's best agent, score it, show it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlhydra.build import GAMES, stream
from rlhydra.config import Config
from rlhydra.env.environment import Environment, Game
from rlhydra.evaluate import Played, first_games
from rlhydra.film import draw_off_screen, has_display, points, show, tiled, write_video
from rlhydra.games import FILE, KEPT, KeptGame, read_game
from rlhydra.metrics import interval
from rlhydra.player import Player, load, read_config
from rlhydra.record import read_trial
from rlhydra.replay import Moment, frame_rate, moments, same_score, score_again
from rlhydra.schema import ConfigError
from rlhydra.targets import import_nothing_from, target_class
from rlhydra.wording import number

COPIES = 16  # that play at once, at most


@dataclass(frozen=True)
class _Options:
    folder: Path
    episodes: int
    seed: int
    sample: bool | None
    session: int | None
    video: Path | None
    tiles: int
    game: str | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line asks for; return the exit code."""
    options = _options(arguments)
    import_nothing_from(options.folder.resolve())
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
    again = "show that game of training again, as it was: the best one, or the last"
    parser.add_argument("--game", choices=KEPT, help=again)
    return _Options(**vars(parser.parse_args(arguments)))


def _count(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def _enjoy(options: _Options) -> None:
    if options.game is not None:
        _show_again(options, options.game)
        return
    player = load(options.folder, options.session)
    played = play_games(player, options.episodes, options.seed, options.sample)
    print(described(player, [one.game for one in played]))
    shown = [one for one in played if one.recording is not None][: options.tiles]
    config, title = player.config, f"{player.config.env.id}, session {player.session}"
    _show(options, config, shown, title)


def _show_again(options: _Options, name: str) -> None:
    """Tell of a kept game of training, that it goes again as it went, and show it."""
    config = read_config(options.folder)
    session, kept = kept_game(options.folder, name, options.session)
    game = kept.game
    print(f"{config.env.id}, the {name} game of session {session}")
    print(f"ended    at frame {kept.frame:,}")
    print(f"score    {points(game.true_return)}")
    print(f"length   {game.length:,} frames")
    _tell_differing(config, score_again(config, kept.recording), game)
    title = f"{config.env.id}, session {session}, {name} game"
    _show(options, config, [Played(game, kept.recording)], title, training=True)


def kept_game(folder: Path, name: str, session: int | None) -> tuple[int, KeptGame]:
    """Return a kept game and its session: the one given, or of all the one with the best score.

    Raises:
        ConfigError: where no game was kept.
    """
    if session is not None:
        return session, read_game(folder / f"session_{session}", name)
    sessions = [s.index for s in read_trial(folder).sessions]
    there = [k for k in sessions if (folder / f"session_{k}" / FILE).is_file()]
    kept = {k: read_game(folder / f"session_{k}", name) for k in there or sessions[:1]}
    best = max(kept, key=lambda k: (kept[k].game.true_return, -k))
    return best, kept[best]


def _show(
    options: _Options, config: Config, shown: list[Played], title: str, *, training: bool = False
) -> None:
    """Show the games in a window or a video, where one can be had."""
    if not shown or not (options.video or has_display()):
        return
    rate = frame_rate(config)
    pictures = tiled([_checked(config, one, training=training) for one in shown], rate)
    if not has_display():
        draw_off_screen()
    if options.video is None:
        show(pictures, rate, title)
        return
    write_video(options.video, pictures, rate)
    print(f"video    {options.video}")


def play_games(
    player: Player, episodes: int, seed: int = 0, sample: bool | None = None
) -> list[Played]:
    """Play so many whole games, each from a seed of its own, and return them in order.

    Without `sample` actions are chosen as in the trial's evaluations.
    """
    config, meta = player.config, player.config.meta
    env_class = target_class(config.env_target, Environment)
    played: list[Played] = []
    while len(played) < episodes:
        streams = stream(seed, player.session, GAMES, len(played))
        copies = min(COPIES, episodes - len(played))
        # Made anew: some environments reset differently once used, and would not replay.
        env: Environment = env_class(config.env, copies, streams, training=False)
        default = env.sampled if meta.eval_sample is None else meta.eval_sample
        chosen = default if sample is None else sample
        try:
            played += first_games(player.agent, env, streams, sample=chosen)
        finally:
            env.close()
    return played


def _checked(config: Config, played: Played, *, training: bool) -> Generator[Moment]:
    """Show a game again, and tell where it did not go as it went."""
    score = 0.0
    assert played.recording is not None
    for moment in moments(config, played.recording, training=training):
        score = moment.score
        yield moment
    _tell_differing(config, score, played.game)


def _tell_differing(config: Config, score: float, game: Game) -> None:
    if not same_score(score, game.true_return):
        print(
            f"rlhydra: {config.env.id} does not replay exactly: the game shown scored "
            f"{points(score)}, the one played {points(game.true_return)}",
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
