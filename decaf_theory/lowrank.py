"""Low-rank products B A: norms, spectra, gauges and means without forming d x k matrices.

Axes: matrices are the last two; leading axes are batch, the agent axis last among them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy

from decaf_theory.arrays import (
    Array,
    convert,
    host,
    like,
    namespace,
    require_real,
    require_weights,
    transpose,
    working,
)


class Factors(NamedTuple):
    """The two factors of a product B A, B [..., d, r] and A [..., r, k].

    Examples:
        >>> import numpy as np
        >>> from decaf_theory import Factors
        >>> factors = Factors(B=np.ones((10, 6, 2)), A=np.ones((10, 2, 4)))  # ten agents
        >>> factors.rank, factors.shape
        (2, (6, 4))
    """

    B: Array
    A: Array

    @property
    def rank(self) -> int:
        """Inner dimension r."""
        return int(self.A.shape[-2])

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (d, k) of the product."""
        return int(self.B.shape[-2]), int(self.A.shape[-1])

    def map(self, f: Callable[..., Array], *others: Factors) -> Factors:
        """Return (f(B, ...), f(A, ...)), with the same factor of each of `others` for the dots."""
        return Factors(*(f(*each) for each in zip(self, *others, strict=True)))


def require_factors(name: str, given: Any) -> None:
    """Raise ValueError unless it is a pair of `Factors`."""
    if not isinstance(given, Factors):
        raise ValueError(
            f"{name} must be lowrank.Factors(B, A), got {type(given).__name__}; Factors(*pair) is "
            f"one of a bare pair"
        )


def common(*pairs: Factors) -> Any:
    """Return the namespace of all factors; ValueError unless real, of one kind, dtype, device."""
    for pair in pairs:
        require_factors("factors", pair)
    arrays = [X for pair in pairs for X in pair]
    xp = namespace(*arrays)
    require_real("factors", arrays[0])
    _alike(*arrays)
    return xp


def _alike(first: Array, *others: Array) -> None:
    """Raise ValueError unless arrays have one dtype and are on one device."""
    for X in others:
        if X.dtype != first.dtype:
            raise ValueError(
                f"factors must share one dtype, got {first.dtype} and {X.dtype}; convert them first"
            )
        if X.device != first.device:
            raise ValueError(
                f"factors must be on one device, got {first.device} and {X.device}; move one"
            )


def check_factors(factors: Factors, name: str = "factors") -> None:
    """Raise ValueError unless B and A are real, and their kinds, dtypes, devices, shapes match."""
    require_factors(name, factors)
    B, A = factors
    require_real(f"{name}.B", B)
    require_real(f"{name}.A", A)
    namespace(B, A)
    _alike(B, A)
    if B.ndim < 2 or A.ndim < 2 or B.shape[-1] != A.shape[-2] or B.shape[:-2] != A.shape[:-2]:
        raise ValueError(
            f"{name} must be B [..., d, r] and A [..., r, k] with equal leading axes, "
            f"got B {tuple(B.shape)} and A {tuple(A.shape)}; pad smaller ranks (lowrank.pad_rank)"
        )


def check_agents(factors: Factors) -> None:
    """Raise ValueError unless factors are as in `check_factors`, with agents, and none is empty."""
    check_factors(factors)
    B, A = factors
    if B.ndim < 3 or 0 in B.shape or 0 in A.shape:
        raise ValueError(
            f"factors must be B [..., agent, d, r] and A [..., agent, r, k] with no empty axis, "
            f"got B {tuple(B.shape)} and A {tuple(A.shape)}; stack the agents, leave empty ones out"
        )


def product(factors: Factors) -> Array:
    """Return the dense product B A, [..., d, k].

    Examples:
        >>> import numpy as np
        >>> from decaf_theory.lowrank import Factors, product
        >>> product(Factors(np.array([[1.0], [2.0]]), np.array([[3.0, 4.0]]))).tolist()
        [[3.0, 4.0], [6.0, 8.0]]
    """
    common(factors)
    return factors.B @ factors.A


def orthogonal_core(factors: Factors) -> tuple[Array, Array, Array]:
    """Return (Q_B, core, Q_A) with B A = Q_B core Q_A' and orthonormal columns in both Q.

    Q_B [..., d, p], core [..., p, q], Q_A [..., k, q]; p = min(d, r), q = min(k, r). By two thin
    QR factorizations, so singular values keep their relative size to |B||A| eps (a product of
    Gram matrices would keep only its square root).
    """
    xp = common(factors)
    Q_B, R_B = xp.linalg.qr(working(factors.B), mode="reduced")
    Q_A, R_A = xp.linalg.qr(transpose(working(factors.A)), mode="reduced")
    return Q_B, R_B @ transpose(R_A), Q_A


