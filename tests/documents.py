"""The commands and code of README.md and docs/, as a reader would copy them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINE = re.compile(r"^(?:    )*(python -m rlhydra\S*(?: .*)?|scripts/run(?: .*)?)$")
INLINE = re.compile(r"`(python -m rlhydra(?:\.\w+)?(?: [^`…]*)?)`")


class Command(NamedTuple):
    """A command line of ours: `module` and its arguments."""

    page: str
    module: str
    arguments: list[str]

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join([self.module, *self.arguments])}"


def blocks(page: Path, *languages: str) -> list[str]:
    """Return the fenced blocks of a page in these languages."""
    return [text for name, text in FENCE.findall(page.read_text("utf-8")) if name in languages]


def commands(page: Path) -> list[Command]:
    """Return the command lines of ours that stand on a page, in order."""
    text = re.sub(r"\\\n\s*", "", page.read_text("utf-8"))  # lines that go on after a backslash
    lines = [match[1] for line in text.splitlines() if (match := LINE.match(line))]
    found: list[Command] = []
    for line in [*lines, *INLINE.findall(text)]:
        words = shlex.split(line, comments=True)
        words = ["python", "-m", "rlhydra", *words[1:]] if words[0] == "scripts/run" else words
        found.append(Command(page.name, words[2], words[3:]))
    return found


def files(page: Path) -> dict[str, str]:
    """Return the blocks of a page that begin with their path as a comment: a small project."""
    found: dict[str, str] = {}
    for text in blocks(page, "python", "yaml", "toml"):
        first = re.match(r"# (\S+\.(?:py|yaml|toml))\n", text)
        if first:
            found[first[1]] = text[first.end() :]
    return found


def write_files(page: Path, folder: Path) -> None:
    """Write the files that a page shows into `folder`."""
    for name, text in files(page).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
