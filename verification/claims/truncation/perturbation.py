"""T19: how much the truncation moves when the matrix does, and that no constant serves at a tie."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import host, namespace, transpose
from decaf_theory.measure import product_distance
from decaf_theory.tsvd import tsvd
from verification.claim import Claim, Context, Instance, Row
from verification.evidence import at_most, ulps
from verification.instances.mixes import isometry
from verification.instances.omega import each

SHAPES = ((1, 3, 2), (2, 4, 6), (3, 7, 5), (2, 3, 3))  # r, d, k


def rows(ctx: Context) -> Iterator[Row]:
    r"""The truncation moves by at most sigma_r over its gap times the change of the matrix.

    The local Lipschitz constant of $\mathrm{TSVD}_r$ at $M$ in Frobenius norm is
    $\frac{\sigma_r}{\sigma_r - \sigma_{r+1}}$. Globally, with
    $e = \|dM\|_{op} < (\sigma_r - \sigma_{r+1})/2$:
    $\|dP\|_F \le (\frac12 + \frac{\sigma_r + \sigma_{r+1}}{4e} \ln(g/(g - 2e))) \|dM\|_F \le
    \frac{\sigma_r - e}{g - 2e} \|dM\|_F$, $g = \sigma_r - \sigma_{r+1}$. Singular spaces:
    $\|(\sin\Theta_U, \sin\Theta_V)\|_F \le
    \sqrt 2\, \|dM\|_F/(\sigma_r(M + dM) - \sigma_{r+1}(M))$.

    Assumptions: $2e < \sigma_r - \sigma_{r+1}$, for the last $\sigma_r(M + dM) > \sigma_{r+1}(M)$;
    computed for each instance.

    Proof: in the singular bases of $M$ the derivative of $P$ keeps the block of $dM$ on kept
    directions and the cross terms, and maps the pair $(dM_{ij}, dM_{ji})$ of a kept $i$ and a
    dropped $j$ by a symmetric matrix with eigenvalues $\sigma_i/(\sigma_i \mp \sigma_j)$, largest
    at $i = r$, $j = r + 1$. Along $M + t\, dM$ the singular values move by at most $te$, so that
    the constant is at most $\frac{\sigma_r - te}{g - 2te}$; integrate over $t$. Last: Wedin's
    theorem, the residuals $dM\, V'$ and $dM' U'$ having together at most $2 \|dM\|_F^2$.

    Extremal: $dM = h (u_r v_{r+1}' + u_{r+1} v_r')$, $h \to 0$: the first ratio tends to 1. Spaces:
    $\mathrm{diag}(\frac12, 0)$ to $\mathrm{diag}(\frac12, 1)$, $r = 1$.

    Counterexample (at a tie): see T19-tie.

    Source: derived here; the last part is Wedin's theorem.
    """
    for r, d, k in SHAPES:
        for size in (1e-6, 1e-3, 0.1, 0.4):
            yield from _random(ctx, r, d, k, size)
        yield from _worst_direction(ctx, r, d, k)
    M = ctx.array([[[0.5, 0], [0, 0]]])
    dM = ctx.array([[[0, 0], [0, 1.0]]])
    yield _spaces(M, dM, 1, "extremal")


def _random(ctx: Context, r: int, d: int, k: int, size: float) -> Iterator[Row]:
    """Spectra with gaps 10^-3 ... 1, changes of operator norm `size` times the gap."""
    rng = ctx.rng("random", r, d, k)
    count = ctx.pick(80, 3000)
    n = min(d, k)
    values = np.sort(rng.uniform(0.1, 1, (count, n)), axis=-1)[:, ::-1].copy()
    values[:, :r] += 10.0 ** rng.uniform(-3, 0, (count, 1))
    M = (isometry(rng, count, d, n) * values[:, None, :]) @ isometry(rng, count, n, k)
    dM = rng.standard_normal((count, d, k))
    gap = values[:, r - 1] - values[:, r] if r < n else values[:, r - 1]
    norm = np.linalg.norm(dM, ord=2, axis=(-2, -1))
    dM *= (size * gap / norm)[:, None, None]
    yield from _change(ctx.array(M), ctx.array(dM), r, "random", size=size)
    yield _spaces(ctx.array(M), ctx.array(dM), r, "random", size=size)


def _worst_direction(ctx: Context, r: int, d: int, k: int) -> Iterator[Row]:
    """The exchange of the r-th and the next singular pair, at several gaps."""
    n = min(d, k)
    if r == n:
        return
    next_one = np.array([0.0, 0.25, 0.5, 0.75, 0.875])
    M, dM = np.zeros((2, len(next_one), d, k))
    M[:, range(r), range(r)] = 1.0
    M[:, r, r] = next_one
    h = 2.0**-22 * (1 - next_one)
    dM[:, r - 1, r] = dM[:, r, r - 1] = h
    yield from _change(ctx.array(M), ctx.array(dM), r, "worst direction")


def _change(M: Any, dM: Any, r: int, family: str, **params: float) -> Iterator[Row]:
    xp = namespace(M)
    d, k = M.shape[-2:]
    before = tsvd(M, r)
    after = tsvd(M + dM, r)
    moved = product_distance(before.factors, after.factors)
    sigma_r = host(before.singular_values[..., -1])
    sigma_next = host(before.tail[..., 0]) if before.tail.shape[-1] else 0 * sigma_r
    e, size = (host(xp.linalg.matrix_norm(dM, ord=ord)) for ord in (2, "fro"))
    letters = {"sigma_r": sigma_r, "sigma_next": sigma_next, "e": e}
    factor = each(bounds.tsvd_perturbation, **letters)
    held = np.isfinite(factor)
    factor = np.where(held, factor, 0)
    # each truncation is that of a matrix off by max(d, k) eps |M|, which the same constant scales
    slip = ulps(20 * max(d, k), 1 + factor, host(xp.linalg.matrix_norm(M, ord="fro")))
    where = {"rounding": slip, "held": held, "family": family, "d": d, "k": k, "r": r, **params}
    case = "|dP| <= (sigma_r - e)/(gap - 2 e) |dM|"
    yield at_most(case, moved, factor * size, **where)
    integrated = each(bounds.tsvd_perturbation_integrated, **letters)
    case = "|dP| <= integrated constant |dM|"
    yield at_most(case, moved, np.where(held, integrated, 0) * size, **where)


def _spaces(M: Any, dM: Any, r: int, family: str, **params: float) -> Row:
    """Compare the sines of both pairs of leading singular spaces with Wedin's bound."""
    xp = namespace(M)
    d, k = M.shape[-2:]
    U, S, Vh = xp.linalg.svd(M)
    moved_U, moved_S, moved_Vh = xp.linalg.svd(M + dM)
    sine_U = transpose(U[..., r:]) @ moved_U[..., :r]
    sine_V = Vh[..., r:, :] @ transpose(moved_Vh[..., :r, :])
    squares = [host(xp.sum(x**2, axis=(-2, -1))) for x in (sine_U, sine_V)]
    kept = host(moved_S[..., r - 1])
    gap = kept - host(S[..., r]) if r < S.shape[-1] else kept
    size = host(xp.linalg.matrix_norm(dM, ord="fro"))
    bound = each(bounds.wedin, e_fro=size, gap=gap)
    held = np.isfinite(bound)
    # singular spaces of a computed SVD are those of a matrix off by max(d, k) eps |M|
    norms = host(xp.linalg.matrix_norm(M, ord="fro")) + size
    slip = ulps(20 * max(d, k), 1 + norms / np.where(held, gap, 1))
    where = {"rounding": slip, "held": held, "family": family, "d": d, "k": k, "r": r, **params}
    return at_most(
        "|(sin U, sin V)|_F <= sqrt(2) |dM|_F/gap",
        np.sqrt(squares[0] + squares[1]),
        np.where(held, bound, 0),
        **where,
    )


