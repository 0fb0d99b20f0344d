"""T14: interference along DLoRA trajectories is bounded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from itertools import product as cartesian
from typing import Any, NamedTuple

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import host
from decaf_theory.lowrank import Factors
from decaf_theory.measure import consensus_distance, interference_norm, sigma_max
from decaf_theory.problems.approximation import approximation, planted, spread
from decaf_theory.simulate import Config, visits
from decaf_theory.topology import TOPOLOGIES, mixing_eigenvalues, sqrt_rho
from verification.claim import Claim, Context, Row
from verification.evidence import at_most, ulps
from verification.instances.targets import at_all_agents, fitted, smoothness

N = 6
D = 4
K = 3
R = 2
S = 0.75
KAPPA = 0.5
NETWORKS = ("complete", "ring", "path", "star", "bipartite", "exponential")
RECORDED = (0, 1, 2, 4, 8, 16, 32, 63)


class Runs(NamedTuple):
    """Runs on one network from one start, equally likely where there is noise."""

    name: str
    Pi: np.ndarray
    targets: np.ndarray  # [N, d, k]
    start: Factors  # B [d, r], A [r, k]
    lr: np.ndarray  # [runs]
    s: float
    noise: np.ndarray | None = None  # [steps, runs, N, d, k]
    sigma: float = 0.0


def bounded(ctx: Context) -> Iterator[Row]:
    r"""On DLoRA's path the mean interference is at most $\alpha^2 s^3 c^2$ times a constant.

    $E \frac1N \sum_i s |I_i|_* \le \frac s2 E\, \Xi_w \le \alpha^2 s^3 c^2 (\sigma_W \sqrt{S/N} +
    \kappa_W q)^2/(1 - \alpha L^* q)^2$ at every mix, with $q = 1/(1 - \lambda)$,
    $S = \sum_{l \ne l_1} 1/(1 - l^2)$ and $L^* = s(2 s L c^2 + G)$.

    Assumptions: those of T2 and T25 with $\alpha L^* q < 1$, common initial factors; Assumption 2
    with the $c$ measured on the path (for noise: on all paths).
    Proof: T10 gives $\Xi_w/2$. The factors that enter a mix are $x^+ = \Pi x - \alpha \hat g$, with
    $\hat g$ taken at $\Pi x$: their consensus distance obeys T25's bound with the constants $q$,
    $S$ of the order that combines, and $L^*$ (T2), $\sigma_w \le \sqrt 2 s c \sigma_W$,
    $\kappa_w \le \sqrt 2 s c \kappa_W$ (T5).
    Extremal: two agents on the complete graph with scalars $a = b = c$, $f_i = (s a b - s c^2 \pm
    \kappa)^2/2$, first step, $\alpha \to 0$; the same with noise $\pm \sigma$ instead of $\kappa$.
    These single steps at $\alpha = 2^{-24}$ are the only rows that reach the bound: whole runs come
    to 0.43 of it (two agents, noise), 0.26 (complete graph, fitted start), 0.004 (path, from
    $B = 0$).
    Source: derived here.
    """
    for topology in NETWORKS:
        for start in ("lora", "fitted"):
            yield along_path(ctx, "noise-free", network_runs(ctx, topology, start))
    for topology in ("complete", "ring"):
        yield along_path(ctx, "all noise paths", sign_noise(ctx, topology, ctx.pick(2, 3)))
    yield along_path(ctx, "extremal kappa", scalar_pair(2.0**-24, 0.75, 1.5, kappa=0.5, sigma=0.0))
    yield along_path(ctx, "extremal sigma", scalar_pair(2.0**-24, 0.75, 1.5, kappa=0.0, sigma=0.5))
    yield replay(instance())


def network_runs(ctx: Context, topology: str, start: str) -> Runs:
    """Return three step sizes on one network, from LoRA's start B = 0 or from the mean target."""
    Pi = TOPOLOGIES[topology](N)
    W = planted(d=D, k=K, rank=R, seed=ctx.seed)
    targets = W + spread(N=N, d=D, k=K, kappa=KAPPA, seed=ctx.seed)
    A = ctx.rng("start").standard_normal((R, K)) / K**0.5
    common = fitted(W, R, S) if start == "fitted" else Factors(np.zeros((D, R)), A)
    lr = np.array([1e-4, 1e-3, 1e-2])
    return Runs(f"{topology}, {start}", Pi, targets, common, lr, S)


def sign_noise(ctx: Context, topology: str, steps: int) -> Runs:
    """Return all paths of noise +-sigma/sqrt(d k) in each entry: two agents, d = r = 1, k = 2."""
    agents = 2
    d = 1
    k = 2
    sigma = 0.4
    signs = np.array(list(cartesian((-1.0, 1.0), repeat=steps * agents * d * k)))
    noise = np.moveaxis(signs.reshape(-1, steps, agents, d, k), 1, 0) * sigma / (d * k) ** 0.5
    targets = np.array([[[1.0, 0.5]], [[0.5, -0.5]]])
    start = Factors(np.full((d, 1), 1.0), ctx.rng("start").standard_normal((1, k)))
    lr = np.full(len(signs), 0.01)
    return Runs(topology, TOPOLOGIES[topology](agents), targets, start, lr, S, noise, sigma)


def scalar_pair(lr: float, s: float, c: float, *, kappa: float, sigma: float) -> Runs:
    """Return one step of two scalar agents a = b = c at the mean target s c^2 +- kappa."""
    targets = s * c**2 + kappa * np.array([1.0, -1.0])[:, None, None]
    signs = np.array(list(cartesian((-1.0, 1.0), repeat=2)))
    noise = sigma * signs[None, :, :, None, None]
    start = Factors(np.full((1, 1), c), np.full((1, 1), c))
    return Runs(
        "two scalars", np.full((2, 2), 0.5), targets, start, np.full(4, lr), s, noise, sigma
    )


