"""DQN and its improvements: targets by hand, projections by a slow reference, exact resume."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from torch import Tensor, nn

from rlhydra.agent.agent import Diverged
from rlhydra.agent.distributional import distributional_targets, divergence, expectation, project
from rlhydra.agent.dqn import DQN, follow, loss_of, q_targets
from rlhydra.config import NetConfig, parse
from rlhydra.env.environment import Transition
from rlhydra.memory.replay import Batch
from rlhydra.net.noisy import NoisyLinear
from rlhydra.net.perceptron import Perceptron
from rlhydra.net.q_network import QNetwork, combine
from rlhydra.schema import ConfigError
from tests.conftest import composed
from tests.identity import Loop, on_identity
from tests.states import same

NET = NetConfig("auto", (16, 8), "relu", layer_norm=False, shared=True, init="default")
OBS, IMAGE = Box(-1, 1, (5,), np.float32), Box(0, 255, (4, 84, 84), np.uint8)
FAST = (
    "env.num_envs=2", "agent.gamma=0.5", "agent.lr=1e-2", "agent.net.hidden=[16]",
    "agent.batch_size=16", "agent.learning_starts=100", "agent.train_frequency=4",
    "agent.updates_per_train=1", "agent.target_update_frequency=20",
)  # fmt: skip
VARIANTS = ("dqn", "ddqn", "ddqn_per", "dueling_dqn", "rainbow")
ATOMS = "agent.distributional={atoms: 21, v_min: 0, v_max: 2}"


def loop(agent: str, frames: int, *overrides: str, seed: int = 0) -> Loop:
    """Return the session's loop on the identity environment."""
    reach = (ATOMS,) if agent == "rainbow" else ()
    chosen = (f"agent={agent}", *on_identity("Discrete", frames), *FAST, *reach, *overrides)
    return Loop(*chosen, seed=seed)


def dqn_of(made: Loop) -> DQN:
    assert isinstance(made.agent, DQN)
    return made.agent


def batch_of(**fields: Any) -> Batch:
    given = {name: torch.as_tensor(value) for name, value in fields.items()}
    size = len(given["reward"])
    blank: dict[str, Any] = {
        "obs": torch.zeros(size, 1),
        "action": torch.zeros(size, dtype=torch.int64),
        "next_obs": torch.arange(size, dtype=torch.float32)[:, None],
        "weight": torch.ones(size),
        "index": np.arange(size),
    }
    return Batch(**{**blank, **given})


class Table(nn.Module):
    """Looks the outputs up by the number that is the observation."""

    def __init__(self, rows: list[Any]) -> None:
        super().__init__()
        self.rows = torch.tensor(rows)

    def forward(self, obs: Tensor) -> Tensor:
        return self.rows[obs[:, 0].to(torch.int64)]


class TestTargets:
    online = Table([[1.0, 3.0], [9.0, 5.0]])
    older = Table([[7.0, 2.0], [4.0, 6.0]])

    def test_greatest_value_of_the_target_network(self) -> None:
        batch = batch_of(reward=[1.0, 1.0], discount=[0.5, 0.0])
        assert q_targets(self.online, self.older, batch, double=False).tolist() == [4.5, 1.0]

    def test_double_values_what_the_online_network_chooses(self) -> None:
        batch = batch_of(reward=[1.0, 1.0], discount=[0.5, 0.5])
        assert q_targets(self.online, self.older, batch, double=True).tolist() == [2.0, 3.0]

    @pytest.mark.parametrize(
        ("terminated", "truncated", "expected"),
        [
            (False, False, 1 + 0.5 * 2 + 0.25 * 4 + 0.125 * 8),  # the third successor's value
            (True, False, 1 + 0.5 * 2),  # ends with the second reward
            (False, True, 1 + 0.5 * 2 + 0.25 * 8),  # cut: the second successor still has a value
        ],
    )
    def test_n_steps_and_ends(self, terminated: bool, truncated: bool, expected: float) -> None:
        made = loop("dqn", 1000, "agent.n_step=3", "env.num_envs=1")
        memory = dqn_of(made).replay
        for step in range(3):
            ends = np.array([step == 1])
            obs = np.full((1, 3), step, np.float32)
            memory.add(
                Transition(
                    obs,
                    np.array([0]),
                    np.array([2.0**step], np.float32),
                    obs + 1,
                    ends & terminated,
                    ends & truncated,
                )
            )
        assert len(memory) == 1
        net = Table([[8.0]] * 4)
        target = q_targets(net, net, memory.sample(1), double=False)
        assert target.item() == pytest.approx(expected)

    def test_losses(self) -> None:
        error = torch.tensor([0.5, -0.5, 3.0])
        assert loss_of(error, "huber").tolist() == [0.125, 0.125, 2.5]
        assert loss_of(error, "squared").tolist() == [0.125, 0.125, 4.5]


