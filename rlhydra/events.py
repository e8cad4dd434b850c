"""TensorBoard event files, written in batches.

TensorBoard's own writer takes half a second to import and a thread per file; its record format is five lines.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING


class EventFile:
    """One `events.out.tfevents…` file; what is added reaches the disk at `flush`."""

    def __init__(self, folder: Path, purge_from: int | None = None) -> None:
        """Open a new file in `folder`; with `purge_from`, earlier files' later steps are void."""
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("wb")
        self._pending: list[Event] = [Event(wall_time=time.time(), file_version="brain.Event:2")]
        if purge_from is not None:
            start = SessionLog(status=SessionLog.START)
            self._add(Event(step=purge_from, session_log=start))
        self.flush()

    def scalars(self, step: int, values: Mapping[str, float | None]) -> None:
        """Add the values that are there under their tags."""
        items = [
            Summary.Value(tag=tag, simple_value=value)
            for tag, value in values.items()
            if value is not None
        ]
        self._add(Event(step=step, summary=Summary(value=items)))

    def text(self, tag: str, content: str) -> None:
        """Add a Markdown text."""
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=1)])
        tensor = TensorProto(dtype=DT_STRING, tensor_shape=shape, string_val=[content.encode()])
        plugin = SummaryMetadata.PluginData(plugin_name="text")
        value = Summary.Value(
            tag=f"{tag}/text_summary", metadata=SummaryMetadata(plugin_data=plugin), tensor=tensor
        )
        self._add(Event(summary=Summary(value=[value])))

    def flush(self) -> None:
        """Write what was added."""
        for event in self._pending:
            data = event.SerializeToString()
            length = struct.pack("<Q", len(data))
            self._file.write(length + _masked_crc(length) + data + _masked_crc(data))
        self._pending.clear()
        self._file.flush()

    def close(self) -> None:
        """Write what was added and close."""
        self.flush()
        self._file.close()

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        self._pending.append(event)


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
