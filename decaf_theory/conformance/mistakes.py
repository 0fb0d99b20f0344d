"""Known mistakes: the update that each would have, with words for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from decaf_theory.arrays import Array
from decaf_theory.conformance.asking import Asking, Candidate
from decaf_theory.conformance.cases import ALPHA, Case
from decaf_theory.conformance.rules import REFLECTING, RULES, mean
from decaf_theory.conformance.weights import weights
from decaf_theory.lowrank import Factors

Mistakes: TypeAlias = Iterator[tuple[str, Candidate]]


def known(asking: Asking) -> Mistakes:
    """Yield every mistake that is known, likely ones first."""
    yield "is transposed", lambda site: asking.right(site).mT
    for words, rows in weights(asking.case.weights):
        yield words, asking.under(rows)
    yield from _residuals(asking)
    yield from _other_rules(asking)
    yield from _splits(asking)
    yield from _scales(asking)
    yield from _crossed(asking)
    yield from _one_factor(asking)
    yield from _of_ranks(asking)


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

    yield "lacks the residual, which is zero or not applied: the factors are averaged", base
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
        words = (
            "averages the factors as they are: rotates none"
            if rule.referred
            else "averages the factors, which is not the rule's update and depends on each gauge"
        )
        yield words, averaged.under(case.weights)
        for words, rows in weights(case.weights):
            yield f"averages the factors, and {words}", averaged.under(rows)
    else:
        yield "takes the median of each entry, not the mean", _medians(case)
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
        yield from _turned_in_part(case)
    for other_rule in ("hetlora", "raflora") if rule.unequal else ():
        yield f"is {other_rule}'s update", Asking(RULES[other_rule], case).right


def _medians(case: Case) -> Candidate:
    def update(site: str) -> Array:
        B, A = (np.median(X, axis=0) for X in case.scaled[site])
        return np.asarray((B @ A)[None])

    return update


def _turned_in_part(case: Case) -> Mistakes:
    """Yield means of factors of which one alone is rotated."""

    def update(site: str, *, turns_B: bool) -> Array:
        B, A = case.scaled[site]
        last = case.reference[site]
        U, _, Vh = np.linalg.svd(B.mT @ last.B if case.round % 2 else A @ last.A.mT)
        U[..., -1] *= np.sign(np.linalg.det(U @ Vh))[:, None]
        R = U @ Vh
        factors = (B @ R, A) if turns_B else (B, R.mT @ A)
        mean_B, mean_A = (np.tensordot(case.weights, X, 1) for X in factors)
        return np.asarray(mean_B @ mean_A)

    words = "rotates {} alone, which changes each agent's product"
    yield words.format("B"), lambda site: update(site, turns_B=True)
    yield words.format("A"), lambda site: update(site, turns_B=False)


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
        B, A = case.scaled[site]
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
    """Yield products of a B and an A that are mixed in two ways, or padded on two sides."""
    w, N = asking.case.weights, asking.case.N
    graph = len(w) == N > 1
    rows = w if len(w) == N else np.repeat(w, N, axis=0)
    factors = Asking(RULES["fedavg"], asking.case)
    own = ("returns each agent's own adapter, unmixed", np.eye(N))
    for words, other in [*weights(rows, graph=graph), own]:
        yield f"in A alone: {words}", factors.blended((rows, other, None))
        yield f"in B alone: {words}", factors.blended((other, rows, None))


def _crossed(asking: Asking) -> Mistakes:
    """Yield means of products of one agent's B and another's A."""
    if not asking.blends or asking.rule.means:
        return
    for words, order in (("the one before it", 1), ("the next one", -1), ("reverse order", 0)):

        def update(site: str, order: int = order) -> Array:
            B, A = asking.case.scaled[site]
            other = np.roll(A, order, axis=0) if order else A[::-1]
            M = np.tensordot(asking.case.weights, B @ other, 1)
            return asking.cut(M) if asking.rule.truncates else M

        yield f"multiplies each agent's B by the A of another agent: of {words}", update


def _of_ranks(asking: Asking) -> Mistakes:
    """Yield what goes wrong where ranks differ."""
    case = asking.case
    ranks, w = np.array(case.ranks), case.weights
    if len({*case.ranks}) == 1:
        return
    largest = w * (ranks == max(ranks))
    words = "leaves out the agents below the largest rank"
    yield words, asking.under(largest / largest.sum(axis=1, keepdims=True))
    yield f"{words}: weights do not sum to one", asking.under(largest)
    least = min(case.ranks)
    sites = {
        site: tuple(Factors(f.B[:, :least], f.A[:least]) for f in agents)
        for site, agents in case.sites.items()
    }
    cut = replace(asking, case=replace(case, sites=sites), own_rank=False)
    yield "cuts all agents to the smallest rank before it mixes", cut.under(w)
    yield "pads the smaller ranks of B and of A on two different sides", _padded(case)


def _padded(case: Case) -> Candidate:
    def update(site: str) -> Array:
        B, A = case.scaled[site]
        behind = [
            np.roll(b, max(case.ranks) - r, axis=1) for b, r in zip(B, case.ranks, strict=True)
        ]
        averaged = [np.tensordot(case.weights, X, 1) for X in (np.stack(behind), A)]
        return np.asarray(averaged[0] @ averaged[1])

    return update


def stale(asking: Asking, earlier: list[Case]) -> Mistakes:
    """Yield the rule with adapters, or weights, of earlier calls with the same shapes."""
    w, N = asking.case.weights, asking.case.N
    if not asking.blends:
        return
    singles = [{j} for j in range(N)] if N <= 3 else []  # what few agents show is said of many
    others = [{*range(N)} - {j} for j in range(N)] if N == 3 else []
    for before in reversed(earlier):
        for old in [{*range(N)}, *singles, *others]:
            words = f"mixes what {_who(old, N)} had in an earlier call: stale copies"
            yield words, _with_older(asking, before, old)
        if before.weights.shape == w.shape:
            yield "takes the weights of an earlier call", asking.under(before.weights)
            own = np.diag(np.diag(w)) if len(w) == N > 1 else w
            words = "mixes what the neighbours had in an earlier call: stale copies"
            yield words, asking.blended((own, own, None), (w - own, w - own, before))


def _who(agents: set[int], N: int) -> str:
    if len(agents) == N:
        return "all agents"
    return f"agent{'s' if len(agents) > 1 else ''} {', '.join(map(str, sorted(agents)))}"


def _with_older(asking: Asking, earlier: Case, old: set[int]) -> Candidate:
    """Return the update with the agents of `old` as they were, where there were so many."""
    w, N = asking.case.weights, asking.case.N
    both = min(N, earlier.N)
    is_old = np.array([j in old and j < both for j in range(N)])
    rows = np.zeros((len(w), earlier.N))
    rows[:, :both] = (w * is_old)[:, :both]
    return asking.blended((w * ~is_old, w * ~is_old, None), (rows, rows, earlier))
