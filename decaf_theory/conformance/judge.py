"""Whether what came back is what the rule gives, to the rounding of the inputs' dtype."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from decaf_theory.arrays import Array
from decaf_theory.conformance.cases import SITES, SPACING, Case
from decaf_theory.conformance.results import Given, Result, UnreadableError
from decaf_theory.conformance.rules import Rule, mean, mixed


class Matrix(NamedTuple):
    """One matrix of one result: what came back, what the rule gives, how far rounding may go."""

    site: str
    agent: int
    given: Given
    update: Array
    expected: Array
    room: float

    @property
    def error(self) -> float:
        """|update - expected|_F."""
        with np.errstate(all="ignore"):
            return float(np.linalg.norm(self.update - self.expected))

    @property
    def right(self) -> bool:
        """Whether the error is one of rounding."""
        return self.error <= self.room


def compared(rule: Rule, case: Case, results: Sequence[Result], *, graph: bool) -> list[Matrix]:
    """Return every matrix of every result against the rule's. UnreadableError: shapes, numbers."""
    results = completed(case, results)
    m, N = len(results), case.N
    if m not in ((N,) if graph else (1, N)):
        wanted = "one per agent" if graph else "one for all, or one per agent"
        raise UnreadableError(f"returns {m} results for {N} agents, where {wanted} is read")
    own_rank = keeps_own_ranks(rule, case, results)
    expected = {site: mixed(rule, case, site, own_rank=own_rank)[0] for site in SITES}
    found = []
    for i, result in enumerate(results):
        for site in SITES:
            given = result.sites[site]
            P = expected[site][i]
            space = room(rule, case, site, i, given.dtype)
            found.append(Matrix(site, i, given, update_of(given, case.shape), P, space))
    return found


def keeps_own_ranks(rule: Rule, case: Case, results: Sequence[Result]) -> bool:
    """Return whether each agent's result has the agent's own rank, of those that differ."""
    return len(results) == case.N and len({*case.ranks}) > 1 and not rule.means


def completed(case: Case, results: Sequence[Result]) -> list[Result]:
    """Return the results with each agent's own factor where only the other was returned."""
    given = [g for result in results for g in result.sites.values()]
    lacks_B = any(g.B is None and g.A is not None for g in given)
    lacks_A = any(g.A is None and g.B is not None for g in given)
    if not lacks_A and not lacks_B:
        return list(results)
    full = results if len(results) == case.N else [results[0]] * case.N
    return [
        replace(
            result, sites={site: _with_own(case, site, j, g) for site, g in result.sites.items()}
        )
        for j, result in enumerate(full)
    ]


def _with_own(case: Case, site: str, j: int, given: Given) -> Given:
    own = case.sites[site][j]
    return replace(
        given,
        B=own.B if given.B is None else given.B,
        A=own.A if given.A is None else given.A,
    )


def update_of(given: Given, shape: tuple[int, int]) -> Array:
    """Return W - W0 [d, k]. UnreadableError: nothing of this shape was returned."""
    parts = [] if given.added is None else [given.added]
    if given.B is not None and given.A is not None:
        if given.B.shape[1] != given.A.shape[0]:
            raise UnreadableError(
                f"returns B {given.B.shape} and A {given.A.shape}, whose ranks differ"
            )
        with np.errstate(all="ignore"):  # numbers that are not finite are reported as such
            parts.append(given.scale * (given.B @ given.A))
    for part in parts:
        if part.shape != shape:
            turned = " (transposed)" if part.shape == shape[::-1] else ""
            raise UnreadableError(f"returns {part.shape}{turned} where W is {shape}")
    if not parts:
        raise UnreadableError("returns neither both factors nor an update")
    return np.asarray(sum(parts))


