"""The dense path: form M_i and call LAPACK. The oracle; also best when m r is near min(d, k)."""

from __future__ import annotations

from decaf_theory.arrays import Array, namespace
from decaf_theory.lowrank import Factors
from decaf_theory.tsvd.mixing import TSVD, concatenate, truncate


def dense_rows(panels: Factors, weights: Array, rank: int, width: int) -> TSVD:
    """Return TSVD_r(sum_j w_ij b_j a_j); panels [..., g, m, ., .], weights [..., n, m r]."""
    xp = namespace(panels.B)
    B, A = concatenate(panels)
    M = (B * weights[..., None, :]) @ A
    U, S, Vh = xp.linalg.svd(M, full_matrices=False)
    return truncate(U, S, Vh, rank, width)
