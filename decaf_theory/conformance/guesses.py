"""What is wrong, in words: which other rule, weights or arithmetic would give what came back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from decaf_theory.arrays import Array
from decaf_theory.conformance.cases import ALPHA, Case
from decaf_theory.conformance.judge import Matrix
from decaf_theory.conformance.results import Result
from decaf_theory.conformance.rules import REFLECTING, RULES, Rule, mean, mixed

# the update [N, d, k] that a site would have
SCALED = "is scaled by a number that depends on the case"
THIRDS = "weighs each neighbour by 1/3, also where the weights then do not sum to one"
OTHER_HEAD = "gives another head than the mean"
Candidate: TypeAlias = Callable[[str], Array]


def named(rule: Rule, case: Case, matrices: list[Matrix], earlier: Case | None) -> Iterator[str]:
    """Yield what explains every matrix of a case that came back wrong, likely explanations first.

    earlier: the case of an earlier call with the same shapes, whose numbers may still be around.
    """
    for words, candidate in _candidates(rule, case, earlier):
        if _explains(candidate, matrices):
            yield words
    yield from _scaled(case, matrices)


def _explains(candidate: Candidate, matrices: list[Matrix]) -> bool:
    """Return whether a candidate is what came back, everywhere, and not what is right anyway."""
    apart = False
    for matrix in matrices:
        try:
            other = candidate(matrix.site)[matrix.agent]
        except (ValueError, IndexError, np.linalg.LinAlgError):
            return False
        if other.shape != matrix.update.shape:
            return False
        size = max(
            1.0, float(np.linalg.norm(other)) / max(float(np.linalg.norm(matrix.expected)), 1e-300)
        )
        if np.linalg.norm(matrix.update - other) > size * matrix.room:
            return False
        apart |= bool(np.linalg.norm(other - matrix.expected) > matrix.room)
    return apart


def _candidates(rule: Rule, case: Case, earlier: Case | None) -> Iterator[tuple[str, Candidate]]:
    yield "is transposed", lambda s: _update(rule, case, s).mT
    yield from _other_weights(rule, case)
    yield from _residuals(rule, case)
    yield from _other_rules(rule, case)
    yield from _splits(rule, case)
    yield from _other_scales(rule, case)
    if earlier is not None:
        yield from _stale(rule, case, earlier)


def _update(rule: Rule, case: Case, site: str) -> Array:
    return mixed(rule, case, site, own_rank=False)[0]


def _other_weights(rule: Rule, case: Case) -> Iterator[tuple[str, Candidate]]:
    """Yield the rule under the weights of known mistakes."""
    w, N = case.weights, case.N
    as_strings = sorted(range(N), key=str)
    one = np.eye(N)
    for words, rows in (
        ("ignores the weights: takes the plain mean", np.full_like(w, 1 / N)),
        (
            'takes the agents in the order of their names as strings ("10" before "2")',
            w[:, np.argsort(as_strings)],
        ),
        (
            "takes the agents in the order of their names as strings, on both sides of Pi",
            _conjugated(w, as_strings),
        ),
        ("takes the weights in reverse order", w[:, ::-1]),
        ("gives each agent the weight of the next one", np.roll(w, -1, axis=1)),
        ("gives each agent the weight of the one before it", np.roll(w, 1, axis=1)),
        ("mixes with the transpose of Pi", w.T),
        ("returns the first agent's adapter, unmixed", np.repeat(one[:1], len(w), axis=0)),
        ("returns the last agent's adapter, unmixed", np.repeat(one[-1:], len(w), axis=0)),
        ("returns each agent's own adapter, unmixed", one),
        ("gives the first agent's mix to all", np.repeat(w[:1], len(w), axis=0)),
        ("leaves out the last agent", _without(w, N - 1)),
        ("leaves out the first agent", _without(w, 0)),
        ("leaves out the last agent, and weights do not sum to one", w * (np.arange(N) < N - 1)),
        ("leaves out the agent's own adapter", _off_diagonal(w)),
        (THIRDS, np.where(w > 0, 1 / 3, 0.0)),
        ("squares the weights, as when both factors are weighted", w**2),
        ("takes the square roots of the weights", np.sqrt(w)),
    ):
        if rows.shape[0] in (1, N):
            yield words, _under(rule, case, rows)


def _under(rule: Rule, case: Case, rows: Array) -> Candidate:
    return lambda site: _update(rule, replace(case, weights=rows), site)


def _conjugated(w: Array, order: list[int]) -> Array:
    inverse = np.argsort(order)
    return w[np.ix_(inverse, inverse)] if len(w) == len(order) else w


def _without(w: Array, j: int) -> Array:
    left = w * (np.arange(w.shape[1]) != j)
    sums = left.sum(axis=1, keepdims=True)
    return left / np.where(sums > 0, sums, 1.0)


def _off_diagonal(w: Array) -> Array:
    if w.shape[0] != w.shape[1]:
        return w
    left = w * (1 - np.eye(len(w)))
    sums = left.sum(axis=1, keepdims=True)
    return left / np.where(sums > 0, sums, 1.0)


def _residuals(rule: Rule, case: Case) -> Iterator[tuple[str, Candidate]]:
    """Yield what a residual I = M - Bbar Abar that is handled wrongly gives."""
    if rule.name not in ("fedex", "flora", "exact"):
        return
    averaged = RULES["fedavg"]

    def parts(site: str) -> tuple[Array, Array]:
        base = _update(averaged, case, site)
        return base, mean(case, site) - base

    yield "lacks the residual: it is the product of the averaged factors", lambda s: parts(s)[0]
    yield "adds the residual transposed", lambda s: parts(s)[0] + parts(s)[1].mT
    yield "subtracts the residual", lambda s: parts(s)[0] - parts(s)[1]
    yield "adds the residual twice", lambda s: parts(s)[0] + 2 * parts(s)[1]
    yield "is the residual alone", lambda s: parts(s)[1]
    yield (
        "divides the residual by the number of agents",
        lambda s: parts(s)[0] + parts(s)[1] / case.N,
    )


def _other_rules(rule: Rule, case: Case) -> Iterator[tuple[str, Candidate]]:
    """Yield the updates of the rules that this one is taken for."""
    if not rule.means:
        words = "averages the factors, which is not the rule's update and depends on each gauge"
        yield words, lambda s: _update(RULES["fedavg"], case, s)
        for power, said in ((0.5, "the square roots of the weights"), (2.0, "the squared weights")):
            rows = case.weights**power
            yield f"averages the factors under {said}", _under(RULES["fedavg"], case, rows)
    if rule.truncates or rule.means:
        yield (
            "is the mean of the products, not truncated",
            lambda s: _update(RULES["exact"], case, s),
        )
    if not rule.truncates:
        yield "is the truncated mean of the products", lambda s: _update(RULES["decaf"], case, s)
    if rule.referred:
        yield (
            "turns by reflections, where the rule allows rotations alone",
            lambda s: _update(REFLECTING, case, s),
        )
    if rule.unequal:
        for other in ("hetlora", "raflora"):
            yield f"is {other}'s update", lambda s, other=other: _update(RULES[other], case, s)  # type: ignore[misc]


def _splits(rule: Rule, case: Case) -> Iterator[tuple[str, Candidate]]:
    """Yield what a truncated SVD whose parts are put together wrongly gives."""
    if not rule.truncates:
        return
    r = max(case.ranks)

    def put(site: str, power: float, start: int, stop: int) -> Array:
        U, S, Vh = np.linalg.svd(mean(case, site), full_matrices=False)
        U, S, Vh = U[..., start:stop], S[..., start:stop], Vh[..., start:stop, :]
        return np.broadcast_to((U * S[..., None, :] ** power) @ Vh, (case.N, *case.shape))

    yield "puts the singular values into both factors", lambda s: put(s, 2.0, 0, r)
    yield "puts the roots of the singular values into one factor alone", lambda s: put(s, 0.5, 0, r)
    yield "leaves the singular values out", lambda s: put(s, 0.0, 0, r)
    yield (
        "keeps the smallest singular values",
        lambda s: put(s, 1.0, min(case.shape) - r, min(case.shape)),
    )
    for rank in range(1, min(case.shape)):
        if rank != r:
            yield f"truncates to rank {rank}, not {r}", lambda s, rank=rank: put(s, 1.0, 0, rank)  # type: ignore[misc]


def _other_scales(rule: Rule, case: Case) -> Iterator[tuple[str, Candidate]]:
    """Yield the rule under other scales of the agents' products."""
    s = np.asarray(case.scales)
    if np.all(s == 1):
        return
    for words, scales in (
        ("ignores the scales", np.ones_like(s)),
        (
            "takes alpha / r for alpha / sqrt(r), the scale of rsLoRA",
            ALPHA / np.asarray(case.ranks),
        ),
        ("applies the scales to both factors", s**2),
        ("takes the first agent's scale for all", np.full_like(s, s[0])),
        ("applies the roots of the scales", np.sqrt(s)),
    ):
        other = replace(case, scales=tuple(scales.tolist()))
        yield words, lambda site, other=other: _update(rule, other, site)  # type: ignore[misc]


