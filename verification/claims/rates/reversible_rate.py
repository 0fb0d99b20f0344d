"""T37-reversible-rate, T37-uniform: what D-SGD minimizes where agents count by their data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from decaf_theory import bounds, moments
from decaf_theory.arrays import host
from decaf_theory.topology import TOPOLOGIES, reversible
from verification.claim import Claim, Context, Instance, Row
from verification.claims.rates.reversible import (
    GRAPHS,
    Weighing,
    flat,
    limits,
    random_case,
    squares_of,
    weighing,
)
from verification.evidence import at_most, attained
from verification.instances import descent
from verification.instances.omega import each
from verification.instances.quadratics import Case, constants, load, stored


def of_the_rate(ctx: Context) -> Iterator[Row]:
    r"""Reversible mixing: D-SGD minimizes the weighted sum, at the rate of T25.

    With the letters of T37-reversible and order MS, T25 and T25-sharp bound
    $\frac1T \sum_{t<T} E|\nabla F(\bar x_t)|^2$ for $F = \sum_i \pi_i f_i$ and
    $\bar x = \sum_i \pi_i x_i$, with $\sigma^2 \sum_i \pi_i^2$ for $\sigma^2/N$ and the weighted
    $\Xi$, which T37-reversible bounds.

    Assumptions: those of T25-sharp, for the weighted means; with the bound on $\Xi$ those of
    T37-reversible.

    Proof: $\pi' P = \pi'$, so that $\bar x^+ = \bar x - \alpha (h + n)$ with
    $h = \sum_i \pi_i \nabla f_i(x_i)$, $E|n|^2 \le \sigma^2 \sum_i \pi_i^2$ for noise that is
    independent among agents, and $|h - \nabla F(\bar x)|^2 \le \sum_i \pi_i
    |\nabla f_i(x_i) - \nabla f_i(\bar x)|^2 \le L^2 \Xi$ by Jensen. $F$ is $L$-smooth. The descent
    of T25-sharp asks for no more.

    Extremal: equal quadratics and $P = 1\pi'$, as $T \to \infty$: descent alone, noise alone.

    Source: derived here.
    """
    for name, N in GRAPHS:
        target = 10.0 ** ctx.rng("target", name).uniform(-1, 1, N)
        P = reversible(TOPOLOGIES[name](N), target)
        yield from rate_rows(random_case(ctx, name, P, target), target, 16)
    for extremal in (equal(noise=0.0), equal(noise=1.0), equal(0.5, noise=1.0)):
        yield from attained(replay_rate(extremal))


def rate_rows(case: Case, target: Any, steps: int) -> Iterator[Row]:
    """Yield the rate with measured and with bounded Xi."""
    net = weighing(case.Pi, target)
    squares = squares_of(case.problem, net.pi)
    rounds = [case.recursion("MS")] * steps
    found, kappa = descent.descent_along(case, case.start, rounds, squares)
    u = host(case.lr) * constants(case).L
    yield _rate_row("measured Xi", case, net, found, steps, found.Xi, u < 2)
    held = u * net.q < 1
    yield _rate_row(
        "bound on Xi", case, net, found, steps, np.where(held, limits(case, net, kappa), 0.0), held
    )


def _rate_row(
    name: str,
    case: Case,
    net: Weighing,
    found: descent.Descent,
    steps: int,
    Xi: np.ndarray,
    held: np.ndarray,
) -> Row:
    gap = host(moments.expectation(moments.optimality_gap(case.problem, net.pi), case.start))
    letters = constants(case)
    bound = each(
        bounds.dsgd_sharp,
        F_gap=np.where(np.isfinite(gap), gap, 0.0),
        T=steps,
        N=1,
        L=letters.L,
        sigma=letters.sigma * np.linalg.norm(net.pi),
        lr=host(case.lr),
        Xi=Xi,
    )
    held = held & np.isfinite(gap) & np.isfinite(bound)
    return at_most(
        f"mean gradient, weighted, {name}",
        found.gradient,
        np.where(held, bound, 0.0),
        rounding=found.slip,
        held=held,
        T=steps,
        **case.params,
    )


def equal(u: float = 1.0, noise: float = 0.0) -> Instance:
    """Return three agents of weights 5, 2 and 1 with f = x^2/2, started at 1 - noise, lr = u."""
    target = [5.0, 2.0, 1.0]
    one = np.ones((3, 1, 1))
    P = flat(target, 0.0)  # else noise makes agents differ
    case = stored(one, [[0.0]] * 3, P, u, [1.0 - noise], noise * one, periods=2**30)
    return {**case, "target": target}


def replay_rate(instance: Instance) -> Row:
    """Return the row of one stored case with the measured Xi."""
    case = load(instance)
    net = weighing(case.Pi, instance["target"])
    squares = squares_of(case.problem, net.pi)
    steps = instance["periods"]
    found = descent.descent_over_periods(case.start, [case.recursion("MS")], squares, steps)
    held = host(case.lr) * constants(case).L < 2
    return _rate_row("measured Xi", case, net, found, steps, found.Xi, held)


# ---------------------------------------------------------------- a reading that is false


def uniform(ctx: Context) -> Iterator[Row]:
    r"""Reversible mixing: D-SGD minimizes the plain mean of the losses, at the rate of T25.

    Rows of the mixing matrix sum to one, but its columns do not.

    Assumptions: those of T25, but for columns of $P$ that sum to one.

    Counterexample: two agents, $f_i = (x \mp 1)^2/2$, $\pi = (3/4, 1/4)$ and
    $P_{ij} = \frac12 \min(1, \pi_j/\pi_i)$, no noise, started at the minimizer 0 of the plain mean:
    the agents settle about $\sum_i \pi_i (\pm 1) = 1/2$ as $\alpha \to 0$.

    Source: derived here; T37-reversible-rate is true instead.
    """
    yield replay_uniform(two_weights())


def two_weights(lr: float = 1 / 16, steps: int = 2**10) -> Instance:
    """Return the pair of agents of weights 3/4 and 1/4."""
    target = [3.0, 1.0]
    P = reversible(np.full((2, 2), 0.5), target)
    case = stored(np.ones((2, 1, 1)), [[1.0], [-1.0]], P, lr, [0.0], steps=steps)
    return {**case, "target": target}


def replay_uniform(instance: Instance) -> Row:
    """Return the averaged gradient of the plain mean against T25 with the plain Xi."""
    case = load(instance)
    steps = instance["steps"]
    rounds = [case.recursion("MS")] * steps
    squares = descent.squares_of(case.problem)
    found, _ = descent.descent_along(case, case.start, rounds, squares)
    letters = constants(case)
    bound = each(
        bounds.dsgd_rate,
        F_gap=letters.F_gap,
        T=steps,
        N=case.problem.N,
        L=letters.L,
        sigma=letters.sigma,
        lr=host(case.lr),
        Xi=found.Xi,
    )
    return at_most(
        "mean gradient, plain", found.gradient, bound, rounding=found.slip, T=steps, **case.params
    )


def attacks_on_the_rate() -> dict[str, Any]:
    """Return the attacks on T37-reversible-rate."""
    from verification.attacks.descent import weighted_rate

    skewed = [5.0, 2.0, 1.0]
    return {"path of 3": weighted_rate(reversible(TOPOLOGIES["path"](3), skewed), skewed)}


CLAIMS = [
    Claim(
        "T37-reversible-rate",
        "rates",
        "derived",
        of_the_rate,
        bounds=(bounds.dsgd_sharp,),
        attacks=attacks_on_the_rate,
        replay=replay_rate,
        instance=equal,
        reaches={
            "mean gradient, weighted, measured Xi": 1,
            "mean gradient, weighted, bound on Xi": 0.13,
        },
    ),
    Claim(
        "T37-uniform",
        "rates",
        "derived",
        uniform,
        expected="violated",
        replay=replay_uniform,
        instance=two_weights,
        script="T37-uniform",
        chosen_bound=True,
    ),
]
