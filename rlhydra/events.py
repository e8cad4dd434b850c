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
from typing import Any

import numpy as np
from numpy.typing import NDArray

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

    def hyperparameters(self, values: Mapping[str, Any], *, succeeded: bool) -> None:
        """Add the settings of a run that is over, for the HParams tab to set its scalars against.

        The messages are those of tensorboard/plugins/hparams/plugin_data.proto and api.proto.
        """
        known = {key: value for key, value in values.items() if value is not None}
        pairs = (_part(1, _part(1, k.encode()) + _part(2, _value(v))) for k, v in known.items())
        self._hparams(b"session_start_info", _part(3, b"".join(pairs)))
        self._hparams(b"session_end_info", _part(4, b"\x08\x01" if succeeded else b"\x08\x02"))

    def _hparams(self, name: bytes, content: bytes) -> None:
        plugin = _part(1, b"hparams") + _part(2, content)
        summary = _part(1, b"_hparams_/" + name) + _part(8, _NOTHING) + _part(9, _part(1, plugin))
        self._add(0, _part(5, _part(1, summary)))

    def flush(self) -> None:
        """Write what was added.

        Raises:
            OSError: where the disk is full; what was added goes on waiting.
        """
        if self._pending:
            self._file.append(b"".join(self._pending))
            self._pending.clear()

    def text(self, tag: str, markdown: str) -> None:
        """Add a text, which TensorBoard shows as Markdown."""
        tensor = b"\x08\x07" + _part(2, _part(2, b"\x08\x01")) + _part(8, markdown.encode())
        plugin = _part(1, _part(1, b"text"))
        summary = _part(1, _part(1, tag.encode()) + _part(8, tensor) + _part(9, plugin))
        self._add(0, _part(5, summary))

    def histograms(self, step: int, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Add the distribution of each array's numbers under its tag, in 30 bins."""
        summary = [
            _part(1, _part(1, tag.encode()) + _part(5, _histogram(values.ravel())))
            for tag, values in arrays.items()
            if values.size and np.isfinite(values).all()
        ]
        self._add(step, _part(5, b"".join(summary)))

    def image(self, step: int, tag: str, encoded: bytes) -> None:
        """Add a picture, which may move, as the bytes of a PNG, JPEG or GIF."""
        self._add(step, _part(5, _part(1, _part(1, tag.encode()) + _part(4, _part(4, encoded)))))

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


def _histogram(values: NDArray[Any]) -> bytes:
    """Return a `HistogramProto`."""
    counts, edges = np.histogram(values.astype(np.float64), bins=30)
    facts = (values.min(), values.max(), values.size, values.sum(), np.square(values).sum())
    fields = (bytes([field << 3 | 1]) + struct.pack("<d", x) for field, x in enumerate(facts, 1))
    limits, bins = (np.asarray(each, "<f8").tobytes() for each in (edges[1:], counts))
    return b"".join(fields) + _part(6, limits) + _part(7, bins)


def _value(value: Any) -> bytes:
    """Return a `google.protobuf.Value`: truth, number or text."""
    if isinstance(value, bool):
        return b"\x20" + _varint(value)
    if isinstance(value, (int, float)):
        return b"\x11" + struct.pack("<d", value)
    return _part(3, str(value).encode())


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


# The tensor of a summary that has no numbers: one float, 0.
_NOTHING = b"\x08\x01" + _part(2, _part(2, b"\x08\x01")) + _part(5, bytes(4))


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