def spectrum(factors: Factors) -> Array:
    """Return the singular values of B A in decreasing order, [..., min(d, r, k)].

    Examples:
        >>> import numpy as np
        >>> from decaf_theory.lowrank import Factors, spectrum
        >>> spectrum(Factors(np.diag([3.0, 2.0]), np.diag([1.0, -2.0]))).round(12).tolist()
        [4.0, 3.0]
    """
    _, core, _ = orthogonal_core(factors)
    return like(namespace(core).linalg.svdvals(core), factors.B)


def inner(left: Factors, right: Factors) -> Array:
    """Return the Frobenius inner product <B_1 A_1, B_2 A_2>, [...]."""
    xp = common(left, right)
    return xp.sum((transpose(left.B) @ right.B) * (left.A @ transpose(right.A)), axis=(-2, -1))


def subtract(left: Factors, right: Factors) -> Factors:
    """Return factors of B_1 A_1 - B_2 A_2, of rank r_1 + r_2."""
    xp = common(left, right)
    return Factors(xp.concat([left.B, -right.B], axis=-1), xp.concat([left.A, right.A], axis=-2))


def balance(factors: Factors) -> Factors:
    """Return the balanced factors (B'B = AA' = diag of singular values) of the same product.

    Unique up to a rotation in O(r) where singular values repeat. Rank and shapes are kept; if
    r > min(d, k) the surplus columns of B and rows of A are zero.

    Examples:
        >>> import numpy as np
        >>> from decaf_theory.lowrank import Factors, balance
        >>> balanced = balance(Factors(np.array([[8.0]]), np.array([[0.5]])))
        >>> balanced.B.round(12).tolist(), balanced.A.round(12).tolist()
        ([[2.0]], [[2.0]])
    """
    xp = common(factors)
    Q_B, core, Q_A = orthogonal_core(factors)
    U, S, Vh = xp.linalg.svd(core, full_matrices=False)
    root = xp.sqrt(S)
    B, A = Q_B @ (U * root[..., None, :]), (root[..., :, None] * Vh) @ transpose(Q_A)
    return pad_rank(Factors(like(B, factors.B), like(A, factors.B)), factors.rank)


def pad_rank(factors: Factors, rank: int) -> Factors:
    """Return the same product with inner dimension `rank`, by zero columns of B and rows of A.

    Examples:
        >>> import numpy as np
        >>> from decaf_theory.lowrank import Factors, pad_rank
        >>> pad_rank(Factors(np.ones((6, 2)), np.ones((2, 4))), 3).rank
        3
    """
    xp = common(factors)
    missing = rank - factors.rank
    if missing <= 0:
        return factors
    B, A = factors
    zeros_B = xp.zeros((*B.shape[:-1], missing), dtype=B.dtype, device=B.device)
    zeros_A = xp.zeros((*A.shape[:-2], missing, A.shape[-1]), dtype=A.dtype, device=A.device)
    return Factors(xp.concat([B, zeros_B], axis=-1), xp.concat([A, zeros_A], axis=-2))


def gauge(factors: Factors, R: Array) -> Factors:
    """Return (B R^-1, R A): other factors of the same product. R [..., r, r], invertible."""
    xp, R = common(factors), convert(R, factors.B)
    inverse_times = transpose(xp.linalg.solve(transpose(working(R)), transpose(working(factors.B))))
    return Factors(like(inverse_times, factors.B), R @ factors.A)


def align(factors: Factors, reference: Factors) -> Factors:
    """Return (B O, O'A), the rotation O in O(r) that brings the factors nearest to `reference`.

    Orthogonal Procrustes on Z = [B; A']: O = U V' from the SVD of Z'Z_ref. The product is kept.
    """
    xp = common(factors, reference)
    cross = transpose(factors.B) @ reference.B + factors.A @ transpose(reference.A)
    U, _, Vh = xp.linalg.svd(working(cross), full_matrices=False)
    O = like(U @ Vh, cross)  # noqa: E741  (the literature's letter)
    return Factors(factors.B @ O, transpose(O) @ factors.A)


