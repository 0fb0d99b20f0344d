"""What the benchmark times is right: the kernel and its peers truncate the same mixes."""

import numpy as np
import pytest

from decaf_theory.bench import peers
from decaf_theory.bench.cases import Case, Inputs, draw, mixing, on_torch
from decaf_theory.lowrank import Factors, product
from tests.test_bench import TINY

EPS32 = float(np.finfo(np.float32).eps)


def truncations(inputs):
    """Return TSVD_r of each agent's mix of each layer, by a loop and LAPACK in float64."""
    B, A = (np.asarray(X, np.float64) for X in inputs.factors)
    M = np.einsum("ij,ljab->liab", inputs.Pi, B @ A)
    U, S, Vh = np.linalg.svd(M, full_matrices=False)
    r = inputs.rank
    return (U[..., :r] * S[..., None, :r]) @ Vh[..., :r, :]


def assert_near(found, best):
    """Assert products equal to float32 rounding, with room for gaps of a tenth of sigma_1."""
    size = np.max(np.linalg.norm(best, 2, axis=(-2, -1)))
    assert np.max(np.abs(np.asarray(found) - best)) <= 10 * max(best.shape[-2:]) * EPS32 * size


CASES = [
    TINY,
    TINY._replace(graph="complete"),
    TINY._replace(graph="unequal", apart=1e-2),
    TINY._replace(d=9, k=12, layers=3),
]


@pytest.fixture(params=CASES, ids=lambda case: case.label)
def case(request):
    return request.param


@pytest.fixture(params=["numpy", "torch"])
def inputs(request, case):
    drawn = draw(case)
    return drawn if request.param == "numpy" else on_torch(drawn, "cpu")


def test_the_kernel_and_the_qr_loops_truncate_the_mix(inputs):
    best = truncations(inputs)
    for build in (peers.kernel, peers.batched_qr):
        assert_near(product(build(inputs)()), best)
    loop = np.stack([np.asarray(product(factors)) for factors in peers.qr_loop(inputs)()])
    assert_near(loop.reshape(best.shape), best)


def test_the_ways_to_merge_truncate_the_weighted_mean(inputs):
    N = inputs.factors.B.shape[1]
    merge = inputs._replace(Pi=mixing("merge", N))
    best = truncations(merge)
    for build in (peers.qr_loop, peers.core_space):
        found = np.stack([np.asarray(product(factors)) for factors in build(merge)()])
        assert_near(found.reshape(best.shape), best)
    assert_near(product(peers.kernel(merge)()), best)


def test_a_merge_is_one_row_of_weights_that_differ():
    Pi = mixing("merge", 4)
    assert np.array_equal(Pi, [[0.1, 0.2, 0.3, 0.4]])


def test_the_dense_peers_truncate_the_first_agents_mix(inputs):
    best, r = truncations(inputs), inputs.rank
    assert_near(product(peers.dense_aggregation(inputs)()), best[0, 0])
    U, S, Vh = (np.asarray(X) for X in peers.dense(inputs)())
    assert_near((U[:, :r] * S[:r]) @ Vh[:r], best[0, 0])
    U, S, Vh = (np.asarray(X) for X in peers.dense_batched(inputs)())
    assert_near((U[..., :r] * S[..., None, :r]) @ Vh[..., :r, :], best)


@pytest.mark.parametrize("solver", ["propack", "arpack"])
def test_svds_finds_the_singular_values_of_every_agent(solver):
    inputs = draw(TINY)
    values = np.linalg.svd(truncations(inputs)[0], compute_uv=False)[:, :2]
    found = np.stack([np.sort(S)[::-1] for _, S, _ in peers.svds(inputs, solver)()])
    assert np.max(np.abs(found - values)) <= 10 * 12 * EPS32 * np.max(values)


def test_randomized_svd_of_torch_is_exact_where_it_keeps_all():
    inputs = on_torch(draw(TINY), "cpu")  # r + 6 = 8 of at most 6 directions
    assert_near(product(peers.svd_lowrank(inputs)()), truncations(inputs)[0, 0])


