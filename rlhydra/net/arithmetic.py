"""How networks are computed: in which precision, and compiled or not.

Most networks on vectors are small: what they take is the calls, not the arithmetic. Only the wide
ones of agents that learn from batches of a memory gain, and only by their precision.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn

from rlhydra.config import AgentConfig
from rlhydra.net.critics import EnsembleLinear
from rlhydra.net.trunk import Network, Pixels
from rlhydra.schema import ConfigError

# Without one of these instructions a processor has to emulate bfloat16.
BFLOAT16 = ("avx512_bf16", "amx_bf16")
# Compiling takes minutes the first time, and seconds from its cache: frames that earn them back.
LONG = 1_000_000
COMPILERS = ("c++", "g++", "clang++")
WIDE = 256  # units on both sides of a layer whose product is worth a conversion


class Arithmetic(NamedTuple):
    """What was chosen for an agent's networks."""

    precision: str
    compiled: bool
    vectors: bool = False  # whether the precision is also that of wide networks on vectors

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
    return Arithmetic(precision, compiled, cfg.precision == "bfloat16")


def use(arithmetic: Arithmetic, parts: Sequence[nn.Module]) -> bool:
    """Compute those networks in `parts` so that gain by it; return whether there is one."""
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
    layers = list(wide(parts)) if arithmetic.vectors else []
    for layer in layers:
        layer.precision = torch.bfloat16
    return bool(networks or layers)


def wide(parts: Sequence[nn.Module]) -> Iterator[Network | EnsembleLinear]:
    """Yield what computes wide products, of agents that have an ensemble of critics.

    The others have their step on vectors written out in numpy.
    """
    modules = [module for part in parts for module in part.modules()]
    if not any(isinstance(module, EnsembleLinear) for module in modules):
        return
    for module in modules:
        if isinstance(module, EnsembleLinear):
            if min(module.weight.shape[1:]) >= WIDE:
                yield module
        elif isinstance(module, Network) and any(
            isinstance(layer, nn.Linear) and min(layer.weight.shape) >= WIDE for layer in module
        ):
            yield module
