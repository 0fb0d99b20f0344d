"""The methods one by one: worked examples, identities between them, and dead directions."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from decaf_theory import measure
from decaf_theory.lowrank import Factors, product
from decaf_theory.methods import METHODS, Clock, State, limiting_ranks, within_ranks
from decaf_theory.methods.form import FULL_MATRIX, LORA
from decaf_theory.methods.meeting import messages_of
from decaf_theory.methods.product import keep_directions
from decaf_theory.methods.state import message_bytes
from decaf_theory.topology import TOPOLOGIES
from decaf_theory.tsvd import tsvd_of_mix

EPS = np.finfo(np.float64).eps


def factors(*, N, d, k, r, seed=0):
    rng = np.random.default_rng(seed)
    return Factors(rng.standard_normal((N, d, r)), rng.standard_normal((N, r, k)))


def two_products(d, k):
    """Return r = 1 factors of E_11 and E_22, d x k."""
    B, A = np.zeros((2, d, 1)), np.zeros((2, 1, k))
    B[0, 0, 0] = B[1, 1, 0] = A[0, 0, 0] = A[1, 0, 1] = 1.0
    return Factors(B, A)


@pytest.mark.parametrize(("d", "k"), [(2, 2), (4, 3), (2, 5)])
@pytest.mark.parametrize("w", [Fraction(2, 3), Fraction(3, 5)])
def test_worked_example_W1_at_its_fractions(d, k, w):
    # M = diag(w, v), v = 1 - w; Bbar Abar = (w, v)'(w, v); all else by hand from these
    v = 1 - w
    means = {(0, 0): w * w, (0, 1): w * v, (1, 0): w * v, (1, 1): v * v}
    mix = {(0, 0): w, (0, 1): Fraction(0), (1, 0): Fraction(0), (1, 1): v}
    kept = {(0, 0): w, (0, 1): Fraction(0), (1, 0): Fraction(0), (1, 1): Fraction(0)}

    def distance(x, y):
        return float(sum((x[at] - y[at]) ** 2 for at in x))

    if w == Fraction(2, 3):  # the figures as published
        assert distance(mix, means) == 16 / 81
        assert distance(mix, kept) == 1 / 9
        assert distance(kept, means) == 13 / 81
    state, Pi = two_products(d, k), np.array([[float(w), float(v)]])
    averaged = product(METHODS["dlora"].mix(state, Pi, 0))
    truncated = product(METHODS["decaf"].mix(state, Pi, 0))
    for dense, exact in ((averaged, means), (truncated, kept)):
        full = np.zeros((1, d, k))
        for (i, j), value in exact.items():
            full[0, i, j] = value
        np.testing.assert_allclose(dense, full, rtol=0, atol=4 * EPS)
    I = measure.interference_norm(state, Pi)[0]  # noqa: E741
    E = measure.truncation_error(tsvd_of_mix(state, Pi, 1))[0]
    assert I**2 == pytest.approx(distance(mix, means), rel=20 * EPS)
    assert E**2 == pytest.approx(distance(mix, kept), rel=20 * EPS)
    gap = np.sum((truncated - averaged) ** 2)
    assert gap == pytest.approx(distance(kept, means), rel=20 * EPS)


@pytest.mark.parametrize(("d", "k", "r"), [(6, 4, 2), (3, 7, 1), (5, 5, 3)])
def test_decaf_on_the_complete_graph_is_FlexLoRA(d, k, r):
    state = factors(N=5, d=d, k=k, r=r)
    M = sum(b @ a for b, a in zip(*state, strict=True)) / 5
    U, S, Vh = np.linalg.svd(M)
    server = (U[:, :r] * S[:r]) @ Vh[:r]
    mixed = product(METHODS["decaf"].mix(state, TOPOLOGIES["complete"](5), 0))
    condition = S[r - 1] / (S[r - 1] - S[r])
    tolerance = 20 * (max(d, k) + 5 * r) * EPS * condition * np.linalg.norm(state.B) ** 2
    np.testing.assert_allclose(mixed, np.stack([server] * 5), rtol=0, atol=tolerance)


def test_fedavg_is_dlora_on_the_complete_graph_whatever_graph_it_is_given():
    state = factors(N=4, d=5, k=3, r=2)
    server = METHODS["fedavg"].mix(state, TOPOLOGIES["path"](4), 0)
    graph = METHODS["dlora"].mix(state, TOPOLOGIES["complete"](4), 0)
    for X, Y in zip(server, graph, strict=True):
        # sums of four terms in another order
        np.testing.assert_allclose(X, Y, rtol=0, atol=4 * EPS * np.abs(state.B).max())


def test_two_agents_on_a_ring_take_two_thirds_of_the_other():
    state = Factors(np.array([[[3.0]], [[0.0]]]), np.ones((2, 1, 1)))
    for name in ("dlora", "dlora_fa", "decaf"):
        mixed = product(METHODS[name].mix(state, TOPOLOGIES["ring"](2), 0))
        np.testing.assert_allclose(mixed.ravel(), [1.0, 2.0], rtol=8 * EPS)


def test_a_subset_of_rows_of_a_frozen_A_keeps_A_for_any_number_of_rows():
    state = factors(N=3, d=4, k=2, r=2)
    state = Factors(state.B, np.stack([state.A[0]] * 3))
    Pi = TOPOLOGIES["path"](3)
    for rows in ([2], [2, 0], [0, 1, 2, 1, 0]):  # a merge may ask for more rows than agents
        mixed = METHODS["dlora_fa"].mix(state, Pi[rows], 0)
        np.testing.assert_array_equal(mixed.A, np.stack([state.A[0]] * len(rows)))
        np.testing.assert_allclose(
            product(mixed), np.einsum("ij,jab->iab", Pi[rows], product(state)), atol=50 * EPS
        )


def with_dead_directions(*, alive, d=5, k=4, r=3, seed=0):
    """Return old factors and the truncation of one agent whose product has rank `alive`."""
    rng = np.random.default_rng(seed)
    old = Factors(rng.standard_normal((1, d, r)), rng.standard_normal((1, r, k)))
    old.B[..., alive:] = 0.0
    return old, tsvd_of_mix(old, np.eye(1), r)


@given(st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_kept_directions_leave_the_product_and_can_be_trained(alive, seed):
    old, truncated = with_dead_directions(alive=alive, seed=seed)
    B, A = kept = keep_directions(truncated, old)
    S = truncated.singular_values[0]
    # each direction counted as dead is below max(d, k) eps sigma_1
    assert np.linalg.norm(product(kept) - product(truncated.factors)) <= 3 * 5 * EPS * S[0]
    np.testing.assert_array_equal(B[..., alive:], 0.0)
    np.testing.assert_array_equal(A[:, alive:], old.A[:, alive:])
    np.testing.assert_array_equal(B[..., :alive], truncated.factors.B[..., :alive])
    np.testing.assert_array_equal(A[:, :alive], truncated.factors.A[:, :alive])
    g = np.random.default_rng(seed).standard_normal((1, 5, 4))
    gradient_B, _ = measure.factor_gradients(g, kept, 1.0)
    assert np.all(np.linalg.norm(gradient_B, axis=1) > 0)


def test_without_dead_directions_keeping_changes_nothing():
    old, truncated = with_dead_directions(alive=3)
    for X, Y in zip(keep_directions(truncated, old), truncated.factors, strict=True):
        np.testing.assert_array_equal(X, Y)


@pytest.mark.parametrize("to", [np.asarray, torch.tensor], ids=["numpy", "torch"])
def test_a_zero_product_gets_its_whole_A_back(to):
    old = Factors(to(np.zeros((2, 4, 2))), to(np.random.default_rng(0).standard_normal((2, 2, 3))))
    truncated = tsvd_of_mix(old, np.full((2, 2), 0.5), 2)
    assert not np.asarray(truncated.factors.A).any()
    B, A = keep_directions(truncated, old)
    np.testing.assert_array_equal(np.asarray(B), 0.0)
    np.testing.assert_array_equal(np.asarray(A), np.asarray(old.A))


def test_local_and_centralized_agents_keep_their_factors():
    state = factors(N=3, d=4, k=2, r=2)
    for name in ("local", "centralized"):
        mixed = METHODS[name].mix(state, TOPOLOGIES["ring"](3), 0)
        for X, Y in zip(state, mixed, strict=True):
            np.testing.assert_array_equal(X, Y)


def test_decaf_and_what_is_made_of_it_act_on_products():
    products = [name for name, method in METHODS.items() if method.space == "products"]
    assert products == ["decaf", "flexlora", "decaf_ef", "fedhl", "odelora"]


@pytest.mark.parametrize("name", ["local", "fedsa_lora", "choco", "fedhl", "fed_sb"])
def test_rows_that_belong_to_nobody_are_refused_where_agents_keep_something_of_their_own(name):
    state = factors(N=3, d=4, k=2, r=2)
    with pytest.raises(ValueError, match=f"{name} needs all 3 rows of Pi, one per agent, got 2"):
        METHODS[name].mix(state, TOPOLOGIES["ring"](3)[:2], 0)


SENDS = {
    "dsgd": 7 * 4,
    "local": 0,
    "centralized": 0,
    "fedavg": (7 + 4) * 3,
    "dlora": (7 + 4) * 3,
    "dlora_fa": 7 * 3,
    "decaf": (7 + 4) * 3,
    "ffa_lora": 7 * 3,
    "fedsa_lora": 4 * 3,
    "flexlora": (7 + 4) * 3,
    "rolora": 7 * 3,  # in the first round, 4 * 3 in the second
    "adf_lora": (7 + 4) * 3,
    "tad_lora": (7 + 4) * 3,
    "gradient_tracking": 2 * (7 + 4) * 3,
    "heavy_ball": (7 + 4) * 3,
    "choco": (6 + 3) * 1.5,  # a quarter of the numbers, with places of half their size
    "fedrot": (7 + 4) * 3,
    "hetlora": (7 + 4) * 3,
    "raflora": (7 + 4) * 3,
    "decaf_ef": (7 + 4) * 3,
    "flora": (7 + 4) * 3,
    "fedex_lora": (7 + 4) * 3,
    "rac_lora": 7 * 3,
    "fedhl": (7 + 4) * 3,
    "fed_sb": 3 * 3,
    "air_fedavg": (7 + 4) * 3,
    "salf": (7 + 4) * 3,
    "la_lora": (7 + 4) * 3,
    "odelora": (7 + 4) * 3,
    "fedagg": 2 * (7 + 4) * 3,
}


@pytest.mark.parametrize("name", METHODS)
def test_a_message_holds_as_many_numbers_as_the_method_says(name):
    method = METHODS[name]
    begun = method.begin(method.form.begin(factors(N=5, d=7, k=4, r=3), 1.0))
    assert message_bytes(method.send(begun, Clock())) == 8 * SENDS[name]


def test_links_count_each_direction_and_no_self_weight():
    ring = TOPOLOGIES["ring"](5)
    for Pi in (ring, sparse.csr_array(ring), torch.tensor(ring)):
        assert messages_of("graph", Pi, 5) == 10
    assert messages_of("server", None, 5) == 10
    assert messages_of("server", None, 5, "all") == 5 + 5 * 5
    assert messages_of("none", None, 5) == 0


def test_agents_of_smaller_rank_keep_their_largest_directions():
    state, Pi = factors(N=3, d=6, k=5, r=3), TOPOLOGIES["complete"](3)
    ranks = [1, 3, 2]
    limited = limiting_ranks(METHODS["decaf"], ranks)
    mixed = limited.exchange(limited.begin(within_ranks(state, ranks)), Pi, Clock())
    padded = within_ranks(state, ranks)
    M = np.mean(padded.B @ padded.A, axis=0)
    U, S, Vh = np.linalg.svd(M)
    for agent, r in enumerate(ranks):
        own = product(mixed.state.factors)[agent]
        # two SVDs of a 6 x 5 matrix whose singular values differ by more than a tenth of |M|
        assert np.min(-np.diff(S[:4])) > S[0] / 50
        np.testing.assert_allclose(
            own, (U[:, :r] * S[:r]) @ Vh[:r], rtol=0, atol=50 * 20 * 6 * EPS * S[0]
        )
        error = measure.truncation_error(mixed.truncated)[agent]
        assert error == pytest.approx(np.linalg.norm(S[r:]), abs=50 * 6 * EPS * S[0])
        assert not np.any(mixed.state.factors.B[agent, :, r:])
        assert not np.any(mixed.state.factors.A[agent, r:])


def test_a_round_without_a_mix_leaves_the_factors():
    state, Pi = factors(N=3, d=4, k=5, r=2), TOPOLOGIES["complete"](3)
    every_other = replace(METHODS["dlora"], mixes=lambda clock: clock.round % 2 == 1)
    assert every_other.mix(state, Pi, 0) is state
    assert not np.array_equal(every_other.mix(state, Pi, 1).B, state.B)


def test_the_forms_of_W_and_their_gradients():
    state, s = factors(N=3, d=4, k=5, r=2), 0.25
    g = np.random.default_rng(1).standard_normal((3, 4, 5))
    dense = s * np.einsum("jdr,jrk->jdk", *state)
    np.testing.assert_allclose(LORA.update(State(state), s), dense, rtol=0, atol=20 * EPS)
    B, A = LORA.gradients(g, State(state), s)
    np.testing.assert_allclose(B, s * g @ state.A.mT, rtol=0, atol=50 * EPS)
    np.testing.assert_allclose(A, s * state.B.mT @ g, rtol=0, atol=50 * EPS)
    whole = FULL_MATRIX.begin(state, s)
    np.testing.assert_allclose(whole.B, dense, rtol=0, atol=20 * EPS)
    np.testing.assert_array_equal(whole.A, [np.eye(5)] * 3)
    np.testing.assert_array_equal(FULL_MATRIX.update(State(whole), s), whole.B)
    np.testing.assert_array_equal(FULL_MATRIX.gradients(g, State(whole), s).B, g)
    assert (LORA.scale(s), FULL_MATRIX.scale(s)) == (s, 1.0)


def test_a_factor_that_is_neither_trained_nor_sent_is_fixed():
    fixed = {name: METHODS[name].fixed for name in ("dlora", "decaf", "dlora_fa", "fed_sb")}
    assert fixed == {"dlora": set(), "decaf": set(), "dlora_fa": {"A"}, "fed_sb": {"A", "B"}}
