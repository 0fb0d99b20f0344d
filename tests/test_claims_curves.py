"""The rows that figures draw curves from: closed forms at single points, and their order."""

import numpy as np
import pytest
from scipy import stats

from decaf_theory.lowrank import product
from tests.claim_rows import invented
from tests.dense import sharp
from verification.claim import Context, Outcome
from verification.claims.rates.corollary import rows as rate_rows
from verification.claims.smoothness.lemma1 import least
from verification.curves import consensus, convergence, gauges, smoothness, start, truncation

EPS = np.finfo(np.float64).eps


def matching(rows, **wanted):
    return [row for row in rows if wanted.items() <= row.params.items()]


def test_the_worst_case_lies_on_the_bound_at_every_rank():
    rows = list(truncation.against_worst_case(Context("T16")))
    found = matching(rows, family="worst case", quantile=0.5)
    assert [row.params["r"] for row in found] == list(truncation.RANKS)
    for row in found:
        assert abs(row.measured - np.sqrt(row.params["r"]) / 2) <= row.rounding


def test_quantiles_are_single_instances_in_order():
    values = np.array([[3.0, 1.0], [2.0, 5.0]])
    rows = list(truncation.quantiles("any", values, 2 * values, rounding=0.0, held=True))
    assert [row.measured for row in rows] == [1.0, 3.0, 5.0, 5.0]
    assert all(row.bound == 2 * row.measured for row in rows)
    assert rows[-1].params == {"quantile": 1.0, "instances": 4}


def test_an_estimate_has_the_two_ends_of_its_paired_interval():
    runs, limits = np.array([1.0, 2.0, 4.0]), np.array([10.0, 10.0, 11.0])
    row = convergence.estimated(runs, limits, 0.5, {"T": 3})
    # differences -9, -8, -7: variance 1, two degrees of freedom
    half = stats.t.ppf(1 - (1 - convergence.LEVEL) / 2, 2) / np.sqrt(3)
    assert (row.measured, row.bound, row.rounding) == pytest.approx((7 / 3, 31 / 3, 0.5))
    assert (row.low, row.high) == pytest.approx((7 / 3 - half, 7 / 3 + half))
    # 0.1 % for all 108 rows together
    assert convergence.LEVEL == pytest.approx(1 - 0.001 / 108)


@pytest.mark.parametrize("method", ["dlora", "decaf"])
def test_each_measured_letter_of_a_run_is_in_its_place(method):
    path = invented(convergence.STEPS, 4)
    rows = list(convergence._rows_of(method, "ring", path))
    assert [row.params["T"] for row in rows] == convergence.HORIZONS
    targets = -convergence.problem().grad(np.zeros((6, 4, 3)))
    c = path.c.max()
    L = 2 * c**2 + c**2 + max(np.linalg.norm(W, 2) for W in targets)
    start = product(convergence.common_start())
    gap = np.sum((start - targets.mean(axis=0)) ** 2) / 2
    noise = 0.2**2 * (3 * path.norm_B.max() ** 2 + 4 * path.norm_A.max() ** 2) / 6
    for row in rows:
        T, lr = row.params["T"], 2.0**-4
        Xi, ebar = path.Xi[:T].mean(axis=0), (path.ebar[:T] ** 2).mean(axis=0)
        R, u = 2 * gap / (lr * T) + lr * L * noise, lr * L
        if method == "dlora":
            bound = R + L**2 * Xi
        else:
            drift, error = L * Xi**0.5, ebar**0.5 / lr
            cross = 2 * u * error * (np.hypot(drift, noise**0.5) - drift)
            bound = np.vectorize(sharp)(u, R, drift, error, cross)
        assert row.measured == pytest.approx(path.gradient[:T].mean())
        assert row.bound == pytest.approx(bound.mean())


@pytest.mark.slow
def test_simulated_runs_agree_with_exact_moments():
    rows = list(convergence.of_quadratics(Context("T25")))
    exact, simulated = (matching(rows, evidence=e) for e in ("exact", "simulated"))
    assert len(exact) == len(simulated) == 2 * 3 * 9
    for one, other in zip(exact, simulated, strict=True):
        # at T = 1 nothing is random yet, and both sides are sums of n = 72 products
        slip = 72 * EPS * one.measured
        assert other.low - slip <= one.measured <= other.high + slip


@pytest.mark.slow
def test_decaf_and_dlora_start_at_one_point_and_all_rows_hold():
    rows = [
        row
        for method in ("dlora", "decaf")
        for row in convergence.of_factors(Context("T25"), method)
    ]
    first = {row.measured for row in matching(rows, T=1)}
    assert max(first) - min(first) <= 100 * EPS
    assert {row.outcome for row in rows} == {Outcome.HOLDS}


def test_agents_on_a_complete_graph_rest_at_the_closed_form():
    # x_i = mean - lr (x_i - b_i): deviations are lr/(1 + lr) times those of b, of mean square 1
    rows = list(consensus.over_topologies(Context("T25")))
    lr = consensus.LR
    for row in matching(rows, topology="complete", part="heterogeneity"):
        assert row.measured == pytest.approx((lr / (1 + lr)) ** 2, rel=1e-9)
    assert {row.outcome for row in rows} == {Outcome.HOLDS}


def test_opposed_gauges_leave_nothing_of_factor_averages_and_all_of_decafs():
    rows = list(gauges.of_methods(Context("T20"), tuple(gauges.LAWS)))
    assert {row.outcome for row in rows} == {Outcome.HOLDS}
    lost = {row.params["method"]: row.params["lost"] for row in matching(rows, turned_by=1.0)}
    assert lost == pytest.approx({"decaf": 0, "dlora": 1, "dlora_fa": 1}, abs=1000 * EPS)


def test_only_the_dead_start_stays_and_only_dropped_directions_are_trapped():
    rows = list(start.paths())
    last = {
        tuple(row.params[name] for name in ("part", "method", "order", "rule")): row.measured
        for row in matching(rows, step=start.STEPS)
    }
    stuck = {key for key, loss in last.items() if loss > 0.1}
    assert stuck == {
        ("dead start", "decaf", "mix_first", "drop"),
        ("dead direction", "decaf", "step_first", "drop"),
    }


def test_the_extremal_slope_is_as_steep_as_the_sharp_constant_at_every_rank_and_scale():
    rows = matching(smoothness.over_ranks(Context("T2-sharp"), least), family="Huber")
    assert len(rows) == 3 * len(smoothness.RANKS)
    assert min(row.measured / row.bound for row in rows) >= 1 - 1e-6


@pytest.mark.slow
def test_the_mean_gradient_falls_as_agents_are_added_and_its_slope_is_a_half():
    rows = [row for row in rate_rows(Context("T28")) if row.params.get("curve") == "rate"]
    complete = matching(rows, part="agents", topology="complete")
    values = [row.measured for row in complete]
    assert values == sorted(values, reverse=True)
    (slope,) = matching(rows, part="slope, agents")
    assert slope.low <= slope.measured <= slope.high
    assert slope.measured == pytest.approx(-0.5, abs=0.01)
