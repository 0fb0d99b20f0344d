"""T35-rate, T36-rate, T37-rate: what local steps, momentum and changing graphs do to the rate."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from decaf_theory import bounds, moments
from decaf_theory.arrays import convert, namespace
from verification.claim import Claim, Context, Instance, Row, Value
from verification.claims.rates import local_steps, momentum, random_rounds, time_varying
from verification.evidence import at_least, attained
from verification.instances.consensus import Step, shortened
from verification.instances.descent import (
    bounded_row,
    descent_along,
    descent_over_periods,
    sharp_row,
    squares_of,
)
from verification.instances.laws import Law
from verification.instances.quadratics import Case, Network, cases, load, size, stored


def after_local_steps(ctx: Context) -> Iterator[Row]:
    r"""K local steps a round: the rate is that of K times as many steps, at all local points.

    Order MS, $T$ rounds of $K$ steps. T25 and T25-sharp bound
    $\frac{1}{KT} \sum E|\nabla F(\bar x)|^2$ over all $KT$ points where gradients are taken, with
    $KT$ for $T$ and the average of $E \Xi$ over the same points; T35 bounds each of these.

    Assumptions: those of T25-sharp; with the bound on $\Xi$ those of T35.

    Proof: mixing keeps the mean, so that at every local step $\bar x^+ = \bar x - \alpha (h + n)$
    with $h = \frac1N \sum_i \nabla f_i(x_i)$, $E|n|^2 \le \sigma^2/N$ and
    $|h - \nabla F(\bar x)|^2 \le L^2 \Xi$: the descent of T25-sharp, which asks for no more.

    Extremal: descent alone, $f_i = L |x|^2/2$, any $K$ and graph, as $T \to \infty$; for $K = 1$
    those of T25-sharp.

    Source: derived here.
    """
    K = 3
    for case in cases(ctx, "MS", instances=ctx.pick(2, 16)):
        yield from local_rows(shortened(case, local_steps.network_of(case, K)), K, 8)
    for u in (0.5, 1.0, 1.5):
        yield from attained(replay_local_steps({**parabola(u), "K": 5}))


def local_rows(case: Case, K: int, rounds: int) -> Iterator[Row]:
    """Yield the rate with measured and with bounded Xi."""
    period = local_period(case, K) * rounds
    found, kappa = descent_along(case, case.start, period, squares_of(case.problem))
    net = local_steps.network_of(case, K)
    where = {"K": K, **case.params}
    yield sharp_row(case, found, len(period), case.lr, **where)
    yield bounded_row(bounds.dsgd_sharp, case, net, found, kappa, len(period), **where)


def local_period(case: Case, K: int) -> list[moments.Recursion]:
    """Return the K steps of a round, the last of which mixes."""
    step = moments.local_step(case.problem, case.lr)
    return [step] * (K - 1) + [moments.compose(step, moments.mixing(case.Pi, case.problem))]


def parabola(u: float = 0.5, periods: int = 2**30) -> Instance:
    """Return two agents with f = x^2/2, started at 1, lr = u."""
    Pi = [[0.75, 0.25], [0.25, 0.75]]
    return stored(np.ones((2, 1, 1)), [[0.0]] * 2, Pi, u, [1.0], periods=periods)


def local_descent() -> Instance:
    """Return `parabola` with five local steps a round."""
    return {**parabola(), "K": 5}


def replay_local_steps(instance: Instance) -> Row:
    """Return the row of one stored case with the measured Xi."""
    case = load(instance)
    period = local_period(case, instance["K"])
    steps = len(period) * instance["periods"]
    squares = squares_of(case.problem)
    found = descent_over_periods(case.start, period, squares, instance["periods"])
    return sharp_row(case, found, steps, case.lr, K=instance["K"])


def with_momentum(ctx: Context) -> Iterator[Row]:
    r"""Local momentum beta: the rate for the step alpha/(1 - beta), at a point ahead.

    Steps as in T36, $z = \bar x - \frac{\alpha\beta}{1-\beta} \bar v$, $a = \alpha/(1-\beta)$.
    T25-sharp bounds $\frac1T \sum_{t<T} E|\nabla F(z_t)|^2$ with $a$ for $\alpha$ and the distance
    of the agents from $z$ for $\Xi$: $\frac1N \sum_i |x_i - z|^2 =
    \Xi + \left(\frac{\alpha\beta}{1-\beta}\right)^2 |\bar v|^2$. The second part is not small: with
    $\Xi$ alone both T25 and T25-sharp are false at $u = aL = 1$, $\beta = 9/10$ (by a factor of
    43 in descent alone), and T25-sharp is at $u = \beta = 1/2$. If $u + 2
    \left(\frac{u\beta}{1-\beta}\right)^2 \le 1$, T25 holds with $\Xi + \frac{2 (a\beta)^2
    \sigma^2}{N (1 - \beta^2)}$ for $\Xi$, which T36 bounds.

    Assumptions: those of T25-sharp for the step $a$; with the bound on $\Xi$ those of T36.

    Proof: $\bar v^+ = \beta \bar v + h + n$ and $\bar x^+ = \bar x - \alpha \bar v^+$ give
    $z^+ = \bar x - (\alpha + a\beta) \bar v^+ = \bar x - a \bar v^+ = z - a (h + n)$; and
    $|h - \nabla F(z)|^2 \le \frac{L^2}{N} \sum_i |x_i - z|^2$.
    The descent lemma at $z$ is that of T25-sharp. Let $G^2, H^2, V^2$ be the averages of
    $E|\nabla F(z)|^2, E|h|^2, E|\bar v|^2$ and $s = \sigma/\sqrt N$. Where the descent of T25 keeps
    $|h|^2$: $G^2 + (1-u) H^2 \le R + L^2 \Xi + (u\beta)^2 V^2$, and
    $V \le H/(1-\beta) + s/\sqrt{1-\beta^2}$ as $\bar v$ sums past $h + n$ with weights $\beta^k$.
    So $V^2 \le 2H^2/(1-\beta)^2 + 2s^2/(1-\beta^2)$, and the condition on $u$ covers $H$.

    Extremal: descent alone, $f_i = L |x|^2/2$, as $u \to 0$ and then $T \to \infty$.

    Source: derived here.
    """
    beta = 0.5
    for case in cases(ctx, "MS", instances=ctx.pick(1, 12)):
        case = shortened(case, momentum.network_of(case, beta))
        # u is at most 1 - beta
        yield from momentum_rows(case._replace(lr=case.lr * (1 - beta) ** 2), beta, 20)
    for beta in (0.0, 0.5):
        yield from attained(replay_momentum(slow_descent(beta)))
    yield _without_the_lag()


def momentum_rows(case: Case, beta: float, steps: int) -> Iterator[Row]:
    """Yield the rates with the measured distance from z and with bounded Xi."""
    recursions = [momentum.heavy_ball(case, beta)] * steps
    start = momentum.without_momentum(case)
    found, kappa = descent_along(case, start, recursions, squares_at_z(case, beta))
    net = momentum.network_of(case, beta)
    where = {"beta": beta, **case.params}
    yield sharp_row(case, found, steps, case.lr / (1 - beta), **where)
    rate = partial(bounds.momentum_rate, beta=beta)
    yield bounded_row(rate, case, net, found, kappa, steps, **where)


def _without_the_lag() -> Row:
    """Return that Xi alone, 0 where agents are equal, gives no bound at beta = 9/10 and u = 1."""
    instance = {**parabola(0.1, periods=64), "beta": 0.9}
    row = replay_momentum(instance)
    alone = bounds.dsgd_sharp(F_gap=0.5, lr=1.0, T=64, L=1.0, sigma=0.0, N=2, Xi=0.0)
    slip = row.rounding / alone
    return at_least("over the bound with Xi alone", row.measured / alone, 1.0, rounding=slip)


def squares_at_z(case: Case, beta: float) -> dict[str, moments.Square]:
    """Return what is measured at z = xbar - w vbar of the points and momenta (x, v)."""
    at_mean = squares_of(case.problem)
    xp = namespace(case.problem.H)
    w = xp.asarray(case.lr * beta / (1 - beta))[..., None, None]
    gradient = at_mean["gradient"]
    apart = at_mean["Xi"]
    N = case.problem.N
    J = moments.with_identity(convert(np.full((N, N), N**-1.5), w), case.problem.p)
    points = size(case.problem)
    none = 0 * points.R + 0 * w
    rows_x, rows_v = ([points.R + none, none], [none, w * points.R])
    sizes = xp.concat([xp.concat(row, axis=-1) for row in (rows_x, rows_v)], axis=-2)

    def both(square: moments.Square, momenta: Any) -> moments.Square:
        R = xp.concat([square.R + 0 * w, momenta + 0 * w], axis=-1)
        return moments.Square(R, square.q + 0 * R[..., 0])

    return {
        "gradient": both(gradient, -w * gradient.R),
        "Xi": both(apart, w * J),
        "kappa": both(at_mean["kappa"], 0 * at_mean["kappa"].R),
        "size": moments.Square(2**0.5 * sizes, 0 * sizes[..., 0]),  # |x - w v|^2 is no more
    }


def slow_descent(beta: float = 0.5, u: float = 2.0**-22) -> Instance:
    """Return `parabola` with a step that momentum makes u."""
    return {**parabola(u * (1 - beta), periods=2**60), "beta": beta}


def replay_momentum(instance: Instance) -> Row:
    """Return the row of one stored case with the measured distance of the agents from z."""
    case = load(instance)
    beta = instance["beta"]
    steps = instance["periods"]
    period = [momentum.heavy_ball(case, beta)]
    start = momentum.without_momentum(case)
    found = descent_over_periods(start, period, squares_at_z(case, beta), steps)
    return sharp_row(case, found, steps, case.lr / (1 - beta), beta=beta)


def on_changing_graphs(ctx: Context) -> Iterator[Row]:
    r"""Mixing matrices that change, drawn at random or not: the rate of T25 with their Xi.

    $\Pi_t$ doubly stochastic, not necessarily symmetric. Order MS: T25 and T25-sharp hold with the
    average of $E \Xi_t$, which T37 and T37-random bound.

    Assumptions: those of T25-sharp, each $\Pi_t$ independent of all that came before and of the
    noise of step $t$; with the bound on $\Xi$ those of T37, or of T37-random.

    Proof: columns of $\Pi_t$ that sum to one keep the mean, whichever $\Pi_t$ it is, and whatever
    it was drawn from: $\bar x^+ = \bar x - \alpha (h + n)$. The descent of T25-sharp asks for no
    more, and its expectation is over the $\Pi_t$, too.

    Extremal: those of T25-sharp, with agents that are equal on every graph.

    Source: derived here.
    """
    name = "ring, star, path"
    case, Pis = time_varying.random_sequence(ctx, name, time_varying.SEQUENCES[name])
    Pis = Pis[:24]
    rounds = [moments.decentralized_sgd(case.problem, Pi, case.lr) for Pi in Pis]
    yield from _rows(case, time_varying.network_of(Pis), rounds, moments.advance, sequence=name)
    for name, law in random_rounds.various().items():
        case = random_rounds.random_case(ctx, name, law)
        yield from law_rows(case, law, 16, sequence=name)
    for u in (0.5, 1.0, 1.5):
        yield from attained(replay_changing(turning(u)))


def law_rows(case: Case, law: Law, steps: int, **where: Value) -> Iterator[Row]:
    """Yield the rates for rounds drawn from a law."""
    outcomes = moments.decentralized_sgd(case.problem, law.Pis[:, None], case.lr)
    step = partial(moments.advance_at_random, chances=law.chances)
    yield from _rows(case, random_rounds.network_of(law), [outcomes] * steps, step, **where)


def _rows(
    case: Case, net: Network, rounds: list[moments.Recursion], step: Step, **where: Value
) -> Iterator[Row]:
    """Yield the rate with measured and with bounded Xi."""
    found, kappa = descent_along(case, case.start, rounds, squares_of(case.problem), step)
    steps = len(rounds)
    yield sharp_row(case, found, steps, case.lr, **where)
    yield bounded_row(bounds.dsgd_sharp, case, net, found, kappa, steps, **where)


def turning(u: float = 0.5) -> Instance:
    """Return `parabola` for three agents, each of which hears the next, then the one before."""
    ahead = (np.eye(3) + np.roll(np.eye(3), 1, axis=1)) / 2
    case = stored(np.ones((3, 1, 1)), [[0.0]] * 3, ahead, u, [1.0], periods=2**30)
    return {**case, "Pis": [ahead.tolist(), ahead.T.tolist()]}


def replay_changing(instance: Instance) -> Row:
    """Return the row of one stored case, whose matrices come round and round."""
    case = load(instance)
    Pis = [np.asarray(Pi) for Pi in instance["Pis"]]
    period = [moments.decentralized_sgd(case.problem, Pi, case.lr) for Pi in Pis]
    squares = squares_of(case.problem)
    found = descent_over_periods(case.start, period, squares, instance["periods"])
    return sharp_row(case, found, len(Pis) * instance["periods"], case.lr)


def attacks_local() -> dict[str, Any]:
    """Return the attacks on T35-rate."""
    from verification.attacks.descent import local_rate
    from verification.attacks.quadratics import pair

    return {"K = 3": local_rate(pair(0.25), 3)}


def attacks_momentum() -> dict[str, Any]:
    """Return the attacks on T36-rate."""
    from verification.attacks.descent import momentum_rate
    from verification.attacks.quadratics import pair

    return {"beta = 1/2": momentum_rate(pair(0.25), 0.5)}


def attacks_changing() -> dict[str, Any]:
    """Return the attacks on T37-rate."""
    from verification.attacks.descent import changing_rate

    return {"any two in turn": changing_rate(0.4, 3)}


CLAIMS = [
    Claim(
        "T35-rate",
        "rates",
        "derived",
        after_local_steps,
        bounds=(bounds.dsgd_sharp,),
        attacks=attacks_local,
        replay=replay_local_steps,
        instance=local_descent,
        reaches={
            "mean gradient, measured Xi": 1,
            "mean gradient, bound on Xi": 0,
        },
    ),
    Claim(
        "T36-rate",
        "rates",
        "derived",
        with_momentum,
        bounds=(bounds.dsgd_sharp,),
        attacks=attacks_momentum,
        replay=replay_momentum,
        instance=slow_descent,
        reaches={
            "mean gradient, measured Xi": 1,
            "mean gradient, bound on Xi": 0,
            "over the bound with Xi alone": 0.02,
        },
    ),
    Claim(
        "T37-rate",
        "rates",
        "derived",
        on_changing_graphs,
        bounds=(bounds.dsgd_sharp,),
        attacks=attacks_changing,
        replay=replay_changing,
        instance=turning,
        reaches={
            "mean gradient, measured Xi": 1,
            "mean gradient, bound on Xi": 0.18,
        },
    ),
]
