"""A rule asked of a case, under its own weights or under others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from decaf_theory.arrays import Array
from decaf_theory.conformance.cases import Case
from decaf_theory.conformance.rules import Rule, mixed

Candidate: TypeAlias = Callable[[str], Array]  # the update [n, d, k] of a site


@dataclass(frozen=True)
class Asking:
    """A rule asked of a case. own_rank: whether each agent keeps its own rank."""

    rule: Rule
    case: Case
    own_rank: bool = False

    def right(self, site: str) -> Array:
        """Return the rule's update."""
        return mixed(self.rule, self.case, site, own_rank=self.own_rank)[0]

    def under(self, rows: Array) -> Candidate:
        """Return the rule's update under other weights [n, N]."""
        if self.blends:
            return self.blended((rows, rows, None))
        return replace(self, case=replace(self.case, weights=rows)).right

    @property
    def blends(self) -> bool:
        """Whether the rule is a mean of factors or of products, truncated or not."""
        averages = self.rule.means and not self.rule.shared
        return averages or self.rule.truncates or self.rule.name in ("exact", "flora", "fedex")

    def blended(self, *terms: tuple[Array, Array, Case | None]) -> Candidate:
        """Return the rule's update of sums over terms: weights of B, weights of A, whose adapters.

        Of rules that `blends` holds for.
        """

        def update(site: str) -> Array:
            every = [(other or self.case).scaled[site] for *_, other in terms]
            parts = [(*term[:2], *factors) for term, factors in zip(terms, every, strict=True)]
            if self.rule.means:
                mean_B = sum(np.tensordot(rows, B, 1) for rows, _, B, _ in parts)
                mean_A = sum(np.tensordot(rows, A, 1) for _, rows, _, A in parts)
                return np.asarray(np.asarray(mean_B) @ mean_A)
            M = np.asarray(sum(np.tensordot(rows, B @ A, 1) for rows, _, B, A in parts))
            return self.cut(M) if self.rule.truncates else M

        return update

    def cut(self, M: Array) -> Array:
        """Return the truncations of M [n, d, k] to the agents' ranks, or to the largest."""
        U, S, Vh = np.linalg.svd(M, full_matrices=False)
        most = max(self.case.ranks)
        ranks = self.case.ranks if self.own_rank else [most] * len(M)
        S = S * (np.arange(S.shape[1]) < np.array(ranks)[:, None])
        return np.asarray((U * S[:, None, :]) @ Vh)
