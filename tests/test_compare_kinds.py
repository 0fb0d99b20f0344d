"""Momentum, random rounds and weighted agents against their bounds: extremal cases, letters."""

from dataclasses import replace

import numpy as np
import pytest

from decaf_theory import bounds
from decaf_theory.compare import ViolatedWarning, compare
from decaf_theory.compare.lines import HOLDS, OPEN, VIOLATED
from decaf_theory.lowrank import Factors
from decaf_theory.methods import METHODS, heavy_ball
from decaf_theory.problems import check_problem, quadratic
from decaf_theory.simulate import Config, simulate, visits
from decaf_theory.topology import (
    SCHEDULES,
    TOPOLOGIES,
    RandomSchedule,
    mixing_eigenvalues,
    sqrt_rho,
)
from decaf_theory.topology.contacts import contacts

RNG = np.random.default_rng(0)
N, D, K = 4, 4, 3
TARGETS = RNG.standard_normal((N, D, K))
CURVED = quadratic(0.5 + RNG.random((N, K)), TARGETS, radius=20.0)
PI = TOPOLOGIES["ring"](N)
BETA, LAM = 0.5, 0.5
SPREAD = "largest Xi"


def spread_of(found):
    return next(line for line in found.lines if line.what == SPREAD)


def scalars(signs, curvature, **changes):
    """Agents of one number each, f_i = curvature x^2/2 +- x, from 0 on."""
    problem = quadratic(curvature, -np.array(signs)[:, None, None] / curvature, **changes)
    count = len(signs)
    return {
        "problem": problem,
        "start": Factors(np.zeros((count, 1, 1)), np.ones((count, 1, 1))),
        "method": "dsgd",
    }


def declaring(run, **constants):
    """The same run of a problem that declares other constants."""
    problem = run["problem"]
    wrong = replace(problem.constants, **constants)
    return {**run, "problem": replace(problem, constants=wrong)}


# ---------------------------------------------------------------- momentum


def camps_with_momentum():
    Pi = np.array([[0.75, 0.25], [0.25, 0.75]])
    run = {**scalars([1.0, -1.0], -1.0), "Pi": Pi, "lr": (1 - BETA) / 4, "steps": 160}
    return {**run, "method": heavy_ball(METHODS["dsgd"], BETA)}


def test_momentum_reaches_the_bound_of_T36_and_is_shouted_at_if_kappa_is_too_small():
    line = spread_of(compare(Config(**camps_with_momentum())))
    assert line.claim == "T36"
    assert 1 - 1e-6 < line.ratio <= 1 + 1e-12
    with pytest.warns(ViolatedWarning):
        shouted = compare(Config(**declaring(camps_with_momentum(), kappa=0.98)))
    assert spread_of(shouted).verdict == VIOLATED


def test_the_rate_of_momentum_is_taken_ahead_of_the_mean():
    lr, steps = 0.02, 12
    method = heavy_ball(METHODS["dsgd"], BETA)
    start = Factors(np.zeros((N, D, 1)), np.ones((N, 1, K)))
    config = Config(problem=CURVED, Pi=PI, method=method, lr=lr, steps=steps, start=start)
    gradients, lags, Xi = [], [], []
    for visit in list(visits(config))[:-1]:
        W, v = (X.B[0] for X in (visit.factors, visit.state.memory["momentum"]))
        lag = lr * BETA / (1 - BETA) * v.mean(axis=0)
        z = W.mean(axis=0) - lag
        gradients.append(np.sum(CURVED.grad(z[None]).mean(axis=0) ** 2))
        lags.append(np.sum(lag**2))
        Xi.append(np.sum((W - W.mean(axis=0)) ** 2) / N)
    found, constants = compare(config), CURVED.constants
    gap = float(CURVED.loss(np.zeros((1, D, K))).mean()) - constants.F_star
    common = {"F_gap": gap, "T": steps, "L": constants.L, "sigma": 0.0, "N": N}
    rate = bounds.momentum_rate(lr=lr, beta=BETA, Xi=np.mean(Xi), **common)
    sharp = bounds.dsgd_sharp(lr=lr / (1 - BETA), Xi=np.mean(np.add(Xi, lags)), **common)
    near = {"rel": 1e-12}
    assert found["T36-rate"].measured == pytest.approx(np.mean(gradients), **near)
    assert found["T36-rate"].bound == pytest.approx(rate, **near)
    assert found["T36-rate, sharp"].bound == pytest.approx(sharp, **near)
    q, S = bounds.momentum_q_S(
        lam=sqrt_rho(PI), eigenvalues=mixing_eigenvalues(PI).tolist(), beta=BETA
    )
    assert (found.run.net.q, found.run.net.S) == pytest.approx((q, S), **near)
    assert {line.verdict for line in found.lines} == {"holds"}


