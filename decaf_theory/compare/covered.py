"""What a run is to the theory: its method and its constants, or why they do not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from decaf_theory import bounds
from decaf_theory.arrays import host
from decaf_theory.compare.network import ROUNDING, dense, matrices, sums_off
from decaf_theory.compare.path import EPS, averages, momentum_of, turned
from decaf_theory.methods import Clock
from decaf_theory.methods.base import of_numbers
from decaf_theory.methods.factor import average_factors
from decaf_theory.methods.form import FULL_MATRIX, LORA
from decaf_theory.methods.product import truncate_products
from decaf_theory.simulate import Config, start_factors
from decaf_theory.topology import target_weights


class Letters(NamedTuple):
    """The constants in the variables that the method trains, None where they are not known.

    missing: why a constant is not known, by its letter.
    """

    L: float | None
    sigma: float | None
    kappa: float | None
    F_gap: float | None
    m: float | None
    mu: float | None
    missing: dict[str, str]

    def lacking(self, *names: str) -> str:
        """Return why the first of these constants that is not known is not; "" if all are."""
        return next((self.missing[n] for n in names if getattr(self, n) is None), "")


def require_exact(config: Config) -> None:
    """Raise ValueError at weights whose sums are one only to the digits of a narrower type."""
    for t, Pi in matrices(config):
        off = sums_off(dense(Pi), config.shares) * EPS
        if off > EPS**0.5:
            where = f" in round {t}" if callable(config.graph) else ""
            raise ValueError(
                f"rows and columns of Pi must sum to one in float64 to compare with bounds, got "
                f"sums that are {off:.1e} off{where}; weights in float32 are: make them in "
                f"float64, as TOPOLOGIES and topology.metropolis do"
            )


def kind_of(config: Config) -> str:
    """Return what trains: "W", "B" (A frozen and common) or "B, A"; else, "" for no such thing."""
    rule = config.rule
    K = config.local_steps
    seen = {rule.trains(Clock(t, j, K)) for t in range(config.steps) for j in range(K)}
    if rule.form == FULL_MATRIX:
        return "W" if seen == {("B",)} else ""
    A = host(start_factors(config).A)
    common = bool(np.all(A == A[:, :1]))
    if seen == {("B",)} and common and rule.receive is average_factors:
        return "B" if "A" not in rule.send(of_numbers(rule), Clock()) else ""
    return "B, A" if seen == {("B", "A")} else ""


def against(config: Config) -> str:
    """Return why no bound on rates holds for a run, "" if some may."""
    rule, name = config.rule, config.named.name
    if rule.form not in (LORA, FULL_MATRIX):
        return f"method: W - W0 of {name} is {rule.form.name}"
    if momentum_of(rule) is None:
        return f"method: a local step of {name} is not along the gradient"
    if rule.pools != "none":
        return f"method: {name} averages gradients"
    if not kind_of(config):
        return f"method: not every factor of {name} trains in every step"
    if callable(config.lr) or np.ptp(config.step_sizes(0)) > 0:
        return "step size: not one number for all rounds and runs"
    if config.order == "combine" and not averages(rule):
        return f"order: errors of mixing of {name} are known for order MS"
    if config.local_steps > 1 and not averages(rule):
        return f"local steps: with errors of mixing ({name}) one is covered"
    if momentum_of(rule) and (why := _beyond(config)):
        return f"momentum: T36 is known for {why}"
    if config.target is not None and (why := _beyond(config)):
        return f"target: T37-reversible is known for {why}"
    return _other_weights(config)


def _beyond(config: Config) -> str:
    """Return what T36 and T37-reversible ask for, of which this run has something else."""
    if config.order == "combine":
        return "order MS, not CB"
    if not averages(config.rule):
        return f"mixes that are means, and {config.named.name} has errors of mixing"
    if config.local_steps > 1:
        return f"one local step, not {config.local_steps}"
    return ""


def _other_weights(config: Config) -> str:
    """Return why the constants are not those of the run's F, "" if agents count alike in both."""
    if config.target is not None and momentum_of(config.rule):
        return "target: T36 is known for equal weights"
    N, declared = config.problem.N, config.problem.constants.shares
    equal = np.full(N, 1 / N)
    own = equal if config.shares is None else config.shares
    theirs = equal if declared is None else target_weights(declared, N, "shares")
    if np.allclose(theirs, own, rtol=ROUNDING, atol=0):
        return ""
    of = "equal" if declared is None else "other"
    return f"target: kappa and F_star are declared for {of} weights (Constants.shares)"


