"""Attacks on the bounds for one mix of a few agents' factors: T9, T11, T16, T17, T18.

The weights of an attack are fixed, so that its bound is a number of `decaf_theory.bounds`; the
factors are free, or confined to sigma_max <= c = 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from decaf_theory import bounds
from decaf_theory.adversary import Attack, clip_singular_values, truncate

THIRDS, HEAVY = (1 / 3, 1 / 3, 1 / 3), (0.7, 0.2, 0.1)
NORMS = ("fro", "op", "nuc")
Tensors = dict[str, torch.Tensor]


def norm_of(M: torch.Tensor, norm: str, skip: int = 0) -> torch.Tensor:
    """Return the norm of M [..., d, k] without its `skip` largest singular values, [...]."""
    sigma = torch.linalg.svdvals(M)[..., skip:]
    if norm == "op":
        return sigma[..., 0]
    # the gradient of a square root at zero is infinite: an exact optimum would end the ascent
    return sigma.sum(-1) if norm == "nuc" else (sigma**2).sum(-1).clamp_min(1e-300).sqrt()


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
    **extra: Any,
) -> Attack:
    """Return the attack by all factors of shape d x r, r x k for size (d, k, r); sigma_max <= c."""
    d, k, r = size
    if c is not None:
        extra["c"] = c

    def instance(p: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"B": p["B"].tolist(), "A": p["A"].tolist(), "weights": list(weights), **extra}

    def inside(p: Tensors) -> Tensors:
        return p if c is None else {name: clip_singular_values(X, c) for name, X in p.items()}

    shapes = {"B": (len(weights), d, r), "A": (len(weights), r, k)}
    return Attack(shapes, ratio, instance, inside)


def _consensus_distances(norm: str, weights: Sequence[float] = HEAVY) -> Attack:
    """T9: |I| against the norms of the weighted deviations."""

    def ratio(p: Tensors) -> torch.Tensor:
        M, mean = mixed(p, weights)
        root = torch.tensor(weights, dtype=M.dtype).sqrt()[:, None, None]
        w = root**2
        X = root * (p["B"] - (w * p["B"]).sum(1, keepdim=True))
        Y = root * (p["A"] - (w * p["A"]).sum(1, keepdim=True))
        X, Y = X.transpose(1, 2).flatten(2), Y.flatten(1, 2)
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


def _interference_in_a_ball(norm: str, weights: Sequence[float]) -> Attack:
    """T11: |I| against its worst case on sigma_max <= 1."""
    d, k, r = 5, 4, 2
    worst = bounds.interference_worst_case(c=1.0, q=r, pi_max=max(weights), norm=norm)

    def ratio(p: Tensors) -> torch.Tensor:
        M, mean = mixed(p, weights)
        return norm_of(M - mean, norm) / worst

    return of_mix(weights, (d, k, r), ratio, c=1.0, norm=norm)


def _truncation_in_a_ball(
    norm: str, weights: Sequence[float], size: tuple[int, int, int]
) -> Attack:
    """T16: |M - TSVD_r(M)| against its worst case on sigma_max <= 1."""
    d, k, r = size
    worst = bounds.truncation_worst_case(c=1.0, r=r, n=min(d, k), pi_max=max(weights), norm=norm)

    def ratio(p: Tensors) -> torch.Tensor:
        return norm_of(mixed(p, weights)[0], norm, skip=r) / worst

    return of_mix(weights, size, ratio, c=1.0, norm=norm)


def _truncation_against_averaging() -> Attack:
    """T17: |E|_F against |I|_F."""

    def ratio(p: Tensors) -> torch.Tensor:
        M, mean = mixed(p, THIRDS)
        return norm_of(M, "fro", skip=1) / norm_of(M - mean, "fro")

    return of_mix(THIRDS, (3, 4, 1), ratio)


def _difference(norm: str) -> Attack:
    """T18: |TSVD_r(M) - Bbar Abar| against the constant of the norm times |I|."""
    constant = bounds.decaf_dlora_difference(interference=1.0, norm=norm)

    def ratio(p: Tensors) -> torch.Tensor:
        M, mean = mixed(p, THIRDS)
        return norm_of(truncate(M, 1) - mean, norm) / (constant * norm_of(M - mean, norm))

    return of_mix(THIRDS, (2, 3, 1), ratio, norm=norm)


ATTACKS: dict[str, dict[str, Attack]] = {
    "T9": {norm: _consensus_distances(norm) for norm in NORMS},
    "T11": {
        **{f"{norm}, thirds": _interference_in_a_ball(norm, THIRDS) for norm in NORMS},
        **{f"{norm}, heavy": _interference_in_a_ball(norm, HEAVY) for norm in NORMS},
    },
    "T16": {
        "fro, n >= 2r": _truncation_in_a_ball("fro", THIRDS, (5, 4, 2)),
        "fro, n < 2r": _truncation_in_a_ball("fro", (0.25,) * 4, (4, 3, 2)),
        "fro, heavy": _truncation_in_a_ball("fro", HEAVY, (5, 4, 2)),
        "op": _truncation_in_a_ball("op", THIRDS, (4, 3, 2)),
        "nuc": _truncation_in_a_ball("nuc", THIRDS, (4, 3, 1)),
    },
    "T17": {"fro": _truncation_against_averaging()},
    "T18": {norm: _difference(norm) for norm in NORMS},
}