def played(ctx: Context, runs: Runs, steps: int) -> Iterator[tuple[Factors, Factors]]:
    """Yield the factors at which gradients are taken, and those that enter the mix, by step."""
    config = Config(
        problem=approximation(runs.targets),
        method="dlora",
        Pi=runs.Pi,
        start=at_all_agents(ctx, runs.start, len(runs.Pi)),
        s=runs.s,
        lr=runs.lr,
        steps=steps,
        runs=len(runs.lr),
        noise=False if runs.noise is None else runs.noise,
    )
    for at, after in pairwise(visits(config)):
        assert after.mix.before is not None  # DLoRA mixes at every step
        yield at.factors, after.mix.before


def along_path(ctx: Context, case: str, runs: Runs, last: int = max(RECORDED) + 1) -> Row:
    """Return the worst row over rounds and step sizes; with noise, of the mean over all paths.

    Rounding: x is off by a few eps of its size, relative to which its deviations are of size lr;
    so |I|_* is off by 8 p n eps (c Xi_w^(1/2) + eps c^2), p = max(d, k, N r), n = min(d, k).
    """
    measured = []
    deviation = []
    c = np.zeros(len(runs.lr))
    last = last if runs.noise is None else len(runs.noise)
    for t, (y, x) in enumerate(played(ctx, runs, last)):
        c = np.maximum(c, host(sigma_max(y)).max(axis=-1))
        if t in RECORDED:
            measured.append(runs.s * host(interference_norm(x, runs.Pi, "nuc")).mean(axis=-1))
            deviation.append(host(consensus_distance(x)) ** 0.5)
    values = np.array(measured)
    spreads = np.array(deviation)  # [recorded, runs]
    if runs.noise is not None:
        values = values.mean(axis=-1, keepdims=True)
        c = c.max(keepdims=True)
        spreads = spreads.max(axis=-1, keepdims=True)
    limits = [limit(runs, float(lr), float(top)) for lr, top in zip(runs.lr, c, strict=False)]
    bound = np.array([value for value, _ in limits])
    agents, d, k = runs.targets.shape
    r = runs.start.rank
    p = max(d, k, agents * r)
    n = min(d, k)
    return at_most(
        f"{case}, {runs.name}",
        values,
        bound,
        rounding=ulps(8 * p * n, runs.s, c, spreads + ulps(1, c)),
        held=np.array([allowed for _, allowed in limits]),
        topology=runs.name,
        N=agents,
        d=d,
        k=k,
        r=r,
        s=runs.s,
    )


def limit(runs: Runs, lr: float, c: float) -> tuple[float, bool]:
    """Return the bound at one step size and one c, and whether lr L* q < 1 (0 where it is not)."""
    problem = approximation(runs.targets)
    kappa = problem.constants.kappa
    assert kappa is not None
    lam = sqrt_rho(runs.Pi)
    agents = len(runs.Pi)
    q = bounds.network_q(lam=lam, order="CB")
    S_CB = bounds.network_S(eigenvalues=mixing_eigenvalues(runs.Pi).tolist(), order="CB")
    L_hat = smoothness(problem, runs.s, c)
    letters = {"lr": lr, "s": runs.s, "c": c, "L_hat": L_hat, "q": q, "S": S_CB}
    if lr * L_hat * q >= 1:
        return 0.0, False
    return bounds.interference_trajectory(
        N=agents, sigma_W=runs.sigma, kappa_W=kappa, **letters
    ), True


def instance() -> Mapping[str, Any]:
    """Return the extremal step of two scalar agents."""
    return {"lr": 2.0**-24, "s": 0.75, "c": 1.5, "kappa": 0.5, "sigma": 0.0}


def replay(stored: Mapping[str, Any]) -> Row:
    """Return the row of one step of two scalar agents, or of a noise-free run with all its data."""
    if "targets" in stored:
        return along_path(Context("stored"), "stored", stored_runs(stored), stored["rounds"])
    kappa = stored["kappa"]
    sigma = stored["sigma"]
    runs = scalar_pair(stored["lr"], stored["s"], stored["c"], kappa=kappa, sigma=sigma)
    return along_path(Context("stored"), "stored", runs)


def stored_runs(stored: Mapping[str, Any]) -> Runs:
    """Return one run without noise: targets [N, d, k], common B [d, r], A [r, k], Pi, lr, s."""
    Pi, targets, B, A = (np.array(stored[name]) for name in ("Pi", "targets", "B", "A"))
    return Runs("stored", Pi, targets, Factors(B, A), np.array([stored["lr"]]), stored["s"])


def attacks() -> dict[str, Any]:
    """Return the attacks on T14."""
    from verification.attacks.quadratics import pair
    from verification.attacks.rounds import trajectory

    return {
        "complete, r = 1": trajectory(pair(0.0, "CB"), 2, 3, 1),
        "lam = 1/5, r = 2": trajectory(pair(0.2, "CB"), 2, 3, 2),
    }


CLAIMS = [
    Claim(
        "T14",
        "interference",
        "derived",
        bounded,
        bounds=(bounds.interference_trajectory, bounds.network_S, bounds.network_q),
        attacks=attacks,
        replay=replay,
        instance=instance,
        reaches={
            "noise-free": 0,
            "all noise paths": 0,
            "extremal kappa": 0.99,
            "extremal sigma": 0.99,
            "stored": 0.99,
        },
    ),
]
