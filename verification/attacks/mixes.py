"""Attacks on the bounds for mixes of a few agents' factors: T7, T9 - T11, T13, T16 - T18.

The weights of an attack are fixed, so that its bound is a number of `decaf_theory.bounds`; the
factors are free, or confined to sigma_max <= c.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from decaf_theory import bounds
from decaf_theory.adversary import Attack, truncate
from decaf_theory.topology import TOPOLOGIES, mixing_eigenvalues
from verification.attacks.tensors import Tensors, fro, norm_of, plain, root, within

HALVES = (0.5, 0.5)
THIRDS = (1 / 3, 1 / 3, 1 / 3)
HEAVY = (0.7, 0.2, 0.1)
NORMS = ("fro", "op", "nuc")


def mixed(p: Tensors, weights: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (M, Bbar Abar), the mean of the products and the product of the means."""
    w = torch.tensor(weights, dtype=p["B"].dtype)
    M = torch.einsum("m,smdr,smrk->sdk", w, p["B"], p["A"])
    return M, torch.einsum("m,smdr->sdr", w, p["B"]) @ torch.einsum("m,smrk->srk", w, p["A"])


def of_mix(
    weights: Sequence[float],
    size: tuple[int, int, int],
    ratio: Callable[[Tensors], torch.Tensor],
    *,
    c: float | None = None,
    loose: str = "",
    **extra: Any,
) -> Attack:
    """Return the attack by all factors of shape d x r, r x k for size (d, k, r); sigma_max <= c."""
    d, k, r = size
    shapes = {"B": (len(weights), d, r), "A": (len(weights), r, k)}
    if c is None:
        return Attack(shapes, ratio, partial(plain, weights=list(weights), **extra), loose=loose)
    instance = partial(plain, weights=list(weights), c=c, **extra)
    return Attack(shapes, ratio, instance, within(c, "B", "A"), loose)


def mixing_stays(method: str) -> Attack:
    """T7: sigma_max of the mixed factors against c: DLoRA's means, DeCAF's balanced factors."""

    def ratio(p: Tensors) -> torch.Tensor:
        M, _ = mixed(p, HEAVY)
        if method == "decaf":
            return root(norm_of(M, "op")) / 1.5
        w = torch.tensor(HEAVY, dtype=M.dtype)[:, None, None]
        means = ((w * p[name]).sum(1) for name in ("B", "A"))
        return torch.maximum(*(norm_of(X, "op") for X in means)) / 1.5

    return of_mix(HEAVY, (3, 4, 2), ratio, c=1.5, method=method)


def consensus_distances(norm: str, weights: Sequence[float] = HEAVY) -> Attack:
    """T9: |I| against the norms of the weighted deviations."""

    def ratio(p: Tensors) -> torch.Tensor:
        M, mean = mixed(p, weights)
        w = torch.tensor(weights, dtype=M.dtype)[:, None, None]
        X = w.sqrt() * (p["B"] - (w * p["B"]).sum(1, keepdim=True))
        Y = w.sqrt() * (p["A"] - (w * p["A"]).sum(1, keepdim=True))
        X = X.transpose(1, 2).flatten(2)
        Y = Y.flatten(1, 2)
        size = {(Z, kind): norm_of(P, kind) for Z, P in (("X", X), ("Y", Y)) for kind in NORMS[:2]}
        bound = {
            "nuc": size["X", "fro"] * size["Y", "fro"],
            "fro": torch.minimum(
                size["X", "op"] * size["Y", "fro"], size["X", "fro"] * size["Y", "op"]
            ),
            "op": size["X", "op"] * size["Y", "op"],
        }
        return norm_of(M - mean, norm) / bound[norm]

    return of_mix(weights, (4, 3, 2), ratio, norm=norm)


def network(topology: str, N: int) -> Attack:
    """T10: the mean of |I_i|_* over a network against the consensus distances."""
    Pi = TOPOLOGIES[topology](N)
    least = min(abs(float(value)) for value in mixing_eigenvalues(Pi))
    constant = bounds.interference_consensus(lam_min=least, Xi_A=1.0, Xi_B=1.0)
    w = torch.as_tensor(Pi)[..., None, None]  # [i, j, 1, 1]

    def deviations(X: torch.Tensor) -> torch.Tensor:
        return X[:, None] - (w * X[:, None]).sum(2, keepdim=True)

    def spread(X: torch.Tensor) -> torch.Tensor:
        return root(((X - X.mean(1, keepdim=True)) ** 2).sum((1, 2, 3)) / N)

    def ratio(p: Tensors) -> torch.Tensor:
        lost = (w * (deviations(p["B"]) @ deviations(p["A"]))).sum(2)
        bound = constant * spread(p["B"]) * spread(p["A"])
        return norm_of(lost, "nuc").mean(-1) / bound

    d = 2
    k = 3
    r = 2
    return Attack({"B": (N, d, r), "A": (N, r, k)}, ratio, partial(plain, Pi=Pi.tolist()))


