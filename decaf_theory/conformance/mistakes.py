"""Known mistakes: the update that each would have, with words for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

import numpy as np

from decaf_theory.arrays import Array
from decaf_theory.conformance.cases import ALPHA, Agents, Case
from decaf_theory.conformance.rules import REFLECTING, RULES, Rule, mean, mixed, scaled
from decaf_theory.conformance.weights import weights
from decaf_theory.lowrank import Factors

Candidate: TypeAlias = Callable[[str], Array]  # the update [n, d, k] of a site
Mistakes: TypeAlias = Iterator[tuple[str, Candidate]]


@dataclass(frozen=True)
class Asking:
    """A rule asked of a case. own_rank: whether each agent keeps its own rank."""

    rule: Rule
    case: Case
    own_rank: bool = False

    @cached_property
    def factors(self) -> dict[str, Factors]:
        """The agents' factors by site, the scales in B."""
        return {site: scaled(self.case, site) for site in self.case.sites}

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
            B, A, P = 0.0, 0.0, 0.0
            for of_B, of_A, other in terms:
                each_B, each_A = scaled(other, site) if other else self.factors[site]
                B = B + np.tensordot(of_B, each_B, 1)
                A = A + np.tensordot(of_A, each_A, 1)
                P = P + np.tensordot(of_B, each_B @ each_A, 1)
            if self.rule.means:
                return np.asarray(B @ A)
            return self.cut(np.asarray(P)) if self.rule.truncates else np.asarray(P)

        return update

    def cut(self, M: Array) -> Array:
        """Return the truncations of M [n, d, k] to the agents' ranks, or to the largest."""
        U, S, Vh = np.linalg.svd(M, full_matrices=False)
        most = max(self.case.ranks)
        ranks = self.case.ranks if self.own_rank else [most] * len(M)
        S = S * (np.arange(S.shape[1]) < np.array(ranks)[:, None])
        return np.asarray((U * S[:, None, :]) @ Vh)


def known(asking: Asking, earlier: list[Case]) -> Mistakes:
    """Yield every mistake that is known, likely ones first.

    earlier: cases of earlier calls with the same shapes, whose numbers may still be around.
    """
    yield "is transposed", lambda site: asking.right(site).mT
    for words, rows in weights(asking.case.weights):
        yield words, asking.under(rows)
    yield from _residuals(asking)
    yield from _other_rules(asking)
    yield from _splits(asking)
    yield from _scales(asking)
    yield from _one_factor(asking)
    for case in earlier:
        yield from _stale(asking, case)


def _residuals(asking: Asking) -> Mistakes:
    """Yield what a residual I = M - Bbar Abar that is handled wrongly gives."""
    if asking.rule.name not in ("fedex", "flora", "exact"):
        return
    case = asking.case
    base = Asking(RULES["fedavg"], case).under(case.weights)
    plain = np.full_like(case.weights, 1 / case.N)
    unweighted = Asking(RULES["fedavg"], case).under(plain)

    def rest(site: str) -> Array:
        return mean(case, site) - base(site)

    yield "lacks the residual: it is the product of the averaged factors", base
    yield "adds the residual transposed", lambda s: base(s) + rest(s).mT
    yield "subtracts the residual", lambda s: base(s) - rest(s)
    yield "adds the residual twice", lambda s: base(s) + 2 * rest(s)
    yield "is the residual alone", rest
    yield "divides the residual by the number of agents", lambda s: base(s) + rest(s) / case.N
    even = asking.under(plain)
    words = "takes the residual of the plain means, whatever the weights"
    yield words, lambda s: base(s) + even(s) - unweighted(s)


def _other_rules(asking: Asking) -> Mistakes:
    """Yield the updates of the rules that this one is taken for."""
    rule, case = asking.rule, asking.case
    averaged = Asking(RULES["fedavg"], case)
    if not rule.means:
        words = "averages the factors, which is not the rule's update and depends on each gauge"
        yield words, averaged.under(case.weights)
        for words, rows in weights(case.weights):
            yield f"averages the factors, and {words}", averaged.under(rows)
    products = "is the mean of the products, "
    if rule.truncates or rule.means:
        yield f"{products}not truncated", Asking(RULES["exact"], case).under(case.weights)
    if not rule.truncates:
        yield f"{products}truncated", Asking(RULES["decaf"], case).under(case.weights)
    if rule.referred:
        reflecting = Asking(REFLECTING, case)
        yield "turns by reflections, where the rule allows rotations alone", reflecting.right
        other = Asking(rule, replace(case, round=1 - case.round % 2))
        yield "turns by the factor that is for the other rounds: odd and even", other.right
    for other_rule in ("hetlora", "raflora") if rule.unequal else ():
        yield f"is {other_rule}'s update", Asking(RULES[other_rule], case).right