def extremal() -> Instance:
    """Return diag(1, 1/2) and its change by 2^-23 in the worst direction."""
    h = 2.0**-23
    return {"M": [[1.0, 0.0], [0.0, 0.5]], "N": [[1.0, h], [h, 0.5]], "rank": 1}


def _stored(instance: Instance) -> list[np.ndarray]:
    return [np.asarray(instance[name], dtype=np.float64)[None] for name in ("M", "N")]


def replay(instance: Instance) -> Row:
    """Return the row of two stored matrices: |dP|, or that of the `part` "integrated", "spaces"."""
    M, N = _stored(instance)
    r = instance["rank"]
    part = instance.get("part", "")
    if part == "spaces":
        return _spaces(M, N - M, r, "stored")
    found = _change(M, N - M, r, "stored")
    return next(row for row in found if part in row.case)


def truncation_is_nonexpansive(ctx: Context) -> Iterator[Row]:
    r"""Truncation never increases the distance of two matrices: it adds no disagreement.

    $\|\mathrm{TSVD}_r(M) - \mathrm{TSVD}_r(M')\|_F \le \|M - M'\|_F$. FALSE: near a tie no constant
    serves.

    Assumptions: none.

    Counterexample: $\mathrm{diag}(1 + e, 1)$ and $\mathrm{diag}(1, 1 + e)$, $r = 1$: the matrices
    are $\sqrt 2\, e$ apart, their truncations $\sqrt 2\, (1 + e)$. The ratio $(1 + e)/e$ is 9 at
    $e = 1/8$ and grows without limit as $e$, which is free, tends to 0.

    Source: derived here.
    """
    for e in (2.0**-3, 2.0**-10, 2.0**-20):
        yield replay_false(instance(e))


