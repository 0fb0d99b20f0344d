"""P10-noise: sampling rows of a least-squares problem is no noise of bounded variance."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from verification.claim import Claim, Context, Instance, Row
from verification.evidence import at_most, ulps


def rows(ctx: Context) -> Iterator[Row]:
    r"""Sampling rows of least squares is gradient noise of bounded variance (Assumption 4).

    $f(B) = \frac{1}{2n} \sum_j |(s B A - D) x_j|^2$ with frozen $A$; the stochastic gradient takes
    one of the $n$ columns $x_j$ at random. FALSE: its variance grows like $|B|^2$, so no $\sigma$
    bounds it on the whole space, and neither T25 nor the exact moments of T27 apply. Additive
    noise, or the noise of a Bernoulli label in a logistic loss, has a bound.

    Assumptions: with $y_j = A x_j$, the matrices $y_j y_j'$ are not all equal: some columns differ
    by more than their sign.

    Proof (of the contrary): the deviation of the gradient from its mean is affine in
    $B$, with linear part $s^2 B (y_j y_j' - \frac1n \sum_l y_l y_l')$. It is not zero for some $j$
    and $B$, and along the multiples of that $B$ the variance grows like $|B|^2$ without bound.

    Counterexample: $d = k = r = s = 1$, $A = 1$, $D = 0$, columns 1 and 2: the gradients are $B$
    and $4B$, their variance is $\frac94 B^2$: 9/4 at $B = 1$, 225 at $B = 10$. No finite number
    of points refutes a bound on the whole space: the proof does. The rows refute what can be
    computed, a variance that is no larger at the farther of two points than at the nearer one. How
    much larger it is depends on how far away that point was put.

    Source: derived here.
    """
    for far in (2.0, 10.0, 1e3):
        yield replay({**columns(), "far": [[far]]})
    rng = ctx.rng("wide")
    D = rng.standard_normal((3, 4))
    A = rng.standard_normal((2, 4))
    X = rng.standard_normal((4, 5))
    near = rng.standard_normal((3, 2))
    sizes = {"D": D, "A": A, "X": X, "near": near, "far": 100 * near}
    yield replay({"s": 0.5, **{name: x.tolist() for name, x in sizes.items()}})


def columns() -> Instance:
    """Return the scalar counterexample: columns 1 and 2, the points 1 and 10."""
    one = [[1.0]]
    return {"s": 1.0, "A": one, "D": [[0.0]], "X": [[1.0, 2.0]], "near": one, "far": [[10.0]]}


def variance(instance: Instance, B: np.ndarray) -> float:
    """Return E|g_j - g|_F^2 of the gradient in B of one column drawn at random, by enumeration."""
    A, D, X = (np.asarray(instance[name], dtype=np.float64) for name in ("A", "D", "X"))
    s = instance["s"]
    residual = (s * B @ A - D) @ X  # [d, n]
    gradients = s * residual.T[:, :, None] * (X.T @ A.T)[:, None, :]  # one a column
    return float(np.mean(np.sum((gradients - gradients.mean(axis=0)) ** 2, axis=(1, 2))))


def replay(instance: Instance) -> Row:
    """Return the variance at the farther point against that at the nearer one."""
    near, far = (np.asarray(instance[name], dtype=np.float64) for name in ("near", "far"))
    here = variance(instance, near)
    there = variance(instance, far)
    terms = sum(np.asarray(instance["X"]).shape) + sum(far.shape)
    distance = float(np.linalg.norm(far) / np.linalg.norm(near))
    case = "variance far away <= nearby"
    # sums over n columns and the entries of products, squared
    slip = ulps(4 * terms, here + there)
    return at_most(case, there, here, rounding=slip, distance=distance)


CLAIMS = [
    Claim(
        "P10-noise",
        "problems",
        "derived",
        rows,
        expected="violated",
        chosen_bound=True,
        replay=replay,
        instance=columns,
        script="P10-noise",
    )
]
