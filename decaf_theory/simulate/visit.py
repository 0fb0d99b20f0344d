"""One step of a simulation as its caller sees it: quantities are computed when they are read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from decaf_theory.arrays import Array, Host, convert, host, namespace
from decaf_theory.lowrank import Factors
from decaf_theory.methods import State
from decaf_theory.tsvd import TSVD

if TYPE_CHECKING:
    from decaf_theory.simulate.config import Config


class SimulationError(ValueError):
    """A loss, gradient or factor that is not finite, with the trace up to it."""

    def __init__(self, what: str, *, run: int, agent: int, step: int) -> None:
        """Name what is not finite, and where."""
        super().__init__(f"{what} of agent {agent} in run {run} not finite at step {step}")
        self.what, self.run, self.agent, self.step = what, run, agent, step
        self.trace: object | None = None  # a Trace


class Mix(NamedTuple):
    """The mix that led to a step, all None where there was none.

    The factors that entered it [runs, N, ...], the weights [N, N] (or [1, N], one row for all), the
    truncation of methods that mix products, the bytes that all agents sent, and what their memory
    held before.
    """

    before: Factors | None = None
    weights: Array | None = None
    truncated: TSVD | None = None
    comm_bytes: int = 0
    memory: Mapping[str, Factors | Array] = MappingProxyType({})


@dataclass(eq=False)
class Visit:
    """The state at one step, and what led to it. Arrays are [runs, N, ...]."""

    config: Config
    step: int
    state: State
    mix: Mix
    comm_bytes: int  # by all agents, from the start on

    @property
    def factors(self) -> Factors:
        """The agents' factors."""
        return self.state.factors

    @cached_property
    def W(self) -> Array:
        """The agents' points W0 + s B_i A_i, [runs, N, d, k]."""
        return points(self.config, self.state)

    @cached_property
    def agent_loss(self) -> Array:
        """The agents' losses at their own points, [runs, N].

        SimulationError: not finite. ValueError: another shape.
        """
        loss = self.config.problem.loss(self.W)
        if self.step == 0:
            require_shape("loss", loss, self.W, self.config.problem.N)
        require_finite("loss", loss[..., None, None], self.step)
        return loss

    @cached_property
    def squares(self) -> tuple[Host, Host]:
        """The sums over agents of |B_i|_F^2 and of |A_i|_F^2, [runs]."""
        B, A = self.factors
        return squares(B), squares(A)

    @property
    def finite(self) -> bool:
        """Whether the factors are finite, and their squares."""
        square_B, square_A = self.squares
        return math.isfinite(float(np.sum(square_B + square_A)))

    @cached_property
    def mean(self) -> Array:
        """The mean of the agents' points, weighted by the target's shares, [runs, 1, d, k]."""
        return mean_of_agents(self.W, self.config.shares, -3)[..., None, :, :]

    @cached_property
    def loss_at_mean(self) -> Array:
        """The agents' losses at the mean point, [runs, N].

        SimulationError: not finite. ValueError: another shape.
        """
        losses = self.config.problem.loss(self.mean)
        if self.step == 0:
            require_shape("loss", losses, self.mean, self.config.problem.N)
        require_finite("loss at the mean point", losses[..., None, None], self.step)
        return losses

    @cached_property
    def gradient_at_mean(self) -> Array:
        """The mean of the agents' gradients at the mean point, weighted alike, [runs, d, k].

        SimulationError: one of them is not finite. ValueError: another shape.
        """
        gradients = self.config.problem.grad(self.mean)
        if self.step == 0:
            require_shape("grad", gradients, self.mean, self.config.problem.N)
        xp = namespace(gradients)
        mean = mean_of_agents(gradients, self.config.shares, -3)
        if not bool(xp.all(xp.isfinite(mean))):
            require_finite("gradient at the mean point", gradients, self.step)
        return mean

    def require_finite(self) -> None:
        """Raise SimulationError unless loss and gradients at this step are finite."""
        _ = self.agent_loss
        require_finite("gradient", self.config.problem.grad(self.W), self.step)


def require_shape(name: Literal["loss", "grad"], value: Array, W: Array, N: int) -> None:
    """Raise ValueError unless the problem's loss or grad at W [runs, n, d, k] has its shape.

    n is N, or 1 for one point of all agents, where losses that are the same may stay one.
    """
    axes = "[runs, N]" if name == "loss" else "[runs, N, d, k]"
    inner = () if name == "loss" else tuple(W.shape[2:])
    allowed = [(W.shape[0], n, *inner) for n in (N, W.shape[1])]
    if np.shape(value) not in allowed:
        raise ValueError(
            f"{name} must return shape {allowed[0]} = {axes} at W {tuple(W.shape)}, "
            f"got {tuple(np.shape(value))}"
        )


def mean_of_agents(x: Array, shares: Host | None, axis: int) -> Array:
    """Return the mean of x over its axis of agents, weighted by their shares if there are any."""
    xp = namespace(x)
    if shares is None:
        return xp.mean(x, axis=axis)
    weights = convert(shares, x).reshape((-1,) + (1,) * (-1 - axis))
    return xp.sum(weights * x, axis=axis)  # one for all agents counts by the sum of shares, one


def squares(X: Array) -> Host:
    """Return the sum of squares of each run, [runs]."""
    flat = X.reshape((X.shape[0], -1))
    return host(namespace(X).vecdot(flat, flat))


def finite(factors: Factors) -> bool:
    """Whether the factors are finite, and their squares: one pass over each."""
    return math.isfinite(float(sum(np.sum(squares(X)) for X in factors)))


def require_finite_factors(factors: Factors, step: int) -> None:
    """Raise SimulationError unless the factors are finite, and their squares."""
    for name, X in factors._asdict().items():
        require_finite(name, X, step)


def points(config: Config, state: State) -> Array:
    """Return the agents' W_i."""
    update = config.named.form.update(state, config.s)
    return update if config.base is None else update + convert(config.base, update)


def square_sum(X: Array, axis: tuple[int, ...]) -> Array:
    """Return the sum of squares over these axes."""
    return namespace(X).sum(X * X, axis=axis)


def require_finite(what: str, x: Array, step: int) -> None:
    """Raise SimulationError unless each |x|_F^2 is finite, x [runs, N, ., .].

    Squares, so that finite factors also have finite products.
    """
    xp = namespace(x)
    finite = xp.isfinite(square_sum(x, (-2, -1)))
    if not bool(xp.all(finite)):
        run, agent = (int(i) for i in np.argwhere(~host(finite))[0])
        raise SimulationError(what, run=run, agent=agent, step=step)
