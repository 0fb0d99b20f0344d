"""T5: what bounds on weight-space gradients become in factor space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import convert, host, namespace
from decaf_theory.lowrank import Factors, product
from decaf_theory.measure import factor_gradients
from verification.claim import Claim, Context, Row
from verification.evidence import at_most, same, ulps
from verification.instances.mixes import isometry
from verification.instances.omega import each
from verification.instances.pairs import Pair, blocks, pair_of, pairs

S = 0.75
C = 1.5
SHAPES = [(3, 2, 1), (2, 4, 2), (5, 4, 3), (2, 3, 6)]  # d, k, r


def gradients(ctx: Context) -> Iterator[Row]:
    r"""In factor space gradients, noise and heterogeneity grow by $\sqrt2 s c$ at most.

    $|\nabla \varphi|^2 \le s^2 (\sigma_1(A)^2 + \sigma_1(B)^2) |\nabla f|_F^2 \le 2 s^2 c^2
    |\nabla f|_F^2$, so Assumption 4's constants obey $\sigma_w \le \sqrt 2 s c \sigma_W$ and
    $\kappa_w \le \sqrt 2 s c \kappa_W$. For noise of variance $t^2$ in each entry, independently,
    $\sigma_w^2 = s^2 t^2 (k |B|_F^2 + d |A|_F^2)$ exactly.

    Assumptions: $\sigma_1(A), \sigma_1(B) \le c$; all agents at the same factors.
    Proof: $\nabla_A = s B' g$, $\nabla_B = s g A'$ and $|X Y|_F \le \sigma_1(X) |Y|_F$; the
    map from $g$ to $\nabla$ is linear, so the same holds for deviations. Isotropic noise: the
    squared Frobenius norm of that map, with $k$ columns of $g$ for $B'$ and $d$ rows for $A'$.
    Extremal: $A = c\, e v'$, $B = c\, u e'$, $g$ (or the noise, or the differences) along $u v'$.
    Counterexample (to the converse): see T5-converse.
    Source: Assumption 4 of arXiv 2505.21382 (paraphrased); derived here.
    """
    for pair in pairs(ctx, ctx.pick(20, 400), C):
        rng = ctx.rng("gradients", pair.family, pair.start.rank)
        yield from ensembles("random", pair, random_ensemble(rng, pair))
        yield isotropic(pair)
    for d, k, r in SHAPES:
        for ratio in (1.0, 0.5, 0.0):
            yield from ensembles("extremal", *aligned(ctx, d, k, r, ratio))
    yield replay(instance())


def random_ensemble(rng: np.random.Generator, pair: Pair) -> Any:
    """Return gradients of five agents at each point, [instances, 5, d, k], of rank one for half."""
    g = rng.standard_normal((len(pair.start.B), 5, *pair.start.shape))
    g[::2] = g[::2, ..., :1] * g[::2, ..., :1, :]
    return convert(g, pair.start.B)


def aligned(ctx: Context, d: int, k: int, r: int, ratio: float) -> tuple[Pair, Any]:
    """Return A = ratio C e v', B = C u e' and three gradients along u v'."""
    rng = ctx.rng("aligned", d, k, r)
    u, e, v = (isometry(rng, n, 1) for n in (d, r, k))
    point = (C * u @ e.T, ratio * C * e @ v.T)
    sizes = np.array([1.0, -2.0, 4.0])[:, None, None]
    return pair_of(ctx, f"aligned, |A| = {ratio} c", C, point, point), ctx.array(
        (sizes * (u @ v.T))[None]
    )


def ensembles(case: str, pair: Pair, g: Any, s: float = S) -> Iterator[Row]:
    """Yield: one gradient against both bounds, and the spread of all, as noise and as agents.

    As noise they are drawn with probabilities in proportion to 1, 2, ...; agents count alike.

    Rounding: products and norms in these shapes are off by 8 p min(d, k, r) eps at most.
    """
    xp = namespace(g)
    w = pair.end
    shape = (*w.shape, w.rank)
    slip = ulps(8 * max(shape) * min(shape))
    tops = [host(xp.linalg.matrix_norm(X, ord=2)) for X in w]
    one = _factor_norm(g[:, :1], w, s)
    size = host(_norm(g[:, :1]))[:, 0]
    local = s * np.hypot(*tops) * size
    count = g.shape[1]
    alike = np.full(count, 1 / count)
    uneven = np.arange(1.0, count + 1) / (count * (count + 1) / 2)
    noise, noise_W = _spread(g, w, s, uneven)
    agents, agents_W = _spread(g, w, s, alike)
    checks = (
        ("gradient, by sigma_1", one, local),
        ("gradient, by c", one, each(bounds.factor_gradient, s=s, c=pair.c, g=size)),
        ("noise", noise, each(bounds.factor_sigma, s=s, c=pair.c, sigma_W=noise_W)),
        ("heterogeneity", agents, each(bounds.factor_kappa, s=s, c=pair.c, kappa_W=agents_W)),
    )
    for name, measured, bound in checks:
        label = f"{case} {name}, {pair.family}"
        rounding = slip * bound
        yield at_most(label, measured, bound, rounding=rounding, held=pair.held, **pair.params)


