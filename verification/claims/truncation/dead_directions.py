"""T23: a direction that vanishes in the mix stays dead; mixed first, LoRA's start dies."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from decaf_theory.arrays import namespace
from decaf_theory.lowrank import Factors, product
from decaf_theory.measure import factor_gradients
from decaf_theory.methods import METHODS
from decaf_theory.problems import PROBLEMS, approximation
from decaf_theory.simulate import Config, DeadStartWarning, Trace, simulate
from verification.claim import Claim, Context, Instance, Row
from verification.curves.start import paths
from verification.evidence import at_least, at_most, same, ulps
from verification.instances.mixes import Mix, allowance, stochastic


def rows(ctx: Context) -> Iterator[Row]:
    r"""Rank directions that vanish in a mix stay dead in DeCAF; from B = 0, mix first, all do.

    With $P_i = \mathrm{TSVD}_r(M_i)$ in balanced factors and a local step
    $B - \alpha s \hat g A'$, $A - \alpha s B' \hat g$ along any (stochastic) gradient $\hat g$:
    $\mathrm{rank}\, P_i^+ \le \min(r, \mathrm{rank}\, M_i)$. Started from $B = 0$ at all agents, a
    method that mixes first has all factors equal to zero for ever, exactly, and its loss stays
    $F(W_0)$.

    Assumptions: factors are split from the truncation in balanced form and zero directions are
    dropped; gradients act on the adapter alone.

    Proof: balanced factors satisfy $B'B = AA' = \mathrm{diag}(\sigma_1, \ldots, \sigma_r)$, so
    $\sigma_q = 0$ makes column $q$ of $B$ and row $q$ of $A$ zero. Column $q$ of $\hat g A'$ is
    $\hat g$ times row $q$ of $A$, and row $q$ of $B' \hat g$ is column $q$ of $B$ times $\hat g$:
    both vanish, so the pair stays zero. $B = 0$ gives $M_i = 0$, hence all pairs are zero.

    Extremal: LoRA's start with the step first, gradient $-e_1 e_1'$ at zero: the product has rank
    one after one step and stays so, at a loss that tends to the least one of rank one, 1/4, where
    rank two reaches 0 (problem P12). Runs that step first, keep the old rows of $A$ in dead
    directions or average the factors leave the start: their loss falls from record to record.

    Source: derived here.
    """
    for runs, tau, d, k in ((1, 0.0, 5, 4), (ctx.pick(4, 40), 0.5, 4, 6)):
        yield from _dead_start(runs, tau, d, k, steps=ctx.pick(30, 300))
    for r, ranks, d, k in ((3, 2, 6, 5), (4, 1, 5, 7), (2, 1, 3, 2)):
        yield _rank_after_a_step(ctx, r, ranks, d, k)
    yield from _trapped(ctx.pick(150, 1500))
    yield from paths()


def _dead_start(runs: int, tau: float, d: int, k: int, steps: int) -> Iterator[Row]:
    """All agents' factors and the loss over a noisy run."""
    problem = PROBLEMS["P2"](d=d, k=k, rank=2, tau=tau)
    trace = _run(problem=problem, Pi=np.full((4, 4), 0.25), rank=2, runs=runs, lr=0.2, steps=steps)
    where = {"d": d, "k": k, "r": 2, "tau": tau, "runs": runs, "steps": steps}
    largest = max(float(np.max(np.abs(np.asarray(X)))) for X in trace.final)
    yield same("|B| = |A| = 0 at the end", largest, rounding=0.0, **where)
    yield same("|s B A| = 0 at every step", np.max(trace.adapter_norm), rounding=0.0, **where)
    moved = np.max(np.abs(trace.loss - trace.loss[:, :1]))
    yield same("F = F(W0) at every step", moved, rounding=0.0, **where)


