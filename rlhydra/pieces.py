"""Growing rows on disk: files that hold a piece each, written once and never changed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from rlhydra.files import write_atomically
from rlhydra.memory.ring import Rows
from rlhydra.schema import ConfigError

SMALL = 1 << 20  # bytes: the last piece is written again with what follows it while it has less
LARGE = 1 << 26  # bytes: a piece has at most so many, as it takes twice the memory to write it


class Piece(NamedTuple):
    """Rows `start` to `stop`, in the file `file`."""

    start: int
    stop: int
    file: str
    size: int
    sha256: str


def extend(folder: Path, pieces: Sequence[Piece], rows: Rows, written: set[str]) -> list[Piece]:
    """Return the pieces that hold `rows`, of which only those that `pieces` lack are written.

    Names of new files are added to `written` before they are there.
    """
    kept = [piece for piece in pieces if piece.stop > rows.start]
    if kept and kept[-1].size < SMALL and kept[-1].stop < rows.stop:
        kept.pop()
    first = kept[-1].stop if kept else rows.start
    while first < rows.stop:
        row_size = sum(array.nbytes for array in rows.read(first, first + 1).values())
        last = min(rows.stop, first + max(1, LARGE // row_size))
        data = save(rows.read(first, last))
        sha256 = hashlib.sha256(data).hexdigest()
        piece = Piece(first, last, f"rows-{first}-{sha256[:12]}.safetensors", len(data), sha256)
        written.add(piece.file)
        write_atomically(folder / piece.file, data)
        kept.append(piece)
        first = last
    return kept


def open_rows(folder: Path, start: int, stop: int, pieces: Sequence[Piece]) -> Rows:
    """Return the rows that `pieces` hold, to be read from their files.

    Raises:
        ConfigError: where a file is damaged.
        OSError: where one cannot be read.
    """
    for piece in pieces:
        path = folder / piece.file
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != piece.sha256:
                raise ConfigError(str(path), "the checkpoint is damaged: its checksum differs")

    def read(first: int, last: int) -> dict[str, NDArray[Any]]:
        parts = [_part(folder, p, first, last) for p in pieces if p.start < last and p.stop > first]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    return Rows(start, stop, read)


def _part(folder: Path, piece: Piece, first: int, last: int) -> dict[str, NDArray[Any]]:
    begin, end = max(first - piece.start, 0), min(last, piece.stop) - piece.start
    with safe_open(folder / piece.file, "numpy") as file:  # mapped into memory, not read whole
        return {name: file.get_slice(name)[begin:end] for name in file.keys()}  # noqa: SIM118
