"""SoRA: a form of W - W0 with gates, under every method that can carry it."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from decaf_theory import measure
from decaf_theory.lowrank import Factors, product
from decaf_theory.methods import FORMS, METHODS, Clock, State, sora, with_form
from decaf_theory.methods.cost import round_bytes, round_flops
from decaf_theory.methods.form import LORA, interference_of
from decaf_theory.methods.formed import steady_mean
from decaf_theory.methods.gates import soft_threshold
from decaf_theory.problems import Problem, approximation
from decaf_theory.simulate import Config, simulate
from decaf_theory.topology import TOPOLOGIES
from decaf_theory.tsvd import tsvd
from tests import exact_methods as exact

EPS = np.finfo(np.float64).eps
N, D, K, R = 4, 6, 5, 3
RING = TOPOLOGIES["ring"](N)
PROBLEM = approximation(np.random.default_rng(5).standard_normal((N, D, K)))
CARRIED = {"local", "centralized", "fedavg", "dlora", "dlora_fa", "decaf", "ffa_lora"}
CARRIED |= {"fedsa_lora", "flexlora", "rolora", "adf_lora", "tad_lora", "decaf_ef"}


def on_ring(name):
    return METHODS[name].on(RING)


def run(method, form, **changes):
    options = {"rank": R, "lr": 0.05, "steps": 6, "local_steps": 2, "runs": 2, **changes}
    return simulate(Config(problem=PROBLEM, Pi=RING, method=method, form=form, **options))


def gated(form, *, seed=0, n=N):
    """Return a state with gates of either sign, of the form over DLoRA."""
    rng = np.random.default_rng(seed)
    factors = Factors(rng.standard_normal((n, D, R)), rng.standard_normal((n, R, K)))
    begun = with_form(METHODS["dlora"], form).begin(factors)
    return begun._replace(memory={"gate": rng.standard_normal((n, 1, R))})


@pytest.mark.parametrize("name", METHODS)
def test_gates_that_do_not_train_leave_every_method_as_it_is_or_it_refuses_by_name(name):
    form = sora(lam=0.7, speed=0.0)
    if name not in CARRIED:
        with pytest.raises(ValueError, match=f"^sora needs a method .*; {name} "):
            with_form(METHODS[name], form)
        return
    plain, same = run(on_ring(name), None), run(on_ring(name), form)
    for X, Y in zip(plain.final, same.final, strict=True):
        np.testing.assert_array_equal(X, Y)
    np.testing.assert_array_equal(plain.agent_loss, same.agent_loss)
    np.testing.assert_array_equal(same.memory["gate"], np.ones((2, N, 1, R)))


@pytest.mark.parametrize(
    ("name", "weights"), [("dlora", exact.PATH), ("fedavg", exact.SERVER)], ids=["dlora", "fedavg"]
)
def test_three_rounds_of_gates_that_are_averaged(name, weights):
    lam, speed = Fraction(7, 4), Fraction(1, 2)
    B, A, gates = exact.gated(weights, lam, speed)
    found = exact_run(name, sora(float(lam), float(speed)), exact.B_START, exact.A_START)
    for X, Y in zip((*found.final, found.memory["gate"]), (B, A, gates), strict=True):
        exactly = np.array(Y, dtype=float).reshape(X[0].shape)
        # three rounds of fewer than 50 roundings an entry
        assert np.abs(X[0] - exactly).max() <= 150 * EPS * np.abs(exactly).max()


def test_three_rounds_of_gates_that_hold_singular_values():
    lam, speed = Fraction(1, 4), Fraction(1, 2)
    B, A = [Fraction(x) for x in (1, -2, 3)], [Fraction(1)] * 3
    targets = [Fraction(x, 2) for x in (3, 1, -1)]
    P = exact.gated_numbers(exact.PATH, lam, speed, B, A, targets)
    blocks = [np.array(x, dtype=float).reshape(3, 1, 1) for x in (B, A, targets)]
    found = exact_run("decaf", sora(float(lam), float(speed)), *blocks)
    products = product(Factors(found.final.B * found.memory["gate"], found.final.A)).ravel()
    exactly = np.array(P, dtype=float)
    assert np.abs(products - exactly).max() <= 150 * EPS * np.abs(exactly).max()


def exact_run(name, form, B, A, targets=exact.TARGETS):
    T = np.array(targets, dtype=float)
    problem = Problem(
        "exact",
        *T.shape,
        loss=lambda W: ((W - T) ** 2).sum(axis=(-2, -1)) / 2,
        grad=lambda W: W - T,
    )
    start = Factors(np.array(B, dtype=float), np.array(A, dtype=float))
    settings = {"s": float(exact.S), "lr": float(exact.LR), "steps": 3, "start": start}
    config = Config(
        problem=problem, method=name, form=form, Pi=np.array(exact.PATH, dtype=float), **settings
    )
    return simulate(config).require_finished()


def test_the_threshold_leaves_exact_zeros_and_acts_once():
    t = 0.25
    x = np.array([-3 * t, -t, -t / 2, 0.0, t / 2, t, 1.5 * t, 2 * t])
    once = soft_threshold(x, t)
    np.testing.assert_array_equal(once, [-2 * t, 0, 0, 0, 0, 0, t / 2, t])
    # public code subtracts, then sets to zero what is below t still: it kills t ... 2 t
    twice = np.where(np.abs(once) < t, 0.0, once)
    assert (once[6], twice[6]) == (t / 2, 0)


def test_the_gradients_are_those_of_the_loss():
    form, s, h = sora(), 0.5, 1e-6
    state, T = gated(form), np.random.default_rng(1).standard_normal((N, D, K))

    def loss(state):
        return ((form.update(state, s) - T) ** 2).sum(axis=(-2, -1)) / 2

    g = form.update(state, s) - T
    slopes = form.gradients(g, state, s)
    (variable,) = form.variables
    rng = np.random.default_rng(2)
    for name, slope in (*slopes._asdict().items(), ("gate", variable.gradient(g, state, s))):
        direction = rng.standard_normal(slope.shape)

        def moved(by, name=name, direction=direction):
            if name == "gate":
                return state._replace(memory={"gate": state.memory["gate"] + by * direction})
            X = getattr(state.factors, name) + by * direction
            return state._replace(factors=state.factors._replace(**{name: X}))

        # the loss is of degree 4 at most along B, A and g each: h^2 times its third derivative, and
        # rounding eps |loss| / h, are both below 1e-7 of the loss
        rate = (loss(moved(h)) - loss(moved(-h))) / (2 * h)
        found = (slope * direction).sum(axis=(-2, -1))
        assert np.abs(rate - found).max() <= 1e-7 * np.abs(loss(state)).max()


def test_a_mix_of_products_keeps_the_truncated_mean_of_W_in_factors_of_norm_one():
    form = sora()
    state = gated(form)
    method = with_form(METHODS["decaf"], form)
    mixed = method.exchange(state, RING, Clock())
    mean = np.einsum("ij,jdk->idk", RING, form.update(state, 1.0))
    best = tsvd(mean, R)
    # two decompositions of 6 x 5 matrices whose kept and dropped values differ by a tenth
    assert np.all(best.singular_values[:, -1] > 1.1 * best.tail[:, 0])
    error = np.abs(form.update(mixed.state, 1.0) - product(best.factors)).max()
    assert error <= 1000 * EPS * best.singular_values.max()
    np.testing.assert_allclose(mixed.truncated.tail, best.tail, atol=1000 * EPS)
    B, A = mixed.state.factors
    gate = mixed.state.memory["gate"][:, 0]
    np.testing.assert_array_equal(gate, mixed.truncated.singular_values)
    for unit in (B.mT @ B, A @ A.mT):
        assert np.abs(unit - np.eye(R)).max() <= 1000 * EPS * (gate[:, :1] / gate).max()


def test_products_alone_decide_a_mix_of_products_and_not_the_scale_of_gates():
    form = sora()
    state, factor = gated(form), 8.0  # a power of two, exact
    other = State(
        state.factors._replace(B=state.factors.B * factor),
        {"gate": state.memory["gate"] / factor},
    )
    for name, alike in (("decaf", True), ("dlora", False)):
        method = with_form(METHODS[name], form)
        one, two = (method.exchange(x, RING, Clock()).state for x in (state, other))
        same = all(np.array_equal(X, Y) for X, Y in zip(one.factors, two.factors, strict=True))
        assert same is alike


def test_a_closed_gate_stays_unless_its_gradient_exceeds_lambda():
    form = sora(lam=0.5)
    state = gated(form)
    closed = State(state.factors, {"gate": np.zeros((N, 1, R))})
    slopes = np.array([0.4, -0.5, 0.75]) * np.ones((N, 1, 1))
    moved = form.moved(closed, {"gate": slopes}, 0.125).memory["gate"]
    np.testing.assert_array_equal(moved, np.array([0.0, 0.0, -0.25 * 0.125]) * np.ones((N, 1, 1)))


def test_closed_gates_of_all_agents_stay_closed_in_a_mean_and_in_a_truncation():
    form = sora(lam=1.0)
    state = gated(form)
    gate = state.memory["gate"] * np.array([1.0, 0.0, 0.0])
    for name in ("dlora", "fedavg", "decaf"):
        method = with_form(METHODS[name], form)
        mixed = method.exchange(State(state.factors, {"gate": gate}), RING, Clock()).state
        left = mixed.memory["gate"][:, 0]
        if name == "decaf":  # products of rank one mix to rank N at most, here above one
            assert np.all(left > 0)
        else:
            np.testing.assert_array_equal(left[:, 1:], 0)


def test_gates_that_agree_stay_as_they_are_bit_for_bit_whatever_the_weights():
    # as weights sum to one up to rounding: a plain mean is 1 - 2^-50
    gates, weights = np.ones((2, 1, 3)), np.array([[0.5, 0.5 - 2.0**-50]])
    np.testing.assert_array_equal(steady_mean(gates, weights), gates[:1])


def test_what_mixing_apart_loses_is_measured_on_W():
    form = sora()
    state = gated(form)
    plain = interference_of(LORA, state, RING)
    known = measure.interference(state.factors, RING)
    assert np.abs(plain - known).max() <= 100 * EPS * np.abs(known).max()
    lost = interference_of(form, state, RING)
    mixed = with_form(METHODS["dlora"], form).exchange(state, RING, Clock()).state
    mean = np.einsum("ij,jdk->idk", RING, form.update(state, 1.0))
    assert np.abs(mean - form.update(mixed, 1.0) - lost).max() <= 100 * EPS * np.abs(mean).max()
    trace = run("dlora", form, start=state.factors, steps=1, local_steps=1, lr=0.0, runs=1)
    norms = np.sqrt((plain**2).sum(axis=(-2, -1))).mean()  # all gates are one there
    assert trace.interference[0, -1] == pytest.approx(norms, rel=100 * EPS)


def test_means_of_factors_no_longer_keep_the_mean_of_W_even_where_A_is_frozen():
    form, state = sora(), gated(sora())
    state = state._replace(factors=state.factors._replace(A=np.stack([state.factors.A[0]] * N)))
    assert "product" in with_form(METHODS["local"], form).keeps
    assert with_form(METHODS["dlora_fa"], form).keeps == ("B", "A")
    before = form.update(state, 1.0).mean(axis=0)
    # products of one A have rank R together, so that a truncation of their mean loses nothing
    for name, least, most in (("dlora_fa", 0.01, np.inf), ("decaf", 0, 1000 * EPS)):
        mixed = with_form(METHODS[name], form).exchange(state, RING, Clock()).state
        lost = np.abs(form.update(mixed, 1.0).mean(axis=0) - before).max() / np.abs(before).max()
        assert least <= lost <= most


def test_a_message_and_pooled_gradients_count_the_gates():
    shape = {"d": 7, "k": 4, "r": 3}
    form, messages = sora(), 2 * 5
    Pi = TOPOLOGIES["ring"](5)
    for name, numbers in (("dlora", 33 + 3), ("dlora_fa", 21 + 3), ("decaf", 33), ("local", 0)):
        method = with_form(METHODS[name], form)
        assert round_bytes(method, Pi, **shape) == (4 * messages * numbers,) * 2
        assert round_flops(method, Pi, **shape) is None
    assert round_bytes(with_form(METHODS["centralized"], form), Pi, **shape)[0] == 4 * 10 * 36


@pytest.mark.parametrize("name", ["dlora", "fedavg", "decaf", "rolora"])
def test_one_rank_with_its_neighbours_messages_does_what_the_network_does(name):
    method, state = with_form(METHODS[name], sora()), gated(sora())
    weights = method.weights(RING, N, Clock())
    every = method.form.update(method.exchange(state, weights, Clock()).state, 1.0)
    message = method.send(state, Clock())
    for agent in range(N):
        row = weights[min(agent, len(weights) - 1)]
        near = np.flatnonzero(row)
        heard = {part: X[near] for part, X in message.items()}
        own = method.receive(state.take([agent]), heard, row[None, near], Clock()).state
        error = np.abs(method.form.update(own, 1.0)[0] - every[agent]).max()
        assert error <= 1000 * EPS * np.abs(every).max()


@pytest.mark.parametrize("name", ["dlora", "decaf"])
def test_tensors_get_the_numbers_that_arrays_get(name):
    method, state = with_form(METHODS[name], sora()), gated(sora())
    found = method.exchange(state.each(torch.tensor), torch.tensor(RING), Clock()).state
    expected = method.exchange(state, RING, Clock()).state
    W, V = (method.form.update(x, 0.5) for x in (found, expected))
    assert isinstance(found.memory["gate"], torch.Tensor)
    assert np.abs(W.numpy() - V).max() <= 1000 * EPS * np.abs(V).max()


def only_gates(pairs, M, lam, steps, lr):
    """Return the gates after so many steps of one agent whose B and A stand still."""
    B, A = pairs
    problem = approximation(np.array([M], dtype=float))
    still = replace(METHODS["local"], trains=lambda clock: ())
    start = Factors(np.array([B], dtype=float), np.array([A], dtype=float))
    config = Config(
        problem=problem, method=still, form=sora(lam), start=start, lr=lr, steps=steps,
        record=["loss"], record_every=steps,
    )  # fmt: skip
    return simulate(config).require_finished().memory["gate"].ravel()


def test_with_orthogonal_pairs_every_gate_that_a_larger_lambda_leaves_open_a_smaller_one_does():
    """g <- T((1 - lr) g + lr m, lr lam) grows with g and falls with lam, for m >= 0, g >= 0.

    So g_t falls with lam at each step t, by induction from one start: open gates are nested.
    """
    M = np.diag([0.2, 0.5, 1.0])
    lams = (0.0, 0.1, 0.3, 0.6, 0.9, 1.5)
    for steps in (3, 10, 200):
        gates = np.array([only_gates((np.eye(3), np.eye(3)), M, lam, steps, 0.25) for lam in lams])
        assert np.all(np.diff(gates, axis=0) <= 0)
    kept = [int((g != 0).sum()) for g in gates]
    assert kept == [3, 3, 2, 1, 1, 0]
    # after 200 steps they are at T(m, lam), up to .75^200
    expected = np.maximum(np.array([0.2, 0.5, 1.0]) - np.array(lams)[:, None], 0)
    assert np.abs(gates - expected).max() <= 10 * EPS


def test_with_other_pairs_a_larger_lambda_can_leave_more_gates_open():
    """At lam = 1 two gates are open, at lam = 2 three: the unique minima, by exact conditions."""
    B = [[1, -1, -1], [-1, 1, 0], [0, -1, 0]]
    A = [[1, 0, 0], [-1, 0, -1], [-1, 1, 1]]
    M = [[1, 2, 2], [-2, -2, 0], [1, 0, -2]]
    columns = [[B[i][pair] for i in range(3)] for pair in range(3)]
    pairs = [[b * a for b in column for a in A[pair]] for pair, column in enumerate(columns)]
    target = [Fraction(x) for row in M for x in row]
    minima = {1: ("8/5", "0", "-6/5"), 2: ("2/3", "1/9", "-5/9")}
    for lam, texts in minima.items():
        gates = [Fraction(x) for x in texts]
        rest = [
            target[e] - sum(g * pair[e] for g, pair in zip(gates, pairs, strict=True))
            for e in range(9)
        ]
        slopes = [sum(x * y for x, y in zip(pair, rest, strict=True)) for pair in pairs]
        for g, slope in zip(gates, slopes, strict=True):
            assert abs(slope) < lam if g == 0 else slope == (lam if g > 0 else -lam)
        # the pairs' Gram matrix is positive definite, so that the minimum is the only one: lr
        # times its least eigenvalue .78 is .078, and .922^500 is below eps
        found = only_gates((B, A), M, lam, 500, 0.1)
        assert np.abs(found - np.array(gates, dtype=float)).max() <= 100 * EPS
        assert np.linalg.matrix_rank((np.array(B) * found) @ np.array(A)) == 3 - gates.count(0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sora(lam=-1), "lam must be finite and >= 0, got -1"),
        (lambda: sora(speed=np.inf), "speed must be finite and >= 0, got inf"),
        (lambda: run("dlora", "sorra"), "form must be one of"),
        (lambda: run("dlora", 3), "form must be a name in FORMS or a Form, got 3"),
        (lambda: run("tad_lora", "sora"), r"sora needs a method on its graph"),
        (
            lambda: run("decaf", "sora", zero_directions="keep"),
            "zero_directions 'keep' is not defined for sora decaf",
        ),
        (
            lambda: with_form(METHODS["decaf"], replace(sora(), split=None)),
            "decaf truncates products, which this form cannot split",
        ),
    ],
)
def test_what_a_form_cannot_do_is_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_lora_is_the_form_that_methods_have():
    assert with_form(METHODS["dlora"], FORMS["lora"]) is METHODS["dlora"]
