"""CartPole's copies stepped as arrays: bit for bit the games of Gymnasium's `CartPole-v1`.

Gymnasium's own vector of it cannot be used: it has one source of randomness for all copies, so that
a copy's games would depend on the others', and it spends a frame on every restart.
"""

from __future__ import annotations

import math

import numpy as np
from gymnasium.utils import seeding
from numpy.typing import NDArray

from rlhydra.env.copies import Results
from rlhydra.env.environment import Array

# As in Gymnasium, in its order of operations (Barto, Sutton and Anderson, 1983).
GRAVITY = 9.8
POLE_MASS = 0.1
MASS = POLE_MASS + 1.0
LENGTH = 0.5  # half the pole's
POLE_MOMENT = POLE_MASS * LENGTH
FORCE = 10.0
TAU = 0.02  # seconds of a frame
LIMITS = np.array([[2.4], [12 * 2 * math.pi / 360]])  # of the cart's place and the pole's angle


class CartPoleCopies:
    """Place, speed, angle and angular speed of every copy as the rows of one array (4, N)."""

    def __init__(self, num_envs: int) -> None:
        self._state: NDArray[np.float64] = np.zeros((4, num_envs))
        self._rewards = [1.0] * num_envs
        self._never = [False] * num_envs
        self._random = [np.random.default_rng(0)] * num_envs

    def step(self, actions: Array) -> Results:
        """Step all copies at once; the time limit is the caller's."""
        places, speeds = self._state[0::2], self._state[1::2]
        theta, theta_speed = places[1], speeds[1]
        cos, sin = np.cos(theta), np.sin(theta)
        force = np.where(actions == 1, FORCE, -FORCE)
        push = (force + POLE_MOMENT * np.square(theta_speed) * sin) / MASS
        acceleration = np.empty_like(places)
        acceleration[1] = (GRAVITY * sin - cos * push) / (
            LENGTH * (4.0 / 3.0 - POLE_MASS * np.square(cos) / MASS)
        )
        acceleration[0] = push - POLE_MOMENT * acceleration[1] * cos / MASS
        state = np.empty_like(self._state)
        state[0::2] = places + TAU * speeds
        state[1::2] = speeds + TAU * acceleration
        self._state = state
        fallen = np.abs(state[0::2]) > LIMITS
        terminated = (fallen[0] | fallen[1]).tolist()
        return state.T, self._rewards, terminated, self._never

    def reset(self, copies: list[int], seeds: list[int] | None) -> Array:
        """Start a game in some copies, each with its own randomness."""
        for number, copy in enumerate(copies):
            if seeds is not None:
                self._random[copy] = seeding.np_random(seeds[number])[0]
            self._state[:, copy] = self._random[copy].uniform(-0.05, 0.05, size=(4,))
        return self._state[:, copies].T

    def close(self) -> None:
        """Do nothing: there is nothing to close."""
