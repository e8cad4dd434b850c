"""A2C, REINFORCE, SARSA and the random policy: mathematics, learning, exact resume."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rlhydra.agent.a2c import A2C, a2c_loss
from rlhydra.agent.random import Random, uniform
from rlhydra.agent.reinforce import Reinforce, returns
from rlhydra.agent.sarsa import Sarsa, epsilon_greedy, sarsa_loss
from rlhydra.clock import Clock
from rlhydra.env.environment import Transition
from rlhydra.memory.episodes import Episodes
from rlhydra.schema import ConfigError
from tests.identity import Loop, on_identity

FAST = {
    "a2c": ("agent=a2c", "agent.lr=1e-2", "agent.gamma=0.5"),
    "reinforce": ("agent=reinforce", "agent.lr=2e-2", "agent.gamma=0.5"),
    "sarsa": ("agent=sarsa", "agent.lr=1e-2", "agent.gamma=0.5", "agent.epsilon=0.1"),
}
KINDS = [
    (name, kind)
    for name in FAST
    for kind in ("Discrete", "MultiDiscrete", "Box")
    if name != "sarsa" or kind == "Discrete"
]


def net_of(loop: Loop) -> nn.Module:
    agent = loop.agent
    assert isinstance(agent, (A2C, Reinforce, Sarsa))
    return agent.net


def vector_of(loop: Loop) -> Tensor:
    return torch.cat([p.detach().flatten() for p in net_of(loop).parameters()])


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_learns_identity(name: str, kind: str) -> None:
    frames = 12_000 if name == "reinforce" else 8_000
    loop = Loop(*on_identity(kind, frames), *FAST[name], "agent.net.hidden=[32]")
    # Of 10; exploration costs SARSA 0.7, the deviation that remains costs the box some.
    assert loop.run() > (8.0 if kind == "Box" else 8.8)
    assert tuple(loop.learned[0]) == loop.agent.metrics
    action, _ = loop.agent.play(loop.obs, None, None)
    if kind == "Discrete":
        np.testing.assert_array_equal(action, loop.obs.argmax(1))


@pytest.mark.parametrize("name", FAST)
def test_goes_on_exactly_from_the_middle(name: str) -> None:
    settings = [*on_identity("Discrete", 10_000), *FAST[name], "agent.normalise_obs=true"]
    if name == "a2c":
        settings.append("agent.normalise_reward=true")
    whole, half = Loop(*settings), Loop(*settings)
    half.run(8 * 44)
    resumed = Loop(*settings)
    resumed.agent.load(half.agent.state())
    resumed.env, resumed.obs = half.env, half.obs
    resumed.clock = Clock(10_000, half.clock.frame)
    resumed.run(8 * 76)
    whole.run(8 * 120)
    assert torch.equal(vector_of(whole), vector_of(resumed))
    assert whole.learned[-len(resumed.learned) :] == resumed.learned
    assert whole.agent.opt_step == resumed.agent.opt_step


@pytest.mark.parametrize("name", FAST)
def test_playing_changes_nothing(name: str) -> None:
    one, two = (Loop(*on_identity("Discrete", 10_000), *FAST[name]) for _ in range(2))
    for step in range(80):
        one.step()
        two.step()
        two.agent.play(two.obs, None, None)
        two.agent.play(two.obs, None, torch.Generator().manual_seed(step))
    assert torch.equal(vector_of(one), vector_of(two))
    assert one.returns == two.returns


class TestA2C:
    def test_loss_by_hand(self) -> None:
        log_prob = torch.tensor([-1.0, -2.0], requires_grad=True)
        value = torch.tensor([1.0, 3.0], requires_grad=True)
        entropy = torch.tensor([0.5, 0.7])
        advantage, target = torch.tensor([2.0, -1.0]), torch.tensor([2.0, 1.0])
        loss, policy, mean_square = a2c_loss(
            log_prob, entropy, value, advantage, target, value_coef=0.5, entropy_coef=0.1
        )
        assert policy.item() == (2 - 2) / 2
        assert mean_square.item() == 0.5 * (1 + 4) / 2
        assert loss.item() == pytest.approx(0 + 0.625 - 0.06)
        loss.backward()
        assert log_prob.grad is not None
        assert value.grad is not None
        assert log_prob.grad.tolist() == [-1, 0.5]
        assert value.grad.tolist() == [-0.25, 0.5]

    def test_a_step_follows_the_n_step_returns(self) -> None:
        """The gradient of one update equals that of targets summed up by hand."""
        settings = ("agent=a2c", "agent.max_grad_norm=null", "agent.horizon=4", "agent.lr=1.0")
        loop = Loop(*on_identity("Discrete", 10_000), *settings)
        agent = loop.agent
        assert isinstance(agent, A2C)
        steps = []
        for _ in range(3):
            steps.append(loop_step(loop))
        before = [p.detach().clone() for p in agent.net.parameters()]
        steps.append(loop_step(loop, update=False))
        obs = torch.from_numpy(np.stack([s.obs for s in steps]))
        last = torch.from_numpy(steps[-1].next_obs.copy())
        with torch.no_grad():
            running = agent.net(last)[1]
        targets = []
        for s in reversed(steps):
            running = torch.from_numpy(s.reward) + 0.99 * running
            targets.insert(0, running)
        output, value = agent.net(obs.flatten(0, 1))
        target = torch.cat(targets)
        action = torch.from_numpy(np.concatenate([s.action for s in steps]))
        distribution = torch.distributions.Categorical(logits=output)
        expected = (
            -(distribution.log_prob(action) * (target - value.detach())).mean()
            + 0.25 * (value - target).square().mean()
            - 0.01 * distribution.entropy().mean()
        )
        gradients = torch.autograd.grad(expected, list(agent.net.parameters()))
        agent.update(loop.clock)
        flat = torch.cat([g.flatten() for g in gradients])
        torch.testing.assert_close(agent.descent.vector.grad, flat)
        moved = [not torch.equal(b, p) for b, p in zip(before, agent.net.parameters(), strict=True)]
        assert all(moved)


def loop_step(loop: Loop, *, update: bool = True) -> Transition:
    """Go one step and return a copy of its transition."""
    transition, loop.obs = loop.env.step(loop.agent.act(loop.obs))
    kept = Transition(*(x.copy() for x in transition))
    loop.agent.observe(transition)
    loop.clock.tick(loop.env.num_envs)
    if update:
        loop.agent.update(loop.clock)
    return kept


class TestReinforce:
    def test_returns_by_hand(self) -> None:
        rewards = np.array([1.0, 2.0, 4.0], np.float32)
        assert returns(rewards, 0.0, 0.5).tolist() == [1 + 0.5 * 4, 2 + 0.5 * 4, 4]
        assert returns(rewards, 8.0, 0.5).tolist() == [1 + 0.5 * 6, 2 + 0.5 * 8, 8]

    def test_learns_from_whole_episodes_only(self) -> None:
        loop = Loop(*on_identity("Discrete", 10_000), *FAST["reinforce"], "agent.episodes=12")
        learned = [bool(loop.step()) for _ in range(40)]
        # 8 copies end together at 10, 20, ...: 12 episodes are there at 20 and at 40.
        assert [i + 1 for i, now in enumerate(learned) if now] == [20, 40]

    @pytest.mark.parametrize("baseline", ["value", "mean", "null"])
    def test_baselines(self, baseline: str) -> None:
        loop = Loop(
            *on_identity("Discrete", 10_000),
            *FAST["reinforce"],
            f"agent.baseline={baseline}",
            "agent.normalise_advantage=false",
        )
        before = vector_of(loop)
        loop.run(80)
        assert loop.agent.opt_step == 1
        assert not torch.equal(before, vector_of(loop))
        critic = net_of(loop).critic
        assert isinstance(critic, nn.Sequential)
        fresh = Loop(*on_identity("Discrete", 10_000), *FAST["reinforce"])
        untouched = torch.equal(critic[0].weight, net_of(fresh).critic[0].weight)
        assert untouched == (baseline != "value")

    def test_truncated_episodes_bootstrap_from_the_learned_value(self) -> None:
        loop = Loop(*on_identity("Discrete", 10_000), *FAST["reinforce"], "agent.gamma=1.0")
        agent = loop.agent
        assert isinstance(agent, Reinforce)
        for _ in range(9):
            loop.step()
        loop_step(loop, update=False)
        episodes = agent.finished
        assert len(episodes) == 8
        assert not episodes[0].terminated
        obs = torch.from_numpy(np.stack([e.obs[-1] for e in episodes]))
        with torch.no_grad():
            value = agent.net(obs)[1].numpy()
        first = agent._returns(episodes).reshape(8, 10)[:, 0]
        totals = np.array([e.reward.sum() for e in episodes])
        np.testing.assert_allclose(first, totals + value, rtol=1e-5)
        ended = [e._replace(terminated=True) for e in episodes]
        np.testing.assert_allclose(agent._returns(ended).reshape(8, 10)[:, 0], totals, rtol=1e-5)


class TestEpisodes:
    def stream(self, memory: Episodes, steps: range) -> list[Any]:
        """Copy 0 ends at multiples of 3, copy 1 of 5; observation = time, truncated at the odd."""
        out = []
        for t in steps:
            ended = np.array([(t + 1) % 3 == 0, (t + 1) % 5 == 0])
            odd = np.array([(t + 1) % 2 == 1] * 2)
            obs, next_obs = np.full((2, 1), t, np.float32), np.full((2, 1), t + 1, np.float32)
            reward = np.array([t, -t], np.float32)
            action = np.array([t, t])
            transition = Transition(obs, action, reward, next_obs, ended & ~odd, ended & odd)
            out += memory.add(transition)
            obs[:] = -1  # an environment may reuse its arrays
        return out

    def test_are_cut_out_whole(self) -> None:
        episodes = self.stream(Episodes(2), range(15))
        assert [len(e.action) for e in episodes] == [3, 5, 3, 3, 5, 3, 3, 5]
        assert [e.terminated for e in episodes] == [
            False,
            False,
            True,
            False,
            True,
            True,
            False,
            False,
        ]
        third = episodes[2]
        assert third.obs.ravel().tolist() == [3, 4, 5, 6]
        assert third.action.tolist() == [3, 4, 5]
        assert episodes[1].reward.tolist() == [0, -1, -2, -3, -4]

    def test_saved_in_the_middle(self) -> None:
        whole, half, resumed = Episodes(2), Episodes(2), Episodes(2)
        expected = self.stream(whole, range(15))
        got = self.stream(half, range(7))
        resumed.load(half.state())
        got += self.stream(resumed, range(7, 15))
        assert len(got) == len(expected)
        for mine, theirs in zip(got, expected, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))

    def test_saved_when_empty(self) -> None:
        resumed = Episodes(2)
        resumed.load(Episodes(2).state())
        assert len(self.stream(resumed, range(3))) == 1


class TestSarsa:
    def test_epsilon_greedy(self) -> None:
        values = torch.tensor([0.0, 2.0, 1.0, -1.0]).expand(40_000, 4)
        generator = torch.Generator().manual_seed(0)
        shares = epsilon_greedy(values, 0.4, generator).bincount(minlength=4) / 40_000
        expected = torch.tensor([0.1, 0.7, 0.1, 0.1])
        torch.testing.assert_close(shares, expected, atol=0.01, rtol=0)
        assert (epsilon_greedy(values, 0.0, generator) == 1).all()

    def test_loss_by_hand(self) -> None:
        net = nn.Linear(1, 2)
        with torch.no_grad():
            net.weight.copy_(torch.tensor([[1.0], [2.0]]))
            net.bias.zero_()
        obs, action = torch.tensor([[1.0], [3.0]]), torch.tensor([0, 1])
        loss = sarsa_loss(net, obs, action, torch.tensor([3.0, 2.0]))  # Q = 1 and 6
        assert loss.item() == 0.5 * (4 + 16) / 2
        loss.backward()
        assert net.weight.grad is not None
        assert net.weight.grad.ravel().tolist() == [-2 * 1 / 2, 4 * 3 / 2]

    @pytest.mark.parametrize("lam", [0.0, 0.7, 1.0])
    def test_targets_are_those_of_the_actions_taken(self, lam: float) -> None:
        """R + γ [(1 - λ) Q(s', a') + λ G'] along what was done, into the next rollout."""
        loop = Loop(
            *on_identity("Discrete", 10_000),
            *FAST["sarsa"],
            f"agent.lam={lam}",
            "agent.horizon=14",
            "agent.minibatch_size=112",
            "agent.epsilon=0.5",
        )
        agent = loop.agent
        assert isinstance(agent, Sarsa)
        steps = [loop_step(loop, update=False) for _ in range(14)]
        values, targets = agent._targets(agent._tensor(agent.rollout.obs.numpy()).flatten(0, 1))
        cut = agent.rollout.cut_at
        assert cut == [(9, copy) for copy in range(8)]
        agent.rollout.clear()  # the network stays as it is
        following = loop_step(loop, update=False)
        with torch.no_grad():
            q = agent.net(torch.from_numpy(np.concatenate([s.obs for s in (*steps, following)])))
        done = np.concatenate([s.action for s in (*steps, following)])
        taken = q.numpy()[np.arange(len(done)), done].reshape(15, 8)
        np.testing.assert_allclose(values, taken[:14], rtol=1e-5)
        g = taken[14]
        for t in (13, 12, 11, 10):  # the steps after the truncation
            g = steps[t].reward + 0.5 * ((1 - lam) * taken[t + 1] + lam * g)
            np.testing.assert_allclose(targets[t], g, rtol=1e-5)
        # The truncated step bootstraps from an action at its own successor.
        with torch.no_grad():
            at_cut = agent.net(torch.from_numpy(steps[9].next_obs)).numpy()
        candidates = steps[9].reward[:, None] + 0.5 * at_cut
        assert np.isclose(candidates, targets[9][:, None], rtol=1e-5).any(1).all()

    def test_the_decided_action_is_taken(self) -> None:
        settings = ("agent.horizon=4", "agent.minibatch_size=32", "agent.epsilon=1.0")
        loop = Loop(*on_identity("Discrete", 10_000), *FAST["sarsa"], *settings)
        agent = loop.agent
        assert isinstance(agent, Sarsa)
        for _ in range(4):
            loop.step()
        decided = agent._decided.tolist()
        assert all(action >= 0 for action in decided)  # no episode ended there
        assert loop_step(loop).action.tolist() == decided
        for _ in range(3 + 4 * 8):  # to step 40: all episodes end with the rollout
            loop.step()
        assert agent._decided.tolist() == [-1] * 8

    def test_epsilon_follows_the_frames(self) -> None:
        schedule = "agent.epsilon={start: 1.0, end: 0.2, fraction: 0.5}"
        loop = Loop(*on_identity("Discrete", 2048), *FAST["sarsa"], schedule)
        loop.run()
        shown = [row["schedule/epsilon"] for row in loop.learned]
        assert shown == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.2, 0.2, 0.2, 0.2])

    def test_settings_that_do_not_fit(self) -> None:
        with pytest.raises(ConfigError, match="does not divide"):
            Loop(*on_identity("Discrete", 10_000), "agent=sarsa", "agent.minibatch_size=100")
        with pytest.raises(ConfigError, match=r"agent\.net\.shared"):
            Loop(*on_identity("Discrete", 10_000), "agent=sarsa", "agent.net.shared=false")


