"""T38: under the Polyak-Lojasiewicz condition the loss decays to an explicit floor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from decaf_theory import bounds, moments
from decaf_theory.arrays import host
from decaf_theory.topology import TOPOLOGIES
from verification.claim import Claim, Context, Instance, Row, Value
from verification.claims.rates.attainment import opposed
from verification.evidence import at_most, attained, same, ulps
from verification.instances.omega import each
from verification.instances.quadratics import (
    GRAPHS,
    Case,
    cases,
    consensus_limits,
    constants,
    draw,
    load,
    network,
    size,
    step_allowed,
    stored,
)

STEPS = 40
LONG = 2**60  # after which every start is forgotten


def rows(ctx: Context) -> Iterator[Row]:
    r"""Where F obeys the Polyak-Lojasiewicz condition, its gap decays to a floor of order lr.

    If $|\nabla F|^2 \ge 2 \mu (F - F^*)$: $E F(\bar x_{t+1}) - F^* \le (1 - \alpha\mu)
    (E F(\bar x_t) - F^*) + \frac\alpha2 \left( L^2 E \Xi_t + \frac{\alpha L \sigma^2}{N} \right)$
    at every step. So, with $\Xi \ge E \Xi_t$ for $t < T$: $E F(\bar x_T) - F^* \le
    (1 - \alpha\mu)^T (F(\bar x_0) - F^*) + \left( 1 - (1 - \alpha\mu)^T \right)
    \frac{1}{2\mu} \left( L^2 \Xi + \frac{\alpha L \sigma^2}{N} \right)$; T25's bound on $\Xi$ will
    do.

    Assumptions: those of T25, $\alpha \le 1/L$ among them ($\alpha L q < 1$ for its bound on
    $\Xi$); $F$ obeys the condition with $\mu > 0$. The $f_i$ need not, nor be convex.

    Proof: the descent lemma of T25, $E F^+ \le E F - \frac\alpha2 E|\nabla F|^2 + \frac\alpha2
    L^2 E\Xi + \frac{\alpha^2 L \sigma^2}{2N}$, where $|h|^2$ was dropped as $\alpha L \le 1$; the
    condition turns $|\nabla F|^2$ into the gap. Unrolled, the weights of the last term are
    $\frac\alpha2 \sum_{k<T} (1 - \alpha\mu)^k = \frac{1}{2\mu} (1 - (1 - \alpha\mu)^T)$.

    Extremal: the noise: $f_i = L |x|^2/2$ on the complete graph, order MS, $\alpha = 1/L$; for
    other steps the gap at rest is $1/(2 - \alpha L)$ of this floor, beyond it for every
    $\alpha > 1/L$. $\Xi$: T26-3, $\mu = \epsilon/2$, at rest, $(1 - \epsilon/2L)^2$ of the floor
    with measured $\Xi$ in either order.

    Source: derived here.
    """
    for order in moments.ORDERS:
        for case in cases(ctx, order, instances=ctx.pick(3, 24)):
            yield from judged(case, order, STEPS)
        for name, N in GRAPHS:
            yield at_rest(convex(ctx, name, N, order), order, LONG)
        for epsilon in (2.0**-2, 2.0**-6, 2.0**-10):
            yield _share_of_disagreement(epsilon, order)
    yield from attained(replay(noisy()))
    yield from attained(replay(apart()))
    for u in (0.5, 1.0, 1.5):
        yield _share_of_noise(u)


class Path(NamedTuple):
    """What a run of T rounds shows: gap [..., T + 1], Xi [..., T], kappa and slip [...]."""

    gap: np.ndarray
    Xi: np.ndarray
    kappa: np.ndarray
    slip: np.ndarray


def pl_constant(case: Case) -> np.ndarray:
    """Return the largest mu of a quadratic F: its least curvature above rounding, [...]."""
    values = np.linalg.eigvalsh(host(case.problem.H).mean(axis=-3))
    flat = ulps(case.problem.p, values.max(axis=-1, keepdims=True))
    least: np.ndarray = np.where(values > flat, values, np.inf).min(axis=-1)
    return least


def minimizer(case: Case) -> np.ndarray:
    """Return the least minimizer of F, [..., p]."""
    H, b = (host(x).mean(axis=1) for x in (case.problem.H, case.problem.b))
    least: np.ndarray = (np.linalg.pinv(H, hermitian=True) @ b[..., None])[..., 0]
    return least


def path_of(case: Case, order: str, steps: int) -> Path:
    """Return the exact moments of a run.

    Rounding: second moments err as in `quadratics.run`. F - F* is L/2 times the square of a
    distance from the minimizer, which is known to eps of L |x*|.
    """
    squares = {
        "gap": moments.optimality_gap(case.problem),
        "Xi": moments.consensus(case.problem),
        "kappa": moments.heterogeneity(case.problem),
        "size": size(case.problem),
    }
    found = moments.trace(case.recursion(order), case.start, squares, steps + 1)
    gap, Xi, kappa, points = (host(found[name]) for name in squares)
    largest = points.max(axis=-1) + np.sum(minimizer(case) ** 2, axis=-1)
    n = case.problem.N * case.problem.p
    slip = ulps(4 * n * steps, constants(case).L, largest)
    return Path(gap, Xi[..., :-1], np.sqrt(kappa[..., :-1].max(axis=-1)), slip)


def judged(case: Case, order: str, steps: int) -> Iterator[Row]:
    """Yield every step of a case, and its end with measured Xi and with T25's bound on Xi."""
    letters = constants(case)
    net = network(case.Pi, order)
    found = path_of(case, order, steps)
    u = host(case.lr) * letters.L
    held = (u <= 1) & np.isfinite(letters.F_gap)
    inside = held & step_allowed(case, net, letters)
    gap = np.where(held[:, None], found.gap, 0.0)
    params: dict[str, Value] = {"order": order, **case.params}

    before = np.maximum(gap[:, :-1], 0.0)  # rounding may leave a negative zero
    bound = _bound(case, 1, before.T, found.Xi.T, held).T
    # the gap before and after; Xi is off by slip / L and enters times lr L^2 / 2 <= L / 2
    more = {"rounding": 3 * found.slip[:, None], "held": held[:, None], "T": 1}
    yield at_most("F - F* after a step", gap[:, 1:], bound, **more, **params)

    # Xi enters times L^2 / (2 mu)
    slip = found.slip * (2 + letters.L / (2 * pl_constant(case)))
    limit = np.where(inside, consensus_limits(case, net, letters, found.kappa), 0.0)
    for name, Xi, holds in (
        ("measured Xi", found.Xi.max(axis=-1), held),
        ("bound on Xi", limit, inside),
    ):
        bound = _bound(case, steps, before[:, 0], Xi, holds)
        more = {"rounding": slip, "held": holds, "T": steps}
        yield at_most(f"F - F*, {name}", gap[:, -1], bound, **more, **params)