def slow_projection(
    probabilities: list[float], reward: float, discount: float, support: list[float]
) -> list[float]:
    """Follow algorithm 1 of Bellemare et al. (2017) atom by atom."""
    low, high, step = support[0], support[-1], support[1] - support[0]
    out = [0.0] * len(support)
    for probability, atom in zip(probabilities, support, strict=True):
        place = (min(max(reward + discount * atom, low), high) - low) / step
        below, above = math.floor(place + 1e-6), math.ceil(place - 1e-6)
        if below == above:
            out[below] += probability
        else:
            out[below] += probability * (above - place)
            out[above] += probability * (place - below)
    return out


class TestDistributional:
    support = torch.linspace(-2, 2, 9)

    def test_projection_by_hand(self) -> None:
        probabilities = torch.eye(9)[[4, 4, 8]]
        reward, discount = torch.tensor([0.1, 5.0, 0.0]), torch.tensor([0.9, 0.0, 1.0])
        moved = project(probabilities, reward, discount, self.support)
        expected = torch.zeros(3, 9)
        expected[0, 4:6] = torch.tensor([0.8, 0.2])
        expected[1:, 8] = 1
        torch.testing.assert_close(moved, expected)

    def test_projection_equals_the_slow_one(self) -> None:
        torch.manual_seed(0)
        probabilities = torch.randn(50, 9).softmax(-1)
        reward, discount = torch.randn(50) * 2, torch.rand(50)
        moved = project(probabilities, reward, discount, self.support)
        for row in range(50):
            arguments = probabilities[row].tolist(), reward[row].item(), discount[row].item()
            expected = slow_projection(*arguments, self.support.tolist())
            assert moved[row].tolist() == pytest.approx(expected, abs=1e-5)
        torch.testing.assert_close(moved.sum(-1), torch.ones(50))

    def test_projection_keeps_the_mean_inside(self) -> None:
        probabilities = torch.rand(7, 9).softmax(-1)
        moved = project(probabilities, torch.full((7,), 0.1), torch.full((7,), 0.9), self.support)
        mean = probabilities @ self.support
        torch.testing.assert_close(moved @ self.support, 0.1 + 0.9 * mean)

    def test_double_chooses_by_the_online_means(self) -> None:
        sure = torch.eye(9) * 100  # logits of certainty
        online = Table([[sure[0].tolist(), sure[8].tolist()]])
        older = Table([[sure[6].tolist(), sure[2].tolist()]])
        batch = batch_of(reward=[0.0], discount=[1.0])
        for double, atom in ((False, 6), (True, 2)):
            target = distributional_targets(online, older, batch, self.support, double)
            torch.testing.assert_close(target, torch.eye(9)[[atom]])

    def test_divergence_is_zero_at_the_target_and_has_the_gradient_of_cross_entropy(self) -> None:
        logits = torch.randn(3, 9, requires_grad=True)
        target = torch.randn(3, 9).softmax(-1)
        assert divergence(target.log(), target).abs().max() < 1e-6
        divergence(logits, target).sum().backward()
        torch.testing.assert_close(logits.grad, logits.detach().softmax(-1) - target)

    def test_expectation(self) -> None:
        logits = torch.tensor([[[0.0, 0.0], [-100.0, 100.0]]])
        values = expectation(logits, torch.tensor([0.0, 4.0]))
        torch.testing.assert_close(values, torch.tensor([[2.0, 4.0]]))


