"""Forms for tasks in turn: SD-LoRA and the pool of pairs, against their rules and plain LoRA."""

import numpy as np
import pytest

from decaf_theory.lowrank import Factors, product
from decaf_theory.methods import (
    METHODS,
    Clock,
    keeping_directions,
    rank1_pool,
    sd_lora,
    with_form,
)
from decaf_theory.methods.form import LORA
from decaf_theory.methods.pool import mask, overlap_slope
from decaf_theory.problems import planted_sequence
from decaf_theory.simulate import Config, learn, simulate
from decaf_theory.topology import TOPOLOGIES
from decaf_theory.tsvd import tsvd
from tests.test_sora import CARRIED, PROBLEM, RING, D, K, N, R, on_ring

EPS = np.finfo(np.float64).eps
AS_ONE = "keeps what it truncates with"


def run(method, form, **changes):
    options = {"rank": R, "lr": 0.05, "steps": 4, "local_steps": 2, "runs": 2, **changes}
    return simulate(Config(problem=PROBLEM, Pi=RING, method=method, form=form, **options))


def equal(plain, same):
    for X, Y in zip(plain.final, same.final, strict=True):
        np.testing.assert_array_equal(X, Y)
    np.testing.assert_array_equal(plain.agent_loss, same.agent_loss)


@pytest.mark.parametrize("name", METHODS)
def test_one_task_of_a_magnitude_one_that_stays_is_every_method_as_it_is_or_refused(name):
    form = sd_lora(1, magnitude=1.0, speed=0.0)
    if name not in CARRIED:
        with pytest.raises(ValueError, match=f"^sd_lora needs a method .*; {name} "):
            with_form(METHODS[name], form)
    else:
        equal(run(on_ring(name), None, s=0.5), run(on_ring(name), form, s=0.5))


@pytest.mark.parametrize("name", METHODS)
def test_a_pool_of_pairs_that_are_all_active_is_plain_lora_where_factors_are_mixed(name):
    form = rank1_pool(1, active=R, overlap=0.0)
    if name not in CARRIED - {"decaf_ef"}:
        with pytest.raises(ValueError, match=f"^rank1_pool needs a method .*; {name} "):
            with_form(METHODS[name], form)
    elif METHODS[name].space == "factors":
        equal(run(on_ring(name), None, s=0.5), run(on_ring(name), form, s=0.5))


def drawn(form, *, seed=0, method="dlora"):
    """A state with numbers of all kinds in the form's memory."""
    rng = np.random.default_rng(seed)
    factors = Factors(rng.standard_normal((N, D, R)), rng.standard_normal((N, R, K)))
    state = with_form(METHODS[method], form).begin(factors)
    fresh = factors.map(lambda X: rng.standard_normal(X.shape))
    inputs = rng.random(K)
    return form.begins(form.ends(form.begins(state, 0, factors, inputs)), 1, fresh, inputs)


SD, POOL = sd_lora(2), rank1_pool(2, active=2, merged=2, overlap=0.0)


@pytest.mark.parametrize("form", [SD, POOL], ids=["sd_lora", "rank1_pool"])
def test_the_gradients_are_those_of_the_loss(form):
    s, h = 0.5, 2.0**-10
    state, T = drawn(form), np.random.default_rng(1).standard_normal((N, D, K))

    def loss(state):
        return ((form.update(state, s) - T) ** 2).sum(axis=(-2, -1)) / 2

    g = form.update(state, s) - T
    slopes = form.gradients(g, state, s)._asdict()
    slopes |= {v.name: v.gradient(g, state, s) for v in form.variables}
    assert len(slopes) == 2 + len(form.variables)
    rng = np.random.default_rng(2)
    for name, slope in slopes.items():
        direction = rng.standard_normal(slope.shape)

        def moved(by, name=name, direction=direction):
            if name in state.memory:
                moved = {name: state.memory[name] + by * direction}
                return state._replace(memory={**state.memory, **moved})
            X = getattr(state.factors, name) + by * direction
            return state._replace(factors=state.factors._replace(**{name: X}))

        # W is linear in each of them alone, the loss quadratic: only rounding is left, of sums of
        # d k squares in two losses
        rate = (loss(moved(h)) - loss(moved(-h))) / (2 * h)
        found = (slope * direction).sum(axis=(-2, -1))
        size = np.maximum(loss(moved(h)), loss(moved(-h))).max()
        assert np.abs(rate - found).max() <= 4 * D * K * EPS * size / h


# ---------------------------------------------------------------- SD-LoRA


