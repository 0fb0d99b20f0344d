"""W3: a worked example of decentralized SGD in exact fractions."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from math import sqrt
from typing import NamedTuple

from decaf_theory import bounds, moments
from verification.claim import Claim, Context, Instance, Row
from verification.evidence import at_most, same, ulps
from verification.instances.quadratics import Case, load, network, stored

LR = Fraction(1, 4)
SELF = Fraction(3, 4)
OTHER = Fraction(1, 4)
EXACT = {"gradient": Fraction(1, 14), "consensus": Fraction(27, 550)}
ZERO = Fraction(0)
STEPS = 24


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
        yield same(f"limit of {name}", limits[name] - float(value), rounding=ulps(16))
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
        yield same(f"fixed point, {name}", after - value, rounding=0.0)


class Exact(NamedTuple):
    """Mean and covariance of the two points in fractions."""

    m: tuple[Fraction, ...]
    C: tuple[tuple[Fraction, ...], ...]


def exact_step(state: Exact) -> Exact:
    """Return mean and covariance one round later: a local step, then a mix."""
    stay = 1 - LR
    m1 = stay * state.m[0] + LR
    m2 = stay * state.m[1] - LR
    (C11, shared), (_, C22) = state.C
    # each agent's own noise has variance 1
    C11 = stay**2 * C11 + LR**2
    C22 = stay**2 * C22 + LR**2
    shared = stay**2 * shared
    # Pi C Pi': the rows, then the columns; Pi and C are symmetric
    first = _mixed((C11, shared))
    second = _mixed((shared, C22))
    columns = [_mixed(pair) for pair in zip(first, second, strict=True)]
    return Exact(_mixed((m1, m2)), tuple(zip(*columns, strict=True)))


def _mixed(pair: tuple[Fraction, ...]) -> tuple[Fraction, ...]:
    """Return Pi times a pair of numbers."""
    x, y = pair
    return SELF * x + OTHER * y, OTHER * x + SELF * y


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
    worst = dict.fromkeys(squares, 0.0)
    state = Exact((ZERO, ZERO), ((ZERO, ZERO), (ZERO, ZERO)))
    for t in range(STEPS):
        for name, value in measured(state).items():
            worst[name] = max(worst[name], abs(found[name][0, t].item() - float(value)))
        state = exact_step(state)
    for name, error in worst.items():
        # a step rounds sums of two numbers of size one
        yield same(f"{name} in fractions", error, rounding=ulps(4 * STEPS), T=STEPS)


def _terms(case: Case, limits: dict[str, float]) -> Iterator[Row]:
    """Yield the terms of the bound in closed form, and the bound on the limits."""
    net = network(case.Pi, "MS")
    noise = bounds.dsgd_rate(F_gap=0.0, lr=0.25, T=1, L=1.0, sigma=1.0, N=2, Xi=0.0)
    consensus = bounds.consensus_bound(lr=0.25, L=1.0, sigma=1.0, kappa=1.0, N=2, q=net.q, S=net.S)
    # the formula takes four operations
    yield same("lr L sigma^2 / N = 1/8", noise - 1 / 8, rounding=ulps(4))
    # lam from an eigenvalue solver: a few eps, times the slope of the bound, below 10
    closed = (1 + 1 / sqrt(6)) ** 2 / 9
    yield same("(1 + 1/sqrt 6)^2 / 9", consensus - closed, rounding=ulps(40))
    yield at_most("limit of E Xi", limits["consensus"], consensus, rounding=ulps(40))
    yield at_most("limit of E|grad F|^2", limits["gradient"], noise + consensus, rounding=ulps(40))


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
        loose="a worked example, not the worst case: it reaches 0.22 of its bound",
        not_attacked="a worked example in exact numbers",
        reaches={
            "limit of E Xi": 0.22,
            "limit of E|grad F|^2": 0.2,
        },
    )
]
