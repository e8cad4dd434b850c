"""The on-policy step that is written out in numpy, against autograd."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import Space
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from rlhydra.agent.descent import Descent
from rlhydra.agent.plain_ppo import PlainPPO
from rlhydra.agent.ppo import Batch, ppo_loss
from rlhydra.config import NetConfig, OptimizerConfig
from rlhydra.net.actor_critic import ActorCritic
from rlhydra.net.plain_actor_critic import PlainActorCritic

SPACES = {"discrete": Discrete(3), "box": Box(-1, 1, (2,), np.float32)}
OBS = Box(-1, 1, (5,), np.float32)


def net_of(space: Space[Any], activation: Any = "tanh", shared: bool = False) -> ActorCritic:
    torch.manual_seed(0)
    cfg = NetConfig("auto", (16, 8), activation, layer_norm=False, shared=shared, init="default")
    return ActorCritic(cfg, OBS, space, initial_std=0.5)


def batches(net: ActorCritic, count: int, size: int = 40) -> list[Batch]:
    """Return batches whose ratios and values lie within and beyond the clip, on both sides."""
    generator = torch.Generator().manual_seed(1)
    made: list[Batch] = []
    for _ in range(count):
        obs = torch.randn(size, 5, generator=generator)
        with torch.no_grad():
            output, value = net(obs)
            action = net.head.sample(output, generator)
            old = net.head.log_prob(output, action)
        noise, advantage, target, change = torch.randn(4, size, generator=generator)
        made.append(Batch(obs, action, old + 0.3 * noise, advantage, target, value + 0.5 * change))
    return made


@pytest.mark.parametrize("kind", SPACES)
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("clip_value", [None, 0.2])
@pytest.mark.parametrize("optimizer", ["Adam", "SGD"])
def test_steps_are_autograds(
    kind: str, activation: str, clip_value: float | None, optimizer: Any
) -> None:
    net = net_of(SPACES[kind], activation)
    twin = copy.deepcopy(net)
    cfg = OptimizerConfig(optimizer, {})
    descent, other = (Descent(cfg, n.parameters(), 0.01, 0.5) for n in (net, twin))
    plain = PlainActorCritic.of(net)
    assert plain is not None
    written = PlainPPO(plain, descent, clip_value, value_coef=0.7)
    for batch in batches(net, 5):
        found = written.step(batch, lr=0.01, clip=0.2, entropy_coef=0.03)
        loss, parts = ppo_loss(
            twin.head, *twin(batch.obs), batch, 0.2, clip_value, value_coef=0.7, entropy_coef=0.03
        )
        other.step(loss, 0.01)
        for mine, theirs in zip(found, parts, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(descent.gradient, other.gradient, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(descent.vector, other.vector, atol=1e-4, rtol=1e-3)
        other.vector.data.copy_(descent.vector)  # or a sample may come to lie beyond another clip


@pytest.mark.parametrize("kind", SPACES)
def test_samples_follow_the_policy(kind: str) -> None:
    net = net_of(SPACES[kind])
    plain = PlainActorCritic.of(net)
    assert plain is not None
    obs = np.full((40_000, 5), 0.3, np.float32)
    output = net.policy(torch.from_numpy(obs[:1])).detach()
    action = plain.sample(obs, np.random.default_rng(0))
    if kind == "discrete":
        assert action.dtype == np.int64
        frequencies = np.bincount(action, minlength=3) / len(action)
        np.testing.assert_allclose(frequencies, output.softmax(-1)[0], atol=0.01)
    else:
        assert action.dtype == np.float32
        np.testing.assert_allclose(action.mean(0), output[0], atol=0.01)
        np.testing.assert_allclose(action.std(0), 0.5, atol=0.01)


def test_other_networks_are_left_to_autograd() -> None:
    assert PlainActorCritic.of(net_of(Discrete(3), shared=True)) is None
    assert PlainActorCritic.of(net_of(Discrete(3), "elu")) is None
    assert PlainActorCritic.of(net_of(MultiDiscrete([3, 2]))) is None
