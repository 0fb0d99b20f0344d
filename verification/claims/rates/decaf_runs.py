"""T30-order, T30-certificate: the error of mixing along DeCAF's runs, and the rate it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product as cartesian
from math import ceil, log
from typing import Any, NamedTuple

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import host, namespace
from decaf_theory.lowrank import Factors, align, product
from decaf_theory.measure import consensus_distance, factor_gradients, sigma_max
from decaf_theory.problems.approximation import approximation
from decaf_theory.stats import local_slopes, richardson
from decaf_theory.topology import sqrt_rho
from decaf_theory.tsvd import tsvd
from verification.claim import Claim, Context, Instance, Row, Value
from verification.curves.convergence import of_decaf
from verification.evidence import at_most, ulps
from verification.instances import decaf_rounds
from verification.instances.erring import rate_rounding
from verification.instances.quadratics import network

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

    Counterexample (without $\mu > 0$): see T32.

    Source: derived here. The rows extrapolate the slopes of five halvings to $\alpha = 0$: the
    corrections are of relative order $\alpha/(1-\lambda)$.
    """
    case = decaf_rounds.setting(ctx)
    lrs = 2.0 ** -np.arange(7, 12)
    copies = len(lrs)
    runs = len(case.Pi)
    start = decaf_rounds.fitted(ctx, case, R, S, copies)
    Pi = ctx.array(np.tile(case.Pi, (copies, 1, 1)))
    lr = ctx.array(np.repeat(lrs, runs))
    lam = max(sqrt_rho(P) for P in case.Pi)
    steps = ctx.pick(1, 4) * ceil(log(1e-12) / log(lam))
    largest = np.zeros(copies * runs)
    least = np.full(copies * runs, np.inf)
    for seen in decaf_rounds.rounds(start, ctx.array(case.targets), Pi, lr, S, steps):
        e = decaf_rounds.norms(
            decaf_rounds.error_of(align(seen.mixed.factors, seen.means), seen.means)
        )
        largest = np.maximum(largest, host(e).max(axis=-1))
        smallest = host(seen.mixed.singular_values[..., -1]).min(axis=-1)
        least = np.minimum(least, smallest)
        means = seen.means
    sup = largest.reshape(copies, runs)
    mu = least.reshape(copies, runs).min(axis=0)
    for i, name in enumerate(case.names):
        slopes = local_slopes(lrs, sup[:, i])
        limit = richardson(slopes[-3:].tolist()).value
        params: dict[str, Value] = {"topology": name, "finest_slope": float(slopes[-1])}
        held = mu[i] > 0.1
        # a slope is a difference of two logarithms over log 2; two extrapolations weigh the finest
        # by less than 3
        relative = _error_rounding(means, float(mu[i])) / float(sup[-1, i])
        slip = 3 * 2 * relative / log(2)
        more = {"rounding": slip, "held": held, "mu": float(mu[i]), **params}
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


class Sums(NamedTuple):
    """What the certificate needs of a run: averages over t < T and largest values, by run."""

    gradient: Any  # average of |grad Phi(z_t)|^2 at the mean factors z_t
    Xi: Any  # average of the consensus distance of the rotated factors
    ebar: Any  # average of |mean_i e_i|^2
    largest_Xi: Any
    apart: Any  # largest |e~|_F
    kappa: Any  # largest root of (1/N) sum |grad phi_i(z) - grad Phi(z)|^2
    c: Any  # largest sigma_1 of any factor
    norm_B: Any  # largest |B_i|_F
    norm_A: Any


