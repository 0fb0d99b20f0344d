"""Aggregated gradients and steps that adapt (FedAgg): sizes, drift, the iteration of the field."""

import numpy as np
import pytest

from decaf_theory.lowrank import Factors
from decaf_theory.methods import METHODS, Clock, fedagg
from decaf_theory.problems import approximation
from decaf_theory.simulate import Config, simulate

EPS = np.finfo(np.float64).eps
N, D, K, R = 4, 5, 3, 2


def pair(seed, *leading):
    rng = np.random.default_rng(seed)
    return Factors(rng.standard_normal((*leading, D, R)), rng.standard_normal((*leading, R, K)))


def flat(factors):
    return np.concatenate([X.reshape(*X.shape[:-2], -1) for X in factors], axis=-1)


def stepped(method, state, gradients, clock):
    return flat(method.step(state, gradients, clock).gradients)


def with_field(method, seed=0):
    """Return a state in the middle of a round: the field the same at all, the moves not."""
    state = method.begin(pair(seed, N))
    field = pair(seed + 1).map(lambda X: np.broadcast_to(X, (N, *X.shape)))
    return state._replace(memory={"field": field, "moved": pair(seed + 2, N)})


@pytest.mark.parametrize("penalty", [0.3, 1.0, 20.0])
@pytest.mark.parametrize("local", [0, 3])
def test_no_other_size_costs_less_and_none_drifts_farther_than_a_constant_one(penalty, local):
    method = fedagg(penalty, own=0.7)
    backwards = 0
    for seed in range(20):
        state, gradients = with_field(method, seed), pair(seed + 7, N)
        found = stepped(method, state, gradients, Clock(1, local, 5))
        a = 0.3 * flat(state.pair("field")) + 0.7 * flat(gradients)
        ahead = (local + 1) * flat(state.pair("field")) - flat(state.pair("moved"))
        size = np.sum(found * a, axis=-1) / np.sum(a * a, axis=-1)
        np.testing.assert_allclose(found, size[:, None] * a, atol=30 * EPS * np.abs(a).max())

        def cost(eta, a=a, ahead=ahead):
            near = np.sum((eta[:, None] * a - ahead) ** 2, axis=-1)
            return np.sum(((eta[:, None] - 1) * a) ** 2, axis=-1) + penalty * near, near

        best, near = cost(size)
        slip = 100 * EPS * best.max()
        for other in (1.0, 0.0, *np.linspace(0, 3, 13)):
            assert np.all(best <= cost(np.full(N, other))[0] + slip)
        assert np.all(near <= cost(np.ones(N))[1] + slip)
        backwards += np.sum(size == 0)
    assert backwards > 0 or penalty <= 1  # sizes below zero are cut


def test_without_a_penalty_the_own_gradient_alone_is_fedavg():
    problem = approximation(np.random.default_rng(0).standard_normal((N, D, K)))
    finals = [
        simulate(Config(problem=problem, method=method, rank=R, lr=0.05, steps=6, local_steps=3))
        for method in (fedagg(0.0, own=1.0), METHODS["fedavg"])
    ]
    for X, Y in zip(finals[0].final, finals[1].final, strict=True):
        # 18 steps of fewer than 50 roundings
        np.testing.assert_allclose(X, Y, rtol=0, atol=18 * 50 * EPS * np.abs(Y).max())


@pytest.mark.parametrize(("penalty", "own"), [(0.0, 0.5), (1.0, 0.5), (1.0, 0.25), (4.0, 1.0)])
def test_the_field_of_fixed_gradients_settles_at_its_fixed_point(penalty, own):
    method, gradients, local = fedagg(penalty, own), pair(1, N), 3
    state = with_field(method)
    state = state._replace(memory=state.memory | {"moved": gradients.map(lambda X: 0 * X)})
    weights, fields = np.full((1, N), 1 / N), [flat(state.pair("field"))[0]]
    for t in range(1, 200):
        for h in range(local):
            state = method.step(state, gradients, Clock(t, h, local)).state
        state = method.exchange(state, weights, Clock(t, local - 1, local)).state
        fields.append(flat(state.pair("field"))[0])
    steps = np.linalg.norm(np.diff(fields, axis=0), axis=-1)
    slip = 1000 * EPS * np.linalg.norm(fields[-1])
    assert steps[0] > 1000 * slip
    assert steps[-1] <= slip  # the iteration reproduces its own mean
    if penalty == 0:  # then it is phi <- (1 - own) phi + own mean(g)
        mean = flat(gradients).mean(axis=0)
        assert np.linalg.norm(fields[-1] - mean) <= slip
        np.testing.assert_allclose(steps[:5] * (1 - own), steps[1:6], atol=slip)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fedagg(-1.0), "penalty must be finite and >= 0, got -1.0"),
        (lambda: fedagg(np.inf), "penalty must be finite and >= 0, got inf"),
        (lambda: fedagg(1.0, 0.0), r"own must be in \(0, 1\], got 0.0"),
    ],
)
def test_parameters_out_of_range_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()
