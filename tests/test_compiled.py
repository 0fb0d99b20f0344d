"""The compiled kernels against products and LAPACK, and which rows are left to the steps."""

import numpy as np
import pytest

pytest.importorskip("numba", reason="numba is not installed")

from decaf_theory import TOPOLOGIES, Factors
from decaf_theory.tsvd import TSVD, compiled, core, lanes, panel, simd, tsvd_of_mix
from decaf_theory.tsvd.grouping import TILE, all_tiles, plan, tiles
from decaf_theory.tsvd.precision import UNIT
from decaf_theory.tsvd.simd import LANES
from decaf_theory.tsvd.terms import balance
from tests.mixes import EPS, assert_near, assert_truncation_of, mix

REACH = 2.0**103
SIDES = (1, 2, 3, 6, 12, 31, 64)


@pytest.fixture(autouse=True)
def asked(monkeypatch):
    monkeypatch.setenv("DECAF_COMPILED", "1")


@pytest.fixture
def steps(monkeypatch):
    """Return a list that grows by how many rows were left to the steps."""
    seen, by_steps = [], core._by_steps

    def spy(terms, *rest):
        seen.append(terms.total.size)
        return by_steps(terms, *rest)

    monkeypatch.setattr(core, "_by_steps", spy)
    return seen


def solved(G_B, G_A, rank=None, shift=0.0):
    """Return what is found for stacks of Gram matrices [m, n, n], and weights of one."""
    G = np.stack([G_B, G_A])
    n = G.shape[-1]
    terms = balance(G, None, np.ones(G.shape[1:-1]), REACH)
    return compiled.coefficients(terms, n if rank is None else rank, shift)


def with_values(rng, values):
    """Return symmetric matrices [m, n, n] with eigenvalues [m, n] and random vectors."""
    Q = np.linalg.qr(rng.normal(size=(*values.shape, values.shape[-1])))[0]
    M = (Q * values[:, None, :]) @ Q.mT
    return (M + M.mT) / 2