def test_of_factors_the_point_ahead_lies_in_omega_c_too():
    rng = np.random.default_rng(3)
    start = Factors(np.stack([rng.standard_normal((D, 2))] * N), np.stack([np.eye(2, K)] * N))
    method = heavy_ball(METHODS["dlora"], 0.9)
    config = Config(problem=CURVED, Pi=PI, method=method, lr=0.02, steps=6, start=start)
    tops = []
    for visit in visits(config):
        for X, m in zip(visit.factors, visit.state.pair("momentum"), strict=True):
            z = (X - 0.02 * 0.9 / 0.1 * m)[0].mean(axis=0)
            tops.append(np.linalg.norm(z, ord=2))
    found = compare(config)
    assert found.run.path.c[0] == pytest.approx(max(tops), rel=1e-12)
    assert found.run.path.c[0] > simulate(config).sigma_max.max()


# ---------------------------------------------------------------- rounds drawn at random


def all_or_nothing(rho, seed=0):
    """Rounds in which all agents average, or none: E Pi'Pi - J = rho (I - J)."""

    def draw(rng):
        return np.eye(N) if rng.random() < rho else np.full((N, N), 1 / N)

    return RandomSchedule("all or nothing", seed, draw, lambda: rho)


def noise_of_one_pair(runs):
    """Unit noise at three agents of 30 numbers each, of which two average at a time: rho = 1/2."""
    flat = quadratic(2.0**-30, np.zeros((3, 6, 5)), tau=1.0)
    start = Factors(np.zeros((3, 6, 1)), np.ones((3, 1, 5)))
    run = {"problem": flat, "start": start, "method": "dsgd", "lr": 1.0, "steps": 8, "runs": runs}
    return {**run, "Pi": SCHEDULES["pairwise_gossip"](3)}


def test_noise_under_random_rounds_reaches_the_bound_of_T37_random():
    run = noise_of_one_pair(20)
    line = spread_of(compare(Config(**run)))
    # the mean at step t is 1 - 2^-t of the bound, which then lies in the interval of 20 runs
    assert (line.claim, line.verdict) == ("T37-random", OPEN)
    sigma = run["problem"].constants.sigma
    loose = spread_of(compare(Config(**declaring(run, sigma=2 * sigma))))
    assert loose.verdict == HOLDS
    with pytest.warns(ViolatedWarning):
        wrong = compare(Config(**declaring(run, sigma=sigma / 4)))
    assert spread_of(wrong).verdict == VIOLATED


def test_each_run_draws_rounds_of_its_own_and_one_decides_nothing():
    camps = {**scalars([1.0, 1.0, -1.0, -1.0], 2.0**-30), "lr": 1.0, "steps": 8}
    found = compare(Config(**camps, Pi=all_or_nothing(0.5), runs=5))
    assert np.ptp(found.run.path.Xi, axis=1).max() == 0  # of one draw for all
    waits = np.zeros(5)  # rounds since the last meeting, by hand
    for t in range(7):
        met = [np.any(all_or_nothing(0.5, seed=run)(t) == 0.25) for run in range(5)]
        waits = np.where(met, 0, waits + 1)
        np.testing.assert_allclose(
            found.run.drawn.Xi[t + 1], waits**2, rtol=1e-7
        )  # curvature 2^-30
    one = compare(Config(**camps, Pi=all_or_nothing(0.5)))
    assert spread_of(one).verdict == "open"


def test_drift_alone_is_far_from_the_bound_of_T37_random_as_its_claim_says():
    camps = {**scalars([1.0, 1.0, -1.0, -1.0], 2.0**-30), "lr": 1.0, "steps": 6}
    line = spread_of(compare(Config(**camps, Pi=all_or_nothing(0.5), runs=20)))
    # its mean tends to (1 + rho)/(1 + lam)^2 = 0.515 of the bound
    assert line.ratio < 0.9
    assert line.verdict != VIOLATED


def test_contacts_are_drawn_at_random_only_if_they_are(tmp_path):
    file = tmp_path / "contacts.csv"
    file.write_text("round,i,j\n0,0,1\n1,2,3\n2,1,2\n3,3,0\n")
    claims = []
    for then in ("draw", "repeat"):
        schedule = contacts(N, file=file, then=then)
        start = Factors(np.zeros((N, D, 1)), np.ones((N, 1, K)))
        run = {"problem": CURVED, "Pi": schedule, "start": start, "lr": 0.01, "steps": 8}
        claims.append(spread_of(compare(Config(method="dsgd", **run))))
    assert (claims[0].claim, claims[0].verdict) == ("T37-random", "open")
    assert (claims[1].claim, claims[1].why[:23]) == ("T37", "graph: does not mix (di")


# ---------------------------------------------------------------- agents that count by weights


WEIGHTS = [4.0, 1.0, 3.0, 2.0]
FLAT = LAM * np.eye(N) + (1 - LAM) * np.array(WEIGHTS) / 10


def weighted_camps(lam=LAM):
    run = scalars([1.0, 1.0, -1.0, -1.0], -1.0, shares=WEIGHTS)
    return {**run, "Pi": FLAT, "target": WEIGHTS, "lr": 0.25, "steps": 80}