def certificate(ctx: Context) -> Iterator[Row]:
    r"""T29 with the measured error of mixing bounds the mean squared gradient of DeCAF's runs.

    In the rotated frame of T30, with $L^* = s(2 s L c^2 + G)$ (T2), $\sigma_w$ and $\kappa_w$ of
    the factors (T5) and $z_t$ the mean of the rotated factors: $\frac1T \sum_t
    |\nabla \Phi(z_t)|^2 \le \frac{2 (\Phi(z_0) - F^*)}{\alpha T} + (L^* \sqrt{\Xi} +
    \epsilon/\alpha)^2$ without noise, and T29's general form with noise; $\epsilon$ and $\Xi$ are
    measured. The consensus bound of T29 holds likewise.

    Assumptions: Assumption 2 with the $c$ measured on the run; $\alpha L^* \le 1$; for the
    consensus bound $\alpha L^* q < 1$. Losses $f_i = |s B A - W_i^*|_F^2/2$.

    Proof: T29 applied to T30's recursion: $\Omega_c$ is convex, so that the mean factors and the
    segments between them stay inside.

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
    """Yield both bounds on six graphs, from a common start away from the mean target."""
    case = decaf_rounds.setting(ctx)
    steps = ctx.pick(200, 2000)
    lr = 2.0**-5
    B, A = decaf_rounds.fitted(ctx, case, R, S)
    rng = ctx.rng("start")
    tilt = ctx.array(0.3 * rng.standard_normal(B.shape[-2:]))
    start = Factors(0.7 * B + tilt, 0.7 * A)
    targets = ctx.array(case.targets)
    lrs = ctx.array([lr] * len(case.Pi))
    Pi = ctx.array(case.Pi)
    sums = _sums(decaf_rounds.rounds(start, targets, Pi, lrs, S, steps), case.targets, S)
    problem = approximation(case.targets)
    W = S * product(start)[..., 0, :, :]
    gap = host(problem.loss(W[:, None]).mean(-1)) - problem.constants.F_star
    for i, name in enumerate(case.names):
        one = Sums(*(float(x[i]) for x in sums))
        letters = _letters(problem.constants.G(S, one.c), one.c)
        net = network(case.Pi[i], "MS")
        params: dict[str, Value] = {"topology": name, "T": steps, "lr": lr, "c": one.c}
        points = np.hypot(one.norm_B, one.norm_A)
        terms = case.N + sum(case.Wbar.shape) + R
        size = {"N": case.N, "terms": terms}
        yield _mean_gradient(one, letters["L"], float(gap[i]), lr, steps, size, params)
        held = lr * letters["L"] * net.q < 1
        limit = bounds.mixing_error_consensus(
            lr=lr,
            sigma=0.0,
            kappa=one.kappa,
            N=case.N,
            q=net.q,
            S=net.S,
            lam=net.lam,
            eps=one.apart,
            **letters,
        )
        limit = limit if held else 0.0
        # rounding is one more error of mixing, as in `rate_rounding`; deviations sum it over
        # 1/((1 - lam)(1 - lr L q)) rounds, and are measured up to as much once more
        summed = 1 + 1 / ((1 - net.lam) * (1 - lr * letters["L"] * net.q)) if held else 1.0
        eta = ulps(4 * terms, points, summed)
        slip = 2 * eta * limit**0.5 + eta**2
        yield at_most(
            "largest Xi, no noise", one.largest_Xi, limit, rounding=slip, held=held, **params
        )


def _mean_gradient(
    one: Sums,
    L: float,
    gap: float,
    lr: float,
    steps: int,
    size: dict[str, int],
    params: dict[str, Value],
) -> Row:
    """Return the row of one run without noise; `size` holds N and the `terms` of its rounding."""
    held = lr * L <= 1
    bound = 0.0
    if held:
        bound = bounds.mixing_error_rate(
            F_gap=gap,
            lr=lr,
            T=steps,
            L=L,
            sigma=0.0,
            N=size["N"],
            Xi=one.Xi,
            ebar=one.ebar**0.5,
            predictable=True,
        )
    points = np.hypot(one.norm_B, one.norm_A)
    slip = rate_rounding(bound, points, terms=size["terms"], lr=lr)
    return at_most(
        "mean gradient, no noise", one.gradient, bound, rounding=slip, held=held, **params
    )


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
    lr = instance["lr"]
    N, d, k = targets.shape
    common = tsvd(targets.mean(axis=0) / S, 1).factors
    start = common.map(lambda X: np.tile(X, (1, N, 1, 1)))
    setting = targets, np.full((1, N, N), 1 / N), np.array([lr]), S
    for seen in decaf_rounds.rounds(start, *setting, instance["settle"]):
        rest = align(seen.mixed.factors, seen.means)
    sums = _sums(decaf_rounds.rounds(rest, *setting, 1), targets, S)
    one = Sums(*(float(x[0]) for x in sums))
    problem = approximation(targets)
    gap = float(problem.loss(S * product(rest)[0, :1]).mean()) - problem.constants.F_star
    L = _letters(problem.constants.G(S, one.c), one.c)["L"]
    size = {"N": N, "terms": N + d + k + 1}
    params: dict[str, Value] = {"topology": "complete", "T": instance["rounds"], "lr": lr}
    params |= {"c": one.c, "start": "at rest"}
    return _mean_gradient(one, L, gap, lr, instance["rounds"], size, params)


def _letters(G: float, c: float) -> dict[str, float]:
    """Return L = L* of the factors on Omega_c, for weight-space losses with L = 1."""
    return {"L": bounds.smoothness_sharp(L=1.0, c=c, G=G, s=S)}


def _all_noise_paths(ctx: Context) -> Iterator[Row]:
    """Yield the general form in expectation over all 2^12 paths of three steps of sign noise."""
    N = 2
    d = 2
    k = 1
    steps = 3
    tau = 0.4
    lr = 2.0**-5
    signs = np.array(list(cartesian([-1.0, 1.0], repeat=steps * N * d * k)))
    noise = ctx.array(tau * np.moveaxis(signs.reshape(-1, steps, N, d, k), 1, 0))
    targets = np.array([[[1.0], [0.5]], [[0.5], [-0.5]]])
    Pi = ctx.array(np.tile([[0.75, 0.25], [0.25, 0.75]], (len(signs), 1, 1)))
    start = Factors(
        ctx.array(np.tile([[1.0], [0.5]], (len(signs), N, 1, 1))),
        ctx.array(np.full((len(signs), N, 1, k), 1.0)),
    )
    size = ctx.array(np.full(len(signs), lr))
    run = decaf_rounds.rounds(start, ctx.array(targets), Pi, size, S, steps, noise=noise)
    sums = Sums(*(host(x) for x in _sums(run, targets, S)))
    problem = approximation(targets, tau=tau)
    W = S * host(product(start))[0, 0]
    gap = float(problem.loss(W[None]).mean()) - problem.constants.F_star
    c = float(sums.c.max())
    letters = _letters(problem.constants.G(S, c), c)
    variance = bounds.isotropic_factor_variance(
        s=S, tau=tau, A_norm=float(sums.norm_A.max()), B_norm=float(sums.norm_B.max()), d=d, k=k
    )
    held = lr * letters["L"] <= 1
    bound = bounds.mixing_error_rate(
        F_gap=gap,
        lr=lr,
        T=steps,
        sigma=variance**0.5,
        N=N,
        Xi=float(sums.Xi.mean()),
        ebar=float(sums.ebar.mean()) ** 0.5,
        **letters,
    )
    params: dict[str, Value] = {"T": steps, "lr": lr, "c": c, "paths": len(signs)}
    bound = bound if held else 0.0
    points = np.hypot(sums.norm_B, sums.norm_A).max()
    slip = rate_rounding(bound, points, terms=N + d + k + start.rank, lr=lr)
    yield at_most(
        "mean gradient, all noise paths",
        float(sums.gradient.mean()),
        bound,
        rounding=slip,
        held=held,
        **params,
    )


def _over_agents(X: Any) -> Any:
    return namespace(X).mean(X, axis=-3)


def _sums(run: Iterator[decaf_rounds.Round], targets: np.ndarray, s: float) -> Sums:
    """Return averages and largest values along a run in the rotated frame."""
    totals: list[Any] = []
    for seen in run:
        y = seen.at
        xp = namespace(seen.at.B)
        D = xp.asarray(targets - targets.mean(axis=0), device=y.B.device)
        z = y.map(_over_agents)
        slope = s * product(z) - xp.asarray(targets.mean(axis=0), device=y.B.device)
        own = factor_gradients(-D, z.map(lambda X: X[..., None, :, :]), s)
        e = decaf_rounds.error_of(align(seen.mixed.factors, seen.means), seen.means)
        mean_e = e.map(_over_agents)
        apart = consensus_distance(e) * targets.shape[0]
        reach = xp.maximum(sigma_max(y), sigma_max(seen.mixed.factors))  # both ends of the round
        totals.append(
            (
                decaf_rounds.norms(factor_gradients(slope, z, s)) ** 2,
                consensus_distance(y),
                decaf_rounds.norms(mean_e) ** 2,
                apart,
                xp.mean(decaf_rounds.norms(own) ** 2, axis=-1),
                xp.max(reach, axis=-1),
                xp.max(xp.linalg.matrix_norm(y.B, ord="fro"), axis=-1),
                xp.max(xp.linalg.matrix_norm(y.A, ord="fro"), axis=-1),
            )
        )
    columns = [namespace(x[0]).stack(x, axis=0) for x in map(list, zip(*totals, strict=True))]
    xp = namespace(columns[0])
    gradient, Xi, ebar, apart, kappa, c, norm_B, norm_A = columns
    top = [xp.max(x, axis=0) for x in (Xi, apart, kappa, c, norm_B, norm_A)]
    means = [xp.mean(x, axis=0) for x in (gradient, Xi, ebar)]
    return Sums(*means, top[0], top[1] ** 0.5, top[2] ** 0.5, *top[3:])


CLAIMS = [
    Claim(
        "T30-order",
        "rates",
        "derived",
        order,
        loose="its bound is the accuracy to which a limit is known",
        not_attacked="an asymptotic law",
    ),
    Claim(
        "T30-certificate",
        "rates",
        "derived",
        certificate,
        bounds=(bounds.mixing_error_rate,),
        conditional=True,
        not_attacked="T29 along runs of DeCAF; T29 is attacked",
        replay=replay,
        instance=at_rest,
    ),
]
