"""The qr path: thin QR of the stacked factors, then the SVD of a small core. Backward stable.

M_i = B_cat D_i A_cat = Q_B (R_B D_i R_A') Q_A'. If some row weights all agents, one pair of QR
factorizations serves every row, because only D_i differs.
"""

from __future__ import annotations

from decaf_theory.arrays import Array, namespace, transpose
from decaf_theory.lowrank import Factors
from decaf_theory.tsvd.gradients import require_differentiable
from decaf_theory.tsvd.mixing import TSVD, carry_gradients, concatenate, truncate


def qr_rows(panels: Factors, weights: Array, rank: int, width: int) -> TSVD:
    """Return TSVD_r(sum_j w_ij b_j a_j); panels [..., g, m, ., .], weights [..., n, m r]."""
    xp = namespace(panels.B)
    B, A = concatenate(panels)
    Q_B, R_B = xp.linalg.qr(B, mode="reduced")
    Q_A, R_A = xp.linalg.qr(transpose(A), mode="reduced")
    if carry_gradients(panels):
        require_differentiable(Factors(R_B, R_A))
    core = (R_B * weights[..., None, :]) @ transpose(R_A)
    U, S, Vh = xp.linalg.svd(core, full_matrices=False)
    small = truncate(U, S, Vh, rank, width)
    wide = Factors(Q_B @ small.factors.B, small.factors.A @ transpose(Q_A))
    return small._replace(factors=wide)
