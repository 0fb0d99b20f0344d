"""R6: Dec-LoRA, several local steps a round without noise: the consensus bound that is attained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from decaf_theory import bounds, moments
from decaf_theory.arrays import host, namespace
from verification.claim import Claim, Context, Instance, Row
from verification.evidence import EPS, at_most, attained, ulps
from verification.instances.omega import each
from verification.instances.quadratics import Case, cases, constants, load, network, size, stored

ROUNDS = 24


def rows(ctx: Context) -> Iterator[Row]:
    r"""K local steps without noise: after a mix the points differ by at most an explicit amount.

    $|\tilde X| \le \frac{\lambda \sqrt N \kappa}{L} \cdot \frac{g - 1}{1 - \lambda g}$ after every
    mix, $g = (1 + \alpha L)^K$.

    Assumptions: $\lambda g < 1$; every $f_i$ has an $L$-Lipschitz gradient; $\kappa$ bounds the
    heterogeneity at the mean of every point where gradients are taken; no noise; all agents start
    at one point.

    Proof: a local step takes deviations to at most $(1 + \alpha L) |\tilde X| +
    \alpha \sqrt N \kappa$, K of them to $g |\tilde X| + \sqrt N \kappa (g - 1)/L$, and the mix
    multiplies by at most $\lambda$. The right-hand side is the fixed point.

    Extremal: $N = 2$, $f_i = -L x^2/2 \pm \kappa x$, after many rounds: every step is an equality.

    Source: derived here; the method is Dec-LoRA. With noise see T35.
    """
    for K in (1, 2, 5):
        for case in cases(ctx, "MS", instances=ctx.pick(3, 24)):
            quiet = case._replace(problem=case.problem._replace(noise=0 * case.problem.noise))
            yield judged(quiet._replace(lr=_short(quiet, K)), K, ROUNDS)
        yield from attained(replay(drift_alone(K)))


def _short(case: Case, K: int) -> Any:
    """Return steps at which lam g reaches a share in (0, 1) of the largest allowed."""
    lam = network(case.Pi, "MS").lam
    largest = np.inf if lam < EPS else lam ** (-1 / K) - 1
    u = host(case.lr) * constants(case).L
    share = np.minimum(1 / K, 0.9 * largest / u)
    return case.lr * namespace(case.lr).asarray(share, device=case.lr.device)


def judged(case: Case, K: int, rounds: int) -> Row:
    """Return the largest |X~| after a mix against its bound. Rounding as in `quadratics.run`."""
    problem = case.problem
    net = network(case.Pi, "MS")
    L = constants(case).L
    step = moments.local_step(problem, case.lr)
    last = moments.compose(step, moments.mixing(case.Pi, problem))
    squares = {
        "Xi": moments.consensus(problem),
        "kappa": moments.heterogeneity(problem),
        "size": size(problem),
    }
    path = ([step] * (K - 1) + [last]) * rounds
    found = {name: host(x) for name, x in moments.trace_along(path, case.start, squares).items()}
    spread = np.sqrt(net.N * found["Xi"][..., ::K].max(axis=-1))
    kappa = np.sqrt(found["kappa"].max(axis=-1))
    limit = each(bounds.local_drift, lam=net.lam, lr=host(case.lr), L=L, kappa=kappa, N=net.N, K=K)
    held = np.isfinite(limit)
    bound = np.where(held, limit, 0.0)
    # of |X~|^2 as in `run`; its root near 0 errs by the root
    slip = ulps(4 * net.N * problem.p * len(path), found["size"].max(axis=-1), net.N)
    slip = slip / np.maximum(spread, np.sqrt(slip) + np.finfo(float).tiny)
    return at_most("|X~| after a mix", spread, bound, rounding=slip, held=held, K=K, **case.params)


def drift_alone(K: int = 5) -> Instance:
    """Return two agents with f = -x^2/2 +- x, lr = 1/16 and second eigenvalue 1/2."""
    Pi = [[0.75, 0.25], [0.25, 0.75]]
    case = stored([[[-1.0]], [[-1.0]]], [[1.0], [-1.0]], Pi, 1 / 16, [0.0])
    return {**case, "K": K, "rounds": 80}


def replay(instance: Instance) -> Row:
    """Return the row of one stored case."""
    return judged(load(instance), instance["K"], instance["rounds"])


def attacks() -> dict[str, Any]:
    """Return the attacks on R6."""
    from verification.attacks.quadratics import pair
    from verification.attacks.rounds import after_a_mix

    return {f"K = {K}": after_a_mix(pair(0.5), K) for K in (2, 3)}


CLAIMS = [
    Claim(
        "R6",
        "methods",
        "derived",
        rows,
        bounds=(bounds.local_drift,),
        attacks=attacks,
        replay=replay,
        instance=drift_alone,
        regimes=("K",),
        reaches={
            "|X~| after a mix, K = 1": 1,
            "|X~| after a mix, K = 2": 1,
            "|X~| after a mix, K = 5": 1,
        },
    )
]