def room(rule: Rule, case: Case, site: str, i: int, dtype: str) -> float:
    """Return how far from the rule's update rounding may lead, in the Frobenius norm.

    A mean of N products of inner dimension r, its weights, scales and stored factors are rounded
    N + r + 6 times, which moves it by so many unit roundoffs of the coarsest dtype times S,
    S = sum_j w_j |B_j||A_j| for means of products, the product of the means of the norms for means
    of factors. A factorization, run in float32 or wider, adds max(d, k) eps of float32 times
    `spread`. A rule enlarges both by its `growth`.
    """
    B, A = (np.linalg.norm(X, axis=(-2, -1)) for X in case.scaled[site])
    w = case.weights[min(i, len(case.weights) - 1)]
    of_products = 0.0 if rule.means else w @ (B * A)
    of_factors = 0.0 if rule.truncates else (w @ B) * (w @ A)
    rounded = (case.N + max(case.ranks) + 6) * roundoff(dtype, case.dtype)
    factorized = max(case.shape) * SPACING["float32"] * spread(rule, case, site, i)
    return float(growth(rule, case, site, i) * (rounded + factorized) * (of_products + of_factors))


def roundoff(*dtypes: str) -> float:
    """Return the unit roundoff of the coarsest of these dtypes."""
    return max(SPACING[dtype] for dtype in dtypes) / 2


def growth(rule: Rule, case: Case, site: str, i: int) -> float:
    """Return by how much a rule enlarges errors, to first order.

    Truncation to rank r: sigma_r / (sigma_r - sigma_r+1). A rotation: |A_j A_ref'| over the sum or,
    for det < 0, the difference of its two least singular values.
    """
    if rule.truncates:
        S = _alive(case, site, i)
        gaps = [1 / (1 - S[r] / S[r - 1]) for r in {*case.ranks} if r < len(S)]
        return float(max([1.0, *gaps]))
    if rule.referred:
        return max(_turning(case, site, j) for j in range(case.N))
    return 1.0


def spread(rule: Rule, case: Case, site: str, i: int) -> float:
    """Return sigma_1 / sigma_r of the mix, which enlarges the error of those who factor its Gram.

    Of rules that do not truncate it is one.
    """
    kept = _alive(case, site, i)[: max(case.ranks)] if rule.truncates else np.ones(1)
    return float(kept[0] / kept[-1]) if len(kept) else 1.0


def _alive(case: Case, site: str, i: int) -> Array:
    """Return the singular values of the mean of the products that are not zero to rounding."""
    S = np.linalg.svd(mean(case, site)[min(i, len(case.weights) - 1)], compute_uv=False)
    return S[S > 1e-9 * S[0]]


def _turning(case: Case, site: str, j: int) -> float:
    own, last = case.sites[site][j], case.reference[site]
    M = own.B.T @ last.B if case.round % 2 else own.A @ last.A.T
    S = np.linalg.svd(M, compute_uv=False)
    if len(S) == 1 or S[0] == 0:
        return 1.0
    apart = S[-2] + math.copysign(S[-1], float(np.linalg.det(M)))
    return float(1 + 2 * S[0] / apart) if apart > 0 else math.inf


def unbalanced(rule: Rule, case: Case, matrix: Matrix) -> bool:
    """Return whether B'B and AA' differ by more than the rounding of a split U S^1/2, S^1/2 V'."""
    B, A = matrix.given.B, matrix.given.A
    if B is None or A is None:
        return False
    size = float(np.sum(B * B) + np.sum(A * A))
    stored = 2 * roundoff(matrix.given.dtype, case.dtype)
    # U and V, computed in float32 or wider, are orthogonal to eps, those of a Gram matrix to this
    apart = spread(rule, case, matrix.site, matrix.agent) ** 2
    space = stored + (max(case.shape) + 6) * SPACING["float32"] * apart
    return bool(np.linalg.norm(B.T @ B - A @ A.T) > space * size)


def other_means(rule: Rule, case: Case, matrix: Matrix) -> bool:
    """Return whether the factors differ from the means of the factors by more than rounding."""
    w = case.weights[min(matrix.agent, len(case.weights) - 1)]
    means = mixed(rule, case, matrix.site, own_rank=False)[1]
    rounded = (case.N + 6) * roundoff(matrix.given.dtype, case.dtype, "float32")
    for X, mean_of, all_of in zip(
        (matrix.given.B, matrix.given.A), means, case.scaled[matrix.site], strict=True
    ):
        space = rounded * float(w @ np.linalg.norm(all_of, axis=(-2, -1)))
        expected = mean_of[matrix.agent]
        if X is not None and (X.shape != expected.shape or np.linalg.norm(X - expected) > space):
            return True
    return False