def test_an_old_pair_has_unit_norm_and_its_number_starts_anew_or_is_carried_on():
    first = drawn(SD)  # any factors
    for carried in (False, True):
        form = sd_lora(3, carried=carried)
        state = with_form(METHODS["dlora"], form).begin(first.factors)
        before = form.update(state, 1.0)
        fresh = first.factors._replace(B=np.zeros_like(first.factors.B))
        after = form.update(form.begins(state, 1, fresh, None), 1.0)
        B, A = first.factors
        unit = before / (0.8 * _norms(B) * _norms(A))
        expected = before if carried else 0.8 * unit
        # a handful of roundings in each of r products
        assert np.abs(after - expected).max() <= 16 * R * EPS * np.abs(expected).max()
    assert np.abs(before - 0.8 * unit).max() > 0.1


def _norms(X):
    return np.sqrt((X**2).sum(axis=(-2, -1), keepdims=True))


def test_old_pairs_stay_and_magnitudes_are_averaged_whatever_is_mixed():
    state = drawn(SD)
    a = state.memory["magnitudes"] + np.arange(N)[:, None, None]
    state = state._replace(memory={**state.memory, "magnitudes": a})
    for name in ("dlora", "decaf"):
        method = with_form(METHODS[name], SD)
        mixed = method.exchange(state, RING, Clock()).state
        for X, Y in zip(mixed.pair("old"), state.pair("old"), strict=True):
            np.testing.assert_array_equal(X, Y)
        mean = np.einsum("ij,jab->iab", RING, a)
        assert np.abs(mixed.memory["magnitudes"] - mean).max() <= 4 * N * EPS * np.abs(a).max()
        plain = METHODS[name].mix(state.factors, RING)
        for X, Y in zip(mixed.factors, plain, strict=True):
            np.testing.assert_array_equal(X, Y)


# ---------------------------------------------------------------- the pool


def chosen_by_hand(router, active):
    """S(e_c) of each column, as sets."""
    return [set(np.argsort(-column, kind="stable")[:active]) for column in router.T]


def test_the_masked_update_is_the_sum_of_the_chosen_pairs():
    s, state = 0.5, drawn(POOL)
    B, A = state.factors
    router, base = state.memory["router"], state.memory["base"]
    assert np.abs(base).max() > 0
    sets = chosen_by_hand(router[0], 2)
    assert len({frozenset(each) for each in sets}) > 1  # inputs choose differently
    W = s * base.copy()
    for c, each in enumerate(sets):
        for j in each:
            W[:, :, c] += s * B[:, :, j] * A[:, j, c, None]
    found = POOL.update(state, s)
    assert np.abs(found - W).max() <= 16 * R * EPS * np.abs(W).max()
    # the fault of public code: the pairs that most inputs chose, for all of them
    used = mask(router[0], 2).sum(axis=1)
    most = np.isin(np.arange(R), np.argsort(-used, kind="stable")[:2])
    batch_wide = s * base + s * product(Factors(B * most, A))
    assert np.linalg.norm(batch_wide - W) > 0.1 * np.linalg.norm(W)


def test_the_pairs_used_most_are_merged_and_the_pool_begins_anew():
    state = drawn(POOL)
    B, A = state.factors
    used = state.memory["used"][0, :, 0]
    most = np.sort(np.argsort(-used, kind="stable")[:2])
    ended = POOL.ends(state)
    base = state.memory["base"] + product(Factors(B[..., most], A[:, most]))
    found = POOL.update(ended, 1.0)
    assert np.abs(found - base).max() <= 16 * R * EPS * np.abs(base).max()
    np.testing.assert_array_equal(ended.memory["earlier"], B[..., most])
    inputs = np.arange(1.0, K + 1)
    next_ = rank1_pool(3, active=2, merged=2).begins(ended, 2, state.factors, inputs)
    counts = [
        sum(
            x
            for x, each in zip(inputs, chosen_by_hand(next_.memory["router"][0], 2), strict=True)
            if j in each
        )
        for j in range(R)
    ]
    np.testing.assert_array_equal(next_.memory["used"][0, :, 0], counts)
    assert not np.array_equal(next_.memory["router"], state.memory["router"])


def test_the_overlap_is_that_of_the_pairs_that_would_be_merged():
    form = rank1_pool(2, active=2, merged=2, overlap=0.1)
    state = drawn(form)
    B, E = state.factors.B, state.memory["earlier"]
    used = state.memory["used"][0, :, 0]
    most = np.argsort(-used, kind="stable")[:2]

    def overlap(B):
        return np.abs(np.swapaxes(B[..., most], -1, -2) @ E).sum(axis=(-2, -1))

    direction = np.random.default_rng(4).standard_normal(B.shape)
    h = 2.0**-20
    # no sign changes so near: the overlap is linear there
    assert np.abs(np.swapaxes(B, -1, -2) @ E).min() > h * 100
    rate = (overlap(B + h * direction) - overlap(B)) / h
    slope = (overlap_slope(state, 2) * direction).sum(axis=(-2, -1))
    assert np.abs(rate - slope).max() <= 64 * D * EPS * overlap(B).max() / h
    g = np.zeros((N, D, K))
    np.testing.assert_array_equal(form.gradients(g, state, 1.0).B, overlap_slope(state, 2) * 0.1)