class TestNetwork:
    @pytest.mark.parametrize("space", [OBS, IMAGE])
    @pytest.mark.parametrize("dueling", [False, True])
    @pytest.mark.parametrize("noisy", [None, 0.5])
    @pytest.mark.parametrize("atoms", [None, 7])
    def test_shapes(
        self, space: Box, dueling: bool, noisy: float | None, atoms: int | None
    ) -> None:
        net = QNetwork(NET, space, 3, dueling=dueling, noisy=noisy, atoms=atoms)
        obs = torch.from_numpy(np.stack([space.sample(), space.sample()]))
        assert net(obs).shape == ((2, 3) if atoms is None else (2, 3, atoms))

    def test_dueling_identity(self) -> None:
        value, advantage = torch.tensor([[[5.0]]]), torch.tensor([[[1.0], [3.0]]])
        assert combine(value, advantage).flatten().tolist() == [4.0, 6.0]
        torch.testing.assert_close(combine(value, advantage + 7), combine(value, advantage))

    def test_noise_is_the_papers_matrix(self) -> None:
        layer = NoisyLinear(4, 3, 0.5)
        layer.draw_noise(torch.Generator().manual_seed(1))
        noise = torch.randn(1, 7, generator=torch.Generator().manual_seed(1))
        f = noise.sign() * noise.abs().sqrt()
        before, after = f[0, :4], f[0, 4:]
        weight = layer.weight + layer.weight_sigma * torch.outer(after, before)
        x = torch.randn(6, 4)
        expected = x @ weight.T + layer.bias + layer.bias_sigma * after
        torch.testing.assert_close(layer(x), expected)
        assert layer.weight_sigma[0, 0].item() == pytest.approx(0.5 / 2)

    def test_noise_is_drawn_and_dropped(self) -> None:
        net = QNetwork(NET, OBS, 3, dueling=True, noisy=0.5)
        generator, obs = torch.Generator().manual_seed(0), torch.randn(1, 5).expand(4, 5)
        quiet = net(obs)
        net.draw_noise(generator)
        one = net(obs)
        torch.testing.assert_close(one, one[:1].expand(4, 3))
        net.draw_noise(generator, 4)
        each = net(obs)
        assert len(each.unique(dim=0)) == 4
        assert not torch.allclose(one, quiet)
        net.drop_noise()
        torch.testing.assert_close(net(obs), quiet)
        assert not any("noise" in name for name in net.state_dict())

    @pytest.mark.parametrize("activation", ["relu", "tanh"])
    def test_perceptron_equals_autograd(self, activation: Any) -> None:
        layers = [nn.Linear(5, 16), nn.ReLU() if activation == "relu" else nn.Tanh()]
        net = nn.Sequential(*layers, nn.Linear(16, 3))
        assert Perceptron.fits(net)
        x, slope = torch.randn(2, 7, 5)[0], torch.randn(7, 3)
        fast, inputs = Perceptron(net), []
        np.testing.assert_allclose(fast(x.numpy(), inputs), net(x).detach(), atol=1e-6)
        out = [np.empty(p.shape, np.float32) for p in net.parameters()]
        fast.backward(inputs, slope.numpy(), out)
        for found, expected in zip(
            out, torch.autograd.grad(net(x), list(net.parameters()), slope), strict=True
        ):
            np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_perceptron_follows_moved_parameters(self) -> None:
        net = nn.Sequential(nn.Linear(2, 2))
        fast = Perceptron(net)
        net[0].weight.data = torch.eye(2)
        net[0].bias.data = torch.zeros(2)
        assert fast(np.array([[1.0, 2.0]], np.float32)).tolist() == [[1.0, 2.0]]

    def test_other_networks_are_no_perceptrons(self) -> None:
        for layers in ([], [nn.ReLU()], [nn.Linear(2, 2), nn.ELU(), nn.Linear(2, 2)]):
            assert not Perceptron.fits(nn.Sequential(*layers))
        assert not Perceptron.fits(nn.Linear(2, 2))

    def test_follow(self) -> None:
        net, target = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        net.weight.data.fill_(3.0)
        target.weight.data.fill_(1.0)
        follow(target, net, 0.25)
        assert target.weight.item() == 1.5
        follow(target, net, 1.0)
        assert target.weight.item() == 3.0