def interference_in_a_ball(norm: str, weights: Sequence[float], r: int = 2) -> Attack:
    """T11: |I| against its worst case on sigma_max <= 1."""
    worst = bounds.interference_worst_case(c=1.0, q=r, pi_max=max(weights), norm=norm)

    def ratio(p: Tensors) -> torch.Tensor:
        M, mean = mixed(p, weights)
        return norm_of(M - mean, norm) / worst

    odd = r % 2 == 1 and max(weights) < 0.5
    loose = "r is odd and no weight reaches 1/2: three unit vectors on a line do not cancel"
    return of_mix(weights, (5, 4, r), ratio, c=1.0, norm=norm, loose=loose if odd else "")


def odd_rank(norm: str, weights: tuple[float, ...], r: int) -> Attack:
    """T11-rank-one, T11-odd: |I| against the bound by all weights, c = 1."""
    limit = bounds.interference_by_weights(c=1.0, r=r, pi=weights)
    uneven = r > 1 and len(weights) > 3 and bounds.orthogonal_gap(r=r, pi=weights) > 0
    loose = "zeta is known from below only" if uneven else ""

    def ratio(p: Tensors) -> torch.Tensor:
        M, mean = mixed(p, weights)
        return norm_of(M - mean, norm) / limit

    return of_mix(weights, (r + 2, r + 1, r), ratio, c=1.0, norm=norm, loose=loose)


def mixes_apart(norm: str, weights: Sequence[float]) -> Attack:
    """T13: |TSVD_r(M) - Bbar Abar| against its worst case on sigma_max <= 1."""
    d = 4
    k = 3
    r = 2
    loose = "" if max(weights) <= 0.5 else "for all weights; T18-heavy knows the heavy one"
    worst = bounds.decaf_dlora_worst_case(c=1.0, r=r, norm=norm)

    def ratio(p: Tensors) -> torch.Tensor:
        M, mean = mixed(p, weights)
        return norm_of(truncate(M, r) - mean, norm) / worst

    return of_mix(weights, (d, k, r), ratio, c=1.0, norm=norm, loose=loose)


def measured_mixes(norm: str, weights: Sequence[float]) -> Attack:
    """T13-data: |TSVD_r(M) - Bbar Abar| against the mean of |M| and |M - 2 Bbar Abar|."""
    r = 2
    half = bounds.decaf_dlora_by_norms(mix=0.5, reflected=0.5)

    def ratio(p: Tensors) -> torch.Tensor:
        M, mean = mixed(p, weights)
        sizes = norm_of(M, norm) + norm_of(M - 2 * mean, norm)
        return norm_of(truncate(M, r) - mean, norm) / (half * sizes)

    return of_mix(weights, (4, 3, r), ratio, norm=norm)


def heavy_mixes_apart(norm: str, weights: Sequence[float], *, proved: bool = True) -> Attack:
    """T18-heavy, T18-tau: |TSVD_r(M) - Bbar Abar| against what is proved, or conjectured."""
    r = 2
    pi_max = max(weights)
    tau = bounds.interference_worst_case(c=1.0, q=r, pi_max=pi_max, norm=norm)
    known = bounds.decaf_dlora_heavy(c=1.0, r=r, m=len(weights), pi_max=pi_max, norm=norm)
    worst = known if proved else tau

    def ratio(p: Tensors) -> torch.Tensor:
        M, mean = mixed(p, weights)
        return norm_of(truncate(M, r) - mean, norm) / worst

    loose = "tau is conjectured, and this is above it" if worst > tau else ""
    return of_mix(weights, (4, 3, r), ratio, c=1.0, norm=norm, loose=loose)


def truncation_in_a_ball(
    norm: str, weights: Sequence[float], size: tuple[int, int, int], loose: str = ""
) -> Attack:
    """T16: |M - TSVD_r(M)| against its worst case on sigma_max <= 1."""
    d, k, r = size
    worst = bounds.truncation_worst_case(c=1.0, r=r, n=min(d, k), pi_max=max(weights), norm=norm)

    def ratio(p: Tensors) -> torch.Tensor:
        return norm_of(mixed(p, weights)[0], norm, skip=r) / worst

    return of_mix(weights, size, ratio, c=1.0, norm=norm, loose=loose)


def truncation_against_averaging() -> Attack:
    """T17: |E|_F against |I|_F."""

    def ratio(p: Tensors) -> torch.Tensor:
        M, mean = mixed(p, THIRDS)
        return norm_of(M, "fro", skip=1) / fro(M - mean)

    return of_mix(THIRDS, (3, 4, 1), ratio)


def difference(norm: str) -> Attack:
    """T18: |TSVD_r(M) - Bbar Abar| against the constant of the norm times |I|."""
    constant = bounds.decaf_dlora_difference(interference=1.0, norm=norm)

    def ratio(p: Tensors) -> torch.Tensor:
        M, mean = mixed(p, THIRDS)
        return norm_of(truncate(M, 1) - mean, norm) / (constant * norm_of(M - mean, norm))

    return of_mix(THIRDS, (2, 3, 1), ratio, norm=norm)
