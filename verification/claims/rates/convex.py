"""T34: convex losses, and weakly convex ones: a quarter of the network's term of the rate."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from decaf_theory import bounds, moments
from decaf_theory.arrays import host
from verification.claim import Claim, Context, Instance, Row, Value
from verification.evidence import at_most, attained, ulps
from verification.instances.omega import each
from verification.instances.quadratics import (
    Case,
    cases,
    consensus_limits,
    constants,
    load,
    network,
    run,
    step_allowed,
    stored,
)

STEPS = 60


def rows(ctx: Context) -> Iterator[Row]:
    r"""Where f_i + m|x|^2/2 is convex, the network's term of the rate has ((L+m)/2)^2 for L^2.

    $\frac1T \sum_{t<T} E|\nabla F(\bar x_t)|^2 \le \frac{2 (F(\bar x_0) - F^*)}{\alpha T} +
    \frac{\alpha L \sigma^2}{N} + \left(\frac{L+m}{2}\right)^2 \frac1T \sum_{t<T} E \Xi_t$: a
    quarter of T25's last term for convex losses, $m = 0$. It applies to DLoRA with a frozen
    factor on convex losses, which is convex (T6).

    Assumptions: those of T25 (gradients are Lipschitz; no second derivative is asked for); every
    $f_i + \frac m2 |x|^2$ is convex, $0 \le m \le L$.

    Proof: let $d_i = x_i - \bar x$, so $\sum_i d_i = 0$, and $\Delta_i = \nabla f_i(x_i) - \nabla
    f_i(\bar x)$. The function $g = f_i + \frac m2 |x|^2$ is convex, and so is $\frac{L+m}{2} |x|^2
    - g = \frac L2 |x|^2 - f_i$, because $f_i$ is $L$-smooth. So the gradient of $g$ is cocoercive
    (Baillon-Haddad): with its difference $\Delta_i + m d_i$, $(L+m) \langle \Delta_i + m d_i, d_i
    \rangle \ge |\Delta_i + m d_i|^2$, which is $|\Delta_i - \frac{L-m}{2} d_i| \le \frac{L+m}{2}
    |d_i|$ when squared out. The mean gradient less $\nabla F$ is $\frac1N \sum_i \Delta_i = \frac1N
    \sum_i (\Delta_i - \frac{L-m}{2} d_i)$, of norm at most $\frac{L+m}{2} \cdot \frac1N \sum_i
    |d_i| \le \frac{L+m}{2} \sqrt{\Xi}$. This takes the place of $L \sqrt\Xi$ in the proof of T25.

    Extremal: $N = 2$, $f_1'' = L$, $f_2'' = -m$, opposite slopes at the minimizer, no noise, as
    $\alpha L q \to 0$ and $T \to \infty$ (T26-3 with $\epsilon = L - m$).

    Source: derived here.
    """
    for order in moments.ORDERS:
        for case in cases(ctx, order, instances=ctx.pick(4, 24)):
            yield judged(case, order, STEPS)
        for m in (0.0, 0.5):
            yield from attained(replay(curved_apart(m, order=order)))


def _weak_convexity(case: Case) -> np.ndarray:
    """Return m = max(0, -least eigenvalue of any H_i), [...]."""
    least = np.linalg.eigvalsh(host(case.problem.H)).min(axis=(-2, -1))
    concavity: np.ndarray = np.maximum(0.0, -least)
    return concavity


def judged(case: Case, order: str, steps: int) -> Row:
    """Return the worst rate of a case, with measured Xi."""
    letters = constants(case)
    net = network(case.Pi, order)
    found = run(case, order, steps)
    held = step_allowed(case, net, letters) & np.isfinite(letters.F_gap)
    bound = _bound(case, steps, found.consensus.mean(axis=-1), held)
    slip = found.slip_gradient + letters.L**2 * found.slip_points
    params: dict[str, Value] = {"order": order, "T": steps, **case.params}
    flat = ulps(8, letters.L)  # a rank-one Hessian has eigenvalues of rounding below zero
    params["convex"] = int((_weak_convexity(case) <= flat)[held].sum())
    return at_most("mean gradient", found.gradient, bound, rounding=slip, held=held, **params)


def _bound(case: Case, steps: int, Xi: Any, held: np.ndarray) -> np.ndarray:
    """Return the bound, 0 where its assumptions fail."""
    letters = constants(case)
    ratio = each(
        bounds.convex_curvature, L=letters.L, m=np.minimum(_weak_convexity(case), letters.L)
    )
    bound = each(
        bounds.dsgd_rate,
        F_gap=np.where(held, letters.F_gap, 0.0),
        lr=host(case.lr),
        T=steps,
        L=letters.L,
        sigma=letters.sigma,
        N=case.problem.N,
        Xi=np.where(held, Xi * ratio / letters.L**2, 0.0),
    )
    return np.where(held, bound, 0.0)


def curved_apart(
    m: float = 0.0, lr: float = 2.0**-24, *, order: str = "MS", steps: int = 2**60
) -> Instance:
    """Return f_1'' = 1, f_2'' = -m, slopes +-1/lr at 0 and second eigenvalue 1/2."""
    H = [[[1.0]], [[-m]]]
    b = [[-1 / lr], [1 / lr]]
    return stored(H, b, [[0.75, 0.25], [0.25, 0.75]], lr, [0.0], order=order, steps=steps)


def replay(instance: Instance) -> Row:
    """Return the rate at rest of one stored pair, against the bound as T -> infinity.

    At rest, where gradient and kappa are largest (T26-3); steps enter the bound alone. Rounding:
    solving for the rest loses the condition number of I - A, the distance of its least
    eigenvalue from 0.
    """
    case = load(instance)
    order = instance["order"]
    steps = instance["steps"]
    recursion = case.recursion(order)
    net = network(case.Pi, order)
    rest = moments.limit(recursion)
    letters = constants(case)
    gradient = moments.expectation(moments.mean_gradient(case.problem), rest)
    kappa = moments.expectation(moments.heterogeneity(case.problem), rest) ** 0.5
    held = step_allowed(case, net, letters) & np.isfinite(letters.F_gap)
    bound = _bound(case, steps, consensus_limits(case, net, letters, kappa), held)
    condition = np.linalg.cond(np.eye(recursion.A.shape[-1]) - recursion.A[0])
    slip = ulps(8 * float(condition), bound)
    params: dict[str, Value] = {"order": order, "T": steps, **case.params}
    return at_most("gradient at rest", gradient, bound, rounding=slip, held=held, **params)


def attacks() -> dict[str, Any]:
    """Return the attacks on T34."""
    from verification.attacks.quadratics import pair
    from verification.attacks.rates import rest

    return {order: rest(pair(0.25, order)) for order in ("MS", "CB")}


CLAIMS = [
    Claim(
        "T34",
        "rates",
        "derived",
        rows,
        bounds=(bounds.convex_curvature, bounds.dsgd_rate, bounds.consensus_bound),
        attacks=attacks,
        replay=replay,
        instance=curved_apart,
        reaches={
            "mean gradient, MS": 0.42,
            "gradient at rest, MS": 1,
            "mean gradient, CB": 0.44,
            "gradient at rest, CB": 1,
        },
    )
]