class TestRandom:
    @pytest.mark.parametrize("kind", ["Discrete", "MultiDiscrete", "Box"])
    def test_is_uniform(self, kind: str) -> None:
        loop = Loop(*on_identity(kind, 10_000), "agent=random")
        drawn = uniform(loop.env.action_space, 40_000, np.random.default_rng(0))
        assert drawn.dtype == loop.env.action_space.dtype
        assert all(loop.env.action_space.contains(action) for action in drawn[:100])
        if kind == "Box":
            assert drawn.mean() == pytest.approx(0, abs=0.01)
            assert drawn.std() == pytest.approx(3**-0.5, abs=0.01)
        else:
            counts = np.bincount(drawn.reshape(40_000, -1)[:, 0]) / 40_000
            np.testing.assert_allclose(counts, 1 / 3, atol=0.01)

    def test_same_seed_same_actions_also_resumed(self) -> None:
        one, two = (Loop(*on_identity("Discrete", 10_000), "agent=random") for _ in range(2))
        one.run(800)
        two.run(400)
        other = Loop(*on_identity("Discrete", 10_000), "agent=random")
        assert isinstance(other.agent, Random)
        other.agent.load(two.agent.state())
        two.agent = other.agent
        two.run(400)
        assert one.returns == two.returns

    def test_evaluation_has_streams_of_its_own(self) -> None:
        loop = Loop(*on_identity("Discrete", 10_000), "agent=random")
        before = loop.agent.state()["rng"]
        one, _ = loop.agent.play(loop.obs, None, torch.Generator().manual_seed(3))
        two, _ = loop.agent.play(loop.obs, None, torch.Generator().manual_seed(3))
        greedy, _ = loop.agent.play(loop.obs, None, None)
        assert np.array_equal(one, two)
        assert greedy.shape == (8,)
        assert loop.agent.state()["rng"] == before


def test_settings_are_frozen() -> None:
    loop = Loop(*on_identity("Discrete", 10_000), "agent=a2c")
    with pytest.raises(dataclasses.FrozenInstanceError):
        loop.config.agent.gamma = 0.5  # type: ignore[attr-defined]
