"""P1: agents that hold one product in gauges whose mean is zero, from the first mix to the end."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from decaf_theory.arrays import host, scalar
from decaf_theory.lowrank import Factors
from decaf_theory.methods import METHODS
from decaf_theory.problems import PROBLEMS, Problem
from decaf_theory.simulate import Config, Trace, simulate
from verification.claim import Claim, Context, Row, Value
from verification.evidence import same, ulps
from verification.instances.targets import prescribed

LR = 0.1
STEPS = 120  # 0.7^120 is below eps
AWAY = 1e-12  # the start moved off the set of measure zero
ESCAPED = 600  # 1.15^200 is above 1/AWAY; then as above, with room for directions that lag
CASES = (  # N, d, k, r
    (2, 4, 3, 2),
    (2, 3, 5, 1),
    (3, 4, 3, 2),
    (3, 5, 7, 4),
)


def rows(ctx: Context) -> Iterator[Row]:
    r"""Opposed gauges: from a start of measure zero DLoRA stays at zero, DeCAF does not.

    All agents hold the same product $BA$ in gauges whose factor mean is zero: $(B, A), (-B, -A)$
    for two agents, rotations by 0, 120, 240 degrees for three; $f_i(W) = \frac12\|W - W^*\|_F^2$,
    complete graph. The first DLoRA mix gives $(0, 0)$, where every stochastic gradient
    $(s \hat g A', s B' \hat g)$ vanishes: the loss stays $\frac12 \|W^*\|_F^2$ for two agents
    exactly. DeCAF keeps the common product and goes on to $F = 0$. Such starts have measure zero:
    from $10^{-12}$ away DLoRA, too, reaches $F = 0$, after some 300 steps, and for three agents the
    rounding of the rotations is enough. Evidence for DeCAF that needs no exact start: T33.

    Assumptions: $\mathrm{rank}\, W^* \le r$ with the row and column space of the start; step size
    0.1 at $\|W^*\|_{op} = 3/2$.

    Proof: the mean factors are zero by construction, and zero is a fixed point of step and mix.
    DeCAF mixes products, which are equal, so its mix changes nothing but the gauge; in the
    common singular basis each singular value follows $p \leftarrow p (1 + \alpha (t - p))^2$ with
    its target $t = 3/2$ and $p = 1$ at the start, which converges to $t$ with factor
    $1 - 2 \alpha t = 0.7$. Zero is a saddle point: near it $U'B + V'A'$ grows by
    $1 + \alpha t = 1.15$ a step, $W^* = t\, U V'$.

    Source: derived here.
    """
    for N, d, k, r in CASES:
        problem = PROBLEMS["P1"](N=N, d=d, k=k, r=r)
        yield from _from_first_mix_to_end(ctx, problem, r)
        yield _escapes(ctx, problem, r)
    yield _whatever_the_noise(ctx)


def _from_first_mix_to_end(ctx: Context, problem: Problem, r: int) -> Iterator[Row]:
    where = {"N": problem.N, "d": problem.d, "k": problem.k, "r": r}
    start = prescribed(ctx, problem)
    mixed = METHODS["dlora"].mix(start, problem.Pi, 0)
    largest = max(np.max(np.abs(host(X))) for X in mixed)
    # two agents cancel to the last bit, three up to the rounding of cos 120 degrees
    zero = 0.0 if problem.N == 2 else ulps(4)
    yield same("DLoRA: largest entry of the first mix", largest, rounding=zero, **where)

    target = scalar(problem.loss(np.zeros((1, problem.d, problem.k)))[0])
    dlora = _run(problem, "dlora", start, STEPS)
    # what cos 120 degrees leaves in B and A grows by at most 1 + lr |W*|_op a step; the loss sees
    # their product times |W*|_F, and sums d k squares
    grown = (zero * (1 + 1.5 * LR) ** STEPS) ** 2 * r * (2 * target) ** 0.5
    stuck = np.max(np.abs(dlora.loss - target))
    slip = grown + ulps(10 * problem.d * problem.k, target)
    yield same(
        "DLoRA: F - |W*|^2/2 at every tenth step", stuck, rounding=slip, steps=STEPS, **where
    )

    decaf = _run(problem, "decaf", start, STEPS)
    yield _at_target("DeCAF: |W - W*|_F at the end", problem, decaf, steps=STEPS, **where)


def _at_target(case: str, problem: Problem, trace: Trace, **where: Value) -> Row:
    """Return the row of the last distance from the target."""
    target = scalar(problem.loss(np.zeros((1, problem.d, problem.k)))[0])
    # a step rounds by max(d, k) eps |W*|; the contraction by 0.7 sums these to 1/0.3 of one
    slip = ulps(10 * max(problem.d, problem.k), (2 * target) ** 0.5) / 0.3
    return same(case, (2 * trace.loss[0, -1]) ** 0.5, rounding=slip, **where)


def _escapes(ctx: Context, problem: Problem, r: int) -> Row:
    """DLoRA from a start whose entries are moved by some 1e-12: it reaches the target."""
    rng = ctx.rng("away", problem.N, r)
    start = prescribed(ctx, problem).map(host)
    near = start.map(lambda X: X + AWAY * rng.standard_normal(X.shape)).map(ctx.array)
    trace = _run(problem, "dlora", near, ESCAPED)
    where: dict[str, Value] = {"N": problem.N, "d": problem.d, "k": problem.k, "r": r}
    case = "DLoRA from 1e-12 away: |W - W*|_F at the end"
    return _at_target(case, problem, trace, steps=ESCAPED, away=AWAY, **where)


def _run(problem: Problem, method: str, start: Factors, steps: int, runs: int = 1) -> Trace:
    config = Config(
        problem=problem,
        method=method,
        start=start,
        lr=LR,
        steps=steps,
        order="mix_first",
        runs=runs,
        record_every=10,
    )
    return simulate(config).require_finished()


def _whatever_the_noise(ctx: Context) -> Row:
    problem = PROBLEMS["P1"](tau=1.0)
    runs = ctx.pick(4, 40)
    start = prescribed(ctx, problem)
    trace = _run(problem, "dlora", start, STEPS, runs)
    moved = np.max(np.abs(trace.loss - trace.loss[:, :1]))
    case = "DLoRA: no noise moves it"
    return same(case, moved, rounding=0.0, N=2, d=4, k=3, r=2, tau=1.0, runs=runs)


CLAIMS = [Claim("P1", "problems", "derived", rows, not_attacked="exact paths of given instances")]