def _spread(g: Any, w: Factors, s: float, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the root of the weighted mean square about the weighted mean, of factors and of W."""
    xp = namespace(g)
    pi = convert(weights[:, None, None], g)
    apart = g - xp.sum(pi * g, axis=1, keepdims=True)
    return _factor_norm(apart, w, s, weights), host(_norm(apart) ** 2 @ pi[:, 0, 0]) ** 0.5


def _factor_norm(g: Any, w: Factors, s: float, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the root of the mean over agents of |grad phi|^2, [instances]."""
    wide = w.map(lambda X: X[:, None])
    squares = host(blocks(factor_gradients(g, wide, s), "euclid")) ** 2
    root: np.ndarray = np.average(squares, axis=1, weights=weights) ** 0.5
    return root


def _norm(X: Any) -> Any:
    return namespace(X).linalg.matrix_norm(X, ord="fro")


def instance() -> Mapping[str, Any]:
    """Return the extremal at c = 2, s = 1/2: A = c e v', B = c u e', g = u v'."""
    B = 2 * np.eye(3, 2)[:, :1] @ np.eye(1, 2)
    A = 2 * np.eye(2, 1) @ np.eye(1, 4)
    g = np.eye(3, 1) @ np.eye(1, 4)
    return {"s": 0.5, "c": 2.0, "B": B.tolist(), "A": A.tolist(), "g": g.tolist()}


def replay(stored: Mapping[str, Any]) -> Row:
    """Return the row of one stored gradient against sqrt(2) s c |g|."""
    point = (np.array(stored["B"]), np.array(stored["A"]))
    pair = pair_of(Context("stored"), "stored", stored["c"], point, point)
    g = np.array(stored["g"])[None, None]
    return next(row for row in ensembles("stored", pair, g, stored["s"]) if "by c" in row.case)


def isotropic(pair: Pair) -> Row:
    """Return the identity for isotropic noise: the sum over all unit matrices E_ij, exactly.

    Rounding: d k squares of products of r terms, relative to the result.
    """
    d, k = pair.end.shape
    w = pair.end
    t = 0.5
    units = convert(np.eye(d * k).reshape(1, d * k, d, k), w.B)
    exact = t**2 * d * k * _factor_norm(units, w, S) ** 2
    A_norm = host(_norm(w.A))
    B_norm = host(_norm(w.B))
    formula = each(
        bounds.isotropic_factor_variance, s=S, tau=t, A_norm=A_norm, B_norm=B_norm, d=d, k=k
    )
    rounding = ulps(4 * (d * k + w.rank), formula)
    label = f"isotropic noise, {pair.family}"
    return same(label, exact - formula, rounding=rounding, **pair.params)


def converse(ctx: Context) -> Iterator[Row]:
    r"""Where the factor gradient vanishes, the weight-space gradient vanishes too.

    $\nabla \varphi(A, B) = 0$ implies $\nabla f(W_0 + s B A) = 0$: a rate for
    $|\nabla \varphi|$ would be a rate for $|\nabla f|$.

    Assumptions: $f$ smooth and convex, here $f = |W - T|_F^2 / 2$, $s = 1$, $W_0 = 0$.
    Proof (of the contrary): the statement is false wherever $B' g = 0$ and $g A' = 0$ with
    $g \ne 0$.
    Counterexample: $A = B = 0$, $T = E_{11}$: $\nabla \varphi = 0$, $|\nabla f|_F = 1$. With
    nonzero factors: $B A = E_{11}$, $r = 1$, $T = E_{11} + E_{22}$.
    Source: reading of arXiv 2505.21382 (paraphrased); refuted here.
    """
    yield replay_stationary(instance_stationary())
    yield replay_stationary(stored(np.eye(2, 1), np.eye(1, 3), np.eye(2, 3)))
    yield replay_stationary(stored(np.eye(4, 2), np.zeros((2, 3)), np.eye(4, 3, -2)))


def stored(B: np.ndarray, A: np.ndarray, target: np.ndarray) -> Mapping[str, Any]:
    """Return factors and a target as plain lists."""
    return {"B": B.tolist(), "A": A.tolist(), "target": target.tolist()}


def instance_stationary() -> Mapping[str, Any]:
    """Return zero factors and the target E_11, d = 2, k = 3, r = 1."""
    return stored(np.zeros((2, 1)), np.zeros((1, 3)), np.eye(2, 1) @ np.eye(1, 3))


def replay_stationary(stored_instance: Mapping[str, Any]) -> Row:
    """Return the row |grad f| <= 0 of stored factors; it applies where grad phi is exactly 0."""
    B, A, target = (np.array(stored_instance[name]) for name in ("B", "A", "target"))
    w = Factors(B, A)
    g = product(w) - target
    held = not any(np.any(X) for X in factor_gradients(g, w, 1.0))
    d, k = g.shape
    measured = np.linalg.norm(g)
    return at_most("stationary", measured, 0.0, rounding=0.0, held=held, d=d, k=k, r=w.rank)


def attacks() -> dict[str, Any]:
    """Return the attacks on T5."""
    from verification.attacks.smoothness import factor_gradient

    return {"gradient": factor_gradient()}


CLAIMS = [
    Claim(
        "T5",
        "smoothness",
        "derived",
        gradients,
        bounds=(
            bounds.factor_gradient,
            bounds.factor_sigma,
            bounds.factor_kappa,
            bounds.isotropic_factor_variance,
        ),
        attacks=attacks,
        replay=replay,
        instance=instance,
        reaches={
            "random gradient, by sigma_1": 0.86,
            "random gradient, by c": 0.79,
            "random noise": 0.77,
            "random heterogeneity": 0.77,
            "extremal gradient, by sigma_1": 1,
            "extremal gradient, by c": 1,
            "extremal noise": 1,
            "extremal heterogeneity": 1,
            "stored gradient, by c": 1,
        },
    ),
    Claim(
        "T5-converse",
        "smoothness",
        "paraphrased",
        converse,
        expected="violated",
        replay=replay_stationary,
        instance=instance_stationary,
        script="T5-converse",
    ),
]
