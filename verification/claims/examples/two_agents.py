"""W3: a worked example of decentralized SGD in exact fractions."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from math import sqrt
from typing import NamedTuple

from decaf_theory import bounds, moments
from verification.claim import Claim, Context, Instance, Row, compare, identity
from verification.instances.mixes import EPS
from verification.instances.quadratics import Case, load, network, stored

LR, SELF, OTHER = Fraction(1, 4), Fraction(3, 4), Fraction(1, 4)
EXACT = {"gradient": Fraction(1, 14), "consensus": Fraction(27, 550)}
ZERO, STEPS = Fraction(0), 24


def rows(ctx: Context) -> Iterator[Row]:
    r"""Two agents, f = (x -+ 1)^2/2: E|grad F|^2 tends to 1/14 and E Xi to 27/550.

    $\Pi = [[3/4, 1/4], [1/4, 3/4]]$, $\alpha = 1/4$, noise of variance 1, order MS, start 0. The
    terms of T25 are $\alpha L \sigma^2/N = 1/8$ and $E \Xi \le (1 + 1/\sqrt 6)^2/9 = 0.2204$.

    Assumptions: $L = \sigma = \kappa = 1$, $\lambda = 1/2$, $q = 1$, $S = 1/3$,
    $\alpha L q = 1/4$.

    Proof: the mean point obeys $\bar x^+ = \frac34 \bar x + \frac14 n$ with $E n^2 = 1/2$: its
    variance tends to $\frac{1/32}{7/16} = 1/14$, and $\nabla F = \bar x$. Half the difference
    obeys $u^+ = \frac12 (\frac34 u + \frac14 + \frac14 n')$ with $E n'^2 = 1/2$: its mean tends to
    $\frac{1/8}{5/8} = 1/5$, its variance to $\frac{1/128}{55/64} = 1/110$, and
    $1/25 + 1/110 = 27/550$.

    Source: derived here; fractions, and the recursion of T27 in float64.
    """
    case = load(example())
    rest = moments.limit(case.recursion("MS"))
    squares = moments.quantities(case.problem)
    limits = {name: moments.expectation(squares[name], rest).item() for name in EXACT}
    for name, value in EXACT.items():
        # 2 agents; the eigenvalues 3/4 and 3/8 leave a condition number below 4
        yield identity(f"limit of {name}", limits[name] - float(value), rounding=16 * EPS)
    yield from _in_fractions()
    yield from _step_by_step(case)
    yield from _terms(case, limits)


def _in_fractions() -> Iterator[Row]:
    """Yield that the fractions are a fixed point of the recursion, exactly."""
    own = Fraction(1, 14) + Fraction(1, 110)
    shared = Fraction(1, 14) - Fraction(1, 110)
    rest = Exact((Fraction(1, 5), Fraction(-1, 5)), ((own, shared), (shared, own)))
    for name, value in EXACT.items():
        after = measured(exact_step(rest))[name]
        yield identity(f"fixed point, {name}", after - value, rounding=0.0)


class Exact(NamedTuple):
    """Mean and covariance of the two points in fractions."""

    m: tuple[Fraction, ...]
    C: tuple[tuple[Fraction, ...], ...]


def exact_step(state: Exact) -> Exact:
    """Return mean and covariance one round later: a local step, then a mix."""
    Pi, both = ((SELF, OTHER), (OTHER, SELF)), range(2)
    local = [(1 - LR) * m + LR * slope for m, slope in zip(state.m, (1, -1), strict=True)]
    moved = [[(1 - LR) ** 2 * state.C[i][j] + (i == j) * LR**2 for j in both] for i in both]
    half = [[sum((Pi[i][a] * moved[a][j] for a in both), ZERO) for j in both] for i in both]
    return Exact(
        tuple(sum((Pi[i][j] * local[j] for j in both), ZERO) for i in both),
        tuple(tuple(sum((half[i][b] * Pi[j][b] for b in both), ZERO) for j in both) for i in both),
    )


def measured(state: Exact) -> dict[str, Fraction]:
    """Return the four quantities of `moments.quantities` in fractions."""
    (m1, m2), ((C11, C12), (_, C22)) = state
    gradient = ((m1 + m2) / 2) ** 2 + (C11 + 2 * C12 + C22) / 4
    consensus = ((m1 - m2) / 2) ** 2 + (C11 - 2 * C12 + C22) / 4
    return {
        "gradient": gradient,
        "consensus": consensus,
        "heterogeneity": Fraction(1),
        "gap": gradient / 2,
    }


def _step_by_step(case: Case) -> Iterator[Row]:
    """Yield that the recursion in float64 is the one in fractions, at each of 24 steps."""
    squares = moments.quantities(case.problem)
    found = moments.trace(case.recursion("MS"), case.start, squares, STEPS)
    worst, state = dict.fromkeys(squares, 0.0), Exact((ZERO, ZERO), ((ZERO, ZERO), (ZERO, ZERO)))
    for t in range(STEPS):
        for name, value in measured(state).items():
            worst[name] = max(worst[name], abs(found[name][0, t].item() - float(value)))
        state = exact_step(state)
    for name, error in worst.items():
        yield identity(f"{name} in fractions", error, rounding=4 * STEPS * EPS, T=STEPS)


def _terms(case: Case, limits: dict[str, float]) -> Iterator[Row]:
    """Yield the terms of the bound in closed form, and the bound on the limits."""
    net = network(case.Pi, "MS")
    noise = bounds.dsgd_rate(F_gap=0.0, lr=0.25, T=1, L=1.0, sigma=1.0, N=2, Xi=0.0)
    consensus = bounds.consensus_bound(lr=0.25, L=1.0, sigma=1.0, kappa=1.0, N=2, q=net.q, S=net.S)
    yield identity("lr L sigma^2 / N = 1/8", noise - 1 / 8, rounding=4 * EPS)
    # lam from an eigenvalue solver: a few eps, times the slope of the bound, below 10
    closed = (1 + 1 / sqrt(6)) ** 2 / 9
    yield identity("(1 + 1/sqrt 6)^2 / 9", consensus - closed, rounding=40 * EPS)
    yield compare("limit of E Xi", limits["consensus"], "<=", consensus, rounding=40 * EPS)
    pair = limits["gradient"], "<=", noise + consensus
    yield compare("limit of E|grad F|^2", *pair, rounding=40 * EPS)


def example() -> Instance:
    """Return W3 as a stored case."""
    one = [[[1.0]], [[1.0]]]
    Pi = [[float(SELF), float(OTHER)], [float(OTHER), float(SELF)]]
    return stored(one, [[1.0], [-1.0]], Pi, float(LR), [0.0], one)


CLAIMS = [
    Claim(
        "W3",
        "examples",
        "derived",
        rows,
        bounds=(bounds.dsgd_rate, bounds.consensus_bound),
        loose="a worked example, far from the worst case",
        not_attacked="a worked example in exact numbers",
    )
]