def _stale(rule: Rule, case: Case, earlier: Case) -> Iterator[tuple[str, Candidate]]:
    """Yield the rule with some agents' adapters from an earlier call."""
    N = case.N
    for old in [{*range(N)}, *({j} for j in range(N)), *({*range(N)} - {j} for j in range(N))]:
        sites = {
            site: tuple(earlier.sites[site][j] if j in old else f for j, f in enumerate(agents))
            for site, agents in case.sites.items()
        }
        other = replace(case, sites=sites)
        who = (
            "all agents"
            if len(old) == N
            else f"agents {sorted(old)}"
            if len(old) > 1
            else f"agent {min(old)}"
        )
        words = f"mixes what {who} had in an earlier call: stale copies"
        yield words, lambda site, other=other: _update(rule, other, site)  # type: ignore[misc]


def heads_named(case: Case, results: Sequence[Result], room: float) -> list[str]:
    """Return what is wrong with the heads of the results, in words."""
    n = len(results)
    rows = case.weights if len(case.weights) == n else np.repeat(case.weights[:1], n, axis=0)
    heads = [result.head for result in results]
    if any(head is None for head in heads):
        return ["leaves the head out: what is not a factor is to be averaged, too"]
    one = np.eye(case.N)
    for words, weights in (
        ("", rows),
        ("gives the first agent's head for the mean", np.repeat(one[:1], n, axis=0)),
        ("gives the last agent's head for the mean", np.repeat(one[-1:], n, axis=0)),
        ("leaves each agent its own head, unmixed", one),
        ("ignores the weights in the mean of the heads", np.full_like(rows, 1 / case.N)),
        ("takes the sum of the heads for their mean", np.ones_like(rows)),
        ("leaves the first agent's head out of the mean", _without(rows, 0)),
        ("leaves the last agent's head out of the mean", _without(rows, case.N - 1)),
    ):
        means = np.tensordot(weights, case.heads, axes=1)
        if len(means) == n and all(
            _near(h, mean, room) for h, mean in zip(heads, means, strict=True)
        ):
            return [words] if words else []
    return [OTHER_HEAD]


