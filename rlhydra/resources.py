"""What of this machine a trial's sessions get: processes at once, threads, GPUs."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from rlhydra.config import MetaConfig

SHARED_FILE = "shared.bin"  # what sessions have in common under meta.distributed


@dataclass(frozen=True)
class Share:
    """What the sessions of a trial get; `parallel` x `threads` never exceeds the cores."""

    parallel: int  # sessions at once
    threads: int  # of each
    gpus: tuple[str, ...]  # as CUDA_VISIBLE_DEVICES names them

    def environment(self, place: int) -> dict[str, str]:
        """Return the environment variables that hold a session to its share.

        Those that run at the same time have the places 0, 1, …: on each GPU are as many as on any
        other.
        """
        return {
            "OMP_NUM_THREADS": str(self.threads),
            "MKL_NUM_THREADS": str(self.threads),
            "OPENBLAS_NUM_THREADS": "1",  # numpy's own threads spin beside torch's
            "CUDA_VISIBLE_DEVICES": self.gpus[place % len(self.gpus)] if self.gpus else "",
        }


def wanted(meta: MetaConfig) -> tuple[float, float]:
    """Return the processors and GPUs that the settings ask for, for one trial."""
    search = meta.search_resources
    cpu = meta.num_cpus if search is None or search.cpu is None else search.cpu
    gpu = meta.num_gpus if search is None or search.gpu is None else search.gpu
    return (
        meta.max_session if cpu is None else cpu,
        meta.max_session if gpu is None else gpu,
    )


def share(meta: MetaConfig, cores: int, gpus: tuple[str, ...], *, together: bool = False) -> Share:
    """Deal out what the settings ask for, capped at what exists.

    `together` runs all sessions side by side, whatever the cores: they are judged by their mean.
    So do those that train one learner; what they share lies in the computer's memory, so that they
    get no GPU.
    """
    cpu, gpu = wanted(meta)
    usable = max(1, math.floor(min(cpu, cores)))
    if meta.distributed:
        together, gpu = True, 0
    parallel = meta.max_session if together else min(meta.max_session, usable)
    # A part of a GPU is a place on one that others use too.
    devices = math.ceil(min(gpu, len(gpus)))
    return Share(parallel, max(1, usable // parallel), gpus[:devices])


def available_cores() -> int:
    """Return the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_gpus() -> tuple[str, ...]:
    """Return the CUDA devices that this process may use, without asking torch (1.5 s)."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return tuple(str(i) for i, _ in enumerate(Path("/dev").glob("nvidia[0-9]*")))
    devices = [device.strip() for device in visible.split(",")]
    return tuple(device for device in devices if device and device != "-1")
