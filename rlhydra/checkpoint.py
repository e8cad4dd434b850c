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
from rlhydra.memory.ring import Rows
from rlhydra.pieces import Piece, extend, open_rows
from rlhydra.schema import ConfigError

log = logging.getLogger(__name__)

GENERATIONS = ("latest", "previous")


class Checkpoints:
    """The checkpoints of one session: two generations of its full state, and the best weights.

    Each is `<name>.json`, which holds the plain values, and names the tensors' file with its
    SHA-256, and those of rows that only grow, such as a replay memory's: of them a checkpoint
    writes what came since the one before. No such file is ever changed, and the JSON file comes
    last: what it names is always whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._generations: list[set[str]] = []  # files that each names, latest first
        self._pieces: dict[str, list[Piece]] = {}  # of the latest
        self._best: str | None = None

    def save(self, frame: int, state: dict[str, Any]) -> None:
        """Write the full state as `latest`; what was latest becomes `previous`.

        Raises:
            OSError: where the disk is full; both generations are as they were.
        """
        latest, previous = (self.folder / f"{name}.json" for name in GENERATIONS)
        in_use = set[str]().union(*self._generations)
        written: set[str] = set()
        tensors: dict[str, torch.Tensor] = {}
        rows: dict[str, Rows] = {}
        try:
            tree = _pack(state, "", tensors, rows)
            head = self._write_tensors("state", frame, tree, tensors, written)
            pieces = {
                name: extend(self.folder, self._pieces.get(name, []), grown, written)
                for name, grown in rows.items()
            }
            head["rows"] = {
                name: [grown.start, grown.stop, pieces[name]] for name, grown in rows.items()
            }
            ready = write_beside(latest, _sealed(head))
        except OSError:
            self._remove(written - in_use)
            raise
        older = self._generations
        if older and head["file"] in older[0]:  # the same state again: one generation
            older = older[1:]
        elif latest.exists():
            latest.replace(previous)
        ready.replace(latest)
        self._generations = [_named(head), *older[:1]]
        self._pieces = pieces
        self._remove(in_use - set[str]().union(*self._generations))

    def save_weights(self, frame: int, weights: dict[str, Any], *, best: bool, keep: bool) -> None:
        """Write what is needed to play; `keep` leaves it for good, under its frame.

        Raises:
            OSError: where the disk is full; the best weights are as they were.
        """
        tensors: dict[str, torch.Tensor] = {}
        written: set[str] = set()
        names = [f"weights-{frame}"] * keep + ["best"] * best
        try:
            tree = _pack(weights, "", tensors, {})
            head = self._write_tensors("weights", frame, tree, tensors, written)
            for name in names:
                write_atomically(self.folder / f"{name}.json", _sealed(head))
        except OSError:
            for name in written - {self._best}:
                self._discard(name)
            raise
        if best:
            before, self._best = self._best, head["file"]
            if before is not None and before != head["file"]:
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

    def has_best(self) -> bool:
        """Return whether there are best weights that can be read."""
        try:
            self.read(self.folder / "best.json")
        except ConfigError:
            return False
        return True

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
            leaves: dict[str, Any] = dict(load_tensors(data))
            for name, (start, stop, pieces) in head.get("rows", {}).items():
                leaves[name] = open_rows(path.parent, start, stop, _pieces(pieces))
            return cast("dict[str, Any]", _unpack(head["tree"], leaves))
        except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
            raise ConfigError(str(path), f"the checkpoint cannot be read: {error}") from error

    def _write_tensors(
        self,
        kind: str,
        frame: int,
        tree: Any,
        tensors: dict[str, torch.Tensor],
        written: set[str],
    ) -> dict[str, Any]:
        data = save_tensors(tensors)
        sha256 = _hash(data)
        name = f"{kind}-{frame}-{sha256[:12]}.safetensors"
        written.add(name)
        write_atomically(self.folder / name, data)
        return {"frame": frame, "file": name, "sha256": sha256, "tree": tree}

    def _tidy(self) -> None:
        """Learn which files are in use and remove the others."""
        heads = [head for name in GENERATIONS if (head := self._head(name))]
        self._generations = [_named(head) for head in heads]
        if heads:
            rows = heads[0].get("rows", {})
            self._pieces = {name: _pieces(pieces) for name, (_, _, pieces) in rows.items()}
        best = self._head("best")
        self._best = None if best is None else best["file"]
        kept = [self._head(path.stem) for path in self.folder.glob("weights-*.json")]
        in_use = [_named(head) for head in (*heads, best, *kept) if head is not None]
        leftovers = {path.name for path in self.folder.glob("*.safetensors")}
        leftovers |= {path.name for path in self.folder.glob(f".*{WRITING}")}
        self._remove(leftovers.difference(*in_use))

    def _discard(self, weights: str) -> None:
        """Remove a file of weights, unless it is kept for good under its frame."""
        frame = weights.split("-")[1]
        head = self._head(f"weights-{frame}")
        if head is None or head["file"] != weights:
            self._remove({weights})

    def _head(self, name: str) -> dict[str, Any] | None:
        try:
            return _unsealed(self.folder / f"{name}.json")
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


def _named(head: dict[str, Any]) -> set[str]:
    """Return the files that a JSON file names."""
    pieces = [piece for _, _, pieces in head.get("rows", {}).values() for piece in pieces]
    return {head["file"], *(piece.file for piece in _pieces(pieces))}


def _pieces(plain: list[Any]) -> list[Piece]:
    """Return pieces as JSON holds them; their files lie beside it, whatever their names say."""
    return [Piece(start, stop, Path(file).name, *more) for start, stop, file, *more in plain]


def _pack(value: Any, name: str, tensors: dict[str, torch.Tensor], rows: dict[str, Rows]) -> Any:
    """Return `value` as JSON; tensors, arrays and rows go elsewhere, their names stay behind."""
    if isinstance(value, Rows):
        rows[name] = value
        return {"rows": name}
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
        return {"dict": [[k, _pack(v, f"{name}/{k}", tensors, rows)] for k, v in items]}
    if isinstance(value, (list, tuple)):
        values = cast("list[Any]", value)
        return [_pack(v, f"{name}/{i}", tensors, rows) for i, v in enumerate(values)]
    return value


def _unpack(tree: Any, leaves: dict[str, Any]) -> Any:
    if isinstance(tree, list):
        return [_unpack(item, leaves) for item in cast("list[Any]", tree)]
    if not isinstance(tree, dict):
        return tree
    kind, content = next(iter(cast("dict[str, Any]", tree).items()))
    if kind == "dict":
        return {key: _unpack(item, leaves) for key, item in content}
    leaf = leaves[content]
    if kind in ("tensor", "rows"):
        return leaf
    return leaf.numpy() if kind == "array" else leaf.numpy()[()]
