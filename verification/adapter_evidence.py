"""The bounds on trained adapters: what one matrix's factors give as rows of the claims.

All matrices are handled in compressed form, so that no d x k matrix is formed. float64 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from decaf_theory import bounds
from decaf_theory.lowrank import Factors, mix_factors, subtract
from decaf_theory.measure import (
    NORMS,
    interference_norm,
    mix_norm,
    product_distance,
    product_norm,
    schatten,
    truncation_error,
    weighted_deviations,
)
from decaf_theory.tsvd import TSVD
from verification.claim import Row, Value
from verification.evidence import at_most, ulps


@dataclass(frozen=True)
class Case:
    """One matrix's compressed factors B [N, p, r], A [N, r, q], their truncated mix, rounding."""

    small: Factors
    Pi: Any
    truncated: TSVD
    rounding: float
    params: dict[str, Value]

    @property
    def averages_fit(self) -> bool:
        """Whether Bbar Abar and every agent's product have rank at most r, as T17 to T21 assume."""
        return self.small.rank <= self.truncated.factors.rank

    def worst(self, name: str, measured: Any, bound: Any, *, rounding: Any, held: Any) -> Row:
        """Return the row of Pi with the least slack, of those whose assumptions hold, if any."""
        columns = np.broadcast_arrays(measured, bound, rounding, held)
        found = [
            at_most(name, m, b, rounding=e, held=h, agent=i, instances=len(self.Pi))
            for i, (m, b, e, h) in enumerate(zip(*columns, strict=True))
        ]
        chosen = min(found, key=lambda row: (not row.assumptions_held, row.slack))
        return Row(**{**vars(chosen), "params": {**self.params, **chosen.params}})


def rounding_of(small: Factors, shape: tuple[int, int]) -> float:
    """Return what rounding may change in the difference of a measured norm and its bound.

    Two QR factorizations, a mix and the SVD of a core err by at most p eps |B||A| each in Frobenius
    norm, p = max(d, k); the mix of any agents is no larger than the largest |B_i||A_j|. Both sides
    of a comparison come that way, and no bound multiplies a norm by more than 2. Nuclear norms take
    another root of the number of singular values.
    """
    size = [float(np.max(np.linalg.matrix_norm(X))) for X in small]
    return float(ulps(10 * max(shape), *size))


def _in_norm(rounding: float, small: Factors, norm: str) -> float:
    return rounding * np.sqrt(min(small.shape)) if norm == "nuc" else rounding


def deviation_bounds(case: Case) -> Iterator[Row]:
    """Yield T9's rows: |I| against the weighted deviations of the factors, in three norms."""
    panels = [weighted_deviations(case.small, row) for row in case.Pi]
    X = np.stack([np.linalg.svdvals(of_B) for of_B, _ in panels])
    Y = np.stack([np.linalg.svdvals(of_A) for _, of_A in panels])
    X_op = schatten(X, "op")
    X_fro = schatten(X, "fro")
    Y_op = schatten(Y, "op")
    Y_fro = schatten(Y, "fro")
    limits = {
        "fro": [
            bounds.interference_frobenius(X_op=a, X_fro=b, Y_op=c, Y_fro=d)
            for a, b, c, d in zip(X_op, X_fro, Y_op, Y_fro, strict=True)
        ],
        "op": [
            bounds.interference_operator(X_op=a, Y_op=c) for a, c in zip(X_op, Y_op, strict=True)
        ],
        "nuc": [
            bounds.interference_nuclear(V_A=d**2, V_B=b**2)
            for b, d in zip(X_fro, Y_fro, strict=True)
        ],
    }
    for norm in NORMS:
        slip = _in_norm(case.rounding, case.small, norm)
        measured = interference_norm(case.small, case.Pi, norm)
        yield case.worst(f"|I| {norm}", measured, limits[norm], rounding=slip, held=True)


def truncation_bounds(case: Case) -> Iterator[Row]:
    """Yield T17's rows: |E| against |I| in three norms, and against the nearest agent's product."""
    for norm in NORMS:
        slip = _in_norm(case.rounding, case.small, norm)
        measured = truncation_error(case.truncated, norm)
        limit = interference_norm(case.small, case.Pi, norm)
        yield case.worst(
            f"|E| against |I| {norm}", measured, limit, rounding=slip, held=case.averages_fit
        )
    nearest = [np.min(_distances(case.small, mean)) for mean in _mixes(case)]
    yield case.worst(
        "|E| against the nearest agent fro",
        truncation_error(case.truncated),
        nearest,
        rounding=case.rounding,
        held=case.averages_fit,
    )


def difference_bounds(case: Case) -> Iterator[Row]:
    """Yield T18's rows: |TSVD_r(M) - Bbar Abar| against |I| times phi (Frobenius) or 2."""
    for norm in NORMS:
        averaged = mix_factors(case.small, case.Pi)
        limit = [
            bounds.decaf_dlora_difference(interference=float(x), norm=norm)
            for x in interference_norm(case.small, case.Pi, norm)
        ]
        yield case.worst(
            f"|P - Bbar Abar| {norm}",
            product_distance(case.truncated.factors, averaged, norm),
            limit,
            rounding=_in_norm(case.rounding, case.small, norm),
            held=case.averages_fit,
        )


