"""The rule of a merge, from options that are checked: method, weights or topology, rank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from decaf_theory.adapters.agents import mixing_matrix
from decaf_theory.adapters.combining import Rule
from decaf_theory.arrays import Array
from decaf_theory.lowrank import Factors
from decaf_theory.methods import METHODS, Method
from decaf_theory.methods.base import along_the_gradient

AUTO = "auto"
ENERGY = 0.99


def make_rule(
    N: int,
    *,
    topology: str | None = None,
    weights: Sequence[float] | None = None,
    method: str = "decaf",
    rank: int | str | None = None,
    energy: float | None = None,
    exact: bool = False,
) -> Rule:
    """Return the rule of a merge of N agents; ValueError: options that are wrong or do not fit."""
    chosen = served(method)
    if topology is not None and weights is not None:
        raise ValueError("a topology has weights of its own: give topology or weights, not both")
    if topology is not None and chosen.meets == "server":
        raise ValueError(
            f"{method} has a server, whose mix is one for all agents: leave the topology out"
        )
    if chosen.space != "products":
        if exact:
            raise ValueError("exact belongs to methods that mix products, such as decaf")
        if rank is not None:
            raise ValueError(
                f"rank belongs to methods that mix products, such as decaf: with {method} averaged "
                f"factors keep the agents' rank"
            )
    if exact and rank is not None:
        raise ValueError("exact keeps the sum of the ranks: give exact or rank, not both")
    if isinstance(rank, str) and rank != AUTO:
        raise ValueError(f"rank must be a whole number or {AUTO!r}, got {rank!r}")
    if energy is not None and rank != AUTO:
        raise ValueError(f"energy belongs to rank {AUTO!r}, which chooses a rank by it")
    if energy is not None and not 0 < energy <= 1:
        raise ValueError(f"energy must be in (0, 1], got {energy}; .99 keeps 99 %")
    if rank == AUTO and energy is None:
        energy = ENERGY
    rows = check_weights(weights, N)[None, :] if topology is None else mixing_matrix(topology, N)
    return Rule(rows, chosen, None if isinstance(rank, str) else rank, energy, exact)


def title(rule: Rule) -> str:
    """Return what a merge does in a word or two."""
    return f"exact {rule.method.name}" if rule.exact else rule.method.name


def check_weights(weights: Sequence[float] | None, N: int) -> Array:
    """Return the agents' weights [N], equal if None; ValueError: not a probability row."""
    if weights is None:
        return np.full(N, 1.0 / N)
    given = np.asarray(weights)
    if given.dtype.kind not in "fiu":
        raise ValueError(f"weights must be {N} numbers, one per agent, got {weights!r}")
    row = given.astype(np.float64)
    if row.shape != (N,):
        raise ValueError(f"weights must be {N} numbers, one per agent, got {row.size}")
    if not np.all(np.isfinite(row)) or np.any(row < 0):
        raise ValueError(f"weights must be nonnegative numbers, got {row.tolist()}")
    # room for decimals that were typed with ten digits, or for the rounding of what they came in
    room = N * float(np.finfo(given.dtype).eps) if given.dtype.kind == "f" else 0.0
    if abs(row.sum() - 1.0) > max(1e-9, room):
        raise ValueError(f"weights must sum to one, got sum {row.sum():.10g}; divide by it")
    return row


def unserved(method: Method) -> str:
    """Return why a method cannot merge stored adapters, in words; empty if it can."""
    two = Factors(np.zeros((1, 2, 1)), np.zeros((1, 1, 2)))  # room for a residual of rank one
    if not method.form.low_rank:
        return "it trains W itself, which adapters do not hold"
    if not method.form.factored:
        return f"its W - W0 is {method.form.name}, of which adapters hold B A alone"
    if method.meets == "none":
        return "its agents mix nothing"
    if kept := method.start(two):
        return f"agents keep {' and '.join(kept)} between rounds, which adapters do not hold"
    if method.step is not along_the_gradient:
        return "it differs from others in its local step, and a merge has none"
    if method.tuned is not None:
        return "its parameters depend on the graph of a run"
    return "" if method.merges else "each agent keeps what it does not send"


def served(name: str) -> Method:
    """Return a method that merges, by name; ValueError: unknown, or one that cannot, and why."""
    if name not in METHODS:
        raise ValueError(f"method must be one of {', '.join(MERGES)}, got {name!r}")
    if reason := unserved(METHODS[name]):
        raise ValueError(
            f"method {name} cannot merge adapters: {reason}; take one of {', '.join(MERGES)}"
        )
    return METHODS[name]


MERGES = tuple(name for name, method in METHODS.items() if not unserved(method))