def kinds(n, m):
    rng = np.random.default_rng(n)
    X = rng.normal(size=(m, n, 2 * n))
    yield "random", X @ X.mT
    yield "steep", with_values(rng, np.broadcast_to(10.0 ** (-6 * np.arange(n) / n), (m, n)))
    yield "two values", with_values(rng, np.where(rng.random((m, n)) < 0.5, 1.0, 0.25))
    yield "diagonal", np.eye(n) * (0.1 + rng.random((m, n, 1)))
    yield "all but one", with_values(rng, 1 + 1e-12 * rng.random((m, n)))
    blocks = X @ X.mT
    blocks[:, : n // 2, n // 2 :] = blocks[:, n // 2 :, : n // 2] = 0.0
    yield "two blocks", blocks


@pytest.mark.parametrize("n", SIDES)
def test_vectors_are_orthonormal_and_diagonalize_as_well_as_those_of_lapack(n):
    """G_A = I: the core is L', C'C = LL' = G_B, and X_B holds the vectors over the roots of S.

    n reflections and the rotations of some 3n sweeps, of which each moves no entry by more than a
    few roundings of the largest, and their products with the matrices here.
    """
    allowed = 10 * n * UNIT
    for kind, M in kinds(n, 2 * LANES + 1):
        found = solved(M, np.broadcast_to(np.eye(n), M.shape))
        assert found.fine.all(), kind
        S = found.singular_values
        V = found.X[0] * S[:, None, :] ** 0.5
        largest = S[:, 0, None, None] ** 2
        assert np.abs(V.mT @ V - np.eye(n)).max() <= allowed, kind
        assert np.abs((V.mT @ M @ V - np.eye(n) * S[:, None, :] ** 2) / largest).max() <= allowed, (
            kind
        )
        assert np.all(np.diff(S, axis=-1) <= 0)


@simd.compiled
def iterated(d, e, many, settled):
    """Put eigenvalues of tridiagonal matrices into d [n, LANES], and where `many` rotations do."""
    rotations, planes = np.empty((many, 2, LANES)), np.empty(many, np.int64)
    _, there = lanes.values(simd.vectors(d), simd.vectors(e), simd.vectors(rotations), planes)
    simd.vectors(settled)[0] = simd.select(there, 1.0, 0.0)


def test_where_rotations_do_not_suffice_is_told():
    """Lane 0 is diagonal from the start; 2 x 2 blocks in the others take two sweeps or so."""
    d, e = np.ones((5, LANES)) * np.arange(5)[:, None], np.zeros((5, LANES))
    e[1, 1:] = e[3, 1:] = 0.5
    for many, expected in ((5, 0.0), (90, 1.0)):
        settled, values = np.empty((1, LANES)), d.copy()
        iterated(values, e.copy(), many, settled)
        assert settled[0].tolist() == [1.0] + [expected] * (LANES - 1)
    assert_near(values[:, 0], d[:, 0], 0)
    root = 0.5**0.5  # of the blocks: m - 1/2 +- root, m = 2 and 4
    exact = sorted([0.0, 1.5 - root, 1.5 + root, 3.5 - root, 3.5 + root])
    assert_near(np.sort(values, axis=0)[:, 1:], np.tile(exact, (LANES - 1, 1)).T, 10 * 5 * EPS)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_a_part_of_the_columns_is_the_first_of_all(rank):
    X = np.random.default_rng(0).normal(size=(2, 20, 5, 9))
    G = X @ X.mT
    few, all_of_them = solved(*G, rank), solved(*G)
    assert np.array_equal(few.X, all_of_them.X[..., :rank])
    assert np.array_equal(few.singular_values, all_of_them.singular_values)


@pytest.mark.parametrize("many", [1, LANES - 1, LANES, LANES + 1, 3 * LANES])
def test_a_row_does_not_depend_on_those_beside_it(many):
    X = np.random.default_rng(1).normal(size=(2, 3 * LANES, 7, 9))
    G = X @ X.mT
    alone, together = solved(*G[:, :many], 3), solved(*G, 3)
    for one, other in zip(alone[1:], together[1:], strict=True):
        assert np.array_equal(one, other[:many])
    assert np.array_equal(alone.X, together.X[:, :many])


def test_what_is_indefinite_or_not_a_number_is_not_fine_and_harms_no_other():
    G = np.stack([np.eye(3) * 2.0] * 5)
    G[1, 0, 1] = G[1, 1, 0] = 3.0
    G[3, 2, 0] = G[3, 0, 2] = np.nan
    found = solved(G, np.stack([np.eye(3)] * 5))
    assert found.fine.tolist() == [True, False, True, False, True]
    assert_near(found.singular_values[[0, 2, 4]], np.full((3, 3), 2**0.5), 4 * EPS)


def test_a_shift_raises_the_diagonals_and_makes_singular_matrices_definite():
    G = np.ones((1, 2, 2))
    assert not solved(G, G + np.eye(2)).fine
    found = solved(G, G, shift=0.25)  # (x - 0.25)(x - 2.25) of both: the core has the same values
    assert found.fine
    assert_near(found.singular_values, np.array([[2.25, 0.25]]), 16 * EPS)


@pytest.mark.parametrize("d", [1, LANES - 1, LANES, 5 * LANES + 3])
@pytest.mark.parametrize("n", [1, 2, 7, 12])
def test_gram_matrices_are_those_of_float64(n, d):
    X = np.random.default_rng(d).normal(size=(2, n, d)).astype(np.float32)
    G = np.zeros((2, n, n))
    compiled.gram(X, all_tiles(n), G)
    wide = X.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=-1)
    allowed = 2 * d * UNIT * lengths[:, :, None] * lengths[:, None, :]  # of both sums
    assert np.all(np.abs(G - wide @ wide.mT) <= allowed)
    assert np.array_equal(G, G.mT)


