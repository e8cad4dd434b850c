"""TensorBoard event files, written in batches.

TensorBoard's own writer takes half a second to import and a thread per file. The format is small:
records with a checksum (tensorboard/summary/writer/record_writer.py), each of them an `Event` of
tensorboard/compat/proto/event.proto in protobuf's wire format.
"""

from __future__ import annotations

import math
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from rlhydra.files import Growing

LARGEST = 3.4028234663852886e38  # of the 32-bit numbers that scalars are


class EventFile:
    """One `events.out.tfevents…` file; what is added reaches the disk at `flush`."""

    def __init__(self, folder: Path, purge_from: int | None = None) -> None:
        """Open a new file in `folder`; with `purge_from`, earlier files' later steps are void."""
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = Growing(folder / name, 0)
        self._pending: list[bytes] = []
        self._add(0, _part(3, b"brain.Event:2"))
        if purge_from is not None:
            self._add(purge_from, _part(7, b"\x08\x01"))  # SessionLog: START
        self.flush()

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """Add the values that are there under their tags."""
        summary = [
            _part(1, _part(1, tag.encode()) + b"\x15" + _float32(value))
            for tag, value in values.items()
            if value is not None
        ]
        self._add(step, _part(5, b"".join(summary)))

    def flush(self) -> None:
        """Write what was added.

        Raises:
            OSError: where the disk is full; what was added goes on waiting.
        """
        if self._pending:
            self._file.append(b"".join(self._pending))
            self._pending.clear()

    def close(self) -> None:
        """Close the file; what waits is lost."""
        self._file.close()

    def _add(self, step: int, content: bytes) -> None:
        event = b"\x09" + struct.pack("<d", time.time()) + b"\x10" + _varint(step) + content
        length = struct.pack("<Q", len(event))
        self._pending.append(length + _masked_crc(length) + event + _masked_crc(event))


def _part(field: int, content: bytes) -> bytes:
    """Return a text or message within a message, under the number of its field."""
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _float32(value: float) -> bytes:
    return struct.pack("<f", math.copysign(math.inf, value) if abs(value) > LARGEST else value)


def _castagnoli_table() -> list[int]:
    table: list[int] = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _castagnoli_table()


def _masked_crc(data: bytes) -> bytes:
    """Return the record format's checksum: CRC-32C, rotated and shifted."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)