def _bound(case: Case, T: int, gap: Any, Xi: Any, held: np.ndarray) -> np.ndarray:
    """Return the bound, 0 where its assumptions fail; instances are the last axis."""
    letters = constants(case)
    found = each(
        bounds.dsgd_gap,
        F_gap=gap,
        lr=np.where(held, host(case.lr), 1 / letters.L),
        T=T,
        L=letters.L,
        mu=np.minimum(pl_constant(case), letters.L),
        sigma=letters.sigma,
        N=case.problem.N,
        Xi=np.where(held, Xi, 0.0),
    )
    return np.where(held, found, 0.0)


def noisy(u: float = 1.0) -> Instance:
    """Return two agents, f = x^2/2, unit noise, lr = u, complete graph."""
    one = np.ones((2, 1, 1))
    half = np.full((2, 2), 0.5)
    return stored(one, [[0.0]] * 2, half, u, [1.0], one, order="MS", steps=LONG)


def apart() -> Instance:
    """Return T26-3's pair, started at the minimizer."""
    return opposed(steps=LONG)


def replay(instance: Instance) -> Row:
    """Return the gap at rest of one stored case against the bound after `steps`."""
    return at_rest(load(instance), instance["order"], instance["steps"])


def at_rest(case: Case, order: str, steps: int) -> Row:
    """Return the gap at rest of stable cases against the bound after `steps`, Xi as at rest.

    Rounding: solving for the rest loses the condition number of I - A, of the distance from the
    minimizer and of the minimizer itself; the gap is L/2 times the square of that distance.
    """
    recursion = case.recursion(order)
    rest = moments.limit(recursion)
    squares = (moments.optimality_gap(case.problem), moments.consensus(case.problem))
    gap, Xi = (host(moments.expectation(square, rest)) for square in squares)
    letters = constants(case)
    u = host(case.lr) * letters.L
    held = (u <= 1) & np.isfinite(letters.F_gap)
    bound = _bound(case, steps, np.where(held, letters.F_gap, 0.0), Xi, held)
    condition = np.linalg.cond(np.eye(recursion.A.shape[-1]) - host(recursion.A))
    moved = ulps(8, condition, np.sqrt(letters.L) * np.linalg.norm(minimizer(case), axis=-1))
    slip = ulps(8, condition, bound) + moved * (2 * np.sqrt(gap) + moved)
    params: dict[str, Value] = {"order": order, "T": steps, "u": float(u.max()), **case.params}
    return at_most("F - F* at rest", gap, bound, rounding=slip, held=held, **params)