def test_products_are_mixed_pair_by_pair_so_that_every_masked_mean_is_kept_up_to_their_errors():
    state = drawn(POOL)
    method = with_form(METHODS["decaf"], POOL)
    mixed = method.exchange(state, RING, Clock())
    masks = mask(state.memory["router"], 2)
    own, after = (product(Factors(x.factors.B, masks * x.factors.A)) for x in (state, mixed.state))
    mean = np.einsum("ij,jdk->idk", RING, own)
    tails = np.sqrt((mixed.truncated.tail**2).sum(axis=-1))
    slip = 100 * EPS * _norms(mean).max()  # of decompositions of 6 x 5 matrices
    assert np.all(_norms(mean - after)[:, 0, 0] <= np.sqrt(R) * tails + slip)
    # a truncation of all pairs together loses no more
    whole = np.einsum("ij,jdk->idk", RING, product(state.factors))
    lost = _norms(whole - product(mixed.state.factors))[:, 0, 0]
    least = np.sqrt((tsvd(whole, R).tail ** 2).sum(axis=-1))
    assert np.all(lost >= least - 100 * EPS * _norms(whole).max())
    assert np.all(lost > 1.01 * least)


def test_agents_that_hold_the_same_pairs_keep_them_in_a_mix_of_products():
    state = drawn(POOL).take([0] * N)
    mixed = with_form(METHODS["decaf"], POOL).exchange(state, RING, Clock()).state
    before, after = (POOL.update(x, 1.0) for x in (state, mixed))
    assert np.abs(before - after).max() <= 200 * EPS * np.abs(before).max()
    sent = with_form(METHODS["decaf"], POOL).send(state, Clock())
    assert set(sent) == {"B", "A"}


# ---------------------------------------------------------------- tasks in turn, and refusals


def test_forgetting_of_the_forms_against_plain_lora_on_a_sequence():
    tasks = planted_sequence(T=2, N=2, d=6, k=6, rank=1, overlap=1.0, seed=4)
    Pi = TOPOLOGIES["complete"](2)
    shared = {"rank": 3, "steps": 150, "lr": 0.4, "Pi": Pi, "seed": 1}
    tables = {
        form.label: learn(tasks, form=form, **shared).losses[0] for form in (LORA, sd_lora(2))
    }
    # all see the same inputs and learn the last task: what is forgotten of the first is the same
    apart = tasks.losses(tasks.means[1])[0]
    for name, table in tables.items():
        missed = np.sqrt(2 * table[1, 1])
        assert missed < 0.05, name
        assert abs(np.sqrt(2 * table[1, 0]) - np.sqrt(2 * apart)) <= missed + 8 * EPS, name


def test_what_a_form_cannot_be_is_refused():
    for call, message in (
        (lambda: sd_lora(0), "tasks must be an integer >= 1, got 0"),
        (lambda: sd_lora(magnitude=np.inf), "magnitude must be finite, got inf"),
        (lambda: sd_lora(speed=-1.0), "speed must be finite and >= 0, got -1.0"),
        (lambda: rank1_pool(active=0), "active must be an integer >= 1, got 0"),
        (lambda: rank1_pool(merged=1.5), "merged must be an integer"),
        (lambda: rank1_pool(overlap=-0.1), "overlap must be finite and >= 0, got -0.1"),
        (lambda: drawn(sd_lora(1)), "tasks must be > 1 to begin task 2, got tasks = 1"),
        (lambda: drawn(rank1_pool(1)), "tasks must be > 1 to begin task 2, got tasks = 1"),
        (lambda: with_form(METHODS["decaf_ef"], POOL), AS_ONE),
        (
            lambda: keeping_directions(with_form(METHODS["decaf"], POOL)),
            "zero_directions 'keep' is not defined for rank1_pool decaf",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_directions_may_be_kept_before_a_form_is_given():
    for form in (SD, rank1_pool(2, active=R, merged=1)):
        method = with_form(keeping_directions(METHODS["decaf"]), form)
        state = drawn(form)
        dead = state._replace(factors=state.factors._replace(B=np.zeros((N, D, R))))
        mixed = method.exchange(dead, RING, Clock()).state
        np.testing.assert_array_equal(mixed.factors.A, state.factors.A)
