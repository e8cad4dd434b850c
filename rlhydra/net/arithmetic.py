"""How networks on images are computed: in which precision, and compiled or not.

Networks on vectors are small: what they take is the calls, not the arithmetic, and neither helps.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn

from rlhydra.config import AgentConfig
from rlhydra.net.trunk import Network, Pixels
from rlhydra.schema import ConfigError

# Without one of these instructions a processor has to emulate bfloat16.
BFLOAT16 = ("avx512_bf16", "amx_bf16")
# Compiling takes minutes the first time, and seconds from its cache: frames that earn them back.
LONG = 1_000_000
COMPILERS = ("c++", "g++", "clang++")


class Arithmetic(NamedTuple):
    """What was chosen for an agent's networks on images."""

    precision: str
    compiled: bool

    def __str__(self) -> str:
        return f"{self.precision}{', compiled' if self.compiled else ''}"


def choose(cfg: AgentConfig, device: torch.device, max_frame: int) -> Arithmetic:
    """Settle what the settings leave open, by what the machine can do and the length of the run.

    Raises:
        ConfigError: where compiling is asked for without a compiler.
    """
    precision, compiled = cfg.precision, cfg.compile
    if precision == "auto":
        able = torch.cpu.get_capabilities() if device.type == "cpu" else {}
        precision = "bfloat16" if any(able.get(name) for name in BFLOAT16) else "float32"
    compiler = device.type != "cpu" or any(map(shutil.which, COMPILERS))
    if compiled == "auto":
        compiled = compiler and max_frame >= LONG
    if compiled and not compiler:
        problem = f"none of {', '.join(COMPILERS)} is installed; install one, or use false"
        raise ConfigError("agent.compile", problem)
    return Arithmetic(precision, compiled)


def use(arithmetic: Arithmetic, parts: Iterable[nn.Module]) -> bool:
    """Compute the networks on images in `parts` so; return whether there is one."""
    networks = [
        (module, first)
        for part in parts
        for module in part.modules()
        if isinstance(module, Network) and isinstance(first := next(iter(module), None), Pixels)
    ]
    for network, pixels in networks:
        if arithmetic.precision == "bfloat16":
            network.precision = pixels.precision = torch.bfloat16
        if arithmetic.compiled:
            network.compile(dynamic=False)
    return bool(networks)
