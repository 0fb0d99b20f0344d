"""What every method promises, over the table METHODS: a new line is tested the day it is added."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from decaf_theory.lowrank import Factors, product
from decaf_theory.methods import METHODS, Clock, air_fedavg, check_method, salf
from decaf_theory.methods.base import Confidence
from decaf_theory.methods.checking import BRANCHES, PROMISES, fitting
from decaf_theory.methods.gaps import rounding
from decaf_theory.topology import metropolis

ONE = Factors(np.ones((1, 1, 1)), np.ones((1, 1, 1)))
every_method = pytest.mark.parametrize("name", METHODS)
# without their draws, which test_methods_channel looks at
QUIET = {"air_fedavg": air_fedavg(sigma=0.0), "salf": salf(0.0)}
LOUD = ("equal agents", "numbering", "batch")  # what draws break


@every_method
def test_a_method_has_the_name_of_its_line(name):
    assert METHODS[name].name == name


@every_method
def test_a_method_says_where_it_comes_from_and_how_sure_that_is(name):
    rule, source, confidence = METHODS[name].origin
    assert source
    assert confidence in get_args(Confidence)
    assert ("reading, not confirmed" in rule) == (confidence in ("K", "?"))


def rule(name):
    """Return the method, or what is left of it where it draws no numbers."""
    return QUIET.get(name, METHODS[name])


def build(name, *, N, d, k, r, seed):
    """Return a round of generic factors that fits the method."""
    rng = np.random.default_rng(seed)
    return fitting(METHODS[name], rng, N, d, k, r, Pi=mixing(N, rng))


def mixing(N, rng):
    """Return Metropolis weights of a random connected graph: a path and some more edges."""
    import networkx

    graph = networkx.path_graph(N)
    graph.add_edges_from(map(tuple, rng.integers(0, N, (N, 2))))
    graph.remove_edges_from(networkx.selfloop_edges(graph))
    return metropolis(graph)


@st.composite
def rounds(draw):
    """Draw the method, then the branch, then sizes that fit (d != k, N = 1 and r = 1 included)."""
    name = draw(st.sampled_from(sorted(METHODS)))
    branch = draw(st.sampled_from(BRANCHES))
    d, k = draw(st.sampled_from([(1, 1), (1, 4), (3, 2), (4, 7), (6, 3), (5, 5)]))
    r = draw(st.integers(1, min(d, k)))
    N = draw(st.integers(1, 6))
    event(f"{name}, {branch}")
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    at = fitting(METHODS[name], rng, N, d, k, r, Pi=mixing(N, rng), branch=branch)
    return name, at._replace(clock=Clock(draw(st.integers(0, 9))))


@every_method
def test_every_method_keeps_its_promises(name):
    found = check_method(rule(name))
    assert {f"keeps {mean}" for mean in METHODS[name].keeps} < found.keys()
    if name in QUIET:
        check_method(METHODS[name], without=LOUD)


@pytest.mark.parametrize("promise", PROMISES)
@given(rounds())
def test_a_promise_is_kept_wherever_it_is_asked(promise, drawn):
    name, at = drawn
    for method in {rule(name), METHODS[name]} if promise not in LOUD else {rule(name)}:
        if PROMISES[promise].of(method):
            found, allowed = PROMISES[promise].gap(method, at)
            assert np.all(found <= allowed)


def test_what_is_not_promised_is_not_kept():
    lost = {
        "dlora": lambda s, m: product(s).mean(0) - product(m).mean(0),
        "fedavg": lambda s, m: product(s).mean(0) - product(m).mean(0),
        "decaf": lambda s, m: s.B.mean(0) - m.B.mean(0),
    }
    for name, difference in lost.items():
        state, Pi, _ = build(name, N=4, d=5, k=3, r=2, seed=1)
        assert np.abs(difference(state, METHODS[name].mix(state, Pi, 0))).max() > 0.01


@every_method
def test_rows_that_belong_to_nobody_are_refused_of_methods_that_do_not_merge(name):
    method, (state, Pi, _) = METHODS[name], build(name, N=4, d=5, k=3, r=2, seed=1)
    if not PROMISES["rows"].of(method):
        whose = "needs all 4 rows of Pi" if method.form.factored else "its factors alone do not"
        with pytest.raises(ValueError, match=f"{name} .*{whose}"):
            method.mix(state, Pi[[2, 0]], 0)


def test_factor_methods_see_the_gauge_of_an_agent_but_not_a_common_rotation():
    gauge_free = {"fedrot", "choco"}  # turns gauges; sees a common one, too
    mixing = (m for m in METHODS.values() if {*m.send(m.begin(ONE), Clock())} >= {"B", "A"})
    factors = (m for m in mixing if m.space == "factors" and "product" not in m.keeps)
    names = {method.name for method in factors} - gauge_free
    assert {"dlora", "fedavg", "heavy_ball"} < names
    for name in names:
        state, Pi, _ = build(name, N=3, d=4, k=5, r=2, seed=0)
        mix, rng = rule(name).mix, np.random.default_rng(1)
        Q = np.linalg.qr(rng.standard_normal((3, 2, 2)))[0]
        own = Factors(state.B @ Q, np.swapaxes(Q, 1, 2) @ state.A)
        common = Factors(state.B @ Q[0], Q[0].T @ state.A)
        mixed = product(mix(state, Pi, 0))
        assert np.abs(product(mix(own, Pi, 0)) - mixed).max() > 0.01
        assert np.abs(product(mix(common, Pi, 0)) - mixed).max() <= rounding(Pi, state)


@given(rounds())
def test_truncated_mixes_are_balanced_and_carry_their_error(drawn):
    name, (state, Pi, clock) = drawn
    method = METHODS[name]
    if method.space != "products":
        return
    weights = method.weights(Pi, len(Pi), clock)
    truncated = method.exchange(method.begin(state), weights, clock).truncated
    B, A = method.mix(state, Pi, clock.round)
    np.testing.assert_array_equal(B, truncated.factors.B)
    np.testing.assert_array_equal(A, truncated.factors.A)
    loss = rounding(Pi, state)
    gram_B, gram_A = np.swapaxes(B, 1, 2) @ B, A @ np.swapaxes(A, 1, 2)
    assert np.all(np.abs(gram_B - gram_A) <= loss)
    M = np.einsum("ij,jab->iab", Pi, product(state))
    tail = np.linalg.svd(M, compute_uv=False)[:, state.rank :]
    for norm, error in (("op", tail.max(axis=1, initial=0.0)), ("nuc", tail.sum(axis=1))):
        found = truncated.tail.max(axis=-1, initial=0.0) if norm == "op" else truncated.tail.sum(-1)
        assert np.all(np.abs(found - error) <= tail.shape[1] * loss + loss)
