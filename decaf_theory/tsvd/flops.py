"""What a truncated mix costs, in flops to leading order: a multiply-add is two of them.

Of real p x q matrices, p >= q, as Golub and Van Loan count them (Matrix Computations, 5.2 and 8.6):

    thin QR with Q                    4 p q^2 - 4 q^3 / 3
    SVD with thin U and V             14 p q^2 + 8 q^3
    eigenvectors, symmetric q x q     9 q^3
    Cholesky factor, q x q            q^3 / 3

Which path runs, which rows share a stack, and which rows are treated together is asked of the
kernel itself. Not counted is what depends on the numbers: elements that are redone by qr, and cores
whose small singular values ask for an SVD; and not left out is what compiled kernels leave out.
"""

from __future__ import annotations

from decaf_theory.arrays import Array
from decaf_theory.lowrank import Factors
from decaf_theory.tsvd import chosen_path
from decaf_theory.tsvd.grouping import Group, plan
from decaf_theory.tsvd.panel import shares_stack


def mix_flops(factors: Factors, Pi: Array, rank: int) -> float:
    """Return the flops of `tsvd_of_mix` with this Pi [n, N] and rank.

    factors: those of any agents; only their shape, rank and dtype count.
    """
    return sum(
        _of_group(group, factors, rank) for group in plan(Pi, int(Pi.shape[1]), factors.rank)
    )


def _of_group(group: Group, factors: Factors, rank: int) -> float:
    """Return the flops of rows that are treated together."""
    (d, k), r = factors.shape, factors.rank
    rows, m = (int(side) for side in group.different.weights.shape)
    one_stack = len(group.index) == 1
    path = chosen_path(m * r, factors)
    if path == "dense":
        return rows * (2 * d * k * m * r + svd_flops(d, k))
    if path == "qr":
        return qr_path(d, k, m * r, rank, rows, 1 if one_stack else rows)
    shared = one_stack or shares_stack(group.N, rows, m, r, rank)
    stacks, width = (1, group.N * r) if shared else (rows, m * r)
    # of a Gram matrix its symmetric half counts
    long_sides = stacks * (d + k) * width**2 + rows * 2 * (d + k) * width * rank
    return long_sides + panel_cores(m * r, rank, rows, 1 if one_stack else rows)


def qr_path(d: int, k: int, n: int, rank: int, rows: int, stacks: int) -> float:
    """Return the flops of QR factors of `stacks` stacks of n directions, and of a core per row."""
    core = 2 * n**3 + svd_flops(n, n)
    return stacks * (qr_flops(d, n) + qr_flops(k, n)) + rows * (core + 2 * (d + k) * n * rank)


def panel_cores(n: int, rank: int, rows: int, grams: int) -> float:
    """Return the flops of the small matrices of the panel path, n x n, for pairs of Gram matrices.

    Two Cholesky factors for each pair; for each row C = L_B'(W L_A), the eigenvectors V of C'C,
    C V, and the coefficients of both outputs.
    """
    core = 2 * n**3 + 2 * n**3 + 9 * n**3 + 2 * n**3 + 4 * n**2 * rank
    return grams * 2 * n**3 / 3 + rows * core


def qr_flops(p: int, q: int) -> float:
    """Return the flops of a thin QR factorization with Q."""
    p, q = max(p, q), min(p, q)
    return 4 * p * q**2 - 4 * q**3 / 3


def svd_flops(p: int, q: int) -> float:
    """Return the flops of an SVD with thin U and V."""
    p, q = max(p, q), min(p, q)
    return 14 * p * q**2 + 8 * q**3
