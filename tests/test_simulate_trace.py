"""What a simulation records, against the definitions."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import orthogonal_procrustes

from decaf_theory import measure
from decaf_theory.lowrank import Factors, product
from decaf_theory.methods import METHODS
from decaf_theory.problems import PROBLEMS, approximation
from decaf_theory.problems.approximation import spread
from decaf_theory.simulate import Config, SimulationError, simulate, start_factors
from decaf_theory.topology import TOPOLOGIES, NegativeWeightWarning

EPS = np.finfo(np.float64).eps
PI = TOPOLOGIES["path"](4)


def gaussian(*, d=5, k=3, r=2, shared=False):
    rng = np.random.default_rng(0)
    B, A = rng.standard_normal((4, d, r)), rng.standard_normal((4, r, k))
    return Factors(B, np.stack([A[0]] * 4) if shared else A)


def norm(X):
    return np.sqrt(np.sum(X**2, axis=(-2, -1)))


def spread_of(X):
    return sum(np.sum((x - X.mean(axis=0)) ** 2) for x in X) / len(X)


def aligned(factors):
    """Xi of [B; A'] turned onto agent 0, then twice onto the mean, or as it is if that is less."""
    Z = np.concatenate([factors.B, factors.A.swapaxes(1, 2)], axis=1)
    reference = Z[0]
    turned = Z
    for _ in range(3):
        turned = np.stack([X @ orthogonal_procrustes(X, reference)[0] for X in turned])
        reference = turned.mean(axis=0)
    return min(spread_of(turned), spread_of(Z))


@pytest.mark.parametrize("method", ["dlora", "decaf", "fedavg", "local", "dlora_fa", "dsgd"])
@pytest.mark.parametrize("s", [1.0, 0.25])
def test_every_quantity_is_what_its_definition_gives(method, s):
    problem = PROBLEMS["P3"](d=5, k=3)
    start = gaussian(shared=method == "dlora_fa")
    run = {"problem": problem, "method": method, "Pi": PI, "s": s, "start": start}
    config = Config(lr=0.1, steps=1, order="mix_first", **run)
    trace = simulate(config)
    # step 0 is the mixed start: all is recomputed here from the definitions, agent by agent
    weights = {"fedavg": np.full((4, 4), 1 / 4), "local": np.eye(4)}.get(method, PI)
    scale = 1.0 if method == "dsgd" else s
    state = start_factors(config)
    B, A = state.B[0], state.A[0]
    mixed = METHODS[method].mix(Factors(B, A), PI, 0)
    P = product(mixed)
    M = np.einsum("ij,jab->iab", weights, B @ A)
    I = M - np.einsum("ij,jab->iab", weights, B) @ np.einsum("ij,jab->iab", weights, A)  # noqa: E741
    W = scale * P
    gram = mixed.B.swapaxes(1, 2) @ mixed.B - mixed.A @ mixed.A.swapaxes(1, 2)
    sent = {"fedavg": 8 * (10 + 6), "local": 0, "dlora_fa": 6 * 10, "dsgd": 6 * 15}
    expected = {
        "loss": problem.loss(W.mean(axis=0)[None]).mean(),
        "agent_loss": problem.loss(W).mean(),
        "gradient": np.sum(problem.grad(W.mean(axis=0)[None]).mean(axis=0) ** 2),
        "consensus_factors": spread_of(mixed.B) + spread_of(mixed.A),
        "consensus_products": spread_of(P),
        "consensus_aligned": aligned(mixed) if method != "dsgd" else spread_of(mixed.B),
        "interference": norm(I).mean(),
        "truncation": norm(M - P).mean() if method == "decaf" else 0.0,
        "adapter_norm": norm(scale * P).mean(),
        "sigma_max": max(np.linalg.norm(X, ord=2, axis=(1, 2)).max() for X in mixed),
        "imbalance": (norm(gram) / norm(P)).max(),
        "numerical_rank": min(np.linalg.matrix_rank(p) for p in P),
        "comm_bytes": 8 * sent.get(method, 6 * (10 + 6)),
    }
    for name, value in expected.items():
        # products of norm 10 or less; I and E are differences of such, sqrt(d k) entries
        found = getattr(trace, name)[0, 0]
        assert found == pytest.approx(value, rel=1000 * EPS, abs=1000 * EPS), name


def test_before_the_first_mix_there_is_no_interference_and_nothing_is_sent():
    config = Config(problem=PROBLEMS["P3"](d=5, k=3), Pi=PI, start=gaussian(), lr=0.1, steps=2)
    trace = simulate(config)
    for name in ("interference", "truncation", "comm_bytes"):
        assert getattr(trace, name)[0, 0] == 0
        assert getattr(trace, name)[0, 1] > 0
    np.testing.assert_array_equal(trace.comm_bytes[0], 8 * 6 * (10 + 6) * np.arange(3))


def test_in_combine_the_interference_is_that_of_the_state_that_was_mixed():
    problem = PROBLEMS["P3"](d=5, k=3)
    config = Config(
        problem=problem, method="dlora", Pi=PI, start=gaussian(), lr=0.1, steps=1, order="combine"
    )
    trace = simulate(config)
    expected = simulate(replace(config, order="mix_first", steps=0)).interference[0, 0]
    np.testing.assert_array_equal(trace.interference[0], [0.0, expected])


def test_the_numerical_rank_is_the_least_of_any_agent():
    start = gaussian()
    start.B[2, :, 1] = 0.0
    config = Config(problem=PROBLEMS["P3"](d=5, k=3), Pi=PI, start=start, lr=0.1, steps=0)
    np.testing.assert_array_equal(simulate(config).numerical_rank, [[1]])


def test_centralized_sends_a_gradient_to_the_server_and_back_at_every_local_step():
    problem = PROBLEMS["P3"](d=5, k=3)
    run = {"problem": problem, "Pi": PI, "rank": 2, "lr": 0.1, "steps": 2, "local_steps": 3}
    trace = simulate(Config(method="centralized", **run))
    np.testing.assert_array_equal(trace.comm_bytes[0], 8 * (10 + 6) * 2 * 4 * 3 * np.arange(3))


def test_recording_less_often_records_the_same_and_always_the_end():
    config = Config(problem=PROBLEMS["P3"](d=5, k=3), Pi=PI, start=gaussian(), lr=0.1, steps=7)
    every, third = simulate(config), simulate(replace(config, record_every=3))
    np.testing.assert_array_equal(third.step, [0, 3, 6, 7])
    for name in ("loss", "interference", "truncation", "comm_bytes", "numerical_rank"):
        np.testing.assert_array_equal(getattr(third, name), getattr(every, name)[:, third.step])
    only = simulate(replace(config, steps=0))
    np.testing.assert_array_equal(only.step, [0])


@pytest.mark.parametrize("method", ["dlora", "decaf"])
def test_negative_weights_warn_and_run_with_all_numbers(method):
    Pi = np.array([[1.2, -0.2], [-0.2, 1.2]])
    start = gaussian().map(lambda X: X[:2])
    with pytest.warns(NegativeWeightWarning):
        config = Config(
            problem=PROBLEMS["P3"](N=2, d=5, k=3),
            method=method,
            Pi=Pi,
            start=start,
            lr=0.1,
            steps=2,
        )
    trace = simulate(config)
    B, A = start
    I = np.einsum("ij,jab->iab", Pi, B @ A) - np.einsum("ij,jab->iab", Pi, B) @ np.einsum(  # noqa: E741
        "ij,jab->iab", Pi, A
    )
    mixed = simulate_mix_first(config)
    assert mixed.interference[0, 0] == pytest.approx(norm(I).mean(), rel=1000 * EPS)
    assert np.isfinite(trace.interference).all()


def simulate_mix_first(config):
    with pytest.warns(NegativeWeightWarning):
        return simulate(replace(config, order="mix_first"))


def test_a_bad_number_at_the_mean_alone_is_found_when_it_is_recorded():
    problem = PROBLEMS["P3"](d=5, k=3)

    def bad_at_the_mean(W):
        g = problem.grad(W)
        return (
            g if W.shape[-3] == problem.N else np.where(np.arange(4)[:, None, None] == 2, np.nan, g)
        )

    config = Config(problem=replace(problem, grad=bad_at_the_mean), Pi=PI, rank=2, lr=0.1, steps=1)
    with pytest.raises(SimulationError, match="gradient at the mean point of agent 2 in run 0"):
        simulate(config)


def turned_at_random(factors, rng):
    """Factors of the same products, each agent's in a frame of its own."""
    O = np.linalg.qr(rng.standard_normal((len(factors.B), factors.rank, factors.rank)))[0]  # noqa: E741
    return Factors(factors.B @ O, O.swapaxes(1, 2) @ factors.A)


def test_the_aligned_distance_is_of_no_gauge_and_at_most_the_plain_one():
    rng = np.random.default_rng(1)
    for r in (2, 3):
        factors = gaussian(r=r)
        plain, found = measure.consensus_distance(factors), measure.aligned_consensus(factors)
        assert found <= plain
        common = factors.map(lambda X: np.stack([X[0]] * 4))
        equal = turned_at_random(common, rng)
        # turning an entry takes three sums of r products, and as many in the cross matrix
        size = np.sum(equal.B**2) + np.sum(equal.A**2)
        assert measure.aligned_consensus(equal) <= (40 * r * EPS) ** 2 * size
        assert measure.consensus_distance(equal) > 0.1
        near = common.map(lambda X: X + 1e-3 * rng.standard_normal(X.shape))
        ours = measure.aligned_consensus(turned_at_random(near, rng))
        assert ours == pytest.approx(measure.aligned_consensus(near), rel=1e-9)


def test_of_a_product_method_the_factors_are_apart_and_the_aligned_ones_agree():
    # singular values that are nearly tied turn each agent's SVD as they please
    targets = np.diag([1.0, 1.0, 0.0, 0.0]) + spread(N=8, d=4, k=4, kappa=0.2)
    problem, ring = approximation(targets), TOPOLOGIES["ring"](8)
    trace = simulate(Config(problem=problem, Pi=ring, rank=2, lr=0.05, steps=120))
    assert np.all(trace.consensus_aligned <= trace.consensus_factors)
    P = product(trace.final)[0]
    sigma = np.linalg.svd(P, compute_uv=False)[:, 1].min()
    # T20-distance, each agent's factors turned onto those of agent 0; the mean is nearer still
    bound = (1 + 2**0.5) * np.mean(norm(P - P[0]) ** 2) / sigma
    assert trace.consensus_aligned[0, -1] <= bound
    assert trace.consensus_factors[0, -1] > 100 * trace.consensus_products[0, -1]


def test_the_aligned_distance_weighs_agents_by_their_shares():
    factors = gaussian()
    shares = np.array([0.4, 0.3, 0.2, 0.1])
    equal = measure.aligned_consensus(factors, np.full(4, 0.25))
    assert equal == pytest.approx(measure.aligned_consensus(factors), rel=1e-12)
    alone = np.array([1.0, 0.0, 0.0, 0.0])
    assert measure.aligned_consensus(factors, alone) == 0
    weighted = measure.aligned_consensus(factors, shares)
    assert 0 < weighted <= measure.consensus_distance(factors, shares)


def test_a_trace_prints_in_a_line_without_its_numbers():
    config = Config(problem=PROBLEMS["P3"](N=4), Pi=TOPOLOGIES["ring"](4), rank=2, lr=0.1, steps=6)
    assert repr(simulate(replace(config, record=["loss", "gradient"]))) == (
        "<Trace: finished, 1 run, steps 0 to 6, comm_bytes, loss, gradient>"
    )
    assert len(repr(simulate(replace(config, runs=2)))) < 300
