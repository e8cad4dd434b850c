"""Files that are whole at any moment."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

from rlhydra.schema import ConfigError

WRITING = ".writing"  # ends the name of a file that is not whole yet; no reader looks for it


def write_beside(path: Path, data: bytes) -> Path:
    """Write what is to become `path` to a file beside it, flushed to the disk; return that file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}{WRITING}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the content of `path`: at any moment it is whole, the old or the new."""
    write_beside(path, data).replace(path)


class Growing:
    """A file that only grows, by whole blocks: one that does not fit is not there at all."""

    def __init__(self, path: Path, size: int) -> None:
        """Open `path`, make it where it is missing, and cut off what is behind `size` bytes."""
        self._file = path.open("ab", buffering=0)
        self._file.truncate(min(size, path.stat().st_size))
        self.size = self.checksum = 0
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                self.size += len(block)
                self.checksum = zlib.crc32(block, self.checksum)

    def append(self, data: bytes) -> None:
        """Write one block.

        Raises:
            OSError: where the disk is full; the file is as it was.
        """
        written = 0
        try:
            while written < len(data):
                written += self._file.write(data[written:])
        except OSError:
            self._file.truncate(self.size)
            raise
        self.size += len(data)
        self.checksum = zlib.crc32(data, self.checksum)

    def sync(self) -> None:
        """Wait until everything is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def refuse_links(folder: Path) -> None:
    """Raise ConfigError for a symbolic link in `folder`: what is written there stays there."""
    for path in folder.rglob("*"):
        if path.is_symlink():
            problem = f"is a link to {path.readlink()}; a run's folder holds files of its own only"
            raise ConfigError(str(path), problem)