def _run(**options: Any) -> Trace:
    """Simulate with mixing first, without the warning that says what is claimed here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeadStartWarning)
        return simulate(Config(order="mix_first", **options)).require_finished()


def _rank_after_a_step(ctx: Context, r: int, rank: int, d: int, k: int) -> Row:
    """Agents whose products share `rank` columns, in gauges of their own; a random gradient."""
    rng = ctx.rng("step", r, rank)
    count = ctx.pick(100, 4000)
    m = 3
    step = 0.3
    A = rng.standard_normal((count, m, r, k))
    shared = rng.standard_normal((count, 1, d, rank)) @ rng.standard_normal((count, m, rank, r))
    mix = Mix(
        "shared column space",
        Factors(ctx.array(shared), ctx.array(A)),
        ctx.array(stochastic(rng, 4, m)),
    )
    mixed = METHODS["decaf"].mix(mix.factors, mix.Pi, 0)
    g = ctx.array(rng.standard_normal((count, 4, d, k)))
    gradients = factor_gradients(g, mixed, 1.0)
    after = mixed.map(lambda X, G: X - step * G, gradients)
    xp = namespace(g)
    beyond = xp.linalg.svdvals(product(after))[..., rank]
    # a dead pair keeps |b||a| <= allowance; the step adds at most step |g| of one to the other
    size = xp.linalg.matrix_norm(g, ord="fro")
    slip = (1 + step * size) ** 2 * allowance(mix) * 2
    case = "rank P+ <= rank M: sigma_{rank M + 1}(P+) = 0"
    return at_most(case, beyond, 0.0, rounding=slip, rank=rank, **mix.params)


def _trapped(steps: int) -> Iterator[Row]:
    """P12 with the step first: rank one for ever, the loss never below 1/4."""
    problem = PROBLEMS["P12"]()
    Pi = np.full((2, 2), 0.5)
    config = Config(problem=problem, method="decaf", Pi=Pi, lr=0.2, steps=steps)
    trace = simulate(config).require_finished()
    where = {"steps": steps, "d": problem.d, "k": problem.k}
    # the loss is a sum of d k squares of numbers of size one
    slip = ulps(10 * problem.d * problem.k)
    yield at_least("P12: F >= 1/4", np.min(trace.loss), 0.25, rounding=slip, **where)
    yield at_most(
        "P12: numerical rank <= 1", np.max(trace.numerical_rank), 1, rounding=0.0, **where
    )


def trains_anyway(ctx: Context) -> Iterator[Row]:
    r"""LoRA's start B = 0 trains under DeCAF also where mixing comes before the local step.

    From $B = 0$ and a random $A$, common to all agents, mix-first DeCAF brings the loss of a
    reachable target below half its start, as DLoRA does. FALSE: it never moves (T23).

    Assumptions: step size below the stability limit; the target has rank at most $r$.

    Counterexample: two agents, complete graph, $f(W) = \frac12 \|W - W^*\|_F^2$ with
    $W^* = 2 e_1 e_1'$, $B = 0$, $A = (1, 1)$. The first mix is $\mathrm{TSVD}_1(0)$: $B = A = 0$,
    where every gradient vanishes; the loss stays 2. DLoRA from the same start tends to 0.

    Source: derived here.
    """
    yield replay(instance())
    dlora = _final_loss(instance(), "dlora")
    case = "DLoRA from the same start: F <= F(W0)/2"
    yield at_most(case, dlora, 1.0, rounding=0.0, method="dlora")


def instance() -> Instance:
    """Return the target, the start and the run that never trains."""
    return {"target": [[2.0, 0.0], [0.0, 0.0]], "A": [[1.0, 1.0]], "lr": 0.25, "steps": 200}


def _final_loss(instance: Instance, method: str) -> float:
    A = np.stack([np.asarray(instance["A"])] * 2)
    target = np.stack([np.asarray(instance["target"])] * 2)
    start = Factors(np.zeros((2, target.shape[1], A.shape[1])), A)
    problem = approximation(target, Pi=np.full((2, 2), 0.5), start=start)
    trace = _run(problem=problem, method=method, lr=instance["lr"], steps=instance["steps"])
    return float(trace.loss[0, -1])


def replay(instance: Instance) -> Row:
    """Return the row of a stored run: the loss of mix-first DeCAF against half the loss at zero."""
    half = float(np.sum(np.square(instance["target"]))) / 4
    case = "DeCAF, mixing first: F <= F(W0)/2"
    # sums of a few squares
    slip = ulps(10, half)
    return at_most(case, _final_loss(instance, "decaf"), half, rounding=slip, method="decaf")


CLAIMS = [
    Claim(
        "T23",
        "truncation",
        "derived",
        rows,
        not_attacked="exact zeros and ranks",
        reaches={
            "P12: F >= 1/4": 1,
            "P12: numerical rank <= 1": 1,
            "dead start: F >= 0.625, decaf, mix_first, drop": 1,
            "dead start: F falls, decaf, mix_first, keep": 1,
            "dead start: F falls, decaf, step_first, drop": 1,
            "dead start: F falls, dlora, mix_first, drop": 1,
            "dead direction: F >= 0.25, decaf, step_first, drop": 1,
            "dead direction: F falls, decaf, step_first, keep": 1,
            "dead direction: F falls, dlora, step_first, drop": 1,
        },
    ),
    Claim(
        "T23-start",
        "truncation",
        "derived",
        trains_anyway,
        expected="violated",
        replay=replay,
        instance=instance,
        script="T23-start",
    ),
]