def norms_bounds(case: Case) -> Iterator[Row]:
    """Yield T13-data's rows: |TSVD_r(M) - Bbar Abar| against (|M| + |M - 2 Bbar Abar|)/2."""
    averaged = mix_factors(case.small, case.Pi)
    reflected = [
        subtract(M, Factors(2 * B, A))
        for M, B, A in zip(_mixes(case), averaged.B, averaged.A, strict=True)
    ]
    for norm in NORMS:
        limits = [
            bounds.decaf_dlora_by_norms(mix=float(x), reflected=float(product_norm(other, norm)))
            for x, other in zip(mix_norm(case.truncated, norm), reflected, strict=True)
        ]
        yield case.worst(
            f"|P - Bbar Abar| by norms {norm}",
            product_distance(case.truncated.factors, averaged, norm),
            limits,
            rounding=_in_norm(case.rounding, case.small, norm),
            held=True,
        )


def second_order_bound(case: Case) -> Iterator[Row]:
    """Yield T21's row with P0 = TSVD_r(M_i): it applies if every agent is within sigma_r of it.

    delta = max_j |B_j A_j - P0|_op over the agents that row i weights. As P0 = M_i - E_i, the sum
    sum_j pi_j (B_j A_j - P0) is E_i itself.
    """
    P = case.truncated.factors
    measured = truncation_error(case.truncated)
    limits = []
    slips = []
    held = []
    for i, row in enumerate(case.Pi):
        P0 = Factors(P.B[i], P.A[i])
        sigma_r = float(case.truncated.singular_values[i, -1])
        delta = float(np.max(_distances(case.small, P0, "op")[row > 0]))
        mean_square = float(row @ _distances(case.small, P0) ** 2)
        square_mean = float(measured[i] ** 2)
        limit = bounds.truncation_second_order(
            mean_square=mean_square, square_mean=square_mean, sigma_r=sigma_r, delta=delta
        )
        gap = sigma_r - delta
        # > and not >=: within rounding of the condition nothing can be concluded
        applies = case.averages_fit and gap > 4 * case.rounding
        slip = _second_order_rounding(case.rounding, mean_square + square_mean, gap, applies)
        limits.append(limit)
        slips.append(slip)
        held.append(applies)
    yield case.worst("|E| second order", measured, limits, rounding=slips, held=held)


def spread_bound(case: Case) -> Iterator[Row]:
    """Yield T21-global's row: |E|_* against the spread of the agents' products about TSVD_r(M_i).

    The root of the spread is off by 3 e for norms off by e, the bound by sqrt(r) times that and
    the error of the kept singular values.
    """
    P = case.truncated.factors
    limits = []
    for row, B, A, kept in zip(case.Pi, P.B, P.A, case.truncated.singular_values, strict=True):
        mean_square = float(row @ _distances(case.small, Factors(B, A)) ** 2)
        limits.append(bounds.truncation_by_spread(mean_square=mean_square, kept=kept.tolist()))
    slip = _in_norm(case.rounding, case.small, "nuc") + 4 * math.sqrt(P.rank) * case.rounding
    measured = truncation_error(case.truncated, "nuc")
    yield case.worst(
        "|E| by the spread nuc", measured, limits, rounding=slip, held=case.averages_fit
    )


def _second_order_rounding(e: float, S: float, gap: float, applies: bool) -> float:
    """Return how far norms off by e change |E| and its bound S / (2 gap), for gap > 4 e.

    S, a sum of two squares x^2 + y^2, is off by 2 (x + y) e + 2 e^2 <= 3 sqrt(S) e + 2 e^2, gap by
    2 e; so S / (2 gap) by (3 sqrt(S) e + 2 e^2 + 2 e S / gap) / (2 (gap - 2 e)), gap - 2 e > gap/2.
    """
    return e + (3 * math.sqrt(S) * e + 2 * e**2 + 2 * e * S / gap) / gap if applies else e


# claim -> (area, its rows on one matrix)
EVIDENCE: dict[str, tuple[str, Callable[[Case], Iterator[Row]]]] = {
    "T9": ("interference", deviation_bounds),
    "T13-data": ("interference", norms_bounds),
    "T17": ("truncation", truncation_bounds),
    "T18": ("truncation", difference_bounds),
    "T21": ("truncation", second_order_bound),
    "T21-global": ("truncation", spread_bound),
}


def _mixes(case: Case) -> list[Factors]:
    """Return exact factors of each M_i: all agents' factors side by side."""
    N, p, r = case.small.B.shape
    A = case.small.A.reshape(N * r, -1)
    weighted = case.Pi[:, :, None, None] * case.small.B
    return [Factors(np.moveaxis(B, 0, 1).reshape(p, N * r), A) for B in weighted]


def _distances(small: Factors, reference: Factors, norm: str = "fro") -> Any:
    """Return |B_j A_j - reference| for every agent j, [N]."""
    N = len(small.B)
    wide = reference.map(lambda X: np.broadcast_to(X, (N, *X.shape)))
    return product_norm(subtract(small, wide), norm)
