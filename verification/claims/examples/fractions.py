"""W1 and W2: one mix and one mixing-and-step, small enough for exact fractions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from decaf_theory.arrays import host
from decaf_theory.lowrank import Factors, mix_factors, mix_products, product
from decaf_theory.measure import (
    interference,
    interference_norm,
    product_distance,
    truncation_error,
)
from decaf_theory.problems.approximation import approximation
from decaf_theory.simulate import Config, visits
from decaf_theory.tsvd import tsvd_of_mix
from verification.claim import Claim, Context, Row
from verification.evidence import same, ulps

Matrix = Sequence[Sequence[Fraction]]


def orthogonal_pair(pi: Fraction) -> dict[str, Fraction]:
    """Return the squared norms for products E_11, E_22 with weights pi >= 1/2 and 1 - pi, r = 1.

    M = diag(pi, 1 - pi), Bbar Abar = (pi, 1 - pi)'(pi, 1 - pi), P = diag(pi, 0).
    """
    rho = 1 - pi
    M = ((pi, Fraction(0)), (Fraction(0), rho))
    Q = ((pi * pi, pi * rho), (rho * pi, rho * rho))
    P = ((pi, Fraction(0)), (Fraction(0), Fraction(0)))
    return {
        "|I|_F^2": _squared_distance(M, Q),
        "|E|_F^2": _squared_distance(M, P),
        "|P - Bbar Abar|_F^2": _squared_distance(P, Q),
    }


def _squared_distance(X: Matrix, Y: Matrix) -> Fraction:
    return sum(
        ((x - y) ** 2 for rows in zip(X, Y, strict=True) for x, y in zip(*rows, strict=True)),
        Fraction(0),
    )


def measured_pair(ctx: Context, pi: Fraction, d: int, k: int) -> dict[str, float]:
    """Return the same three numbers by the library, on products E_11, E_22 of size d x k."""
    B = np.zeros((2, d, 1))
    A = np.zeros((2, 1, k))
    B[0, 0] = B[1, 1] = A[0, 0, 0] = A[1, 0, 1] = 1.0
    factors = Factors(ctx.array(B), ctx.array(A))
    Pi = ctx.array([[float(pi), float(1 - pi)]])
    truncated = tsvd_of_mix(factors, Pi, 1)
    return {
        "|I|_F^2": float(interference_norm(factors, Pi)[0]) ** 2,
        "|E|_F^2": float(truncation_error(truncated)[0]) ** 2,
        "|P - Bbar Abar|_F^2": float(
            product_distance(truncated.factors, mix_factors(factors, Pi))[0]
        )
        ** 2,
    }


def one_mix(ctx: Context) -> Iterator[Row]:
    r"""Two orthogonal products with weights 2/3 and 1/3: every quantity of one mix in fractions.

    $r = 1$, products $E_{11}$ and $E_{22}$: $M = \mathrm{diag}(\frac23, \frac13)$,
    $\bar B \bar A = \frac19 (2, 1)'(2, 1)$, $\|I\|_F^2 = \frac{16}{81}$, $\|E\|_F^2 = \frac19$,
    $\|P - \bar B \bar A\|_F^2 = \frac{13}{81}$. With weights $\pi \ge \frac12$ and $1 - \pi$:
    $4 \pi^2 (1 - \pi)^2$, $(1 - \pi)^2$ and $(1 - \pi)^2 (3 \pi^2 + (1 - \pi)^2)$.

    Assumptions: none beyond the instance.

    Proof: direct computation in fractions, from the definitions.

    Source: derived here.
    """
    stated = {
        "|I|_F^2": Fraction(16, 81),
        "|E|_F^2": Fraction(1, 9),
        "|P - Bbar Abar|_F^2": Fraction(13, 81),
    }
    for name, value in orthogonal_pair(Fraction(2, 3)).items():
        yield same(f"{name} in fractions", value - stated[name], rounding=0.0, pi=2 / 3)
    for pi in (Fraction(2, 3), Fraction(3, 5), Fraction(9, 10)):
        rest = 1 - pi
        formulas = (4 * pi**2 * rest**2, rest**2, rest**2 * (3 * pi**2 + rest**2))
        for d, k in ((2, 2), (4, 3)):
            found = measured_pair(ctx, pi, d, k)
            exact = orthogonal_pair(pi)
            for (name, value), formula in zip(exact.items(), formulas, strict=True):
                where = {"pi": float(pi), "d": d, "k": k, "r": 1}
                case = f"{name}, formula in fractions"
                yield same(case, value - formula, rounding=0.0, **where)
                # squares of norms of numbers below one, each off by some eps
                gap = Fraction(found[name]) - value
                yield same(f"{name}, library", gap, rounding=ulps(20 * max(d, k)), **where)


def one_round(ctx: Context) -> Iterator[Row]:
    r"""Scalars (1, 1) and (2, 1/2), both of product 1 at target 1: DLoRA leaves, DeCAF stays.

    $(a, b) = (1, 1), (2, \frac12)$, weights 1/2, $f(w) = \frac12 (w - 1)^2$, step size 1/4:
    $I = -\frac18$; DLoRA mixes to $\frac98$ and after one step holds $\frac{8505}{8192}$; DeCAF
    stays at 1.

    Assumptions: none beyond the instance.

    Proof: direct computation; all numbers are dyadic, so floating point is exact (but for square
    roots of weights in $I$).

    Source: derived here.
    """
    A = ctx.array([1.0, 2.0])[:, None, None]
    B = ctx.array([1.0, 0.5])[:, None, None]
    factors = Factors(B, A)
    Pi = ctx.array([[0.5, 0.5]])
    lost = float(host(interference(factors, Pi))[0, 0, 0])
    # the library takes square roots of the weights 1/2
    yield same("I = -1/8", Fraction(lost) + Fraction(1, 8), rounding=ulps(4))
    mean = float(host(mix_products(factors, Pi))[0, 0, 0])
    yield same("M = 1", Fraction(mean) - 1, rounding=0.0)
    expected = {
        "dlora": (Fraction(9, 8), Fraction(8505, 8192)),
        "decaf": (Fraction(1), Fraction(1)),
    }
    for method, (mixed, stepped) in expected.items():
        config = Config(
            problem=approximation(np.ones((2, 1, 1))),
            method=method,
            Pi=np.full((2, 2), 0.5),
            start=factors,
            lr=0.25,
            steps=1,
            order="mix_first",
        )
        first, last = visits(config)
        assert last.mix.before is not None  # what the step made of the first mix
        for case, Z, value in (
            ("mixed", first.factors, mixed),
            ("after a step", last.mix.before, stepped),
        ):
            found = float(host(product(Z))[0, 0, 0, 0])
            gap = Fraction(found) - value
            yield same(f"{method} {case} = {value}", gap, rounding=0.0, method=method)


CLAIMS = [
    Claim("W1", "examples", "derived", one_mix, not_attacked="a worked example in exact numbers"),
    Claim("W2", "examples", "derived", one_round, not_attacked="a worked example in exact numbers"),
]
