"""Trials as Ray tasks: starts or joins Ray, packs the trials on what exists, waits for them all."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import logging
import math
import shutil
import signal
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import ray
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, setup_globals
from hydra_plugins.hydra_ray_launcher._launcher_util import launch_job_on_ray, start_ray
from omegaconf import DictConfig, OmegaConf, open_dict
from ray.exceptions import RayError

from rlhydra.config import MetaConfig
from rlhydra.resources import available_cores, available_gpus, wanted
from rlhydra.schema import ConfigError, read

log = logging.getLogger(__name__)

GRACE = 8.5  # seconds that trials have to save when the sweep is stopped
SHORT = 24  # characters of a folder in which the paths of Ray's sockets stay below the limit of 107


def launch(
    launcher: Any, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
) -> list[JobReturn]:
    """Run a trial for each list of overrides; the failure of one is in its return, not raised."""
    setup_globals()
    configure_log(launcher.config.hydra.hydra_logging, launcher.config.hydra.verbose)
    start(launcher)
    remote = _remote(launcher)
    tasks = [
        _submit(launcher, remote, overrides, number)
        for number, overrides in enumerate(job_overrides, initial_job_idx)
    ]
    try:
        ray.wait(tasks, num_returns=len(tasks))
    except BaseException:
        _cancel(tasks)
        raise
    return [_outcome(task) for task in tasks]


def slots(launcher: Any) -> int:
    """Return how many trials fit at once on what runs."""
    start(launcher)
    remote = _remote(launcher)
    share = {"CPU": remote["num_cpus"], "GPU": remote["num_gpus"]}

    def fits(node: Mapping[str, float]) -> int:
        return min(int(node.get(name, 0) / part + 1e-9) for name, part in share.items() if part)

    return max(1, sum(map(fits, _nodes())))


def start(launcher: Any) -> None:
    """Connect to the cluster that the settings name, or start Ray here for this process alone."""
    if ray.is_initialized():
        return
    settings: DictConfig = launcher.ray_cfg.init
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if settings.address == "local":
            with open_dict(settings):
                settings.setdefault("num_cpus", available_cores())
                settings.setdefault("num_gpus", len(available_gpus()))
                if "_temp_dir" not in settings:
                    place = private_folder(Path(str(launcher.config.hydra.sweep.dir)))
                    settings["_temp_dir"] = _make_private(place)
        _knock(str(settings.address))
        start_ray(settings)
    except (OSError, RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise ConfigError("hydra.launcher.ray.init", f"Ray could not be reached: {text}") from error
    for number, handler in handlers.items():
        signal.signal(number, handler)  # Ray has put its own in their place


def private_folder(sweep: Path) -> Path:
    """Return where Ray's sockets and logs lie while the sweep runs."""
    name = f"rlhydra_{hashlib.sha256(str(sweep.resolve()).encode()).hexdigest()[:12]}"
    parent = tempfile.gettempdir()
    return Path(parent if len(parent) <= SHORT else "/tmp") / name


def _make_private(folder: Path) -> str:
    """Make `folder`, which goes with this process; what a killed driver left there is removed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)

    def remove() -> None:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return str(folder)


def _knock(address: str) -> None:
    """Raise OSError where nobody listens: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _submit(
    launcher: Any, remote: Mapping[str, Any], overrides: Sequence[str], number: int
) -> ray.ObjectRef[Any]:
    config = launcher.hydra_context.config_loader.load_sweep_config(
        launcher.config, list(overrides)
    )
    with open_dict(config):
        config.hydra.job.id = str(number)
        config.hydra.job.num = number
    return launch_job_on_ray(
        launcher.hydra_context,
        OmegaConf.create(dict(remote)),
        config,
        launcher.task_function,
        Singleton.get_state(),
    )


def _remote(launcher: Any) -> dict[str, Any]:
    """Return the arguments of a trial's task: what it asks for, capped at what there is."""
    settings = cast("dict[str, Any]", OmegaConf.to_container(launcher.ray_cfg.remote, resolve=True))
    meta = OmegaConf.to_container(launcher.config.meta, resolve=True)
    cpu, gpu = wanted(read(MetaConfig, meta, "meta"))
    for name, amount in (("num_cpus", cpu), ("num_gpus", gpu)):
        if settings.get(name) is None:
            settings[name] = amount
    return {**settings, **capped(settings["num_cpus"], settings["num_gpus"], _nodes())}


def capped(cpu: float, gpu: float, nodes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the processors and GPUs of a trial: what it asks for, as far as one node has both."""
    shares = ((min(gpu, node.get("GPU", 0)), min(cpu, node.get("CPU", 0))) for node in nodes)
    gpu, cpu = max(shares)
    # Ray shares single GPUs only.
    return {"num_cpus": cpu, "num_gpus": math.ceil(gpu) if gpu > 1 else gpu}


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _outcome(task: ray.ObjectRef[Any]) -> JobReturn:
    try:
        return cast("JobReturn", ray.get(task))
    except RayError as error:
        outcome = JobReturn()
        outcome.status = JobStatus.FAILED
        outcome.return_value = error
        return outcome


def _cancel(tasks: Sequence[ray.ObjectRef[Any]]) -> None:
    """Interrupt the trials, and give them the time to save."""
    for task in tasks:
        with contextlib.suppress(RayError):
            ray.cancel(task)
    ray.wait(list(tasks), num_returns=len(tasks), timeout=GRACE)