def _near(head: Array, mean: Array, room: float) -> bool:
    return head.shape == mean.shape and bool(np.abs(head - mean).max() <= room)


def _scaled(case: Case, matrices: list[Matrix]) -> Iterator[str]:
    """Yield "is scaled by x" where what came back is x times what is right."""
    size = sum(float(np.sum(m.expected**2)) for m in matrices)
    if not size:
        return
    x = sum(float(np.sum(m.update * m.expected)) for m in matrices) / size
    apart = [np.linalg.norm(m.update - x * m.expected) / m.room for m in matrices]
    if max(apart) > max(1.0, abs(x)):
        return
    for name, value in _known(case).items():
        if math.isclose(x, value, rel_tol=1e-2, abs_tol=1e-6):
            yield f"is scaled by {name}"
    yield f"is scaled by {x:.4g}"
    yield f"{SCALED}, as by weights that do not sum to one"


def _known(case: Case) -> dict[str, float]:
    """Return the factors that mistakes are known for, by name."""
    N, r = case.N, max(case.ranks)
    roots = {"sqrt(r)": math.sqrt(r), "1/sqrt(r)": 1 / math.sqrt(r)}
    return {
        "zero": 0.0,
        "-1": -1.0,
        "N": N,
        "1/N": 1 / N,
        "N^2": N**2,
        "1/N^2": N**-2,
        "r": r,
        "1/r": 1 / r,
        **roots,
    }
