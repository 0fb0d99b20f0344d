"""T9: interference is bounded by the consensus distances of the neighbourhood."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import host, namespace
from decaf_theory.lowrank import Factors
from decaf_theory.measure import NORMS, product_norm, schatten, weighted_deviations
from verification.claim import Claim, Context, Row
from verification.evidence import at_most, ulps
from verification.instances.mixes import Mix, isometry, load, mixes, stored
from verification.instances.omega import each, mix_of

SHAPES = [(4, 6, 2), (6, 4, 2), (5, 5, 1), (7, 3, 3)]  # d, k, r


def rows(ctx: Context) -> Iterator[Row]:
    r"""Interference is at most the product of the factors' weighted deviations, in three norms.

    With the panels $X = [\sqrt{\pi_j}(B_j - \bar B)]_j$, $Y = [\sqrt{\pi_j}(A_j - \bar A)]_j$
    (side by side, one above the other) and $V_B = |X|_F^2$, $V_A = |Y|_F^2$:
    $|I|_* \le \sqrt{V_A V_B}$, $|I|_F \le \min(|X|_{op} |Y|_F, |X|_F |Y|_{op})$ and
    $|I|_{op} \le |X|_{op} |Y|_{op}$.

    Assumptions: $\pi_j \ge 0$, $\sum_j \pi_j = 1$.
    Proof: $I = X Y$ by T8. Hölder's inequality for Schatten norms, with exponents $(2, 2)$,
    $(\infty, 2)$ or $(2, \infty)$, and $(\infty, \infty)$.
    Extremal: nuclear, iff $Y = t X' Q$ with $t \ge 0$ and a contraction $Q$ that keeps
    $|X' Q|_F = |X|_F$: here $A_j = B_j' Q$ with orthonormal rows or columns of $Q$, where the
    operator bound is attained too. Frobenius: $X$ a multiple of an isometry on the range of $Y$,
    here agents $\pm(B, A)$ of weights 1/2 with an isometry $B$ and any $A$, or the other way round.
    Source: derived here.
    """
    for mix in mixes(ctx, ctx.pick(20, 400)):
        yield from three_norms("random", mix)
    for name, extremal, norms in EXTREMAL:
        for d, k, r in SHAPES:
            rng = ctx.rng(name, d, k, r)
            mix = mix_of(ctx, name, *extremal(rng, ctx.pick(4, 40), d, k, r))
            yield from three_norms("extremal", mix, norms)
    yield replay(instance())


def three_norms(case: str, mix: Mix, norms: tuple[str, ...] = NORMS) -> Iterator[Row]:
    """Yield the worst row in each norm, over all instances and rows of Pi."""
    panels = [weighted_deviations(mix.factors, row) for row in mix.Pi]
    for norm in norms:
        measured = np.stack([host(product_norm(XY, norm)) for XY in panels])
        bound = np.stack([BOUNDS[norm](*map(_spectra, XY)) for XY in panels])
        size = np.stack([host(_frobenius(XY.B) * _frobenius(XY.A)) for XY in panels])
        params = {**mix.params, "norm": norm}
        case_name = f"{case} {norm}, {mix.family}"
        yield at_most(case_name, measured, bound, rounding=_slip(mix) * size, **params)


def _slip(mix: Mix) -> float:
    """Return the rounding relative to |X|_F |Y|_F.

    Two QR factorizations and an SVD of at most p x p matrices, p = max(d, k, m r), make a backward
    error E with |E|_op <= p eps |X|_F |Y|_F each; |E|_* <= min(d, k) |E|_op covers every norm. The
    right side is off by another p eps.
    """
    d, k = mix.factors.shape
    p: int = max(d, k, mix.Pi.shape[-1] * mix.factors.rank)
    return ulps(4 * p * min(d, k))


def _spectra(X: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return (|X|_op, |X|_F), each [instances]."""
    sigma = namespace(X).linalg.svdvals(X)
    return host(schatten(sigma, "op")), host(schatten(sigma, "fro"))


def _frobenius(X: Any) -> Any:
    return namespace(X).linalg.matrix_norm(X, ord="fro")


BOUNDS: dict[str, Callable[..., np.ndarray]] = {
    "nuc": lambda X, Y: each(bounds.interference_nuclear, V_A=Y[1] ** 2, V_B=X[1] ** 2),
    "fro": lambda X, Y: each(
        bounds.interference_frobenius, X_op=X[0], X_fro=X[1], Y_op=Y[0], Y_fro=Y[1]
    ),
    "op": lambda X, Y: each(bounds.interference_operator, X_op=X[0], Y_op=Y[0]),
}

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


def mirrored(rng: np.random.Generator, n: int, d: int, k: int, r: int) -> Arrays:
    """A_j = B_j' Q, Q with orthonormal rows or columns: three agents of unequal weights."""
    if k < d:  # Q can keep |X'Q|_F only where it is injective on the columns of B: exchange roles
        B, A, weights = mirrored(rng, n, k, d, r)
        return A.mT, B.mT, weights
    B = rng.standard_normal((n, 3, d, r))
    return B, B.mT @ isometry(rng, n, 1, d, k), np.array([0.5, 0.3, 0.2])


def opposite(rng: np.random.Generator, n: int, d: int, k: int, r: int) -> Arrays:
    """Two agents (B, A) and (-B, -A): an isometry B and any A."""
    B = isometry(rng, n, d, r)
    A = rng.standard_normal((n, r, k))
    return np.stack([B, -B], axis=1), np.stack([A, -A], axis=1), np.array([0.5, 0.5])


def opposite_transposed(rng: np.random.Generator, n: int, d: int, k: int, r: int) -> Arrays:
    """Two agents (B, A) and (-B, -A): any B and an isometry A."""
    B, A, weights = opposite(rng, n, k, d, r)
    return A.mT, B.mT, weights


EXTREMAL = [
    ("A = B' Q", mirrored, ("nuc", "op")),
    ("sign pair, B an isometry", opposite, ("fro",)),
    ("sign pair, A an isometry", opposite_transposed, ("fro",)),
]


def instance() -> Mapping[str, Any]:
    """Return three agents on which the nuclear bound is attained: A_j = B_j' Q, Q = [I 0]."""
    B = np.array([[[2.0], [0.0]], [[0.0], [4.0]], [[-4.0], [0.0]]])
    A = np.concatenate([B.mT, np.zeros((3, 1, 1))], axis=-1)
    return stored(Factors(B, A), [0.5, 0.25, 0.25], norm="nuc")


def replay(stored_instance: Mapping[str, Any]) -> Row:
    """Return the row of one stored mix in its norm."""
    (row,) = three_norms("stored", load(stored_instance), (stored_instance["norm"],))
    return row


def attacks() -> dict[str, Any]:
    """Return the attacks on T9."""
    from verification.attacks.mixes import NORMS, consensus_distances

    return {norm: consensus_distances(norm) for norm in NORMS}


CLAIMS = [
    Claim(
        "T9",
        "interference",
        "derived",
        rows,
        bounds=(
            bounds.interference_nuclear,
            bounds.interference_frobenius,
            bounds.interference_operator,
        ),
        attacks=attacks,
        replay=replay,
        instance=instance,
        reaches={
            "random fro": 1,
            "random op": 1,
            "random nuc": 1,
            "extremal nuc": 1,
            "extremal op": 1,
            "extremal fro": 1,
            "stored nuc": 1,
        },
    )
]
