"""T6: with A frozen the loss is smooth in B everywhere, and convex where f is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import convert, host, namespace
from decaf_theory.lowrank import product
from decaf_theory.measure import factor_gradients
from verification.claim import Claim, Context, Row, Value
from verification.evidence import at_least, at_most, ulps
from verification.instances.mixes import isometry
from verification.instances.omega import each
from verification.instances.pairs import Pair, pair_of, pairs

S = 0.75
L = 1.25


def rows(ctx: Context) -> Iterator[Row]:
    r"""With $A$ frozen the loss in $B$ is $s^2 L \sigma_1(A)^2$-smooth, and convex if $f$ is.

    $|\nabla_B \varphi(B) - \nabla_B \varphi(B')|_F \le s^2 L \sigma_1(A)^2 |B - B'|_F$, and
    $\langle \nabla_B \varphi(B) - \nabla_B \varphi(B'), B - B' \rangle \ge 0$ for convex $f$.

    Assumptions: $f$ is $L$-smooth in Frobenius norm. No bound on $B$ (no Omega_c) and none on the
    gradient (no $G$).
    Proof: $\nabla_B = s g A'$ and $W - W' = s(B - B') A$, so
    $|s(g - g') A'|_F \le s \sigma_1(A) L s |B - B'|_F \sigma_1(A)$; and $B \mapsto W$ is affine.
    Extremal: $f = L |W|_F^2 / 2$ with $B$ moved along the first left singular vector of $A$.
    Source: derived here.
    """
    for pair in pairs(ctx, ctx.pick(20, 400), 1.5):
        rng = ctx.rng("frozen", pair.family, pair.start.rank)
        scales = convert(10.0 ** rng.uniform(-8, 8, (len(pair.start.B), 1, 1)), pair.start.B)
        frozen = at_same_A(pair, scales)
        for kind, gradient in GRADIENTS.items():
            target = convert(rng.standard_normal(tuple(frozen.product_step.shape)), scales)
            yield from checks(kind, frozen, gradient, target * scales)
    for d, k, r in ((3, 2, 1), (2, 5, 3), (6, 4, 4)):
        frozen = along_first_vector(ctx, d, k, r)
        yield smooth("extremal", frozen, GRADIENTS["quadratic"], 0.0)
    yield replay(instance())


def at_same_A(pair: Pair, scales: Any) -> Pair:
    """Return the pair at the start's A, with B far outside any fixed Omega_c, step included."""
    start = pair.start
    end = pair.end
    return pair._replace(
        start=start._replace(B=scales * start.B), end=start._replace(B=scales * end.B)
    )


def along_first_vector(ctx: Context, d: int, k: int, r: int) -> Pair:
    """Return a step of B along u e', e the first left singular vector of A."""
    rng = ctx.rng("extremal", d, k, r)
    A = rng.standard_normal((r, k))
    B = rng.standard_normal((d, r))
    u = isometry(rng, d, 1)
    e = np.linalg.svd(A)[0][:, :1]
    return pair_of(ctx, "first singular vector", 0.0, (B, A), (B + u @ e.T, A))


def quadratic(move: Any) -> Any:
    """Return the gradient of L |W - T|_F^2 / 2 at W - T."""
    return L * move


def huber(move: Any) -> Any:
    """Return the gradient of a Huber loss of each entry of W - T: L-smooth and convex."""
    return L * namespace(move).clip(move, -1, 1)


def saddle(move: Any) -> Any:
    """Return the gradient of an indefinite quadratic, L-smooth, not convex: odd columns descend."""
    sign = np.where(np.arange(move.shape[-1]) % 2 == 0, 1.0, -1.0)
    return L * move * convert(sign, move)


GRADIENTS = {"quadratic": quadratic, "huber": huber, "saddle": saddle}


def checks(case: str, frozen: Pair, gradient: Any, target: Any) -> Iterator[Row]:
    """Yield the row of smoothness and, for a convex f, that of convexity."""
    yield smooth(case, frozen, gradient, target)
    if gradient is not saddle:
        yield convex(case, frozen, gradient, target)


class Step(NamedTuple):
    """What a step of B does to the gradient in B, with its rounding; all [instances]."""

    change: Any  # [instances, d, r]
    step: Any  # [instances, d, r]
    top: Any  # sigma_1(A)
    slip: Any  # absolute rounding of |change|_F


def taken(frozen: Pair, gradient: Any, target: Any) -> Step:
    """Return the change of grad_B over the pair's step.

    Rounding: both gradients are L (W - T) at most, products of r terms; in these shapes they and
    their product with A are off by 8 p min(d, k, r) eps of s L (|W|_F + |W'|_F + |T|_F) sigma_1(A).
    """
    xp = namespace(frozen.start.B)
    ends = []
    size = xp.linalg.matrix_norm(target + 0 * frozen.product_step, ord="fro")
    for point in (frozen.start, frozen.end):
        W = S * product(point)
        ends.append(factor_gradients(gradient(W - target), point, S).B)
        size = size + xp.linalg.matrix_norm(W, ord="fro")
    top = xp.linalg.matrix_norm(frozen.start.A, ord=2)
    shape = (*frozen.start.shape, frozen.start.rank)
    slip = ulps(8 * max(shape) * min(shape), S, L, size, top)
    return Step(ends[0] - ends[1], frozen.step.B, top, slip)


def smooth(case: str, frozen: Pair, gradient: Any, target: Any) -> Row:
    """Return the worst row |change of grad_B| <= s^2 L sigma_1(A)^2 |dB|."""
    change, step, top, slip = taken(frozen, gradient, target)
    constant = each(partial(bounds.frozen_smoothness, s=S, L=L), sigma_max_A=host(top))
    bound = constant * host(_norm(step))
    # the bound: norms of d r and r k entries, with d, k at most 6
    rounding = host(slip) + ulps(64 * frozen.start.rank, bound)
    label = f"smooth, {case}, {frozen.family}"
    return at_most(label, _norm(change), bound, rounding=rounding, **where(frozen))


def convex(case: str, frozen: Pair, gradient: Any, target: Any) -> Row:
    """Return the worst row: the gradient's change and the step form no obtuse angle."""
    change, step, _, slip = taken(frozen, gradient, target)
    angle = namespace(change).sum(change * step, axis=(-2, -1))
    # the sum of d r products, fewer than 64, errs relative to the norms
    rounding = host(slip * _norm(step)) + ulps(64, host(_norm(change) * _norm(step)))
    label = f"convex, {case}, {frozen.family}"
    return at_least(label, angle, 0.0, rounding=rounding, **where(frozen))


def where(frozen: Pair) -> dict[str, Value]:
    """Return the coordinates of a row: family, d, k, r; c bounds nothing here."""
    return {name: value for name, value in frozen.params.items() if name != "c"}


def _norm(X: Any) -> Any:
    return namespace(X).linalg.matrix_norm(X, ord="fro")


def instance() -> Mapping[str, Any]:
    """Return A = diag(2, 1) (k = 3), B = 0 and a step along u e_1', d = 2."""
    return {
        "A": [[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]],
        "B": [[0.0] * 2] * 2,
        "B_end": [[3.0, 0.0], [4.0, 0.0]],
    }


def replay(stored: Mapping[str, Any]) -> Row:
    """Return the row of a stored step for the quadratic loss."""
    A, B, end = (np.array(stored[name]) for name in ("A", "B", "B_end"))
    frozen = pair_of(Context("stored"), "stored", 0.0, (B, A), (end, A))
    return smooth("quadratic", frozen, quadratic, 0.0)


def attacks() -> dict[str, Any]:
    """Return the attacks on T6."""
    from verification.attacks.smoothness import frozen_step

    return {"quadratic": frozen_step()}


CLAIMS = [
    Claim(
        "T6",
        "smoothness",
        "derived",
        rows,
        bounds=(bounds.frozen_smoothness,),
        attacks=attacks,
        replay=replay,
        instance=instance,
        reaches={
            "smooth, quadratic": 1,
            "convex, quadratic": 0,
            "smooth, huber": 1,
            "convex, huber": 0,
            "smooth, saddle": 0.82,
            "smooth, extremal": 1,
        },
    )
]
