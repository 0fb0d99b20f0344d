"""How the factors of N agents at one site become those of a merge, and what that drops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from decaf_theory.adapters.agents import stack
from decaf_theory.arrays import Array
from decaf_theory.lowrank import Factors, balance
from decaf_theory.measure import mix_norm, product_distance, product_norm, truncation_error
from decaf_theory.methods import Clock, Method
from decaf_theory.tsvd import TSVD, check_rank, tsvd_of_mix


class Mixed(NamedTuple):
    """The factors B [d, r], A [r, k] of a merge at one site, |M|_F, and |M - B A|_F.

    M = sum_j pi_j B_j A_j is the mix of the products, whatever the method.
    """

    factors: Factors
    mix: float
    dropped: float


@dataclass(frozen=True)
class Rule:
    """How the agents' factors mix, the same at every site.

    rows [n, N]: the weights of n merges. method: see `rules.served`. rank: of the truncation, by
    default the largest of the agents there, at most min(d, k). energy: where given, the rank is
    the smallest that keeps this share of |M|_F^2. exact: the factors are stacked, nothing is cut.
    """

    rows: Array
    method: Method
    rank: int | None = None
    energy: float | None = None
    exact: bool = False

    @property
    def ranks_differ(self) -> bool:
        """Whether each site has a rank of its own, which is known only when it is mixed."""
        return self.exact or self.energy is not None

    def ranks(self, shape: tuple[int, int], given: Sequence[int]) -> int:
        """Return the rank at a site of this shape, of agents of these ranks; ValueError: rank."""
        if self.rank is not None:
            return check_rank(self.rank, *shape)
        return min(max(given), *shape) if self.method.space == "products" else max(given)

    def mix(self, site: str, agents: Sequence[Factors]) -> list[Mixed]:
        """Return the merges at one site, one per row. ValueError names site and rule."""
        if self.exact:
            return [_stacked(agents, row) for row in self.rows]
        factors = stack(agents)
        if self.method.space == "products":
            return self._truncated(factors, self.ranks(factors.shape, [factors.rank]))
        _require_shared(site, self.method, factors)
        found = _averaged(self.method, factors, self.rows)
        means = [Factors(B, A) for B, A in zip(*found, strict=True)]
        mixes = [_stacked(agents, row) for row in self.rows]
        return [
            Mixed(mean, whole.mix, float(product_distance(whole.factors, mean)))
            for mean, whole in zip(means, mixes, strict=True)
        ]

    def _truncated(self, factors: Factors, rank: int) -> list[Mixed]:
        if self.energy is not None:
            rank = min(factors.rank * factors.B.shape[0], *factors.shape)
        found = tsvd_of_mix(factors, self.rows, rank)
        merges = [
            found._replace(factors=Factors(B, A), singular_values=S, tail=tail)
            for B, A, S, tail in zip(*found.factors, *found[1:3], strict=True)
        ]
        if self.energy is not None:
            merges = [_shortened(each, rank_of(each, self.energy)) for each in merges]
        return [
            Mixed(each.factors, float(mix_norm(each)), float(truncation_error(each)))
            for each in merges
        ]


def rank_of(truncated: TSVD, energy: float) -> int:
    """Return the smallest r >= 1 with sum_{l <= r} sigma_l^2 >= energy sum_l sigma_l^2."""
    S = truncated.singular_values / max(float(truncated.singular_values[0]), np.finfo(float).tiny)
    kept = np.cumsum(S**2)
    return int(np.searchsorted(kept, energy * kept[-1])) + 1


def _shortened(truncated: TSVD, r: int) -> TSVD:
    B, A = truncated.factors
    S = truncated.singular_values
    tail = np.concatenate([S[r:], truncated.tail])
    factors = Factors(B[:, :r], A[:r])
    return truncated._replace(factors=factors, singular_values=S[:r], tail=tail)


def _stacked(agents: Sequence[Factors], row: Array) -> Mixed:
    """Return M itself: B = [.. sqrt(pi_j) B_j ..] and A = [.. sqrt(pi_j) A_j ..], pi_j != 0."""
    roots = [np.sqrt(abs(weight)) for weight in row]
    used = [j for j, weight in enumerate(row) if weight != 0]
    B = np.concatenate([np.sign(row[j]) * roots[j] * agents[j].B for j in used], axis=-1)
    A = np.concatenate([roots[j] * agents[j].A for j in used], axis=-2)
    factors = Factors(B, A)
    return Mixed(factors, float(product_norm(factors)), 0.0)


def _averaged(method: Method, factors: Factors, rows: Array) -> Factors:
    """Return the balanced factors after one mix by these rows, whoever gives a method's weights."""
    state, clock = method.begin(factors), Clock()
    n, N = rows.shape
    own = state if n == N else state.take([0] * n)
    return balance(method.receive(own, method.send(state, clock), rows, clock).state.factors)


def _require_shared(site: str, method: Method, factors: Factors) -> None:
    """Raise ValueError if agents differ in a factor that the method takes to be one for all."""
    for name in method.fixed:
        X = getattr(factors, name)
        if np.any(X != X[:1]):
            raise ValueError(
                f"site {site}: {method.name} mixes one factor and needs {name} to be the same in "
                f"all adapters, which differs; take dlora or decaf"
            )