def test_the_floor_multiplies_grams_and_distinct_rows(inputs, monkeypatch):
    xp = peers.namespace(inputs.factors.B)
    seen = []

    def matmul(a, b, **to):
        seen.append((tuple(a.shape), tuple(b.shape), str(a.dtype).rpartition(".")[2]))

    run = peers.floor(inputs)
    monkeypatch.setattr(xp, "matmul", matmul)
    run()
    L, N, d, r = inputs.factors.B.shape
    k, rows = inputs.factors.A.shape[-1], r * len({tuple(row) for row in inputs.Pi})
    expected = []
    for length in (d, k):
        expected += [((N * r, length), (length, N * r), "float64")]
        expected += [((rows, N * r), (N * r, length), "float32")]
    assert seen == expected * L


def test_a_copy_copies(inputs, monkeypatch):
    xp, copies = peers.namespace(inputs.factors.B), []

    def zeros_like(X):
        copies.append(xp.zeros(X.shape, dtype=X.dtype))
        return copies[-1]

    monkeypatch.setattr(xp, "empty_like", zeros_like)
    peers.copy(inputs)()
    assert all(bool(xp.all(x == y)) for x, y in zip(copies, inputs.factors, strict=True))


@pytest.mark.parametrize("apart", [1.0, 1e-2])
def test_agents_are_as_far_apart_as_the_case_says(apart):
    for X in draw(Case(60, 50, 3, 8, "ring", apart=apart)).factors:
        own = np.std(X - X.mean(axis=1, keepdims=True)) / np.std(X)
        # 7 of 8 parts of the variance are left, beside a common part; of 1200 numbers or more
        assert own == pytest.approx(
            (7 / 8) ** 0.5 * apart / (1 + apart**2 * (apart < 1)) ** 0.5, rel=0.1
        )


def test_unequal_rows_mix_all_agents_and_differ():
    Pi = mixing("unequal", 5)
    assert np.all(Pi > 0)
    assert len(np.unique(Pi, axis=0)) == 5
    assert np.max(np.abs(Pi.sum(axis=0) - 1)) <= 5 * np.finfo(float).eps
    assert np.array_equal(Pi, Pi.T)


def test_inputs_name_their_neighbours():
    inputs = Inputs(Factors(None, None), np.array([[0.5, 0.0, 0.5]]), 1)
    assert inputs.neighbours(0).tolist() == [0, 2]


@pytest.mark.slow
def test_scikit_learns_randomized_svd_is_near():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    inputs = draw(TINY)
    assert_near(product(peers.randomized_svd(inputs)()), truncations(inputs)[0, 0])


@pytest.mark.slow
def test_peft_truncates_the_same_mix_again_and_again():
    pytest.importorskip("peft", reason="peft is not installed")
    inputs = on_torch(draw(TINY), "cpu")
    run, best = peers.peft(inputs), truncations(inputs)[0, 0]
    for _ in range(2):
        assert_near(product(run()), best)


@pytest.mark.slow
def test_peft_cat_is_the_exact_mean():
    pytest.importorskip("peft", reason="peft is not installed")
    drawn = draw(TINY)
    inputs = on_torch(drawn._replace(Pi=mixing("merge", TINY.N)), "cpu")
    found = peers.peft(inputs, "cat")()
    assert found.rank == TINY.N * TINY.r
    B, A = (X[0].astype(np.float64) for X in drawn.factors)
    exact = np.einsum("j,jab->ab", inputs.Pi[0], B @ A)
    got = np.asarray(found.B, np.float64) @ np.asarray(found.A, np.float64)
    # the weight and its product with A are rounded once each, by half a spacing; B is only copied
    room = np.einsum("j,jab->ab", inputs.Pi[0], np.abs(B) @ np.abs(A)) * EPS32
    assert np.all(np.abs(got - exact) <= room)