def test_of_a_gram_matrix_only_tiles_with_something_wanted_are_found():
    wanted = np.eye(12, dtype=bool)
    wanted[9, 0] = wanted[0, 9] = True
    X, G = np.ones((1, 12, 5), np.float32), np.zeros((1, 12, 12))
    compiled.gram(X, tiles(wanted), G)
    assert np.all(G[0][wanted] == 5.0)
    rows, columns = TILE
    on_diagonal = {(i, i // columns * columns) for i in range(0, 12, rows)}
    assert {tuple(at) for at in tiles(wanted)} == on_diagonal | {(8, 0)}
    assert not G[0, 4:8, :4].any()
    assert len(tiles(wanted)) < len(all_tiles(12))


def drawn(layers, N, d, k, r, seed=0):
    rng = np.random.default_rng(seed)
    B, A = rng.normal(size=(layers, N, d, r)), rng.normal(size=(layers, N, r, k))
    return Factors(B.astype(np.float32), A.astype(np.float32))


def assert_promised(found, factors, Pi, rank):
    """The promise for float32: values, truncation and both balances to 1e-6 of the largest."""
    M = mix(factors.map(np.float64), Pi)
    wide = TSVD(found.factors.map(np.float64), *found[1:])
    first = np.linalg.svd(M, compute_uv=False)[..., 0]
    assert_truncation_of(M, wide, rank, 1e-6 * first.min())


GRAPHS = {
    **{name: TOPOLOGIES[name](6) for name in ("ring", "complete", "star")},
    "all in all": np.random.default_rng(6).dirichlet(np.ones(6), size=6),
}


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize(("d", "k", "r", "rank"), [(64, 40, 2, 2), (90, 61, 3, 2), (70, 70, 1, 1)])
def test_mixes_on_graphs_keep_the_promise_without_the_steps(graph, d, k, r, rank, steps):
    """Leaves of a star have fewer neighbours than its hub: their rows are padded."""
    Pi, factors = GRAPHS[graph], drawn(3, 6, d, k, r)
    found = tsvd_of_mix(factors, Pi, rank)
    assert_promised(found, factors, Pi, rank)
    assert found.info.path == "panel"
    assert not found.info.fell_back
    assert not steps


def test_a_stack_for_each_row_is_taken_as_one_for_all(steps):
    """Two hundred agents on a ring: a stack of all would cost more."""
    Pi, factors = TOPOLOGIES["ring"](200), drawn(1, 200, 30, 20, 2)
    assert_promised(tsvd_of_mix(factors, Pi, 2), factors, Pi, 2)
    assert not steps


def test_odd_rows_alone_are_left_to_the_steps(steps):
    """Agents 0, 1, 2 are equal, and their second direction is so small that it takes an SVD.

    Row 1 weights only these, so that it counts among the kept ones; rows 0 and 2 have others, but
    also singular values of zero. Rows 3 and 7 weight one of them, and may be clear.
    """
    Pi, factors = TOPOLOGIES["ring"](8), drawn(2, 8, 40, 50, 2)
    plain = tsvd_of_mix(factors, Pi, 2)
    assert not steps
    factors.B[1, 0, :, 1] *= np.float32(1e-7)
    factors.B[1, 1:3], factors.A[1, 1:3] = factors.B[1, 0], factors.A[1, 0]
    found = tsvd_of_mix(factors, Pi, 2)
    assert len(steps) == 1
    assert 3 <= steps[0] <= 5
    assert_promised(found, factors, Pi, 2)
    for one, other in zip(
        (*found.factors, *found[1:3]), (*plain.factors, *plain[1:3]), strict=True
    ):
        assert np.array_equal(one[0], other[0])
        assert np.array_equal(one[1, 4:7], other[1, 4:7])


@pytest.mark.parametrize(("e", "f"), [(40, 40), (-40, -40), (30, -30)])
def test_powers_of_two_change_no_digit(e, f, steps):
    Pi, factors = TOPOLOGIES["ring"](6), drawn(2, 6, 50, 40, 2)
    scaled = Factors(factors.B * np.float32(2.0**e), factors.A * np.float32(2.0**f))
    plain, found = tsvd_of_mix(factors, Pi, 2), tsvd_of_mix(scaled, Pi, 2)
    half, whole = np.float32(2.0 ** ((e + f) // 2)), np.float32(2.0 ** (e + f))
    for one, other in zip(found.factors, plain.factors, strict=True):
        assert np.array_equal(one, other * half)
    for one, other in zip(found[1:3], plain[1:3], strict=True):
        assert np.array_equal(one, other * whole)
    assert not steps


def test_arrays_of_any_layout_are_taken_and_none_is_changed():
    Pi, factors = TOPOLOGIES["ring"](6), drawn(2, 6, 50, 40, 2)
    plain = tsvd_of_mix(factors, Pi, 2)
    odd = np.frombuffer(b"0" + factors.A.tobytes(), np.float32, offset=1)  # read-only, misaligned
    B, A = np.asfortranarray(factors.B), odd.reshape(factors.A.shape)
    found = tsvd_of_mix(Factors(B, A), Pi, 2)
    for one, other in zip(
        (*found.factors, *found[1:3]), (*plain.factors, *plain[1:3]), strict=True
    ):
        assert np.array_equal(one, other)
    assert np.array_equal(A, factors.A)


@pytest.mark.parametrize("d", [1, LANES + 1, 5 * LANES, 9 * LANES + 3])
@pytest.mark.parametrize("r", [1, 2, 5])
def test_combinations_are_those_of_float32(d, r):
    """Each sum has at most seven products: |error| <= 7 u sum |x||s|, u of float32."""
    rng = np.random.default_rng(d)
    X, stack = rng.normal(size=(2, 3, 7, r)), rng.normal(size=(2, 1, 9, d)).astype(np.float32)
    places = rng.integers(9, size=(3, 7))
    found = compiled.combine(X, stack, places)
    taken, narrow = np.float64(stack[:, 0, places]), np.float64(np.float32(X))
    exact, sizes = (x.mT @ t for x, t in ((narrow, taken), (abs(narrow), abs(taken))))
    assert found.shape == (2, 3, r, d)
    assert np.all(np.abs(found - exact) <= 7 * 2.0**-24 * sizes)


def test_graded_rows_are_combined_in_float64():
    """Coefficients of a million that nearly cancel: float32 would lose six digits."""
    (group,) = plan(TOPOLOGIES["ring"](8), 8, 1)
    rng = np.random.default_rng(0)
    X = np.ones((2, 1, 8, 3, 1)) * np.array([1e6, -1e6, 1.0])[:, None]
    near = np.float32(1 + 1e-6 * rng.random((1, 1, 8, 50)))
    core_of_all = core.Core(X, np.ones((1, 8, 3)), None, np.ones((1, 8), bool))
    B, A = panel._outputs(core_of_all, Factors(near, near), group, part_of_all=True)
    exact = X[0, 0].mT @ np.float64(near[0, 0, group.directions])
    for found in (B[0], A[0]):
        assert np.all(np.abs(found - exact) <= 2.0**-24 * np.abs(exact) + 10 * 1e6 * EPS)


def test_tiles_of_a_graph_have_the_whole_diagonal():
    """Agent 3 is weighted by nobody; its lengths are looked at nevertheless."""
    Pi = np.array([[0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0.5, 0, 0.5, 0]])
    (group,) = plan(Pi, 4, 2)
    assert {(0, 0), (2, 0), (4, 4), (6, 4)} <= {tuple(at) for at in group.tiles}
    assert (6, 0) not in {tuple(at) for at in group.tiles}


@pytest.mark.parametrize("N", [4, 40])
def test_float64_and_large_cores_are_for_the_steps(N, steps, monkeypatch):
    monkeypatch.setattr(compiled, "coefficients", None)  # called, it would fail
    factors, Pi = drawn(1, N, 100, 100, 2), TOPOLOGIES["complete"](N)
    Pi = Pi + np.diag(np.arange(N) / 100)  # rows that differ
    tsvd_of_mix(factors if N > 32 else factors.map(np.float64), Pi, 2)
    assert steps == [N]