def test_two_camps_of_half_the_weight_reach_the_bound_of_T37_reversible():
    line = spread_of(compare(Config(**weighted_camps())))
    assert line.claim == "T37-reversible"
    assert 1 - 1e-6 < line.ratio <= 1 + 1e-12
    with pytest.warns(ViolatedWarning):
        shouted = compare(Config(**declaring(weighted_camps(), kappa=0.98)))
    assert spread_of(shouted).verdict == VIOLATED


def test_noise_of_weighted_agents_counts_by_the_squares_of_their_weights():
    flat = scalars([0.0] * N, 1.0, tau=1.0, shares=WEIGHTS)
    pi = np.array(WEIGHTS) / 10
    # all agents take the weighted mean: only the mean moves, by noise of variance sum pi^2
    run = {**flat, "Pi": np.tile(pi, (N, 1)), "target": WEIGHTS, "lr": 1.0, "steps": 40}
    found = compare(Config(**run, runs=60))
    line = found["T37-reversible-rate"]
    assert line.bound == pytest.approx(pi @ pi, rel=1e-12)
    assert line.ratio == pytest.approx(1.0, abs=0.2)
    assert line.verdict != VIOLATED
    noisy = {**run, "Pi": FLAT}
    S = bounds.reversible_S(lam=LAM, pi=pi.tolist())
    q = bounds.network_q(lam=LAM, order="MS")
    known = {"L": 1.0, "sigma": 1.0, "kappa": 0.0, "N": 1, "q": q, "S": S}
    limit = bounds.consensus_bound(lr=0.1, **known)
    spread = spread_of(compare(Config(**{**noisy, "lr": 0.1}, runs=20)))
    assert spread.bound == pytest.approx(limit, rel=1e-12)


def test_a_weighted_quadratic_has_the_constants_of_copies_of_its_agents():
    S, copies = 0.5 + RNG.random((N, K)), np.repeat(np.arange(N), [4, 1, 3, 2])
    ours = quadratic(S, TARGETS, radius=3.0, shares=WEIGHTS)
    whole = quadratic(S[copies], TARGETS[copies], radius=3.0)
    for name in ("L", "kappa", "F_star", "mu", "m"):
        theirs = getattr(whole.constants, name)
        assert getattr(ours.constants, name) == pytest.approx(theirs, rel=1e-9), name
    assert ours.constants.shares == (0.4, 0.1, 0.3, 0.2)
    checked = check_problem(ours)
    assert checked["F_star"].measured == pytest.approx(whole.constants.F_star, rel=1e-6)
    unweighted = replace(ours, constants=replace(ours.constants, shares=None))
    with pytest.raises(ValueError, match=r"kappa is declared .*; mu is declared"):
        check_problem(unweighted)


def test_a_weighted_run_is_measured_by_weighted_means():
    skewed = quadratic(0.5 + RNG.random((N, K)), TARGETS, radius=20.0, shares=WEIGHTS)
    start = Factors(np.zeros((N, D, 1)), np.ones((N, 1, K)))
    run = {"problem": skewed, "Pi": FLAT, "target": WEIGHTS, "lr": 0.05, "steps": 20}
    config = Config(method="dsgd", start=start, **run)
    found, trace = compare(config), simulate(config)
    near = {"rel": 1e-12}
    assert found["T37-reversible-rate"].measured == pytest.approx(
        trace.gradient[0, :-1].mean(), **near
    )
    assert spread_of(found).measured == pytest.approx(trace.consensus_factors[0, :-1].max(), **near)
    assert found.run.letters.F_gap == pytest.approx(
        trace.loss[0, 0] - skewed.constants.F_star, **near
    )
    assert {line.verdict for line in found.lines if line.bound is not None} == {"holds"}
    equal = compare(
        Config(
            method="dsgd", start=start, **{**run, "target": [2.0] * N, "Pi": PI, "problem": CURVED}
        )
    )
    assert spread_of(equal).verdict == "holds"


def test_shares_are_checked_and_only_their_ratios_count():
    ours = quadratic(0.5, TARGETS, shares=WEIGHTS)
    whole = replace(ours, constants=replace(ours.constants, shares=(4.0, 1.0, 3.0, 2.0)))
    start = Factors(np.zeros((N, D, 1)), np.ones((N, 1, K)))
    run = {"method": "dsgd", "Pi": FLAT, "target": WEIGHTS, "lr": 0.05, "steps": 5, "start": start}
    assert spread_of(compare(Config(problem=whole, **run))).verdict == "holds"
    with pytest.raises(ValueError, match=f"shares must be {N} numbers for {N} agents"):
        replace(ours, constants=replace(ours.constants, shares=(1.0, 2.0)))
    with pytest.raises(ValueError, match="shares must be finite and > 0, got -1"):
        quadratic(0.5, TARGETS, shares=[1, 2, -1, 1])