def _splits(asking: Asking) -> Mistakes:
    """Yield what a truncated SVD whose parts are put together wrongly gives."""
    if not asking.rule.truncates:
        return
    case, r, least = asking.case, max(asking.case.ranks), min(asking.case.shape)

    def put(power: float, start: int = 0, stop: int = r) -> Candidate:
        def update(site: str) -> Array:
            U, S, Vh = np.linalg.svd(mean(case, site), full_matrices=False)
            kept = S[..., None, start:stop] ** power
            return np.asarray((U[..., start:stop] * kept) @ Vh[..., start:stop, :])

        return update

    yield "puts the singular values into both factors", put(2.0)
    yield "puts the roots of the singular values into one factor alone", put(0.5)
    yield "leaves the singular values out", put(0.0)
    yield "keeps the smallest singular values", put(1.0, least - r, least)
    yield "keeps the first columns of the stacked factors", _first_columns(asking)
    for rank in range(1, least):
        if rank != r or asking.own_rank:
            yield rank_words(case, rank, own_rank=asking.own_rank), put(1.0, 0, rank)


def rank_words(case: Case, rank: int, *, own_rank: bool) -> str:
    """Return what is said of a truncation to a rank that is not the rule's."""
    right = "to each agent's own" if own_rank else max(case.ranks)
    return f"truncates to rank {rank}, not {right}"


def _first_columns(asking: Asking) -> Candidate:
    """Return sum w_j B_j A_j over the first r directions of all agents alone."""
    case, left = asking.case, max(asking.case.ranks)
    kept: list[int] = []
    for r in case.ranks:
        kept.append(min(r, left))
        left -= kept[-1]

    def update(site: str) -> Array:
        B, A = scaled(case, site)
        mask = np.arange(B.shape[-1]) < np.array(kept)[:, None]
        return np.asarray(np.tensordot(case.weights, (B * mask[:, None, :]) @ A, 1))

    return update


def _scales(asking: Asking) -> Mistakes:
    """Yield the rule under other scales of the agents' products."""
    s = np.asarray(asking.case.scales)
    if np.all(s == 1):
        return
    r = np.asarray(asking.case.ranks)
    for words, scales in (
        ("ignores the scales", np.ones_like(s)),
        ("takes alpha / r for alpha / sqrt(r), the scale of rsLoRA", ALPHA / r),
        ("takes alpha / sqrt(r), the scale of rsLoRA, for alpha / r", s * np.sqrt(r)),
        ("applies the scales twice", s**2),
        ("takes the first agent's scale for all", np.full_like(s, s[0])),
        ("takes the mean of the scales for all", np.full_like(s, s.mean())),
        ("applies the roots of the scales", np.sqrt(s)),
    ):
        other = replace(asking.case, scales=tuple(scales.tolist()))
        yield words, replace(asking, case=other).under(other.weights)


def _one_factor(asking: Asking) -> Mistakes:
    """Yield products of a B and an A that are mixed in two ways."""
    case = asking.case
    w, N = case.weights, case.N
    n = len(w)
    rows = w if n == N else np.repeat(w[:1], N, axis=0)
    factors = Asking(RULES["fedavg"], case)
    ways = [("returns each agent's own adapter, unmixed", np.eye(N)), *weights(rows)]
    for words, other in ways:
        yield f"in A alone: {words}", factors.blended((rows, other, None))
        yield f"in B alone: {words}", factors.blended((other, rows, None))


def _stale(asking: Asking, earlier: Case) -> Mistakes:
    """Yield the rule with adapters, or weights, of an earlier call."""
    case = asking.case
    w, N = case.weights, case.N
    many = [{*range(N)} - {j} for j in range(N)] if N > 2 else []
    for old in [{*range(N)}, *({j} for j in range(N)), *many]:
        who = "all agents" if len(old) == N else "agents " + ", ".join(map(str, sorted(old)))
        sites = {site: _older(case, earlier, site, old) for site in case.sites}
        words = f"mixes what {who} had in an earlier call: stale copies"
        yield words, replace(asking, case=replace(case, sites=sites)).under(w)
    if asking.blends and len(w) == N > 1:
        own = np.diag(np.diag(w))
        words = "mixes what the neighbours had in an earlier call: stale copies"
        yield words, asking.blended((own, own, None), (w - own, w - own, earlier))
    if earlier.weights.shape == w.shape:
        yield "takes the weights of an earlier call", asking.under(earlier.weights)


def _older(case: Case, earlier: Case, site: str, old: set[int]) -> Agents:
    return tuple(
        earlier.sites[site][j] if j in old else factors
        for j, factors in enumerate(case.sites[site])
    )