class TestActing:
    def test_epsilon_follows_the_clock(self) -> None:
        made = loop("dqn", 1000, "agent.epsilon={start: 1.0, end: 0.2, fraction: 0.4}")
        agent = dqn_of(made)
        made.run(98)
        assert agent.epsilon == 1.0  # random until learning starts
        made.run(102)
        assert agent.epsilon == pytest.approx(0.6)
        made.run(400)
        assert agent.epsilon == pytest.approx(0.2)

    def test_share_of_random_actions(self) -> None:
        agent = dqn_of(loop("dqn", 1000, "env.num_envs=4"))
        agent.epsilon = 0.3
        obs = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
        best = agent.play(obs, None, None)[0]
        taken = np.array([agent.act(obs) for _ in range(1000)])
        assert (taken != best).mean() == pytest.approx(0.3 * 2 / 3, abs=0.03)

    def test_boltzmann(self) -> None:
        agent = dqn_of(loop("dqn", 1000, "env.num_envs=1", "agent.temperature=0.5"))
        agent.epsilon, agent.temperature = 0.0, 0.5
        obs = np.eye(3, dtype=np.float32)[:1]
        with torch.no_grad():
            expected = (agent.net(torch.from_numpy(obs))[0] / 0.5).softmax(-1)
        taken = np.concatenate([agent.act(obs) for _ in range(4000)])
        shares = np.bincount(taken, minlength=3) / len(taken)
        np.testing.assert_allclose(shares, expected, atol=0.03)

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_play_changes_nothing(self, variant: str) -> None:
        made, other = loop(variant, 400), loop(variant, 400)
        obs = np.eye(3, dtype=np.float32)
        for _ in range(100):
            made.step()
            other.step()
            greedy = other.agent.play(obs, None, None)[0]
            sampled = other.agent.play(obs, None, torch.Generator().manual_seed(1))[0]
            assert greedy.shape == sampled.shape == (3,)
            np.testing.assert_array_equal(greedy, other.agent.play(obs, None, None)[0])
        assert same(made.agent.state(), other.agent.state())

    def test_sampled_play_explores_a_little(self) -> None:
        agent = dqn_of(loop("dqn", 1000, "agent.eval_epsilon=0.5"))
        obs = np.repeat(np.eye(3, dtype=np.float32)[:1], 2000, 0)
        action, _ = agent.play(obs, None, torch.Generator().manual_seed(0))
        greedy, _ = agent.play(obs, None, None)
        assert (action != greedy).mean() == pytest.approx(1 / 3, abs=0.04)


class TestLearning:
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_learns_the_identity(self, variant: str) -> None:
        assert loop(variant, 3000).run() > 9.0  # of 10; at random 3.3

    @pytest.mark.parametrize(
        "overrides",
        [
            ("agent.n_step=3", "agent.double=true"),
            ("agent.tau=0.1", "agent.loss=squared"),
            ("agent.epsilon=0", "agent.temperature={start: 1, end: 0.01}"),
        ],
    )
    def test_parts_are_switched_by_fields(self, overrides: tuple[str, ...]) -> None:
        assert loop("dqn", 3000, *overrides).run() > 9.0

    @pytest.mark.parametrize("variant", ["dqn", "ddqn", "ddqn_per"])
    @pytest.mark.parametrize("kind", ["huber", "squared"])
    def test_written_out_gradient_is_autograds(self, variant: str, kind: str) -> None:
        settings = f"agent.loss={kind}", "agent.lr=1e-3", "agent.target_update_frequency=8"
        made, slow = loop(variant, 1000, *settings), loop(variant, 1000, *settings)
        dqn_of(slow).plain = None
        assert dqn_of(made).plain is not None
        made.run(300)
        slow.run(300)
        mine, theirs = dqn_of(made).net.state_dict(), dqn_of(slow).net.state_dict()
        for name, tensor in mine.items():
            torch.testing.assert_close(tensor, theirs[name], atol=1e-4, rtol=1e-3)
        assert made.learned[-1] == pytest.approx(slow.learned[-1], rel=1e-3)

    def test_counts_of_updates_and_target_updates(self) -> None:
        settings = "env.num_envs=8", "agent.train_frequency=2", "agent.updates_per_train=3"
        made = loop("dqn", 2000, *settings, "agent.target_update_frequency=40", "agent.tau=0.5")
        made.run(96)
        assert made.agent.opt_step == 0
        made.run(8)
        assert made.agent.opt_step == 4 * 3
        made.run(80)
        assert made.agent.opt_step == 11 * 4 * 3

    def test_priorities_are_the_errors(self) -> None:
        made = loop("ddqn_per", 1000, "env.num_envs=1")
        made.run(104)
        agent = dqn_of(made)
        tree = agent.replay._tree
        assert tree is not None
        ranked = tree.priorities[:104]
        assert (ranked != 1.0).any()  # what was drawn has the priority of its error
        batch = agent.replay.sample(50, beta=0.5)
        least = ranked[ranked > 0].min()
        expected = (least / tree.priorities[batch.index]) ** 0.5
        np.testing.assert_allclose(batch.weight, expected, rtol=1e-5)

    @pytest.mark.parametrize("variant", ["dqn", "rainbow"])
    def test_diverges_before_the_step(self, variant: str) -> None:
        made = loop(variant, 1000)
        made.run(200)
        agent = dqn_of(made)
        before = copy.deepcopy(agent.net.state_dict())
        with torch.no_grad():
            for parameter in agent.target_net.parameters():
                parameter.fill_(float("nan"))
        with pytest.raises(Diverged):
            made.run(8)
        for name, tensor in agent.net.state_dict().items():
            assert torch.equal(tensor, before[name])


