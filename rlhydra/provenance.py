"""What made a result: the versions of what took part in it, and the commit."""

from __future__ import annotations

import contextlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("rlhydra", "torch", "numpy", "gymnasium", "ale-py", "hydra-core")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def git_commit() -> str | None:
    """Return the commit of the checkout that this package lies in, if it does."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None  # installed, perhaps below somebody else's checkout
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    with contextlib.suppress(OSError):
        done = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return done.stdout.strip()
    return None
