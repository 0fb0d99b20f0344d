"""Every measured quantity, defined once: consensus, interference, truncation, gradients, rank.

Axes as in `lowrank`: [..., agent, rows, columns]. `Pi` [n, N] holds the mixing rows wanted; if
it is said to be stochastic, its rows must sum to one, within sqrt(eps) of its dtype. ValueError:
they do not, or factors that `check_factors` refuses.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from decaf_theory.arrays import (
    Array,
    convert,
    eps,
    like,
    namespace,
    require_real,
    transpose,
    working,
)
from decaf_theory.lowrank import (
    Factors,
    align,
    check_agents,
    check_factors,
    common,
    orthogonal_core,
    product,
    spectrum,
    subtract,
)
from decaf_theory.tsvd import TSVD
from decaf_theory.tsvd.grouping import groups, in_order
from decaf_theory.tsvd.mixing import (
    concatenate,
    exponent_of,
    gather,
    neighbours,
    scale_by,
    stochastic_entries,
)

NORMS = ("fro", "op", "nuc")


def schatten(singular_values: Array, norm: str = "fro") -> Array:
    """Return the Frobenius ("fro"), operator ("op") or nuclear ("nuc") norm, [...].

    Of the matrix with these singular values [..., p]; 0 if p = 0. ValueError: another name.
    """
    xp = namespace(singular_values)
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {NORMS}, got {norm!r}")
    if singular_values.shape[-1] == 0:
        return xp.sum(singular_values, axis=-1)
    largest = xp.max(singular_values, axis=-1)
    if norm == "op":
        return largest
    if norm == "nuc":
        return xp.sum(singular_values, axis=-1)
    # scaled, so that squares neither overflow nor vanish; zero and infinity are divided by one
    scalable = xp.logical_and(largest > 0, xp.isfinite(largest))
    unit = xp.where(scalable, largest, xp.ones_like(largest))
    return unit * xp.sqrt(xp.sum((singular_values / unit[..., None]) ** 2, axis=-1))


def product_norm(factors: Factors, norm: str = "fro") -> Array:
    """Return |B A| in a norm of `NORMS` without forming the product, [...]."""
    check_factors(factors)
    if norm != "fro":
        return schatten(spectrum(factors), norm)
    _, core, _ = orthogonal_core(factors)  # as large as the product; its entries need no SVD
    xp = namespace(core)
    return like(schatten(xp.reshape(xp.abs(core), (*core.shape[:-2], -1))), factors.B)


def deviations(X: Array) -> Array:
    """Return X~ = (I - J) X, the deviations from the network mean, [..., N, a, b]."""
    require_real("X", X)
    return X - namespace(X).mean(X, axis=-3, keepdims=True)


def consensus_distance(X: Array | Factors, shares: Array | None = None) -> Array:
    """Return Xi = |(I - J) X|_F^2 / N, squared and per agent, [...]; of factors Xi_A + Xi_B.

    With shares [N] of sum one, Xi = sum_i shares_i |X_i - Xbar|_F^2, Xbar = sum_i shares_i X_i.
    Half types are squared and summed in float32. Infinite where the square is beyond the dtype.

    Examples:
        >>> import numpy as np
        >>> from decaf_theory import measure
        >>> float(measure.consensus_distance(np.array([1.0, 3.0])[:, None, None]))
        1.0
    """
    if isinstance(X, Factors):
        check_agents(X)
        return consensus_distance(X.B, shares) + consensus_distance(X.A, shares)
    require_real("X", X)
    xp = namespace(X)
    wide = working(X)
    if shares is not None:
        weights = convert(shares, wide)[:, None, None]
        apart = wide - xp.sum(weights * wide, axis=-3, keepdims=True)
        return like(xp.sum(weights * apart**2, axis=(-3, -2, -1)), X)
    flat = xp.reshape(deviations(wide), (*X.shape[:-3], -1))
    with np.errstate(over="ignore"):
        return like(xp.vecdot(flat, flat) / X.shape[-3], X)


def aligned_consensus(factors: Factors, shares: Array | None = None) -> Array:
    """Return Xi of (B, A) once agents are turned onto a common frame, [...]; at most that without.

        (B_i O_i, O_i'A_i), O_i in O(r): onto agent 0 first, then twice onto the agents' mean

    The products stay; no turn to the mean makes Xi larger. An upper bound on the least Xi over all
    rotations, and of balanced factors 0 where their products are equal. Shares as in
    `consensus_distance`.
    """
    check_agents(factors)
    xp = namespace(factors.B)
    turned = align(factors, factors.map(lambda X: X[..., :1, :, :]))
    for _ in range(2):
        turned = align(turned, turned.map(lambda X: _mean(X, shares)))
    least = consensus_distance(turned, shares)
    return xp.minimum(least, consensus_distance(factors, shares))


def _mean(X: Array, shares: Array | None) -> Array:
    """Return the mean over agents, weighted by shares if there are any, [..., 1, a, b]."""
    xp = namespace(X)
    if shares is None:
        return xp.mean(X, axis=-3, keepdims=True)
    return xp.sum(convert(shares, X)[:, None, None] * X, axis=-3, keepdims=True)


def weighted_deviations(factors: Factors, weights: Array) -> Factors:
    """Return the panels X [..., d, N r] and Y [..., N r, k] with interference I = X Y.

    X = [sqrt(pi_j) (B_j - Bbar)]_j and Y likewise, for stochastic weights [N], or [n, N] for
    factors [..., n or 1, N, d, r]. So |X|_F^2 = V_B and |Y|_F^2 = V_A. Equal factors deviate by
    exactly 0. A negative weight (|pi_j| under the root, its sign in X) keeps I = X Y.
    """
    check_agents(factors)
    rows = weights if weights.ndim == 2 else weights[None]
    stochastic_entries(rows, int(factors.B.shape[-3]))
    return _panels(factors, weights)


def _panels(factors: Factors, weights: Array) -> Factors:
    """Return the `weighted_deviations`, of arguments that are checked."""
    xp = namespace(factors.B)
    weights = convert(weights, factors.B)[..., None, None]
    root = xp.sqrt(xp.abs(weights))

    def centred(X: Array) -> Array:
        moved = X - X[..., :1, :, :]  # first by one agent, so that equal ones leave no rounding
        return moved - xp.sum(weights * moved, axis=-3, keepdims=True)

    return concatenate(
        Factors(xp.sign(weights) * root * centred(factors.B), root * centred(factors.A))
    )


def interference(factors: Factors, Pi: Array) -> Array:
    """Return I_i = M_i - Bbar_i Abar_i, dense [..., n, d, k], for stochastic rows Pi.

    Computed as the weighted cross-covariance sum_j pi_ij (B_j - Bbar_i)(A_j - Abar_i) (T8), which
    loses nothing to cancellation near consensus. Pi [n, N] is dense or sparse.
    """
    return _over_rows(factors, Pi, product, axis=-3)


def interference_norm(factors: Factors, Pi: Array, norm: str = "fro") -> Array:
    """Return |I_i| for each stochastic row of Pi without forming d x k matrices, [..., n].

    Examples:
        >>> import numpy as np
        >>> from decaf_theory import Factors, measure
        >>> opposed = Factors(np.array([[[1.0]], [[-1.0]]]), np.array([[[1.0]], [[-1.0]]]))
        >>> measure.interference_norm(opposed, np.full((2, 2), 0.5)).round(12).tolist()
        [1.0, 1.0]
    """
    return _over_rows(factors, Pi, lambda deviation: product_norm(deviation, norm), axis=-1)


def _over_rows(
    factors: Factors, Pi: Array, quantity: Callable[[Factors], Array], axis: int
) -> Array:
    """Return a quantity of the `weighted_deviations` of every row, along an axis of the result.

    They run over the agents that a row weights; rows of few agents are treated apart from rows of
    many.
    """
    check_agents(factors)
    found = stochastic_entries(Pi, int(factors.B.shape[-3]))
    rows = groups(found.counts, factors.rank)
    parts = []
    for own in rows:
        index, weights = neighbours(found, own)
        parts.append(quantity(_panels(gather(factors, index), weights)))
    return in_order(parts, rows, axis)


def truncation_error(truncated: TSVD, norm: str = "fro") -> Array:
    """Return |E| = |M - TSVD_r(M)|, the norm of the dropped singular values (Eckart-Young).

    Examples:
        >>> import numpy as np
        >>> from decaf_theory import measure
        >>> from decaf_theory.tsvd import tsvd
        >>> float(measure.truncation_error(tsvd(np.diag([5.0, 4.0, 3.0]), rank=1)))
        5.0
    """
    return schatten(truncated.tail, norm)


def mix_norm(truncated: TSVD, norm: str = "fro") -> Array:
    """Return |M|, from kept and dropped singular values."""
    xp = namespace(truncated.tail)
    return schatten(xp.concat([truncated.singular_values, truncated.tail], axis=-1), norm)


def product_distance(left: Factors, right: Factors, norm: str = "fro") -> Array:
    """Return |B_1 A_1 - B_2 A_2| without forming the products, [...].

    Examples:
        >>> import numpy as np
        >>> from decaf_theory import Factors, measure
        >>> left = Factors(np.eye(2), np.eye(2))
        >>> float(measure.product_distance(left, Factors(-np.eye(2), -np.eye(2))).round(12))
        0.0
    """
    check_factors(left, "left")
    check_factors(right, "right")
    return product_norm(subtract(left, right), norm)


def factor_gradients(gradient: Array, factors: Factors, s: float) -> Factors:
    """Return (grad_B, grad_A) = (s g A', s B' g) for the weight-space gradient g [..., d, k]."""
    common(factors)
    namespace(gradient, factors.B)
    # the scale meets the small matrices, not the d x k gradient
    slopes = Factors(gradient @ transpose(factors.A), transpose(factors.B) @ gradient)
    return slopes if s == 1 else Factors(s * slopes.B, s * slopes.A)


def sigma_max(factors: Factors) -> Array:
    """Return max(sigma_1(A), sigma_1(B)), the least c of Assumption 2 for these factors, [...].

    Examples:
        >>> import numpy as np
        >>> from decaf_theory import Factors, measure
        >>> measure.sigma_max(Factors(np.diag([3.0, 1.0]), np.diag([1.0, 2.0]))).tolist()
        3.0
    """
    check_factors(factors)
    xp = namespace(factors.B)
    largest = [like(xp.linalg.matrix_norm(working(X), ord=2), X) for X in factors]
    return xp.max(xp.stack(largest), axis=0)


def imbalance(factors: Factors) -> Array:
    """Return |B'B - AA'|_F / |BA|_F, 0 for balanced factors, [...].

    Infinite where the product is zero but the factors are not balanced.

    Examples:
        >>> import numpy as np
        >>> from decaf_theory import Factors, measure
        >>> float(measure.imbalance(Factors(np.array([[2.0]]), np.array([[1.0]]))))
        1.5
    """
    check_factors(factors)
    xp = namespace(factors.B)
    sizes = [xp.max(xp.abs(working(X)), axis=(-2, -1)) for X in factors]
    # by a power of two, which changes no ratio: squares of tiny factors would vanish
    e = exponent_of(xp.max(xp.stack(sizes), axis=0))[..., None, None]
    B, A = (scale_by(working(X), -e) for X in factors)
    gap = xp.linalg.matrix_norm(transpose(B) @ B - A @ transpose(A), ord="fro")
    size = product_norm(Factors(B, A))
    ratio = gap / xp.where(size > 0, size, xp.ones_like(size))
    # > and not >=: zero factors are balanced, and those with nan are not
    without_product = xp.where(gap > 0, xp.full_like(gap, xp.inf), gap)
    return like(xp.where(size > 0, ratio, without_product), factors.B)


def numerical_rank(singular_values: Array, *, d: int, k: int) -> Array:
    """Return how many singular values [..., p] exceed max(d, k) eps sigma_1, [...]."""
    xp = namespace(singular_values)
    threshold = max(d, k) * eps(singular_values) * singular_values[..., :1]
    return xp.sum(xp.astype(singular_values > threshold, xp.int64), axis=-1)


def kept_energy(truncated: TSVD) -> Array:
    """Return sum_{i<=r} sigma_i^2 / sum_i sigma_i^2, 1 for a zero matrix, [...]."""
    xp = namespace(truncated.tail)
    kept = truncated.singular_values
    values = _unit(xp.concat([kept, truncated.tail], axis=-1))
    total = schatten(values)
    share = (schatten(values[..., : kept.shape[-1]]) / _nonzero(total)) ** 2
    return like(xp.where(total == 0, xp.ones_like(share), share), kept)


def effective_rank(singular_values: Array) -> Array:
    """Return |M|_*^2 / |M|_F^2, between 1 and the rank; 0 for a zero matrix, [...]."""
    values = _unit(singular_values)
    ratio = schatten(values, "nuc") / _nonzero(schatten(values))
    return like(ratio**2, singular_values)


def _unit(singular_values: Array) -> Array:
    """Return singular values over a power of two, in the working dtype: no sum overflows."""
    wide = working(singular_values)
    return scale_by(wide, -exponent_of(schatten(wide, "op"))[..., None])


def _nonzero(x: Array) -> Array:
    """Return x, with 1 for 0: a divisor."""
    xp = namespace(x)
    return xp.where(x == 0, xp.ones_like(x), x)
