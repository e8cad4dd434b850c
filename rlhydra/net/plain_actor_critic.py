"""Policy and value perceptrons in numpy: acting, and the gradients that on-policy losses need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rlhydra.net.actor_critic import ActorCritic
from rlhydra.net.head import LOG_TWO_PI, Categorical, DiagonalGaussian
from rlhydra.net.perceptron import Perceptron

Array = NDArray[Any]


class PlainActorCritic:
    """Computes what an `ActorCritic` of two perceptrons, its head and autograd do, in less time."""

    def __init__(self, net: ActorCritic) -> None:
        self._actor, self._critic = Perceptron(net.actor), Perceptron(net.critic)
        self._head: _Head = _head_of(net)
        self._inputs: tuple[list[Array], list[Array]] = [], []

    @classmethod
    def of(cls, net: ActorCritic) -> PlainActorCritic | None:
        """Return that of `net`, or None where it is not such a network."""
        fits = (
            net.trunk is None
            and isinstance(net.head, (Categorical, DiagonalGaussian))
            and Perceptron.fits(net.actor)
            and Perceptron.fits(net.critic)
        )
        return cls(net) if fits else None

    def sample(self, obs: Array, rng: np.random.Generator) -> Array:
        """Draw an action for each observation (B, ...)."""
        return self._head.sample(self._actor(obs), rng)

    def __call__(self, obs: Array, action: Array) -> tuple[Array, Array]:
        """Return the actions' log-probabilities and the values, each (B,)."""
        self._inputs = [], []
        log_prob = self._head(self._actor(obs, self._inputs[0]), action)
        return log_prob, self._critic(obs, self._inputs[1])[:, 0]

    def backward(self, log_prob: Array, entropy: float, value: Array, out: Sequence[Array]) -> None:
        """Write into `out` the gradient of each parameter of the `ActorCritic`, in their order.

        Given is the gradient of what the last call returned, and of each sample's entropy.
        """
        of_policy, of_values = self._inputs
        own = self._head.parameters
        slope = self._head.backward(log_prob, entropy, out[:own])
        self._actor.backward(of_policy, slope, out[own : own + 2 * len(of_policy)])
        self._critic.backward(of_values, value[:, None], out[own + 2 * len(of_policy) :])


class _Head(Protocol):
    parameters: int

    def sample(self, output: Array, rng: np.random.Generator) -> Array: ...
    def __call__(self, output: Array, action: Array) -> Array: ...
    def backward(self, log_prob: Array, entropy: float, out: Sequence[Array]) -> Array: ...


class _Choice:
    """One choice among n; with p = softmax(z), ∂log pₐ/∂z = 1ₐ - p and ∂H/∂z = -p (log p + H)."""

    parameters = 0

    def sample(self, output: Array, rng: np.random.Generator) -> Array:
        return (output + rng.gumbel(size=output.shape)).argmax(-1)

    def __call__(self, output: Array, action: Array) -> Array:
        # The few choices lead: reducing a short last axis takes ten times as long.
        log_p = output.T - output.T.max(0)
        p = np.exp(log_p)
        total = np.add.reduce(p, 0)
        p /= total
        log_p -= np.log(total)
        self._p, self._log_p = p, log_p
        self._taken = action, np.arange(len(action))
        return log_p[self._taken]

    def backward(self, log_prob: Array, entropy: float, out: Sequence[Array]) -> Array:
        slope = self._p * -log_prob
        slope[self._taken] += log_prob
        if entropy:
            terms = self._p * self._log_p
            slope -= entropy * (terms - self._p * np.add.reduce(terms, 0))
        return slope.T


class _Gaussian:
    """Normals N(μ, σ); with z = (a - μ) / σ, ∂log p/∂μ = z / σ, ∂log p/∂log σ = z² - 1."""

    parameters = 1

    def __init__(self, head: DiagonalGaussian) -> None:
        self._parameter = head.log_std

    def sample(self, output: Array, rng: np.random.Generator) -> Array:
        noise = rng.standard_normal(output.shape, np.float32)
        noise *= np.exp(self._log_std())
        noise += output
        return noise

    def __call__(self, output: Array, action: Array) -> Array:
        log_std = self._log_std()
        self._precision = np.exp(-log_std)
        self._z = (action - output) * self._precision
        constant = np.add.reduce(log_std) + 0.5 * len(log_std) * LOG_TWO_PI
        return np.square(self._z) @ np.full(len(log_std), -0.5, np.float32) - constant

    def backward(self, log_prob: Array, entropy: float, out: Sequence[Array]) -> Array:
        out[0][:] = log_prob @ (np.square(self._z) - 1) + entropy * len(log_prob)
        return log_prob[:, None] * (self._z * self._precision)

    def _log_std(self) -> Array:
        return self._parameter.detach().numpy()


def _head_of(net: ActorCritic) -> _Head:
    return _Gaussian(net.head) if isinstance(net.head, DiagonalGaussian) else _Choice()
