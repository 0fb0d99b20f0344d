"""Why mixing loses: alignment, subspaces, spread and spectrum of the agents' updates at a site."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from decaf_theory import bounds
from decaf_theory.adapters.sizes import over, times_power, unit_size
from decaf_theory.arrays import Array, transpose
from decaf_theory.lowrank import Factors, align, balance, mean_over_agents, pad_rank, subtract
from decaf_theory.measure import (
    effective_rank,
    interference_norm,
    mix_norm,
    numerical_rank,
    product_norm,
    schatten,
    truncation_error,
)
from decaf_theory.tsvd import TSVD, tsvd_of_mix

Numbers = Mapping[str, Any]
POOLED = ("aligned", "mix_nuclear", "truncation_nuclear", "truncation_bound")
ANGLES = ("angle_A", "angle_B", "largest_angle_A", "largest_angle_B")


def site_geometry(shape: tuple[int, int], small: Factors, Pi: Array, r: int) -> dict[str, Any]:
    """Return what tells why mixing loses at one site, from compressed factors of d x k products.

    Norms are root mean squares over the rows of Pi. Keys: aligned, |M_i - Bbar_i Abar_i|_F after
    `aligned_factors`, and relative_aligned, that over |M|_F; mix_nuclear and truncation_nuclear,
    |M|_* and |E|_* for rank r, and truncation_bound, T21-global's bound on |E|_*, None if r is
    below the rank of the agents; relative_truncation_nuclear and relative_truncation_bound, over
    |M|_*; truncation_by_rank, |M - TSVD_q(M)|_F for q = 0, 1, ..., mix_rank; effective_rank,
    |M|_*^2 / |M|_F^2, mean over the rows; agents and factor_rank, N and their largest rank; those
    of `angles` of the row spaces of A_j and of the column spaces of B_j, in degrees.
    """
    unit, exponents = unit_size(small)
    e = sum(exponents)
    rows, places = distinct_rows(unit, Pi)
    whole = tsvd_of_mix(unit, rows, min(unit.shape))
    truncated = cut(whole, min(r, *unit.shape))
    factor_rank = min(unit.rank, *shape)

    def pooled(per_row: Array) -> float:
        """Return the root mean square over the rows of Pi of one number for each distinct row."""
        return float(schatten(np.asarray(per_row)[places])) / math.sqrt(len(places))

    norms: dict[str, float | None] = {
        "aligned": pooled(aligned_interference(unit, rows, whole)),
        "mix_nuclear": pooled(mix_norm(whole, "nuc")),
        "truncation_nuclear": pooled(truncation_error(truncated, "nuc")),
        "truncation_bound": None,
    }
    if factor_rank <= r:
        norms["truncation_bound"] = pooled(spread_bounds(unit, rows, truncated))
    mix = pooled(mix_norm(whole))
    curve = [pooled(schatten(whole.singular_values[:, q:])) for q in range(min(unit.shape) + 1)]
    used = int(np.max(numerical_rank(whole.singular_values, d=shape[0], k=shape[1])))
    return {
        **{name: None if x is None else times_power(x, e) for name, x in norms.items()},
        **_relative(norms, mix),
        "truncation_by_rank": [times_power(x, e) for x in curve[: used + 1]],
        "effective_rank": float(np.mean(effective_rank(whole.singular_values)[places])),
        "agents": len(unit.B),
        "factor_rank": factor_rank,
        **_named_angles("A", angles(bases(unit.A, shape[1]))),
        **_named_angles("B", angles(bases(transpose(unit.B), shape[0]))),
    }


def pooled_geometry(sites: Sequence[Numbers]) -> dict[str, Any]:
    """Return the numbers of `site_geometry` of all sites together, as `diagnosis.pool` does.

    Norms are roots of sums of squares, also nuclear ones; truncation_by_rank is that of one common
    rank; angle_A and angle_B are means and largest_angle_A and largest_angle_B the largest.
    """
    absolute: dict[str, float | None] = {}
    for name in POOLED:
        values = [site[name] for site in sites]
        absolute[name] = None if None in values else math.hypot(*values)
    curves = [site["truncation_by_rank"] for site in sites]
    common = [
        math.hypot(*(curve[min(q, len(curve) - 1)] for curve in curves))
        for q in range(max(map(len, curves)))
    ]
    found = {name: [site[name] for site in sites if site[name] is not None] for name in ANGLES}
    return {
        **absolute,
        **_relative(absolute, math.hypot(*(site["mix"] for site in sites))),
        "truncation_by_rank": common,
        "agents": sites[0]["agents"],
        "factor_rank": max(site["factor_rank"] for site in sites),
        **{
            name: (max(x) if name.startswith("largest") else sum(x) / len(x)) if x else None
            for name, x in found.items()
        },
    }


def distinct_rows(small: Factors, Pi: Array) -> tuple[Array, Array]:
    """Return the distinct rows of Pi, dense, and for each row of Pi its place among them."""
    N = len(small.B)
    dense = mean_over_agents(np.eye(N)[:, :, None], Pi)[..., 0]  # whatever kind Pi is of
    rows, places = np.unique(dense, axis=0, return_inverse=True)
    return rows, places.reshape(-1)


def cut(whole: TSVD, r: int) -> TSVD:
    """Return the truncation to rank r of a decomposition that drops nothing."""
    B, A = whole.factors
    values = whole.singular_values
    kept = Factors(B[..., :r], A[..., :r, :])
    return whole._replace(factors=kept, singular_values=values[..., :r], tail=values[..., r:])


def aligned_interference(small: Factors, rows: Array, whole: TSVD) -> Array:
    """Return |M_i - Bbar_i Abar_i|_F for each row, of balanced factors turned onto the mix, [n].

    Each agent's factors are balanced, B_j'B_j = A_j A_j', and turned by the rotation in O(r) that
    brings them nearest to the balanced factors of TSVD_r(M_i), r the rank of the factors
    (T20-aligned). That depends on the products alone, not on the gauges of the factors.
    """
    balanced = balance(small)
    reference = pad_rank(cut(whole, min(small.rank, *small.shape)).factors, small.rank)
    left = []
    for i, row in enumerate(rows):
        held = row != 0
        own = Factors(balanced.B[held], balanced.A[held])
        onto = _repeated(reference.B[i], reference.A[i], len(own.B))
        left.append(interference_norm(align(own, onto), row[held][None])[0])
    return np.asarray(left)


def spread_bounds(small: Factors, rows: Array, truncated: TSVD) -> Array:
    """Return T21-global's bound on |E_i|_* for each row, from the products' spread, [n]."""
    P, found = truncated.factors, []
    for row, B, A, kept in zip(rows, P.B, P.A, truncated.singular_values, strict=True):
        apart = product_norm(subtract(small, _repeated(B, A, len(row))))
        mean_square = float(row @ apart**2)
        found.append(bounds.truncation_by_spread(mean_square=mean_square, kept=kept.tolist()))
    return np.asarray(found)


def _repeated(B: Array, A: Array, count: int) -> Factors:
    """Return one pair of factors for each of `count` agents, without copies."""
    return Factors(B, A).map(lambda X: np.broadcast_to(X, (count, *X.shape)))


def bases(X: Array, size: int) -> list[Array]:
    """Return orthonormal rows [m_j, q] that span the numerical row space of each X_j [., q]."""
    _, S, Vh = np.linalg.svd(X, full_matrices=False)
    dims = numerical_rank(S, d=size, k=X.shape[-1])
    return [V[:m] for V, m in zip(Vh, dims, strict=True)]


def angles(spaces: Iterable[Array]) -> tuple[float, float] | None:
    """Return the mean and the largest principal angle of subspaces to their consensus, in degrees.

    The consensus is the subspace of the largest of their dimensions that is nearest to all, in
    the sum of squared sines: the leading eigenvectors of the mean projector. The mean is that of
    the squared sines, over all principal angles; it is arccos N^(-1/2) at most. None without any.
    """
    held = [Q for Q in spaces if len(Q)]
    if not held:
        return None
    stacked = np.concatenate(held)
    _, _, Vh = np.linalg.svd(stacked, full_matrices=False)
    consensus = Vh[: max(map(len, held))]
    sines, cosines, largest = 0.0, 0.0, 0.0
    for Q in held:
        cosine = Q @ consensus.T
        sine = Q - cosine @ consensus
        sines += float(np.sum(sine**2))
        cosines += float(np.sum(cosine**2))
        # the sine alone is blunt near 90 degrees, the cosine near 0
        least = np.linalg.svdvals(cosine)[-1]
        largest = max(largest, math.atan2(np.linalg.norm(sine, 2), least))
    mean = math.atan2(math.sqrt(sines), math.sqrt(cosines))
    return math.degrees(mean), math.degrees(largest)


def _named_angles(factor: str, found: tuple[float, float] | None) -> dict[str, float | None]:
    mean, largest = found or (None, None)
    return {f"angle_{factor}": mean, f"largest_angle_{factor}": largest}


def _relative(norms: Mapping[str, float | None], mix: float) -> dict[str, float | None]:
    """Return the ratio of each loss to the norm of the mix of its kind."""
    whole = {"aligned": mix} | dict.fromkeys(POOLED[2:], norms["mix_nuclear"] or 0.0)
    parts = ((name, norms[name], size) for name, size in whole.items())
    return {f"relative_{name}": None if x is None else over(x, size) for name, x, size in parts}
