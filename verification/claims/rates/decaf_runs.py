"""T30-order, T30-certificate: the error of mixing along DeCAF's runs, and the rate it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from itertools import product as cartesian
from math import ceil, log

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import host
from decaf_theory.compare.path import (
    TURNED,
    Path,
    means_of,
    mixing_error,
    norms,
    path_of,
    rate_rounding,
)
from decaf_theory.lowrank import Factors, product
from decaf_theory.problems.approximation import approximation
from decaf_theory.simulate import Config, simulate, start_factors, visits
from decaf_theory.stats import local_slopes, richardson
from decaf_theory.topology import sqrt_rho
from decaf_theory.tsvd import tsvd
from verification.claim import Claim, Context, Instance, Row, Value
from verification.curves.convergence import of_decaf
from verification.evidence import at_most, ulps
from verification.instances.quadratics import network
from verification.instances.targets import (
    at_all_agents,
    fitted,
    loss_gap,
    setting,
    smoothness,
)

R = 2
S = 0.75


def order(ctx: Context) -> Iterator[Row]:
    r"""Where sigma_r stays away from 0, DeCAF's error of mixing is of second order in the step.

    $\sup_{t, i} |e_i| = O(\alpha^2)$ along runs with $\sigma_r(P_i) \ge \mu > 0$: its local slope
    in $\alpha$ tends to 2.

    Assumptions: those of T14's law: isotropic losses, heterogeneous targets of mean $\bar W$ of
    rank $r$, no noise, a common start fitted to $\bar W$.

    Proof: the deviations $\delta$ of the factors obey $\delta^+ \le \lambda \delta + O(\alpha) +
    C \delta^2$ from $\delta = 0$, as the errors of mixing are $O(\delta^2)$ by T30; so they stay
    $O(\alpha)$ for small $\alpha$, and $I_i$ and $P_i - Q_i$ are
    $O(\alpha^2)$ (T9, T18). Outputs are balanced; a local step changes the imbalance by
    $O(\alpha^2)$, and averaging balanced factors that differ by $O(\alpha)$ too. Put into T30.

    Counterexample (without that assumption): see T32.

    Source: derived here. The rows extrapolate the slopes of five halvings to $\alpha = 0$: the
    corrections are of relative order $\alpha/(1-\lambda)$.
    """
    case = setting(ctx)
    lrs = 2.0 ** -np.arange(7, 12)
    start = at_all_agents(ctx, fitted(case.Wbar, R, S), case.N)
    lam = max(sqrt_rho(P) for P in case.Pi)
    steps = ctx.pick(1, 4) * ceil(log(1e-12) / log(lam))
    options = {"method": TURNED, "start": start, "s": S, "steps": steps}
    for name, config in case.simulations(lr=lrs, runs=len(lrs), **options):
        sup = np.zeros(len(lrs))
        mu = np.inf
        for visit in islice(visits(config), 1, None):
            sup = np.maximum(sup, host(norms(mixing_error(visit))).max(axis=-1))
            truncated = visit.mix.truncated
            assert truncated is not None  # DeCAF truncates at every mix
            mu = min(mu, float(truncated.singular_values[..., -1].min()))
        slopes = local_slopes(lrs, sup)
        limit = richardson(slopes[-3:].tolist()).value
        params: dict[str, Value] = {"topology": name, "finest_slope": float(slopes[-1])}
        held = mu > 0.1
        # a slope is a difference of two logarithms over log 2; two extrapolations weigh the finest
        # by less than 3
        relative = _error_rounding(means_of(visit), mu) / float(sup[-1])
        slip = 3 * 2 * relative / log(2)
        more = {"rounding": slip, "held": held, "mu": mu, **params}
        yield at_most("|slope at lr = 0, less 2|", abs(limit - 2), 0.01, **more)


def _error_rounding(means: Factors, mu: float) -> float:
    """Return the rounding of |e_i| where sigma_r >= mu.

    A mix is off by the allowance of `mixes`, 10 max(d, k, N r) eps |B||A|, its truncation by twice
    as much where sigma_{r+1} is small, its balanced factors by what T20-distance makes of that, and
    turning them onto the means takes 10 eps of their size.
    """
    norm_B, norm_A = (float(np.linalg.norm(host(X), axis=(-2, -1)).max()) for X in means)
    terms = max(*means.shape, means.rank * means.B.shape[-3])
    product_distance = 2 * ulps(10 * terms, norm_B, norm_A)
    turned = ulps(10, np.hypot(norm_B, norm_A))
    return bounds.factor_distance(product_distance=product_distance, sigma_r=mu) + float(turned)


def certificate(ctx: Context) -> Iterator[Row]:
    r"""T29-joint with measured errors of mixing bounds the mean gradient of DeCAF's runs.

    In the rotated frame of T30, with $L^* = s(2 s L c^2 + G)$ (T2), $\sigma_w$ and $\kappa_w$ of
    the factors (T5) and $z_t$ the mean of the rotated factors, $\frac1T \sum_t
    |\nabla \Phi(z_t)|^2$ obeys T29-joint with $\epsilon$ and $\Xi$ measured: its form for
    predictable errors without noise, that for errors that depend on the noise with it. The
    consensus bound of T29 holds likewise.

    Assumptions: Assumption 2 with the $c$ measured on the run; $\alpha L^* \le 1$; for the
    consensus bound $\alpha L^* q < 1$. Losses $f_i = |s B A - W_i^*|_F^2/2$.

    Proof: T29-joint applied to T30's recursion: $\Omega_c$ is convex, so that the mean factors and
    the segments between them stay inside.

    Extremal: agents on the complete graph that start where DeCAF rests, $T \to \infty$: there the
    error of mixing undoes the step, $\epsilon = \alpha |\nabla \Phi|$, at a gradient that is not 0.

    Counterexample (to the predictable form): with errors that depend on the noise it may fail.

    Source: derived here. With noise the expectation is taken over all paths of sign noise.
    """
    yield from _without_noise(ctx)
    yield from _all_noise_paths(ctx)
    yield from of_decaf(ctx)
    yield replay(at_rest())


def _without_noise(ctx: Context) -> Iterator[Row]:
    """Yield both bounds on six graphs, from 0.7 of the factors fitted to the mean target.

    From there the loss falls at the pace of its least curvature, which leaves the bounds little
    slack; off the spaces of the mean target it falls at once.
    """
    case = setting(ctx)
    steps = ctx.pick(100, 400)
    lr = 2.0**-5
    start = fitted(case.Wbar, R, S).map(lambda X: 0.7 * X)
    problem = approximation(case.targets)
    gap = loss_gap(problem, S * product(start)[None])
    common = at_all_agents(ctx, start, case.N)
    simulations = case.simulations(method=TURNED, start=common, s=S, lr=lr, steps=steps)
    for (name, config), Pi in zip(simulations, case.Pi, strict=True):
        path = path_of(config)
        c = float(path.c[0])
        L = smoothness(problem, S, c)
        net = network(Pi, "MS")
        params: dict[str, Value] = {"topology": name, "T": steps, "lr": lr, "c": c}
        points = _largest_point(path)
        terms = case.N + sum(case.Wbar.shape) + R
        yield _mean_gradient(path, config, lr, gap, steps, params)
        held = lr * L * net.q < 1
        limit = bounds.mixing_error_consensus(
            lr=lr,
            L=L,
            sigma=0.0,
            kappa=float(path.kappa.max()),
            N=case.N,
            q=net.q,
            S=net.S,
            lam=net.lam,
            eps=float(path.apart.max()),
        )
        limit = limit if held else 0.0
        # rounding is one more error of mixing, as in `rate_rounding`; deviations sum it over
        # 1/((1 - lam)(1 - lr L q)) rounds, and are measured up to as much once more
        summed = 1 + 1 / ((1 - net.lam) * (1 - lr * L * net.q)) if held else 1.0
        eta = ulps(4 * terms, points, summed)
        slip = 2 * eta * limit**0.5 + eta**2
        largest = float(path.Xi.max())
        yield at_most("largest Xi, no noise", largest, limit, rounding=slip, held=held, **params)


def _mean_gradient(
    path: Path, config: Config, lr: float, gap: float, T: int, params: dict[str, Value]
) -> Row:
    """Return the row of one run without noise, its averages taken for those of T rounds."""
    problem = config.problem
    L = smoothness(problem, S, float(path.c[0]))
    held = lr * L <= 1
    bound = 0.0
    if held:
        bound = bounds.dsgd_sharp(
            F_gap=gap,
            lr=lr,
            T=T,
            L=L,
            sigma=0.0,
            N=problem.N,
            Xi=float(path.Xi.mean()),
            ebar=float((path.ebar**2).mean()) ** 0.5,
            errors="predictable",
        )
    terms = problem.N + problem.d + problem.k + start_factors(config).rank
    slip = rate_rounding(bound, _largest_point(path), terms=terms, lr=lr)
    gradient = float(path.gradient.mean())
    return at_most("mean gradient, no noise", gradient, bound, rounding=slip, held=held, **params)


def _largest_point(path: Path) -> float:
    """Return a bound on the norm of any agent's factors along a run."""
    return float(np.hypot(path.norm_B.max(), path.norm_A.max()))


