"""Every mix of a run against the bounds that hold for each: T10, T11, T16, T17, T18, and T14."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import host
from decaf_theory.compare.lines import HOLDS, RESOLVED, VIOLATED, Line
from decaf_theory.compare.network import dense, sums_off
from decaf_theory.compare.path import EPS
from decaf_theory.lowrank import mix_factors
from decaf_theory.measure import (
    consensus_distance,
    interference_norm,
    product_distance,
    sigma_max,
    truncation_error,
)
from decaf_theory.simulate import Visit

WHAT = {
    "T10": "mean |I|_* of a mix",
    "T11": "largest |I|_F",
    "T16": "largest |E|_F",
    "T17": "largest |E|_F, by |I|_F",
    "T18": "largest |DeCAF - DLoRA|_F",
}


class Mixes:
    """Takes the visits of a run; what its mixes did, against bounds with each mix's own c."""

    def __init__(self) -> None:
        """Begin without a mix."""
        self.pairs: dict[str, list[np.ndarray]] = {}
        self.whys: dict[str, str] = {}
        self.nuclear: list[np.ndarray] = []  # mean |I|_* of each mix, [runs]
        self.c = 0.0  # of what was about to be mixed

    def __call__(self, visit: Visit) -> None:
        """Record the mix that led to this visit, if there was one."""
        before, weights, truncated = visit.mix.before, visit.mix.weights, visit.mix.truncated
        if before is None or weights is None:
            return
        Pi = dense(weights)
        c = host(sigma_max(before)).max(axis=-1)[:, None]  # [runs, 1]
        self.c = max(self.c, float(c.max()))
        sizes = [np.sqrt(np.sum(host(X) ** 2, axis=(-2, -1))).max(axis=-1) for X in before]
        terms = max(*before.shape, before.rank * before.B.shape[-3])
        terms += sums_off(Pi, visit.config.shares)
        slip = (10 * terms * EPS * sizes[0] * sizes[1])[:, None]  # of products and their sums
        found = {norm: host(interference_norm(before, weights, norm)) for norm in ("fro", "nuc")}
        self.nuclear.append(found["nuc"].mean(axis=-1))
        if Pi.min() < 0:
            self.whys |= dict.fromkeys(WHAT, "graph: a weight is negative")
            return
        self._network(Pi, found["nuc"], host(consensus_distance(before)), slip)
        d, k = before.shape
        rows = [float(row.max()) for row in Pi]
        worst = [_worst(bounds.interference_worst_case, p, q=min(before.rank, d, k)) for p in rows]
        self._add("T11", found["fro"], c**2 * np.array(worst), slip)
        if truncated is None:
            return
        E = host(truncation_error(truncated))
        largest = [
            _worst(bounds.truncation_worst_case, p, r=before.rank, n=min(d, k)) for p in rows
        ]
        self._add("T16", E, c**2 * np.array(largest), slip)
        self._add("T17", E, found["fro"] + 0 * E, slip)
        phi = bounds.decaf_dlora_difference(interference=1.0, norm="fro")
        means = mix_factors(before, weights)
        if means.B.shape == visit.factors.B.shape:
            apart = host(product_distance(visit.factors, means))
            self._add("T18", apart, phi * found["fro"], 2 * slip)

    def _network(self, Pi: np.ndarray, nuclear: np.ndarray, Xi: np.ndarray, slip: Any) -> None:
        if Pi.shape[0] != Pi.shape[1] or not np.allclose(Pi, Pi.T, rtol=0, atol=1e-12):
            self.whys["T10"] = "graph: not symmetric"
            return
        limits = np.array([bounds.interference_half(Xi_w=float(x)) for x in Xi])
        self._add("T10", nuclear.mean(axis=-1)[:, None], limits[:, None], slip)

    def _add(self, claim: str, measured: Any, bound: Any, slip: Any) -> None:
        columns = np.broadcast_arrays(measured, bound, slip)
        self.pairs.setdefault(claim, []).append(np.stack([x.ravel() for x in columns]))

    def lines(self) -> Iterator[Line]:
        """Yield the tightest mix of each claim, or one that violates it."""
        for claim, what in WHAT.items():
            if claim in self.whys:
                yield Line(claim, what, why=self.whys[claim])
            elif claim in self.pairs:
                yield _tightest(claim, what, np.concatenate(self.pairs[claim], axis=1))


def _worst(bound: Any, pi_max: float, **letters: int) -> float:
    return float(bound(c=1.0, pi_max=min(1.0, pi_max), norm="fro", **letters))


def _tightest(claim: str, what: str, pairs: np.ndarray) -> Line:
    measured, bound, slip = pairs
    excess = measured - bound - slip
    if np.any(excess > 0):
        i = int(np.argmax(excess))
        return Line(claim, what, float(measured[i]), float(bound[i]), VIOLATED)
    clear = bound > RESOLVED * slip
    ratio = np.where(clear, measured / np.where(clear, bound, 1.0), -1.0)
    i = int(np.argmax(ratio)) if clear.any() else int(np.argmax(bound))
    return Line(claim, what, float(measured[i]), float(bound[i]), HOLDS, slip=float(slip[i]))
