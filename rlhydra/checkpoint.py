"""Checkpoints: nested state on disk as safetensors and JSON, written beside and renamed; no pickle."""

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

from rlhydra.files import write_atomically
from rlhydra.schema import ConfigError

log = logging.getLogger(__name__)

GENERATIONS = ("latest", "previous")


class Checkpoints:
    """The checkpoints of one session: two generations of its full state, and the best weights.

    Each is `<name>.json`, which holds the plain values, and the tensors' file that it names with its
    SHA-256. The JSON file is replaced last, so what it names is always whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, frame: int, state: dict[str, Any]) -> None:
        """Write the full state as `latest`; what was latest becomes `previous`."""
        tensors = self._write_tensors(f"state-{frame}", state)
        latest, previous = (self.folder / f"{name}.json" for name in GENERATIONS)
        if latest.exists():
            latest.replace(previous)
        self._write_json("latest", frame, *tensors)
        self._sweep("state-*", GENERATIONS)

    def save_weights(self, frame: int, weights: dict[str, Any], *, best: bool, keep: bool) -> None:
        """Write what is needed to play; `keep` leaves it for good, under its frame."""
        tensors = self._write_tensors(f"weights-{frame}", weights)
        if keep:
            self._write_json(f"weights-{frame}", frame, *tensors)
        if best:
            self._write_json("best", frame, *tensors)
        kept = [path.stem for path in self.folder.glob("weights-*.json")]
        self._sweep("weights-*.safetensors", ("best", *kept))

    def load(self) -> dict[str, Any] | None:
        """Return the latest full state that can be read, or None where there was never one.

        Raises:
            ConfigError: where there are checkpoints, but none can be read.
        """
        problems: list[str] = []
        for name in GENERATIONS:
            path = self.folder / f"{name}.json"
            if not path.exists():
                continue
            try:
                return self.read(path)
            except ConfigError as error:
                problems.append(str(error))
                log.warning("%s; trying the one before", error)
        if not problems and not list(self.folder.glob("state-*")):
            return None
        reasons = "; ".join(problems) or "the JSON files are gone"
        raise ConfigError(str(self.folder), f"no checkpoint can be read: {reasons}")

    @staticmethod
    def read(path: Path) -> dict[str, Any]:
        """Return the state that the JSON file `path` stands for.

        Raises:
            ConfigError: where a file is missing or damaged.
        """
        try:
            head = json.loads(path.read_text(encoding="utf-8"))
            tensors = path.parent / Path(head["file"]).name
            data = tensors.read_bytes()
            if hashlib.sha256(data).hexdigest() != head["sha256"]:
                raise ConfigError(str(tensors), "the checkpoint is damaged: its checksum differs")
            return cast("dict[str, Any]", _unpack(head["tree"], load_tensors(data)))
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ConfigError(str(path), f"the checkpoint cannot be read: {error}") from error

    def _write_tensors(self, stem: str, state: dict[str, Any]) -> tuple[str, str, Any]:
        tensors: dict[str, torch.Tensor] = {}
        tree = _pack(state, "", tensors)
        data = save_tensors(tensors)
        name = f"{stem}.safetensors"
        write_atomically(self.folder / name, data)
        return name, hashlib.sha256(data).hexdigest(), tree

    def _write_json(self, name: str, frame: int, file: str, sha256: str, tree: Any) -> None:
        head = {"frame": frame, "file": file, "sha256": sha256, "tree": tree}
        write_atomically(self.folder / f"{name}.json", json.dumps(head).encode())

    def _sweep(self, pattern: str, names: tuple[str, ...]) -> None:
        """Remove the tensors' files of `pattern` that no JSON file of `names` refers to."""
        heads = [self.folder / f"{name}.json" for name in names]
        used = {json.loads(head.read_text())["file"] for head in heads if head.exists()}
        for path in self.folder.glob(pattern):
            if path.name not in used:
                path.unlink()


def _pack(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Return `value` as JSON; tensors and arrays go to `tensors`, their names stay behind."""
    if isinstance(value, torch.Tensor):
        # A copy of its own: safetensors refuses tensors that share memory.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, np.ndarray):
        tensors[name] = torch.from_numpy(np.array(value))
        return {"array": name}
    if isinstance(value, np.generic):
        return value.item()
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
    return tensors[content] if kind == "tensor" else tensors[content].numpy()
