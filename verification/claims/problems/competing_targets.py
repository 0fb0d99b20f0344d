"""P6: two agents whose targets compete for one rank direction, on both sides of the threshold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from decaf_theory.arrays import host
from decaf_theory.lowrank import Factors
from decaf_theory.problems import PROBLEMS, Problem
from decaf_theory.simulate import Config, Trace, simulate
from decaf_theory.stats import local_slopes, richardson
from verification.claim import Claim, Context, Row, Value
from verification.evidence import at_least, at_most, attained, same, ulps
from verification.instances.targets import prescribed

W = Fraction(16, 25)  # w^(-1/2) - 1 = 1/4 exactly
ROOT = Fraction(4, 5)  # of W


def rows(ctx: Context) -> Iterator[Row]:
    r"""Competing targets: from one start of measure zero DeCAF's products may die out.

    Targets $e_1 e_1'$ and $e_2 e_2'$, $r = 1$, self weight $w \in (1/2, 1)$, each agent started at
    its own target. DeCAF stays on the axes and each product has the size $p$ with
    $p \leftarrow w p (1 + \alpha (1 - p))^2$: $p \to 0$, where $F = 1/2$, exactly if
    $\alpha \le w^{-1/2} - 1$ (like $1/t$ at equality), else
    $p \to 1 - (w^{-1/2} - 1)/\alpha$. DLoRA, and DeCAF from a start tilted by $10^{-12}$, end at
    $F = 3/8$, the least loss of rank one, up to $O(\alpha^2)$. Evidence against DeCAF that needs
    no exact start: T22-open, T30-needed.

    Assumptions: one gradient at the mixed point a round; exact arithmetic on the axes, where zeros
    stay zeros; $\alpha \le 1/2$ for the third regime.

    Proof: with products $p\, e_1 e_1'$ and $p\, e_2 e_2'$ a step multiplies both factors by
    $1 + \alpha (1 - p)$, and the truncation of the mix keeps $w$ times the agent's own direction.
    If $q = w (1 + \alpha)^2 < 1$, then $p_t \le q^t p_0$. At $q = 1$,
    $p^+ = p (1 - \frac{\alpha}{1 + \alpha} p)^2$, so $1/p$ grows by at least
    $2 \alpha/(1 + \alpha)$ a round. If $q > 1$ and $\alpha \le 1/2$, the map increases on
    $[0, 1]$, so $p_t$ decreases from 1 to its fixed point $p_*$, $w (1 + \alpha (1 - p_*))^2 = 1$;
    its slope falls with $p$, so a round leaves at most $1 - 2 \alpha \sqrt w\, p_*$ of $p - p_*$.

    Extremal: $p_t = q^t p_0$ in the limit of small $p_0$; the fixed point as $t \to \infty$.

    Source: derived here.
    """
    rounds = ctx.pick(60, 400)
    for lr in (Fraction(1, 8), Fraction(1, 5), Fraction(1, 4), Fraction(2, 7), Fraction(1, 2)):
        yield from _on_the_axes(ctx, lr, rounds)
    for lr in (Fraction(1, 8), Fraction(1, 5)):
        yield from _on_the_axes(ctx, lr, rounds, p0=2.0**-40)
    yield _threshold_on_both_sides()
    steps = ctx.pick((0.4, 0.2, 0.1), (0.2, 0.1, 0.05, 0.025))
    yield from _least_loss(ctx, "dlora", 0.0, steps)
    yield from _least_loss(ctx, "decaf", 1e-12, steps)


def _run(problem: Problem, method: str, lr: float, rounds: int, start: Factors) -> Trace:
    config = Config(
        problem=problem, method=method, lr=lr, steps=rounds, start=start, record_every=rounds
    )
    return simulate(config).require_finished()


def _on_the_axes(ctx: Context, lr: Fraction, rounds: int, p0: float = 1.0) -> Iterator[Row]:
    """The size of DeCAF's products, relative to that of the start, against the three regimes."""
    problem = PROBLEMS["P6"](w=float(W), d=4, k=3)
    start = prescribed(ctx, problem).map(lambda X: p0**0.5 * X)
    trace = _run(problem, "decaf", float(lr), rounds, start)
    B, A = (host(X)[0] for X in trace.final)
    where = {"lr": float(lr), "w": float(W), "rounds": rounds, "d": 4, "k": 3, "r": 1}
    where |= {"p_0": p0} if p0 < 1 else {}
    axes = np.zeros((2, 4, 3))
    axes[0, 0, 0] = axes[1, 1, 1] = 1.0
    off = np.max(np.abs((B @ A) * (1 - axes)))
    yield same("off-axis entries are exactly zero", off, rounding=0.0, **where)

    p = float(trace.adapter_norm[0, -1]) / p0
    q = float(W * (1 + lr) ** 2)
    # a round multiplies p by few numbers, each by a TSVD of 2 x 2 entries: 20 roundings
    slip = ulps(20 * rounds)
    if q < 1:
        bound = q**rounds
        row = at_most("below: p <= q^t", p, bound, rounding=slip * bound, **where)
        yield from attained(row) if p0 < 1 else [row]
    elif q == 1:
        bound = 1 / (1 + 2 * float(lr / (1 + lr)) * rounds)
        case = "at equality: p <= 1/(1 + 2 lr t/(1 + lr))"
        yield at_most(case, p, bound, rounding=slip * bound, **where)
    else:
        bound = float(1 - Fraction(1, 4) / lr)
        case = "above: p >= 1 - (w^(-1/2) - 1)/lr"
        yield at_least(case, p, bound, rounding=slip, **where)
        left = (1 - 2 * float(lr * ROOT) * bound) ** rounds * (1 - bound)
        case = "above: p - p* <= (1 - 2 lr sqrt(w) p*)^t (1 - p*)"
        yield at_most(case, p - bound, left, rounding=slip, **where)


