"""Games side by side, with score and step drawn in, as a video or in a window."""

from __future__ import annotations

import io
import itertools
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image as Pictures
from PIL import ImageDraw, ImageFont

from rlhydra.replay import Image, Moment
from rlhydra.schema import ConfigError
from rlhydra.wording import number

WIDTH = {1: 640, 2: 480}  # pixels of a tile in so many columns; in more:
NARROW = 320
STRIP = 26  # height of the line above each tile
GAP = 4  # between tiles
BACKGROUND = (24, 26, 30)
INK = (235, 235, 235)
OVER = (140, 146, 156)  # the ink, and the shade, of a game that has ended
HOLD = 1.0  # seconds that the last picture stays
SMALL = 240  # pixels of an animation's width
SHORT = 2000  # frames of a game that an animation shows, at most
PICTURES = 200  # that it is made of, at most


def tiled(games: Sequence[Iterable[Moment]], rate: float) -> Iterator[Image]:
    """Yield pictures of all games at once until the last has ended; an ended one stays, paler."""
    running = [iter(game) for game in games]
    shown: list[Moment | None] = [None] * len(games)
    over = [False] * len(games)
    columns = math.ceil(math.sqrt(len(games)))
    picture: Image | None = None
    while True:
        for k, game in enumerate(running):
            moment = None if over[k] else next(game, None)
            over[k] = moment is None
            shown[k] = moment or shown[k]
        if all(over):
            break
        tiles = [_tile(k, m, columns, over[k]) for k, m in enumerate(shown) if m is not None]
        picture = _grid(tiles, columns)
        yield picture
    if picture is not None:
        yield from [picture] * round(HOLD * rate)


def _tile(index: int, moment: Moment, columns: int, over: bool) -> Image:
    height, width = moment.image.shape[:2]
    wide = WIDTH.get(columns, NARROW)
    high = 2 * round(height * wide / width / 2)
    enlarged = wide > width
    picture = Pictures.fromarray(moment.image).resize(
        (wide, high), Pictures.Resampling.NEAREST if enlarged else Pictures.Resampling.BOX
    )
    if over:
        picture = Pictures.blend(picture, Pictures.new("RGB", picture.size, OVER), 0.5)
    tile = Pictures.new("RGB", (wide + GAP, high + STRIP), BACKGROUND)
    tile.paste(picture, (GAP // 2, STRIP))
    draw, ink = ImageDraw.Draw(tile), OVER if over else INK
    font = ImageFont.load_default(15)
    middle = STRIP / 2
    draw.text((8, middle), f"game {index + 1}", ink, font, "lm")
    draw.text((wide / 2, middle), f"score {points(moment.score)}", ink, font, "mm")
    draw.text((wide - 8, middle), f"step {moment.step:,}", ink, font, "rm")
    return np.asarray(tile)


def _grid(tiles: Sequence[Image], columns: int) -> Image:
    blank = np.full_like(tiles[0], BACKGROUND)
    missing = -len(tiles) % columns
    rows = [*tiles, *[blank] * missing]
    return np.concatenate(
        [np.concatenate(rows[i : i + columns], 1) for i in range(0, len(rows), columns)]
    )


def points(score: float) -> str:
    """Write a score: most games count in whole points."""
    return f"{score:,.0f}" if score == round(score) else number(score)


def write_video(path: Path, pictures: Iterator[Image], rate: float) -> None:
    """Encode the pictures as H.264, which every browser plays.

    Raises:
        ConfigError: where the encoder is not installed.
    """
    try:
        from imageio_ffmpeg import write_frames
    except ImportError:
        raise ConfigError("--video", "needs an encoder: pip install 'rlhydra[video]'") from None
    first = next(pictures)
    size = (first.shape[1], first.shape[0])
    path.parent.mkdir(parents=True, exist_ok=True)
    writer: Any = write_frames(
        str(path), size, fps=cast("Any", rate), macro_block_size=2, quality=7
    )
    with closing(writer):
        writer.send(None)
        writer.send(np.ascontiguousarray(first))
        for picture in pictures:
            writer.send(np.ascontiguousarray(picture))


def animation(game: Iterable[Moment], rate: float) -> bytes:
    """Return the beginning of a game as a small GIF, at its own pace."""
    shown = [moment.image for moment in itertools.islice(game, SHORT)]
    every = math.ceil(len(shown) / PICTURES)
    height, width = shown[0].shape[:2]
    size = (SMALL, round(height * SMALL / width))
    first, *others = (
        Pictures.fromarray(image).resize(size, Pictures.Resampling.BOX) for image in shown[::every]
    )
    written = io.BytesIO()
    pace = max(20, round(1000 * every / rate))  # ms; browsers show nothing faster
    first.save(written, "GIF", save_all=True, append_images=others, duration=pace, loop=0)
    return written.getvalue()


def has_display() -> bool:
    """Return whether a window can be opened here."""
    named = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return sys.platform in ("darwin", "win32") or bool(named)


def draw_off_screen() -> None:
    """Let the libraries that environments draw with do so without a display; before they load."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")


def show(pictures: Iterator[Image], rate: float, title: str) -> None:
    """Show the pictures in a window, at their own pace, until it is closed."""
    import pygame

    pygame.display.init()
    try:
        first = next(pictures)
        pygame.display.set_caption(title)
        screen = pygame.display.set_mode((first.shape[1], first.shape[0]))
        clock = pygame.time.Clock()
        for picture in itertools.chain([first], pictures):
            if any(event.type == pygame.QUIT for event in pygame.event.get()):
                break
            pygame.surfarray.blit_array(screen, picture.swapaxes(0, 1))
            pygame.display.flip()
            clock.tick(rate)
    finally:
        pygame.display.quit()
