"""Slopes of the factor gradient, on which the claims on smoothness are tried and searched.

A slope is a pair of points of Omega_c with the weight-space gradients g, h at its two ends. Only
what the assumptions say of them is used: |g - h|_F <= L |W - W'|_F, |g|_op <= G, |h|_op <= G.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import add, sub
from typing import Any, NamedTuple

import numpy as np

from decaf_theory.arrays import convert, namespace, transpose
from decaf_theory.lowrank import Factors, product
from decaf_theory.measure import factor_gradients
from decaf_theory.problems import PROBLEMS
from verification.claim import Context, Row, Value
from verification.evidence import at_most, ulps
from verification.instances import pairs
from verification.instances.omega import clip, polar
from verification.instances.pairs import Pair, blocks, pair_of

STEP = 2.0**-22  # of the searched and the extremal slopes, relative to c: both are suprema


class Slope(NamedTuple):
    """Instances of pairs with gradients g at the start, h at the end, [instances, d, k]."""

    pair: Pair
    g: Any
    h: Any
    L: float
    G: float
    s: float

    @property
    def c(self) -> float:
        """Omega_c."""
        return self.pair.c

    @property
    def r(self) -> int:
        """LoRA rank."""
        return self.pair.start.rank

    @property
    def eps(self) -> float:
        """Relative rounding of a norm or a product in these shapes: 8 p min(d, k, r) eps."""
        shape = (*self.pair.start.shape, self.r)
        return ulps(8 * max(shape) * min(shape))

    @property
    def change(self) -> Factors:
        """The change of the factor gradient from the end to the start."""
        start, end = (
            factor_gradients(gradient, point, self.s)
            for gradient, point in ((self.g, self.pair.start), (self.h, self.pair.end))
        )
        return Factors(start.B - end.B, start.A - end.A)

    @property
    def held(self) -> Any:
        """A mask [instances]: Omega_c, Lipschitz and bounded gradients, up to rounding."""
        xp = namespace(self.g)
        moved = self.s * (_size(self.pair.product_step) + self.pair.slip)
        allowed = (1 + self.eps) * self.L * moved + self.eps * self.G
        smooth = _size(self.g - self.h) <= allowed
        tops = (
            xp.linalg.matrix_norm(x, ord=2) <= (1 + self.eps) * self.G for x in (self.g, self.h)
        )
        bounded = xp.logical_and(*tops)
        return xp.logical_and(self.pair.held, xp.logical_and(smooth, bounded))


def steepness(
    case: str,
    slope: Slope,
    constant: float,
    norm: str,
    displacement: str | None = None,
    **params: Value,
) -> Row:
    """Return the worst row |grad phi(w) - grad phi(w')| <= constant |w - w'|.

    Gradients in `norm`, the step in `displacement`, the same norm unless it is named.

    Rounding: each gradient block is s times a product of size c G, off by `eps` of that; the
    slack that `held` leaves to |g - h| enters times s c.
    """
    bound = constant * blocks(slope.pair.step, displacement or norm)
    scale = slope.s * slope.c
    rounding = 4 * scale * (slope.eps * slope.G + slope.L * slope.s * slope.pair.slip)
    return at_most(
        f"{case} {norm}, {slope.pair.family}",
        blocks(slope.change, norm),
        bound,
        rounding=rounding + slope.eps * bound,
        held=slope.held,
        **slope.pair.params,
        norm=norm,
        **params,
    )


def random_slopes(rng: np.random.Generator, pair: Pair, L: float, G: float, s: float) -> Slope:
    """Return each pair three times: with g - h along W - W', against it, and along a random matrix.

    h has singular values up to 1.5 G before both gradients are projected onto |.|_op <= G, which
    does not increase |g - h|_F.
    """
    xp = namespace(pair.start.B)
    move = s * pair.product_step
    noise = convert(rng.standard_normal(tuple(move.shape)), move)
    other = _size(move)[:, None, None] * _unit(noise)
    h = convert(rng.standard_normal((3 * move.shape[0], *move.shape[1:])), move)
    h = 1.5 * G * h / xp.linalg.matrix_norm(h, ord=2, keepdims=True)
    g = h + L * xp.concat([move, -move, other])
    start, end = (p.map(lambda X: xp.concat([X, X, X])) for p in (pair.start, pair.end))
    thrice = pair._replace(start=start, end=end)
    return Slope(thrice, clip(g, G), clip(h, G), L, G, s)


def extremal(
    ctx: Context,
    d: int,
    k: int,
    r: int,
    *,
    L: float,
    c: float,
    G: float,
    s: float,
    shrink: float = STEP,
) -> Slope:
    """Return T3's slope: f(W) = h(W_11), h' clipped to [-G, G], at A = B = c E_11 moving to 0.

    h'(x) = clip(L (x - x0), -G, G) with x0 = s c^2 - G / L, so that h' = G at the start.
    """
    B = c * np.eye(d, 1) @ np.eye(1, r)
    A = c * np.eye(r, 1) @ np.eye(1, k)
    pair = pair_of(ctx, "Huber", c, (B, A), ((1 - shrink) * B, (1 - shrink) * A))
    f = PROBLEMS["P9"](d=d, k=k, L=L, G=G, x0=s * c**2 - G / L)
    g, h = (f.grad(s * product(point)) for point in (pair.start, pair.end))
    return Slope(pair, g, h, L, G, s)


def climb(
    ctx: Context,
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    norm: str,
    restarts: int,
    *,
    L: float,
    c: float,
    G: float,
    s: float,
    displacement: str | None = None,
    rounds: int = 40,
) -> Slope:
    """Return the steepest slopes found from random starts, by alternating maximization.

    The gradient is taken in `norm`, the step in `displacement`, the same unless it is named.
    For an infinitesimal step (dB, dA) at (B, A) with gradient g and its change dg, |dg| at most
    L s |dB A + B dA|, the change of the factor gradient is s (dB' g + B' dg, dg A' + g dA'). Its
    norm is convex in each of B, A, g, dg and (dB, dA); each in turn is replaced by the maximizer
    of the norm's linearization over its ball, which never lowers the norm. In the end the step is
    made finite, of length `STEP` c, with ends that keep to the assumptions.
    """
    d, k, r = shape
    B, A, g, dg, dB, dA = (
        ctx.array(rng.standard_normal((restarts, *size)))
        for size in ((d, r), (r, k), (d, k), (d, k), (d, r), (r, k))
    )
    B = c * polar(B)
    A = c * polar(A)
    g = G * polar(g)
    step = _maximizer(Factors(dB, dA), displacement or norm)
    dg = _unit(dg)
    for _ in range(rounds):
        dW = step.B @ A + B @ step.A
        size = L * s * _size(dW)[:, None, None]
        change = Factors(
            size * dg @ transpose(A) + g @ transpose(step.A),
            transpose(step.B) @ g + transpose(B) @ (size * dg),
        )
        R = _maximizer(change, DUAL[norm])
        pull = B @ R.A + R.B @ A
        dg = _unit(pull)
        weight = L * s * _size(pull)[:, None, None]
        along = weight * _unit(dW)  # the derivative of |dg| |pull| = L s |dW| |pull| in dW
        g = G * polar(step.B @ R.A + R.B @ step.A)
        toward = Factors(
            g @ transpose(R.A) + along @ transpose(A), transpose(R.B) @ g + transpose(B) @ along
        )
        B, A = (
            c * polar(size * dg @ transpose(R.A) + along @ transpose(step.A)),
            c * polar(transpose(R.B) @ (size * dg) + transpose(step.B) @ along),
        )
        step = _maximizer(toward, displacement or norm)
    return _finite(Factors(B, A), step, g, dg, L=L, c=c, G=G, s=s)


def _finite(
    middle: Factors, step: Factors, g: Any, dg: Any, *, L: float, c: float, G: float, s: float
) -> Slope:
    """Return the slope of a finite step around `middle`, all of it inside the assumptions."""
    half = STEP * c / 2
    middle = middle.map(lambda X: (1 - STEP / 2) * X)  # sigma_1 + |half step| <= c
    reach = step.map(lambda X: half * X)
    pair = Pair("searched", c, start=middle.map(add, reach), end=middle.map(sub, reach))
    change = L * s * _size(pair.product_step)[:, None, None] * dg / 2
    g = g * (1 - _size(change) / G)[:, None, None]
    return Slope(pair, g + change, g - change, L, G, s)


DUAL = {"sum": "max", "max": "sum", "euclid": "euclid"}


def _maximizer(X: Factors, norm: str) -> Factors:
    """Return the pair of blocks with `norm` one that maximizes the inner product with X."""
    xp = namespace(X.B)
    b, a = (_size(part)[:, None, None] for part in X)
    if norm == "euclid":
        return X.map(lambda part: part / xp.hypot(b, a))
    B = _unit(X.B)
    A = _unit(X.A)
    if norm == "max":
        return Factors(B, A)
    return Factors(xp.where(b > a, B, 0 * B), xp.where(b > a, 0 * A, A))


def _size(X: Any) -> Any:
    """Return |X|_F, [instances]."""
    return namespace(X).linalg.matrix_norm(X, ord="fro")


def _unit(X: Any) -> Any:
    """Return X / |X|_F, and 0 for 0."""
    size = _size(X)[:, None, None]
    return X / namespace(X).where(size > 0, size, 1 + size)


def stored(slope: Slope, **extra: Any) -> dict[str, Any]:
    """Return one slope as plain numbers and lists."""
    letters = {"L": slope.L, "G": slope.G, "s": slope.s}
    gradients = {"g": pairs.first(slope.g), "h": pairs.first(slope.h)}
    return pairs.stored(slope.pair, **letters, **gradients, **extra)


def load(instance: Mapping[str, Any]) -> Slope:
    """Return a stored slope."""
    g, h = (np.array(instance[name])[None] for name in ("g", "h"))
    return Slope(pairs.load(instance), g, h, *(instance[name] for name in ("L", "G", "s")))
