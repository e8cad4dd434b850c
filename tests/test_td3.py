"""TD3 and DDPG: targets, smoothing and delay by hand; learning; exact resume."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from rlhydra.agent.agent import Diverged
from rlhydra.agent.td3 import TD3, critic_loss, smoothed
from rlhydra.memory.replay import Batch
from rlhydra.schema import ConfigError
from tests.identity import Loop, on_identity
from tests.states import same
from tests.test_sac import SHORT, SMALL


def short(name: str = "td3", *overrides: str, seed: int = 0) -> Loop:
    return Loop(f"agent={name}", *on_identity("Box", 1000), *SHORT, *overrides, seed=seed)


def agent_of(loop: Loop) -> TD3:
    assert isinstance(loop.agent, TD3)
    return loop.agent


def some_batch() -> Batch:
    obs, action, next_obs = (torch.linspace(a, 1, 5)[:, None] for a in (-1.0, -0.5, 0.2))
    reward, discount = torch.arange(5.0), torch.tensor([0.9, 0.9, 0.0, 0.81, 0.9])
    return Batch(obs, action, reward, next_obs, discount, torch.ones(5), np.arange(5))


def test_smoothing_clips_the_noise_and_then_the_action() -> None:
    action = torch.tensor([0.0, 0.0, 0.0, 0.8, -0.8])
    noise = torch.tensor([0.3, 0.9, -0.9, 0.4, -0.7])
    expected = torch.tensor([0.3, 0.5, -0.5, 1.0, -1.0])
    torch.testing.assert_close(smoothed(action, noise, 0.5), expected)


def test_critic_loss_sums_over_critics() -> None:
    q = torch.tensor([[1.0, 2.0], [0.0, 4.0]])
    assert critic_loss(q, torch.tensor([1.0, 1.0])).item() == pytest.approx((0 + 1 + 1 + 9) / 2)


@pytest.mark.parametrize(("name", "critics"), [("td3", 2), ("ddpg", 1)])
def test_target(name: str, critics: int) -> None:
    agent = agent_of(short(name))
    for net in (agent.target_policy, agent.target_critics):
        for parameter in net.parameters():
            parameter.normal_(0, 0.5)
    batch, stream = some_batch(), agent.generator.get_state()
    target = agent._target(batch)
    action = agent.target_policy(batch.next_obs)
    if name == "td3":
        noise = torch.randn(5, 1, generator=torch.Generator().set_state(stream)) * 0.2
        action = (action + noise.clamp(-0.5, 0.5)).clamp(-1, 1)
    values = agent.target_critics(batch.next_obs, action)[..., 0]
    assert values.shape == (critics, 5)
    expected = batch.reward + batch.discount * values.min(0).values
    torch.testing.assert_close(target, expected)
    assert target[2] == 2  # terminated


def test_policy_and_targets_move_every_second_update() -> None:
    loop = short()
    agent = agent_of(loop)
    loop.run(99)
    moved: list[bool] = []
    for _ in range(6):
        names = ("policy", "target_policy", "target_critics")
        before = {name: copy.deepcopy(getattr(agent, name).state_dict()) for name in names}
        critics = copy.deepcopy(agent.critics.state_dict())
        loop.step()
        after = {name: getattr(agent, name).state_dict() for name in names}
        changed = {not same(before[name], after[name]) for name in names}
        assert len(changed) == 1 and not same(critics, agent.critics.state_dict())
        moved += changed
    assert moved == [False, True] * 3


def test_policy_climbs_the_first_critic_and_leaves_the_critics_alone() -> None:
    agent = agent_of(short())
    batch = some_batch()
    before = copy.deepcopy(agent.critics.state_dict())
    value = agent.critics(batch.obs, agent.policy(batch.obs))[0].mean().item()
    assert agent._learn_policy(batch, 1e-3) == pytest.approx(-value)
    assert agent.critics(batch.obs, agent.policy(batch.obs))[0].mean().item() > value
    assert same(before, agent.critics.state_dict())


def test_explores_uniformly_at_first_then_around_the_policy() -> None:
    loop = short("td3", "agent.exploration_noise=0.1", "env.num_envs=50")
    first = loop.agent.act(loop.obs)
    assert first.min() < -0.8 and first.max() > 0.8
    agent_of(loop).frame = 100
    noise = np.concatenate(
        [loop.agent.act(loop.obs) - loop.agent.play(loop.obs, None, None)[0] for _ in range(40)]
    )
    assert noise.std() == pytest.approx(0.1, rel=0.1) and abs(noise.mean()) < 0.01


@pytest.mark.parametrize("name", ["td3", "ddpg"])
def test_learns_the_identity(name: str) -> None:
    loop = Loop(f"agent={name}", *on_identity("Box", 1400), *SMALL, "env.num_envs=4",
                "agent.learning_starts=200", "agent.train_frequency=2")  # fmt: skip
    loop.run()
    action, _ = loop.agent.play(loop.obs, None, None)
    assert np.abs(action - loop.obs).max() < 0.2


def test_resumes_exactly() -> None:
    one, other = short(), short(seed=7)
    one.run(155)
    state, env, clock = copy.deepcopy(one.agent.state()), one.env.state(), copy.copy(one.clock)
    rows = [one.step() for _ in range(25)]
    other.agent.load(state)
    other.obs, exact = other.env.load(env)
    other.clock = clock
    assert exact and [other.step() for _ in range(25)] == rows
    assert same(one.agent.state(), other.agent.state())


def test_same_seed_same_curve() -> None:
    loops = short(), short(), short(seed=1)
    for loop in loops:
        loop.run(150)
    assert loops[0].learned == loops[1].learned != loops[2].learned


def test_diverges_before_the_step() -> None:
    loop = short()
    loop.run(120)
    agent_of(loop).replay._reward[:] = np.nan
    before = copy.deepcopy(loop.agent.weights())
    with pytest.raises(Diverged):
        loop.run(1)
    assert same(before, loop.agent.weights())


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ConfigError, match="shared"):
        short("td3", "agent.net.shared=true")
    with pytest.raises(ConfigError, match="buffer_size"):
        short("td3", "env.num_envs=8", "agent.buffer_size=7")
