"""T14-law: interference along DLoRA trajectories in the limit of small steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from math import ceil, log

import numpy as np

from decaf_theory.arrays import host
from decaf_theory.measure import interference
from decaf_theory.small_steps import added_by_mixing
from decaf_theory.stats import richardson
from decaf_theory.topology import sqrt_rho
from verification.claim import Claim, Context, Row
from verification.claims.interference.dlora_path import (
    NETWORKS,
    D,
    K,
    N,
    Runs,
    network_runs,
    played,
)
from verification.evidence import EPS, at_most, same, ulps
from verification.instances.targets import fitted

STEPS = 2.0 ** -np.arange(8, 12)  # of the extrapolation, each half of the one before


def law(ctx: Context) -> Iterator[Row]:
    r"""For small steps DLoRA's mean interference tends to $\alpha^2 s^2$ times a fixed matrix.

    $\frac s N \sum_i I_i \to \frac{\alpha^2 s^2}{N} \sum_{jl} \Gamma_{jl} D_j W' D_l$ with
    $\Gamma = (1 + \Pi)(1 - \Pi)^+$ off the constants and $W = s B A$ the fitted mean, whatever the
    gauge. It depends on $\alpha$ and $s$ only by $\alpha s$, so that with $W$ fixed it falls as
    $r^{-2}$ at $s = \eta/r$ and fixed $\alpha$, but does not vanish where $\alpha$ grows like
    $1/L^* \sim 1/s$.

    Assumptions: $f_i = |s B A - \bar W - D_i|_F^2/2$, $\sum_i D_i = 0$, no noise, a common start
    fitted to $\bar W$, $rank\, \bar W \le r$; $\alpha s^2 c^2 \ll 1 - \lambda$; the consensus
    transient over.
    Proof: To first order the deviations $\tilde B$ that enter a mix obey $\tilde B^+ = \Pi \tilde B
    + \alpha s D A'$, so they tend to $\alpha s (1 - \Pi)^+ D A'$, and $\tilde A$ to
    $\alpha s (1 - \Pi)^+ B' D$. Put them into $\frac1N \sum_i I_i = \frac1N \sum_{jl}
    (1 - \Pi^2)_{jl} \tilde B_j \tilde A_l$ (T8, T10); $(1 - \Pi^2)(1 - \Pi)^{+2} = \Gamma$ and
    $A' B' = W'/s$. Scaling: $\sqrt s (B, A)$ follows the same path at scale 1 and step $\alpha s$.
    Source: derived here. The corrections are of relative order $\alpha$: the rows extrapolate to
    $\alpha = 0$ from four halvings and are judged by the extrapolation's own error, at most 1 %.
    """
    yield from limits(ctx, "settled", settled(ctx))
    if ctx.size == "full":
        yield from limits(ctx, "at slow time 4", slow_time(ctx))
    for r in (2, 4, 8):
        yield same_by_product(ctx, r)


def settled(ctx: Context) -> dict[str, np.ndarray]:
    """Return s mean I / lr^2 on each network, [step sizes, d, k], when lam^t < 1e-14."""
    found = {}
    for topology in NETWORKS:
        runs = fitted_runs(ctx, topology, STEPS)
        lam = sqrt_rho(runs.Pi)
        found[topology] = after(ctx, runs, 2 if lam < EPS else 2 + ceil(log(1e-14) / log(lam)))
    return found


def slow_time(ctx: Context) -> dict[str, np.ndarray]:
    """Return the same after 4 / lr steps, many times that of the fit."""
    return {
        topology: np.concatenate(
            [after(ctx, fitted_runs(ctx, topology, lr), int(4 / lr[0])) for lr in STEPS[:, None]]
        )
        for topology in NETWORKS
    }


def fitted_runs(ctx: Context, topology: str, lr: np.ndarray) -> Runs:
    """Return runs from the common balanced factors of the mean target."""
    return network_runs(ctx, topology, "fitted")._replace(lr=lr)


def after(ctx: Context, runs: Runs, steps: int) -> np.ndarray:
    """Return s mean_i I_i / lr^2 in the last round, [runs, d, k]."""
    _, stepped = deque(played(ctx, runs, steps), maxlen=1).pop()
    mean = host(interference(stepped, runs.Pi)).mean(axis=-3)
    scaled: np.ndarray = runs.s * mean / runs.lr[:, None, None] ** 2
    return scaled


def predicted(runs: Runs) -> np.ndarray:
    """Return (s^2 / N) sum_jl Gamma_jl D_j W' D_l."""
    W = runs.targets.mean(axis=0)
    return runs.s**2 / len(runs.Pi) * added_by_mixing(runs.Pi, runs.targets - W, W)


def limits(ctx: Context, case: str, found: Mapping[str, np.ndarray]) -> Iterator[Row]:
    """Yield, for each network, how far the extrapolation is from the law, relative to the law.

    Rounding: deviations of size lr of factors of size 1, summed over 1 / (1 - lam) rounds; four
    halvings weigh the finest value by less than two. 64 allows for this and for sums of N, d, k.
    """
    for topology, values in found.items():
        runs = fitted_runs(ctx, topology, STEPS)
        expected = predicted(runs)
        size = np.linalg.norm(expected)
        entries = values.reshape(len(STEPS), -1).T
        extrapolated = [richardson(column.tolist()) for column in entries]
        limit = np.array([entry.value for entry in extrapolated]).reshape(expected.shape)
        error = np.linalg.norm([entry.error for entry in extrapolated]) / size
        finest = np.linalg.norm(values[-1] - expected) / size
        yield at_most(
            f"{case}, {topology}",
            np.linalg.norm(limit - expected) / size,
            min(error, 0.01),
            rounding=ulps(64) / STEPS[-1] / (1 - sqrt_rho(runs.Pi)),
            topology=topology,
            N=len(runs.Pi),
            finest_error=float(finest),
            finest_lr=float(STEPS[-1]),
        )


def same_by_product(ctx: Context, r: int) -> Row:
    """Return the identity: s I is that of scale 1 and step lr s, here at s = 2 / r, rank r."""
    runs = network_runs(ctx, "ring", "fitted")
    s = 2.0 / r
    lr = 0.01
    W = runs.targets.mean(axis=0)
    steps = 20
    results = []
    for scale, size in ((s, lr / s), (1.0, lr)):
        one = runs._replace(start=fitted(W, r, scale), lr=np.array([size]), s=scale)
        results.append(after(ctx, one, steps)[0] * size**2)
    # a step rounds by p eps of the factors, p = max(d, k, N r); deviations are of size lr
    rounding = ulps(8 * steps * max(D, K, N * r)) / lr * np.linalg.norm(results[1])
    residual = np.linalg.norm(results[0] - results[1])
    return same("depends on lr * s alone", residual, rounding=rounding, r=r, s=s)


CLAIMS = [
    Claim(
        "T14-law",
        "interference",
        "derived",
        law,
        loose="its bound is the accuracy to which a limit is known",
        chosen_bound=True,
        not_attacked="an asymptotic law",
    ),
]