def at_rest() -> Instance:
    """Return two scalar agents with targets 1 +- 0.7 and a number of rounds, all at DeCAF's rest.

    At rest e undoes the step: ebar = lr grad Phi, and 2^23 rounds leave 5e-7 for the other term.
    """
    return {"targets": [[[1.7]], [[0.3]]], "lr": 0.15, "settle": 500, "rounds": 2**23}


def replay(instance: Instance) -> Row:
    """Return the row of agents on the complete graph that start where a run of DeCAF rests.

    The averages are those of one round, as all are alike: the rest attracts, so that rounding does
    not add up.
    """
    targets = np.asarray(instance["targets"])
    lr = float(instance["lr"])
    N = len(targets)
    problem = approximation(targets)
    common = tsvd(targets.mean(axis=0) / S, 1).factors
    settling = Config(
        problem=problem,
        method=TURNED,
        Pi=np.full((N, N), 1 / N),
        start=common.map(lambda X: np.tile(X, (N, 1, 1))),
        s=S,
        lr=lr,
        steps=instance["settle"],
        record_every=instance["settle"],
    )
    rest = simulate(settling).final
    config = replace(settling, start=rest, steps=1)
    path = path_of(config)
    gap = loss_gap(problem, S * product(rest)[0, :1])
    T = instance["rounds"]
    params: dict[str, Value] = {"topology": "complete", "T": T, "lr": lr}
    params |= {"c": float(path.c[0]), "start": "at rest"}
    return _mean_gradient(path, config, lr, gap, T, params)