class TestState:
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_same_seed_same_course(self, variant: str) -> None:
        one, other = loop(variant, 400), loop(variant, 400)
        one.run()
        other.run()
        assert same(one.agent.state(), other.agent.state())
        assert one.learned == other.learned
        third = loop(variant, 400, seed=1)
        third.run()
        assert third.learned != one.learned

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_goes_on_identically(self, variant: str) -> None:
        settings = "agent.temperature=0.1", "agent.n_step=2", "agent.buffer_size=150"
        one, other = loop(variant, 400, *settings), loop(variant, 400, *settings)
        one.run(200)
        state, place = copy.deepcopy(one.agent.state()), one.env.state()
        one.run()
        other.agent.load(state)
        other.obs, exact = other.env.load(place)
        other.clock.frame = 200
        assert exact
        other.run()
        assert same(one.agent.state(), other.agent.state())

    def test_weights_set_the_target_network_too(self) -> None:
        one, other = loop("dqn", 400), loop("dqn", 400, seed=1)
        one.run()
        other.agent.load_weights(one.agent.weights())
        for net in (dqn_of(other).net, dqn_of(other).target_net):
            assert same(net.state_dict(), dqn_of(one).net.state_dict())
        with pytest.raises(ConfigError, match="other layers"):
            loop("dueling_dqn", 400).agent.load_weights(one.agent.weights())


class TestSettings:
    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("agent.buffer_size=4", "agent.buffer_size: expected at least num_envs = 8"),
            ("agent.distributional={atoms: 5, v_min: 1, v_max: 1}", "v_min = 1 must be below"),
            ("agent.net.shared=false", "agent.net.shared"),
            ("agent.prioritised={alpha: 2, beta: 1, epsilon: 1}", "agent.prioritised.alpha"),
        ],
    )
    def test_wrong_ones_are_refused(self, override: str, message: str) -> None:
        with pytest.raises(ConfigError) as error:
            parse(composed("agent=dqn", override))
        assert message in str(error.value)

    @pytest.mark.parametrize("variant", VARIANTS)
    @pytest.mark.parametrize("env", ["cartpole", "mountain_car", "lunarlander", "pong"])
    def test_variants_compose(self, variant: str, env: str) -> None:
        parse(composed(f"agent={variant}", f"env={env}"))

    def test_actions_are_those_of_the_space(self) -> None:
        agent = dqn_of(loop("dqn", 100))
        assert isinstance(agent.action_space, Discrete)
        assert set(np.concatenate([agent.act(agent.rng.random((2, 3))) for _ in range(50)])) == {
            0,
            1,
            2,
        }
