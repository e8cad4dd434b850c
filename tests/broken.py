"""Environments and agents that fail on purpose: the fault plan of the tests.

A session takes its plan from `env.fault`: where it strikes (`point`), the how-many-th time (`at`),
how (`kind`), in which `session`, and with a `marker` file once only, so that another try passes.
The point "study" lies in the trial's own process, where a score is reported.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import rlhydra.asha
import rlhydra.checkpoint
import rlhydra.files
from rlhydra.env.gym import GymEnvironment, GymEnvironmentConfig


@dataclass(frozen=True)
class BrokenEnvironmentConfig(GymEnvironmentConfig):
    fault: dict[str, Any]

    def __post_init__(self):
        if self.fault["point"] == "study" and not _armed:
            _armed.append(fault := Fault(**self.fault))
            _patch(rlhydra.asha.Judge, "_judge", "study", fault)


_armed: list[Any] = []  # in this process


class Fault:
    def __init__(self, point, kind, session, at=1, marker=None, index=0):
        self.point, self.kind, self.at = point, kind, at
        self.marker = Path(marker) if marker else None
        self.armed = session == index

    def strikes(self, point):
        """Count a passage of `point`; return whether the fault strikes there now."""
        if not self.armed or point != self.point:
            return False
        self.at -= 1
        if self.at > 0 or (self.marker is not None and self.marker.exists()):
            return False
        if self.marker is not None:
            self.marker.touch()
        return True

    def pass_by(self, point):
        if self.strikes(point):
            self.strike()

    def strike(self):
        if self.kind == "exception":
            raise RuntimeError("broken on purpose")
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.kind == "slow":
            time.sleep(1.0)


class BrokenEnvironment(GymEnvironment):
    def __init__(self, cfg, num_envs, seed, *, training=True, **kwargs):
        self.training = training
        self.fault = Fault(**cfg.fault, index=seed.entropy[1])
        if training:
            self.fault.pass_by("start")
            _patch(rlhydra.checkpoint, "write_beside", "checkpoint", self.fault)
            _patch(rlhydra.files, "write_beside", "tensors", self.fault)
            _patch(rlhydra.files.Growing, "append", "row", self.fault)
        super().__init__(cfg, num_envs, seed, training=training, **kwargs)

    def step(self, action):
        transition, obs = super().step(action)
        if self.fault.strikes("step" if self.training else "evaluate"):
            self.fault.strike()
            if self.fault.kind == "diverge":
                nothing = np.full_like(transition.reward, np.nan)
                transition = transition._replace(reward=nothing)
        return transition, obs


def _patch(owner, name, point, fault):
    original = getattr(owner, name)

    def wrapper(*args):
        fault.pass_by(point)
        return original(*args)

    setattr(owner, name, wrapper)