def convex(ctx: Context, name: str, N: int, order: str) -> Case:
    """Return strongly convex losses on one graph, with the steps of `cases`: those are stable."""
    rng = ctx.rng("convex", name)
    H, b, noise, x0 = draw(rng, "convex", ctx.pick(6, 60), N, 3)
    problem = moments.quadratics(ctx.array(H), b=ctx.array(b), noise=ctx.array(noise))
    case = Case(problem, TOPOLOGIES[name](N), None, ctx.array(x0), {"topology": name, "N": N})
    longest = 1 / (constants(case).L * max(1.0, network(case.Pi, order).q))
    lr = longest * 30.0 ** rng.uniform(-1, 0, len(H))
    return case._replace(lr=ctx.array(lr))


def _share_of_noise(u: float) -> Row:
    """Return that noise at lr = u/L leaves 1/(2 - u) of the floor: beyond it for u > 1."""
    case = load(noisy(u))
    rest = moments.limit(case.recursion("MS"))
    gap = moments.expectation(moments.optimality_gap(case.problem), rest).item()
    floor = u * replay(noisy()).bound  # linear in lr
    # some ten operations, and (1 - u)^2 <= 1/4 summed to 1/(1 - (1-u)^2)
    name = "noise at rest, share of the floor"
    return same(name, gap / floor - 1 / (2 - u), rounding=ulps(32), u=u)


def _share_of_disagreement(epsilon: float, order: str) -> Row:
    """Return that T26-3 at rest has the share (1 - eps/2)^2 of the floor.

    lr q = 2^-4 epsilon, by which the pair is stable.
    """
    row = replay(opposed(epsilon, 0.5, epsilon / 16, order=order, steps=LONG))
    share = (1 - epsilon / 2) ** 2
    slip = row.rounding / row.bound
    name = "T26-3 at rest, share of the floor"
    return same(name, row.measured / row.bound - share, rounding=slip, order=order, epsilon=epsilon)


def attacks() -> dict[str, Any]:
    """Return the attacks on T38."""
    from verification.attacks.quadratics import pair
    from verification.attacks.rates import settled

    return {
        "MS, drift": settled(pair(0.25), noise=False),
        "CB, drift": settled(pair(0.0, "CB"), noise=False),
        "MS, noise": settled(pair(0.0), drift=False, any_step=False),
    }


CLAIMS = [
    Claim(
        "T38",
        "rates",
        "derived",
        rows,
        bounds=(bounds.dsgd_gap,),
        attacks=attacks,
        replay=replay,
        instance=noisy,
        reaches={
            "F - F* after a step, MS": 0.99,
            "F - F*, measured Xi, MS": 0.96,
            "F - F*, bound on Xi, MS": 0.96,
            "F - F* at rest, MS": 1,
            "F - F* after a step, CB": 0.99,
            "F - F*, measured Xi, CB": 0.97,
            "F - F*, bound on Xi, CB": 0.97,
            "F - F* at rest, CB": 0,
        },
    )
]