def followed(config: Config) -> Config:
    """Return the run as it is followed: each local step a round, products in T30's frame.

    A local step without a mix is a round on the identity, and a product method is DLoRA with errors
    of mixing once its outputs are turned onto the mean factors.
    """
    rule, K = config.rule, config.local_steps
    if rule.receive is truncate_products:
        return replace(config, method=turned(config.named))
    if K == 1:
        return config
    N, graph = config.problem.N, config.graph
    eye = np.eye(N)

    def rounds(t: int) -> Any:
        if t % K < K - 1:
            return eye
        return graph(t // K) if callable(graph) else graph

    return replace(config, local_steps=1, steps=K * config.steps, Pi=rounds)


def letters_of(config: Config, kind: str, c: float, points: float, start_loss: float) -> Letters:
    """Return the constants in what trains, on Omega_c where that is both factors.

    points: the largest |W| at which gradients of the mean are taken, where kappa must hold.
    start_loss: F at the mean of the start. Of B alone, W = W0 + s B A is linear: norms grow by
    s sigma_1(A) at most (T6). Of both factors: T2 and T5.
    """
    problem, s = config.problem, config.s
    known = problem.constants
    missing = {name: f"problem: {name} is not declared" for name in ("sigma", "kappa", "m", "mu")}
    missing |= {"F_gap": "problem: F_star is not declared", "L": "problem: L is not declared"}
    noisy = config.noise is True and problem.noise is not None
    sigma = known.sigma if noisy else 0.0
    if config.shares is not None:  # E|sum_i pi_i n_i|^2 <= sigma^2 |pi|^2, and N = 1 in all bounds
        sigma = _times(float(np.linalg.norm(config.shares)), sigma)
    if not isinstance(config.noise, bool):
        sigma, missing["sigma"] = None, "noise: of given draws no sigma is known"
    kappa = known.kappa
    if kappa is not None and points > known.within:
        kappa = None
        reached = f"the run reached {points:.4g}"
        missing["kappa"] = f"kappa holds for |W| <= {known.within:.4g}, {reached}"
    F_gap = None if known.F_star is None else start_loss - known.F_star
    L, m, mu = known.L, known.m, known.mu
    if kind == "W":
        return Letters(L, sigma, kappa, F_gap, m, mu, missing)
    missing["mu"] = "method: mu is that of W, not of factors"
    if kind == "B":
        a = float(np.linalg.norm(host(start_factors(config).A), ord=2, axis=(-2, -1)).max())
        grow = s * a
        L = None if L is None else bounds.frozen_smoothness(s=s, L=L, sigma_max_A=a)
        m = None if m is None else m * grow**2
        return Letters(L, _times(grow, sigma), _times(grow, kappa), F_gap, m, None, missing)
    missing["m"] = "method: in two factors no loss is known to be convex"
    if L is not None and known.G is None:
        L, missing["L"] = None, "problem: G is not declared"
    if L is not None and known.G is not None:
        L = bounds.smoothness_sharp(L=L, c=c, G=known.G(s, c), s=s)
    if sigma is not None:
        sigma = bounds.factor_sigma(s=s, c=c, sigma_W=sigma)
    if kappa is not None:
        kappa = bounds.factor_kappa(s=s, c=c, kappa_W=kappa)
    return Letters(L, sigma, kappa, F_gap, None, None, missing)


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value
