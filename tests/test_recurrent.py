"""Recurrent PPO: its memory against a step-by-step reference, resets, learning, exact resume."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from rlhydra.agent.recurrent_ppo import RecurrentPPO
from rlhydra.clock import Clock
from rlhydra.config import NetConfig
from rlhydra.net.recurrent import RecurrentActorCritic, unroll
from rlhydra.schema import ConfigError
from tests.identity import Loop, on_identity

NET = NetConfig("auto", (8,), "tanh", layer_norm=False, shared=False, init="orthogonal")
FAST = ("agent.horizon=32", "agent.lr=1e-2", "agent.gamma=0.5", "agent.core_size=16")


class Recall(gymnasium.Env[Any, Any]):
    """Shows a symbol first and nothing after; the last of three actions is to name it."""

    observation_space = Box(0, 1, (3,), np.float32)
    action_space = Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._symbol, self._step = int(self.np_random.integers(2)), 0
        return self._show(), {}

    def step(self, action: Any) -> Any:
        self._step += 1
        over = self._step == 3
        return self._show(), float(over and action == self._symbol), over, False, {}

    def _show(self) -> Any:
        obs = np.zeros(3, np.float32)
        obs[self._symbol if self._step == 0 else 2] = 1
        return obs


gymnasium.register("Recall-v0", Recall)


def a_net(kind: Any, shared: bool) -> RecurrentActorCritic:
    torch.manual_seed(0)
    cfg = NetConfig("auto", (8,), "tanh", layer_norm=False, shared=shared, init="orthogonal")
    return RecurrentActorCritic(cfg, kind, 6, Box(-1, 1, (5,), np.float32), Discrete(3))


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("shared", [False, True])
def test_unrolled_equals_step_by_step(kind: str, shared: bool) -> None:
    net = a_net(kind, shared)
    obs, starts = torch.randn(12, 4, 5), torch.rand(12, 4) < 0.2
    memory = torch.randn_like(net.blank(4))
    outputs, values, memories = unroll(net, obs, memory, starts)
    assert starts.any()
    for t in range(12):
        if starts[t].any() and t > 0:
            torch.testing.assert_close(memories[t], memory)
        for copy in starts[t].nonzero().flatten():
            memory[:, copy] = 0
        output, value, memory = net(obs[t : t + 1], memory.detach().clone())
        memory = memory.detach().clone()
        torch.testing.assert_close(outputs[t], output[0])
        torch.testing.assert_close(values[t], value[0])


def test_gradients_stop_at_the_start_of_an_episode() -> None:
    net = a_net("lstm", shared=False)
    obs = torch.randn(6, 1, 5, requires_grad=True)
    starts = torch.tensor([[False], [False], [False], [True], [False], [False]])
    outputs, _, _ = unroll(net, obs, net.blank(1), starts)
    (gradient,) = torch.autograd.grad(outputs[-1, 0, 0], obs)
    reached = gradient.abs().sum((1, 2)) > 0
    assert reached.tolist() == [False, False, False, True, True, True]


@pytest.mark.parametrize("agent", ["ppo_lstm", "ppo_gru"])
@pytest.mark.parametrize("shared", ["false", "true"])
def test_the_rollout_is_recomputed_as_it_was_acted(agent: str, shared: str) -> None:
    """Old and new policy agree before the first step, over episodes' and rollouts' ends."""
    loop = Loop(
        *on_identity("Discrete", 10_000),
        f"agent={agent}",
        *FAST,
        f"agent.net.shared={shared}",
        "agent.epochs=1",
        "agent.lr=0",
    )
    recurrent = loop.agent
    assert isinstance(recurrent, RecurrentPPO)
    for _ in range(3):
        seen: list[torch.Tensor] = []
        for _ in range(31):
            seen.append(one_step(loop))
        assert not recurrent.rollout.full
        seen.append(one_step(loop, update=False))
        sequences, _, _ = recurrent._sequences()
        torch.testing.assert_close(sequences.steps[..., 0], torch.stack(seen))
        metrics = recurrent.update(loop.clock)
        assert metrics["policy/kl"] == pytest.approx(0, abs=1e-6)


def one_step(loop: Loop, *, update: bool = True) -> torch.Tensor:
    """Go one step; return the log-probabilities of the actions as they were drawn."""
    agent = loop.agent
    assert isinstance(agent, RecurrentPPO)
    with torch.no_grad():
        output, _, _ = agent.net(torch.from_numpy(loop.obs).unsqueeze(0), agent.memory)
    transition, loop.obs = loop.env.step(agent.act(loop.obs))
    agent.observe(transition)
    loop.clock.tick(8)
    if update:
        agent.update(loop.clock)
    return agent.head.log_prob(output[0], torch.from_numpy(transition.action))


def test_truncated_episodes_bootstrap_with_their_own_memory() -> None:
    loop = Loop(*on_identity("Discrete", 10_000), "agent=ppo_lstm", *FAST, "agent.lam=0")
    agent = loop.agent
    assert isinstance(agent, RecurrentPPO)
    expected = np.zeros((32, 8), np.float32)
    for t in range(32):
        obs = torch.from_numpy(loop.obs).unsqueeze(0)
        with torch.no_grad():
            _, value, memory = agent.net(obs, agent.memory)
        transition, loop.obs = loop.env.step(agent.act(loop.obs))
        agent.observe(transition)
        with torch.no_grad():
            following = agent.net(torch.from_numpy(transition.next_obs).unsqueeze(0), memory)[1]
        expected[t] = transition.reward + 0.5 * following[0].numpy() - value[0].numpy()
    sequences, _, _ = agent._sequences()
    assert len(agent.rollout.cut_at) == 24
    np.testing.assert_allclose(sequences.steps[..., 1].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("agent", ["ppo_lstm", "ppo_gru"])
def test_recalls_what_ppo_cannot(agent: str) -> None:
    task = ("env=gym", "env.id=Recall-v0", "env.max_frame=12_000")
    loop = Loop(*task, f"agent={agent}", *FAST, "agent.gamma=0.9")
    assert loop.run() > 0.9
    memory = None
    obs = np.eye(3, dtype=np.float32)[[0, 1]]
    for _ in range(3):  # evaluation remembers too
        action, memory = loop.agent.play(obs, memory, None)
        obs = np.eye(3, dtype=np.float32)[[2, 2]]
    assert action.tolist() == [0, 1]


def test_ppo_without_memory_cannot() -> None:
    task = ("env=gym", "env.id=Recall-v0", "env.max_frame=6_000")
    assert Loop(*task, "agent.horizon=32", "agent.lr=1e-2").run() < 0.7


def test_goes_on_exactly_from_the_middle_of_a_rollout() -> None:
    settings = (*on_identity("Discrete", 10_000), "agent=ppo_lstm", *FAST)
    whole, half, resumed = (Loop(*settings) for _ in range(3))
    half.run(8 * 45)
    resumed.agent.load(half.agent.state())
    resumed.env, resumed.obs = half.env, half.obs
    resumed.clock = Clock(10_000, half.clock.frame)
    resumed.run(8 * 55)
    whole.run(8 * 100)
    assert whole.learned[1:] == resumed.learned
    mine, theirs = (loop.agent.weights()["net"] for loop in (whole, resumed))
    for name in mine:
        assert torch.equal(mine[name], theirs[name])


def test_minibatches_are_whole_sequences() -> None:
    with pytest.raises(ConfigError, match=r"agent\.minibatch_size: 96 .* whole sequences"):
        Loop(*on_identity("Discrete", 10_000), "agent=ppo_lstm", *FAST, "agent.minibatch_size=96")
