"""Keeps a Ray that is started for one sweep to this machine and user; imported before Ray is."""

from __future__ import annotations

import os
import secrets
import sys


def keep_private() -> None:
    """Let Ray listen on the loopback interface only, with a token that nobody else knows."""
    if "ray" in sys.modules:  # it has read these already
        return
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)  # else a file in the home folder keeps it
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_DISABLE_FAILURE_SIGNAL_HANDLER"] = "1"  # it aborts at SIGTERM
    for name in ("RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"):
        os.environ.pop(name, None)
    from ray._private import ray_constants

    # Ray replaces 127.0.0.1 by an address that others reach, unless there are no clusters.
    ray_constants.ENABLE_RAY_CLUSTER = False
