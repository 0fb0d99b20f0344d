"""Factor means among agents of unequal rank, zero-padded: HetLoRA and raFLoRA."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from decaf_theory.arrays import Array, like, namespace
from decaf_theory.lowrank import Factors, mean_over_agents
from decaf_theory.measure import product_norm
from decaf_theory.methods.base import Mixed, Origin
from decaf_theory.methods.factor import FEDAVG
from decaf_theory.methods.state import Clock, Message, State, for_agents


def weigh_directions(importance: Callable[[Factors], Array]) -> Callable[..., Mixed]:
    """Return the `receive` that averages each rank direction l by how much it counts with agents.

        B_i[:, l] <- sum_j pi_ij h_jl B_j[:, l] / sum_j pi_ij h_jl,   and so for row l of A

    importance(factors): h >= 0, [..., N, r] or [..., N, 1]. Where the sum of weights is zero the
    mean is the plain one.
    """

    def receive(own: State, sent: Message, weights: Array, clock: Clock) -> Mixed:
        h = importance(Factors(sent["B"], sent["A"]))
        means = {
            "B": _weighted(sent["B"], h[..., None, :], weights),
            "A": _weighted(sent["A"], h[..., :, None], weights),
        }
        factors = Factors(**{name: for_agents(X, own.agents) for name, X in means.items()})
        return Mixed(own._replace(factors=factors))

    return receive


def _weighted(X: Array, h: Array, weights: Array) -> Array:
    xp = namespace(X)
    total = mean_over_agents(h, weights)
    counts = total > 0
    mean = mean_over_agents(h * X, weights) / xp.where(counts, total, xp.ones_like(total))
    return xp.where(counts, mean, mean_over_agents(X, weights))


def _update_norm(factors: Factors) -> Array:
    """Return the size of each agent's update, |B_j A_j|_F, over the largest, [..., N, 1]."""
    xp = namespace(factors.B)
    norms = product_norm(factors)[..., None]
    largest = xp.max(norms, axis=-2, keepdims=True)
    # a ratio, so that tiny updates do not underflow when they are multiplied
    return norms / xp.where(largest > 0, largest, xp.ones_like(largest))


def held_directions(factors: Factors) -> Array:
    """Return one for each direction that an agent has, zero where column and row are zero."""
    xp = namespace(factors.B)
    held = xp.logical_or(xp.any(factors.B != 0, axis=-2), xp.any(factors.A != 0, axis=-1))
    return like(xp.astype(held, xp.float32), factors.B)


HETLORA = replace(
    FEDAVG,
    name="hetlora",
    receive=weigh_directions(_update_norm),
    keeps=(),
    origin=Origin(
        "zero-padded to the largest rank; A, B <- means with weights |B_j A_j|_F over their sum; "
        "client i keeps its first r_i directions",
        "HetLoRA, arXiv 2401.06432",
        "N",
    ),
)
RAFLORA = replace(
    FEDAVG,
    name="raflora",
    receive=weigh_directions(held_directions),
    keeps=(),
    origin=Origin(
        "zero-padded; each direction of A and B is averaged over the clients whose rank has it; "
        "client i keeps its first r_i",
        "arXiv 2602.13486",
        "N",
    ),
)