def _all_noise_paths(ctx: Context) -> Iterator[Row]:
    """Yield the form for dependent errors, averaged over all 2^12 paths of three steps of signs."""
    N = 2
    d = 2
    k = 1
    steps = 3
    tau = 0.4
    lr = 2.0**-3
    signs = np.array(list(cartesian([-1.0, 1.0], repeat=steps * N * d * k)))
    noise = tau * np.moveaxis(signs.reshape(-1, steps, N, d, k), 1, 0)
    targets = np.array([[[1.0], [0.5]], [[0.5], [-0.5]]])
    start = Factors(np.array([[0.7], [0.0]]), 0.7 * np.ones((1, k)))
    problem = approximation(targets, tau=tau)
    config = Config(
        problem=problem,
        method=TURNED,
        Pi=np.array([[0.75, 0.25], [0.25, 0.75]]),
        start=at_all_agents(ctx, start, N),
        s=S,
        lr=lr,
        steps=steps,
        runs=len(signs),
        noise=noise,
    )
    path = path_of(config)
    gap = loss_gap(problem, S * product(start)[None])
    c = float(path.c.max())
    norms_of = {"A_norm": float(path.norm_A.max()), "B_norm": float(path.norm_B.max())}
    L = smoothness(problem, S, c)
    variance = bounds.isotropic_factor_variance(s=S, tau=tau, d=d, k=k, **norms_of)
    held = lr * L <= 1
    bound = bounds.dsgd_sharp(
        F_gap=gap,
        lr=lr,
        T=steps,
        L=L,
        sigma=variance**0.5,
        N=N,
        Xi=float(path.Xi.mean()),
        ebar=float((path.ebar**2).mean()) ** 0.5,
    )
    params: dict[str, Value] = {"T": steps, "lr": lr, "c": c, "paths": len(signs)}
    bound = bound if held else 0.0
    points = float(np.hypot(path.norm_B, path.norm_A).max())
    slip = rate_rounding(bound, points, terms=N + d + k + start.rank, lr=lr)
    yield at_most(
        "mean gradient, all noise paths",
        float(path.gradient.mean()),
        bound,
        rounding=slip,
        held=held,
        **params,
    )


CLAIMS = [
    Claim(
        "T30-order",
        "rates",
        "derived",
        order,
        loose="its bound is the accuracy to which a limit is known",
        chosen_bound=True,
        not_attacked="an asymptotic law",
    ),
    Claim(
        "T30-certificate",
        "rates",
        "derived",
        certificate,
        bounds=(bounds.dsgd_sharp,),
        conditional=True,
        not_attacked="T29-joint along runs of DeCAF; T29-joint is attacked",
        replay=replay,
        instance=at_rest,
        reaches={
            "mean gradient, no noise": 0.99,
            "largest Xi, no noise": 0.01,
            "mean gradient, all noise paths": 0.01,
            "mean gradient, decaf": 0.45,
        },
    ),
]
