"""Checkpoints: nested state on disk as safetensors and JSON, replaced atomically; no pickle."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from rlhydra.files import WRITING, write_atomically, write_beside
from rlhydra.schema import ConfigError

log = logging.getLogger(__name__)

GENERATIONS = ("latest", "previous")


class Checkpoints:
    """The checkpoints of one session: two generations of its full state, and the best weights.

    Each is `<name>.json`, which holds the plain values, and the tensors' file that it names with
    its SHA-256. Tensors' files are named after their content and never written again; the JSON file
    comes last, so what it names is always whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._states: list[str] = []  # tensors' files of the generations, latest first
        self._best: str | None = None

    def save(self, frame: int, state: dict[str, Any]) -> None:
        """Write the full state as `latest`; what was latest becomes `previous`.

        Raises:
            OSError: where the disk is full; both generations are as they were.
        """
        latest, previous = (self.folder / f"{name}.json" for name in GENERATIONS)
        tensors, head = self._write_tensors("state", frame, state)
        try:
            ready = write_beside(latest, _sealed(head))
        except OSError:
            self._remove({tensors.name} - {*self._states})
            raise
        if latest.exists():
            latest.replace(previous)
        ready.replace(latest)
        generations = [tensors.name, *self._states[:1]]
        self._remove({*self._states} - {*generations})
        self._states = generations

    def save_weights(self, frame: int, weights: dict[str, Any], *, best: bool, keep: bool) -> None:
        """Write what is needed to play; `keep` leaves it for good, under its frame.

        Raises:
            OSError: where the disk is full; the best weights are as they were.
        """
        tensors, head = self._write_tensors("weights", frame, weights)
        names = [f"weights-{frame}"] * keep + ["best"] * best
        try:
            for name in names:
                write_atomically(self.folder / f"{name}.json", _sealed(head))
        except OSError:
            self._discard(tensors.name)
            raise
        if best:
            before, self._best = self._best, tensors.name
            if before is not None and before != tensors.name:
                self._discard(before)

    def load(self) -> dict[str, Any] | None:
        """Return the latest full state that can be read, or None where there was never one.

        What an interrupted write left over is removed, and so is a latest state that is damaged.

        Raises:
            ConfigError: where there are checkpoints, but none can be read.
        """
        heads = [self.folder / f"{name}.json" for name in GENERATIONS]
        problems: list[str] = []
        state = None
        for path in heads:
            if state is None and path.exists():
                try:
                    state = self.read(path)
                except ConfigError as error:
                    problems.append(str(error))
        if state is None and (problems or any(self.folder.glob("state-*"))):
            reasons = "; ".join(problems) or "its JSON file is gone"
            raise ConfigError(str(self.folder), f"no checkpoint can be read: {reasons}")
        if state is not None and problems:
            log.warning("%s; going on from the checkpoint before", *problems)
            heads[1].replace(heads[0])  # or the next save would make the damaged one `previous`
        self._tidy()
        return state

    @staticmethod
    def read(path: Path) -> dict[str, Any]:
        """Return the state that the JSON file `path` stands for.

        Raises:
            ConfigError: where a file is missing or damaged.
        """
        try:
            head = _unsealed(path)
            tensors = path.parent / Path(head["file"]).name
            data = tensors.read_bytes()
            if _hash(data) != head["sha256"]:
                raise ConfigError(str(tensors), "the checkpoint is damaged: its checksum differs")
            return cast("dict[str, Any]", _unpack(head["tree"], load_tensors(data)))
        except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
            raise ConfigError(str(path), f"the checkpoint cannot be read: {error}") from error

    def _write_tensors(
        self, kind: str, frame: int, state: dict[str, Any]
    ) -> tuple[Path, dict[str, Any]]:
        tensors: dict[str, torch.Tensor] = {}
        tree = _pack(state, "", tensors)
        data = save_tensors(tensors)
        sha256 = _hash(data)
        path = self.folder / f"{kind}-{frame}-{sha256[:12]}.safetensors"
        write_atomically(path, data)
        return path, {"frame": frame, "file": path.name, "sha256": sha256, "tree": tree}

    def _tidy(self) -> None:
        """Learn which tensors' files are in use and remove the others."""
        self._states = [file for name in GENERATIONS if (file := self._file(name))]
        self._best = self._file("best")
        kept = [self._file(path.stem) for path in self.folder.glob("weights-*.json")]
        leftovers = {path.name for path in self.folder.glob("*.safetensors")}
        leftovers |= {path.name for path in self.folder.glob(f".*{WRITING}")}
        self._remove(leftovers - {*self._states, self._best, *kept})

    def _discard(self, weights: str) -> None:
        """Remove a file of weights, unless it is kept for good under its frame."""
        frame = weights.split("-")[1]
        if self._file(f"weights-{frame}") != weights:
            self._remove({weights})

    def _file(self, name: str) -> str | None:
        path = self.folder / f"{name}.json"
        try:
            return str(_unsealed(path)["file"])
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def _remove(self, names: set[str]) -> None:
        for name in names:
            (self.folder / name).unlink(missing_ok=True)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _sealed(head: dict[str, Any]) -> bytes:
    """Return the JSON of `head`, with its own checksum."""
    return json.dumps({"checksum": _hash(json.dumps(head).encode()), **head}).encode()


def _unsealed(path: Path) -> dict[str, Any]:
    head = json.loads(path.read_text(encoding="utf-8"))
    # Numbers and texts come back from JSON as they went in, so the same text is made of them.
    if head.pop("checksum") != _hash(json.dumps(head).encode()):
        raise ValueError("it is damaged: its checksum differs")
    return head


def _pack(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Return `value` as JSON; tensors and arrays go to `tensors`, their names stay behind."""
    if isinstance(value, torch.Tensor):
        # A copy of its own: safetensors refuses tensors that share memory.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, (np.ndarray, np.generic)):
        tensors[name] = torch.from_numpy(np.array(value))
        # A scalar keeps its type: arithmetic with a Python number can have another one.
        return {"array" if isinstance(value, np.ndarray) else "scalar": name}
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value).items()
        return {"dict": [[k, _pack(v, f"{name}/{k}", tensors)] for k, v in items]}
    if isinstance(value, (list, tuple)):
        values = cast("list[Any]", value)
        return [_pack(v, f"{name}/{i}", tensors) for i, v in enumerate(values)]
    return value


def _unpack(tree: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(tree, list):
        return [_unpack(item, tensors) for item in cast("list[Any]", tree)]
    if not isinstance(tree, dict):
        return tree
    kind, content = next(iter(cast("dict[str, Any]", tree).items()))
    if kind == "dict":
        return {key: _unpack(item, tensors) for key, item in content}
    tensor = tensors[content]
    if kind == "tensor":
        return tensor
    return tensor.numpy() if kind == "array" else tensor.numpy()[()]
