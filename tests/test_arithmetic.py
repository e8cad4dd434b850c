"""How networks on images are computed: what is chosen, and that it computes the same."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from rlhydra.config import NetConfig
from rlhydra.net import arithmetic
from rlhydra.net.arithmetic import Arithmetic, choose, use
from rlhydra.net.critics import Critics
from rlhydra.net.trunk import Network, network
from rlhydra.schema import ConfigError

CPU = torch.device("cpu")


def settings(precision: str = "auto", compiled: Any = "auto") -> Any:
    return SimpleNamespace(precision=precision, compile=compiled)


def net_on(shape: tuple[int, ...]) -> Network:
    torch.manual_seed(0)
    cfg = NetConfig("auto", (32,), "relu", layer_norm=False, shared=True, init="orthogonal")
    return network(cfg, Box(0, 255, shape, np.uint8), 3)


def images(count: int) -> torch.Tensor:
    return torch.randint(256, (count, 4, 84, 84), generator=torch.Generator().manual_seed(0)).byte()


@pytest.mark.parametrize("able", [{}, {"avx512_bf16": False}, {"avx512_bf16": True}])
def test_bfloat16_where_the_processor_has_it(
    able: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    expected = "bfloat16" if able.get("avx512_bf16") else "float32"
    assert choose(settings(), CPU, 1000) == (expected, False, False)
    assert choose(settings("float32"), CPU, 1000).precision == "float32"
    assert choose(settings("bfloat16"), CPU, 1000).precision == "bfloat16"


@pytest.mark.parametrize("compiler", ["/usr/bin/g++", None])
def test_long_runs_are_compiled(compiler: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arithmetic.shutil, "which", lambda _: compiler)
    assert choose(settings(), CPU, 10_000_000).compiled == (compiler is not None)
    assert not choose(settings(compiled=False), CPU, 10_000_000).compiled
    if compiler:
        assert choose(settings(compiled=True), CPU, 1000).compiled
    else:
        with pytest.raises(ConfigError, match=r"agent\.compile: none of"):
            choose(settings(compiled=True), CPU, 1000)


def test_bfloat16_is_close_and_inside_the_network_only() -> None:
    net, obs = net_on((4, 84, 84)), images(4)
    exact = net(obs)
    assert use(Arithmetic("bfloat16", compiled=False), [net])
    rough = net(obs)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, atol=0.02, rtol=0.02)
    gradients = torch.autograd.grad(rough.square().sum(), list(net.parameters()))
    assert all(gradient.dtype == torch.float32 for gradient in gradients)


def test_networks_on_vectors_stay_as_they_are() -> None:
    torch.manual_seed(0)
    cfg = NetConfig("auto", (32,), "relu", layer_norm=False, shared=True, init="orthogonal")
    net = network(cfg, Box(-1, 1, (3,), np.float32), 3)
    assert not use(Arithmetic("bfloat16", compiled=True), [net])
    assert net.precision == torch.float32


def test_wide_layers_beside_an_ensemble_of_critics_take_the_precision_asked_for() -> None:
    cfg = NetConfig("auto", (256, 256), "relu", layer_norm=False, shared=False, init="orthogonal")
    space = Box(-1, 1, (3,), np.float32)
    torch.manual_seed(0)
    policy, critics = network(cfg, space, 2), Critics(cfg, cfg.hidden, 2, space, 1, 1)
    obs, action = torch.randn(5, 3), torch.rand(5, 1)
    exact = policy(obs), 1000 * critics(obs, action)
    assert not use(Arithmetic("bfloat16", compiled=False), [policy, critics])
    assert not use(Arithmetic("bfloat16", compiled=False, vectors=True), [policy])
    assert use(Arithmetic("bfloat16", compiled=False, vectors=True), [policy, critics])
    rough = policy(obs), 1000 * critics(obs, action)
    for one, other in zip(exact, rough, strict=True):
        assert other.dtype == torch.float32
        assert not torch.equal(one, other)
        # Values of hundreds are off by a percent: the last layer computes in float32.
        torch.testing.assert_close(other, one, atol=0.01 * one.abs().max().item(), rtol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_equals_eager() -> None:
    net, obs = net_on((4, 84, 84)), images(4)
    twin = copy.deepcopy(net)
    assert use(Arithmetic("float32", compiled=True), [net])
    for _ in range(2):
        results = [n(obs) for n in (net, twin)]
        torch.testing.assert_close(*results, atol=1e-4, rtol=1e-4)
        gradients = [
            torch.autograd.grad(y.sum(), list(n.parameters()))
            for y, n in zip(results, (net, twin), strict=True)
        ]
        torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-3)
    assert str(Arithmetic("float32", compiled=True)) == "float32, compiled"