def instance(e: float = 2.0**-3) -> Instance:
    """Return the two matrices on either side of a tie."""
    return {"M": [[1 + e, 0.0], [0.0, 1.0]], "N": [[1.0, 0.0], [0.0, 1 + e]], "rank": 1}


def replay_false(instance: Instance) -> Row:
    """Return the row of two stored matrices against their own distance."""
    left, right = _stored(instance)
    r = instance["rank"]
    d, k = left.shape[-2:]
    moved = product_distance(tsvd(left, r).factors, tsvd(right, r).factors)
    apart = np.linalg.norm(left - right, axis=(-2, -1))
    # two truncations and a distance, each max(d, k) eps |M|
    slip = ulps(20 * max(d, k), np.linalg.norm(left, axis=(-2, -1)))
    case = "|TSVD_r(M) - TSVD_r(N)|_F <= |M - N|_F"
    return at_most(case, moved, apart, rounding=slip, d=d, k=k, r=r)


def attacks() -> dict[str, Any]:
    """Return the attacks on T19."""
    from verification.attacks.truncation import perturbation, spaces

    return {
        "perturbation, r = 1": perturbation("", 1, 2, 3),
        "perturbation, r = 2": perturbation("", 2, 4, 3),
        "integrated": perturbation("integrated", 1, 2, 3),
        "spaces": spaces(),
    }


CLAIMS = [
    Claim(
        "T19",
        "truncation",
        "derived",
        rows,
        bounds=(
            bounds.tsvd_perturbation,
            bounds.tsvd_perturbation_integrated,
            bounds.wedin,
        ),
        attacks=attacks,
        replay=replay,
        instance=extremal,
        reaches={
            "|dP| <= (sigma_r - e)/(gap - 2 e) |dM|": 1,
            "|dP| <= integrated constant |dM|": 1,
            "|(sin U, sin V)|_F <= sqrt(2) |dM|_F/gap": 1,
        },
    ),
    Claim(
        "T19-tie",
        "truncation",
        "derived",
        truncation_is_nonexpansive,
        expected="violated",
        chosen_bound=True,
        replay=replay_false,
        instance=instance,
        script="T19-tie",
    ),
]
