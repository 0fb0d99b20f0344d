"""T7: who preserves Assumption 2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from decaf_theory.arrays import host, namespace
from decaf_theory.lowrank import Factors
from decaf_theory.measure import factor_gradients, sigma_max
from decaf_theory.methods import METHODS
from decaf_theory.tsvd import tsvd_of_mix
from verification.claim import Claim, Context, Row
from verification.evidence import at_most, ulps
from verification.instances.mixes import Mix, isometry, load, mixes, stored
from verification.instances.omega import inside_omega, mix_of, mix_on_omega

C = 1.5
SCALES = (1e-8, C, 1e8)


def mixing(ctx: Context) -> Iterator[Row]:
    r"""Mixing preserves Assumption 2: DLoRA's means, DeCAF's balanced factors stay in Omega_c.

    Assumptions: $\pi_j \ge 0$, $\sum_j \pi_j = 1$, $\sigma_1(A_j), \sigma_1(B_j) \le c$. DeCAF's
    factors are the balanced ones, $B = U S^{1/2}$, $A = S^{1/2} V'$.
    Proof: DLoRA: $\sigma_1$ is convex. DeCAF: $\sigma_1(B)^2 = \sigma_1(A)^2 = \sigma_1(P) \le
    \sigma_1(M) \le \sum_j \pi_j \sigma_1(B_j) \sigma_1(A_j) \le c^2$.
    Extremal: equal agents with $\sigma_1(B) = c$ (DLoRA), equal $c$-isometries (DeCAF).
    Counterexample (for other maps): other splits of the TSVD and gradient steps leave Omega_c, see
    T7-unbalanced and T7-step. So Assumption 2 is a property of a run: measure $c$ on the path.
    Source: Assumption 2 of arXiv 2505.21382 (paraphrased); derived here.
    """
    for c in SCALES:
        for mix in mixes(ctx, ctx.pick(10, 200)):
            for method in ("dlora", "decaf"):
                yield stays("random", mix_on_omega(mix, c), c, method)
        for mix in equal_agents(ctx, c):
            for method in ("dlora", "decaf"):
                yield stays("extremal", mix, c, method)
    yield replay(instance())


def equal_agents(ctx: Context, c: float) -> Iterator[Mix]:
    """Yield three equal agents of c-isometries in three shapes."""
    for d, k, r in ((3, 2, 1), (2, 5, 2), (6, 4, 3)):
        rng = ctx.rng("equal", d, k, r)
        B, A = (np.repeat(c * isometry(rng, 1, *size), 3, axis=0) for size in ((d, r), (r, k)))
        yield mix_of(ctx, "equal agents", B, A, [0.5, 0.3, 0.2])


def stays(case: str, mix: Mix, c: float, method: str) -> Row:
    """Return the worst row sigma_max of the mixed factors <= c.

    Rounding: with p = max(d, k, m r), sums of m weights and r terms and singular values are off by
    4 p eps c; agents are allowed to exceed c by as much (DeCAF: in both factors, then a root).
    """
    xp = namespace(mix.factors.B)
    mixed = METHODS[method].mix(mix.factors, mix.Pi, 0)
    p = max(*mix.factors.shape, mix.Pi.shape[-1] * mix.factors.rank)
    held = xp.all(inside_omega(mix.factors, c), axis=-1)[:, None]
    letters = {**mix.params, "c": c, "method": method}
    label = f"{case} {method}, {mix.family}"
    rounding = ulps(8 * p, c)
    return at_most(label, sigma_max(mixed), c, rounding=rounding, held=held, **letters)


def instance() -> Mapping[str, Any]:
    """Return two equal agents of 2-isometries, for DeCAF."""
    B = 2 * np.eye(3, 2)
    A = 2 * np.eye(2, 2)
    return stored(Factors(np.stack([B, B]), np.stack([A, A])), [0.5, 0.5], c=2.0, method="decaf")


def replay(stored_instance: Mapping[str, Any]) -> Row:
    """Return the row of a stored mix, its c and its method."""
    mix = load(stored_instance)
    c = stored_instance["c"]
    return stays("stored", mix, c, stored_instance["method"])


def unbalanced(ctx: Context) -> Iterator[Row]:
    r"""DeCAF's mixing also preserves Assumption 2 with the unbalanced split $B = U S$, $A = V'$.

    Assumptions: $\pi_j \ge 0$, $\sum_j \pi_j = 1$, $\sigma_1(A_j), \sigma_1(B_j) \le c$.
    Proof (of the contrary): $\sigma_1(U S) = \sigma_1(P)$ may be $c^2 > c$ for $c > 1$,
    and $\sigma_1(V') = 1 > c$ for $c < 1$ wherever $P \ne 0$.
    Counterexample: one agent, $B = 2 e_1$, $A = 2 e_1'$, $c = 2$: $\sigma_1(U S) = 4$. The
    excess is by a factor of $c$, or $1/c$ for $c < 1$, which is free.
    Source: reading of arXiv 2505.21382 (paraphrased); refuted here.
    """
    for c in (0.5, 2.0, 10.0):
        for mix in equal_agents(ctx, c):
            yield split("equal agents", mix, c)
    yield replay_unbalanced(instance_unbalanced())


def split(case: str, mix: Mix, c: float) -> Row:
    """Return the row: sigma_1 of both factors of the unbalanced split is at most c."""
    truncated = tsvd_of_mix(mix.factors, mix.Pi, mix.factors.rank)
    root = namespace(truncated.singular_values).sqrt(truncated.singular_values)
    B, A = truncated.factors
    factors = Factors(B * root[..., None, :], A / root[..., :, None])
    p = max(*mix.factors.shape, mix.Pi.shape[-1] * mix.factors.rank)
    # as in `stays`, of factors U S and V' of size c^2 and 1
    rounding = ulps(8 * p, max(c * c, 1.0))
    return at_most(case, sigma_max(factors), c, rounding=rounding, **mix.params, c=c)


def instance_unbalanced() -> Mapping[str, Any]:
    """Return one agent of product 4 E_11, c = 2."""
    return stored(Factors(2 * np.eye(2, 1)[None], 2 * np.eye(1, 3)[None]), [1.0], c=2.0)


def replay_unbalanced(stored_instance: Mapping[str, Any]) -> Row:
    """Return the row of a stored mix under the unbalanced split."""
    return split("stored", load(stored_instance), stored_instance["c"])


def stepping(ctx: Context) -> Iterator[Row]:
    r"""A gradient step preserves Assumption 2.

    Assumptions: $f = |W - T|_F^2/2$, $s = 1$, step size below 1, $\sigma_1(A), \sigma_1(B) \le c$.
    Proof (of the contrary): the statement is false at any corner of Omega_c that falls short of
    the target.
    Counterexample: scalars $a = b = c = 1$, $T = 3$, step size 1/2: $a - (1/2) b (a b - 3) = 2$.
    The excess is set by the target and the step size, which are free.
    Source: reading of arXiv 2505.21382 (paraphrased); refuted here.
    """
    for lr in (1e-3, 0.1, 0.5):
        B = np.eye(3, 2)
        A = np.eye(2, 4)
        T = 3 * np.eye(3, 4)
        yield stepped("corner of Omega_1", B, A, T, lr, 1.0)
    yield replay_step(instance_step())


def stepped(case: str, B: Any, A: Any, target: Any, lr: float, c: float) -> Row:
    """Return the row: sigma_1 of both factors after one gradient step is at most c."""
    w = Factors(B, A)
    step = factor_gradients(B @ A - target, w, 1.0)
    after = sigma_max(Factors(B - lr * step.B, A - lr * step.A))
    held = bool(host(inside_omega(w, c)).all())
    d, k = w.shape
    # sums of at most p terms and sigma_1, as in `stays`
    rounding = ulps(8 * max(B.shape + A.shape), max(c, float(after)))
    return at_most(case, after, c, rounding=rounding, held=held, lr=lr, c=c, d=d, k=k, r=w.rank)


def instance_step() -> Mapping[str, Any]:
    """Return the scalars of the counterexample."""
    return {"B": [[1.0]], "A": [[1.0]], "target": [[3.0]], "lr": 0.5, "c": 1.0}


def replay_step(stored_instance: Mapping[str, Any]) -> Row:
    """Return the row of a stored step."""
    B, A, target = (np.array(stored_instance[name]) for name in ("B", "A", "target"))
    return stepped("stored", B, A, target, stored_instance["lr"], stored_instance["c"])


def attacks() -> dict[str, Any]:
    """Return the attacks on T7."""
    from verification.attacks.mixes import mixing_stays

    return {method: mixing_stays(method) for method in ("dlora", "decaf")}


CLAIMS = [
    Claim(
        "T7",
        "smoothness",
        "derived",
        mixing,
        attacks=attacks,
        replay=replay,
        instance=instance,
        reaches={
            "random dlora": 1,
            "random decaf": 0.99,
            "extremal dlora": 1,
            "extremal decaf": 1,
            "stored decaf": 1,
        },
    ),
    Claim(
        "T7-unbalanced",
        "smoothness",
        "paraphrased",
        unbalanced,
        expected="violated",
        chosen_bound=True,
        replay=replay_unbalanced,
        instance=instance_unbalanced,
        script="T7-unbalanced",
    ),
    Claim(
        "T7-step",
        "smoothness",
        "paraphrased",
        stepping,
        expected="violated",
        chosen_bound=True,
        replay=replay_step,
        instance=instance_step,
        script="T7-step",
    ),
]