def _threshold_on_both_sides() -> Row:
    """Return that a small p shrinks up to the threshold and grows just beyond it, in fractions.

    A round multiplies p by w (1 + lr (1 - p))^2 = (1 + x)^2, x = sqrt(w) (lr - threshold - lr p),
    as sqrt(w) (1 + threshold) = 1. So p moves with the sign of x, by a share |2 x + x^2| >= |x|.
    """
    p = Fraction(1, 10**12)
    threshold = 1 / ROOT - 1
    moved = []
    least = []
    for apart in (Fraction(-1, 10**9), Fraction(0), Fraction(1, 10**9)):
        lr = threshold + apart
        growth = W * (1 + lr * (1 - p)) ** 2 - 1
        moved.append(float(growth if apart > 0 else -growth))
        least.append(float(abs(ROOT * (apart - lr * p))))
    case = "p = 1e-12 shrinks up to the threshold, grows beyond: by a share (fractions)"
    where = {"lr": float(threshold), "w": float(W)}
    # a fraction that is rounded once keeps its order
    return at_least(case, np.array(moved), np.array(least), rounding=0.0, **where)


def _least_loss(ctx: Context, method: str, tilt: float, lrs: Sequence[float]) -> Iterator[Row]:
    """The final loss, extrapolated to step size 0, and the order of its excess over 3/8."""
    problem = PROBLEMS["P6"](w=0.6)
    B, A = (host(X).copy() for X in prescribed(ctx, problem))
    B[0, 1, 0] = A[0, 0, 1] = tilt
    start = Factors(ctx.array(B), ctx.array(A))
    losses = []
    for lr in lrs:
        # the slowest mode contracts by about 1 - lr a round, e^-30 in all
        trace = _run(problem, method, lr, int(30 / lr), start)
        losses.append(float(trace.loss[0, -1]))
    where: dict[str, Value] = {"method": method, "tilt": tilt, "finest_lr": lrs[-1]}
    where |= {"w": 0.6, "d": 3, "k": 2, "r": 1}
    limit = richardson(losses, order=1)
    case = "loss at step size 0 = 3/8"
    yield same(case, limit.value - 3 / 8, rounding=limit.error, **where)
    slopes = local_slopes(lrs, [3 / 8 - loss for loss in losses])
    slope = richardson([float(x) for x in slopes], order=1)
    yield same("order of 3/8 - F in lr = 2", slope.value - 2, rounding=slope.error, **where)


CLAIMS = [
    Claim(
        "P6",
        "problems",
        "derived",
        rows,
        not_attacked="exact paths of given instances",
        reaches={
            "below: p <= q^t": 1,
            "at equality: p <= 1/(1 + 2 lr t/(1 + lr))": 0.95,
            "above: p >= 1 - (w^(-1/2) - 1)/lr": 1,
            "above: p - p* <= (1 - 2 lr sqrt(w) p*)^t (1 - p*)": 0,
            "p = 1e-12 shrinks up to the threshold, grows beyond: by a share (fractions)": 0.5,
        },
    )
]