def mean_over_agents(X: Array, Pi: Array) -> Array:
    """Return the mixes sum_j pi_ij X_j, [..., n, a, b], for X [..., N, a, b] and rows Pi [n, N].

    Pi is dense, of any kind (it is converted to X's), scipy.sparse or a sparse torch tensor. With
    a sparse one the time is proportional to its entries. Agents that a row gives no weight add
    nothing to it, not even nan. ValueError: the shape of Pi, entries of X or Pi that are not real.
    """
    require_real("X", X)
    xp = namespace(X)
    require_weights(Pi)
    Pi = Pi if hasattr(Pi, "shape") else np.asarray(Pi)
    if len(Pi.shape) != 2 or Pi.shape[1] != X.shape[-3]:
        N = X.shape[-3]
        raise ValueError(
            f"Pi must be [n, {N}] for {N} agents, got shape {tuple(Pi.shape)}; "
            f"it needs a column for each agent"
        )
    if not _is_sparse(Pi):
        rows = X.reshape((*X.shape[:-2], -1))
        with np.errstate(invalid="ignore"):
            mixed = convert(Pi, X) @ rows
        if not xp.isfinite(mixed).all():  # only what has weight may count
            return mean_over_agents(X, scipy.sparse.csr_array(host(Pi)))
        return mixed.reshape((*X.shape[:-3], Pi.shape[0], *X.shape[-2:]))
    # sparse matrices multiply in two dimensions only
    moved = xp.moveaxis(X, -3, 0)
    flat = xp.reshape(moved, (moved.shape[0], -1))
    mixed = _sparse_times(Pi, flat)
    return xp.moveaxis(xp.reshape(mixed, (Pi.shape[0], *moved.shape[1:])), 0, -3)


def _is_sparse(Pi: Array) -> bool:
    return hasattr(Pi, "tocsr") or str(getattr(Pi, "layout", "strided")).startswith("torch.sparse")


def _sparse_times(Pi: Array, flat: Array) -> Array:
    """Return Pi flat in flat's kind and dtype: on the host by scipy, else on Pi's own device."""
    wide = working(flat)
    if hasattr(Pi, "tocsr"):
        rows = Pi.tocsr()
        parts = rows.data, rows.indices, rows.indptr
    elif Pi.device.type == "cpu":  # scipy's product is several times faster than torch's
        rows = Pi.to_sparse_csr()
        parts = host(rows.values()), host(rows.col_indices()), host(rows.crow_indices())
    else:
        return like(Pi.to_sparse_csr().to(wide.dtype) @ wide, flat)
    dense = host(wide)
    # in the dtype of the dense factor, which scipy would else convert; the indices are shared
    weights = parts[0].astype(dense.dtype, copy=False)
    matrix = scipy.sparse.csr_array((weights, *parts[1:]), shape=tuple(Pi.shape))
    if not weights.all():  # a stored zero is no weight, and times nan it would be nan
        matrix = matrix.copy()
        matrix.eliminate_zeros()
    return convert(matrix @ dense, flat)


def mix_factors(factors: Factors, Pi: Array) -> Factors:
    """Return the factor means (Bbar_i, Abar_i), one for each row of Pi [n, N].

    Examples:
        >>> import numpy as np
        >>> from decaf_theory.lowrank import Factors, mix_factors, product
        >>> opposed = Factors(np.array([[[1.0]], [[-1.0]]]), np.array([[[1.0]], [[-1.0]]]))
        >>> product(mix_factors(opposed, np.full((2, 2), 0.5))).ravel().tolist()
        [0.0, 0.0]
    """
    common(factors)
    return Factors(mean_over_agents(factors.B, Pi), mean_over_agents(factors.A, Pi))


def mix_products(factors: Factors, Pi: Array) -> Array:
    """Return the dense product means M_i = sum_j pi_ij B_j A_j, [..., n, d, k].

    Examples:
        >>> import numpy as np
        >>> from decaf_theory.lowrank import Factors, mix_products
        >>> opposed = Factors(np.array([[[1.0]], [[-1.0]]]), np.array([[[1.0]], [[-1.0]]]))
        >>> mix_products(opposed, np.full((2, 2), 0.5)).ravel().tolist()
        [1.0, 1.0]
    """
    with np.errstate(invalid="ignore"):  # of agents that have no weight
        products = product(factors)
    return mean_over_agents(products, Pi)
