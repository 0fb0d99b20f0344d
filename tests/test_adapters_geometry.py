"""Why mixing adapters loses, against dense matrices, at any size of the factors."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import subspace_angles

from decaf_theory import adapters
from decaf_theory.adapters import diagnosis
from decaf_theory.adapters.geometry import site_geometry
from decaf_theory.adapters.sizes import over, times_power
from decaf_theory.bounds import truncation_by_spread
from decaf_theory.lowrank import Factors
from decaf_theory.topology import TOPOLOGIES
from tests.adapter_files import EPS

# numbers of an update, and those of either factor alone
OF_PRODUCTS = (
    *("mix", "interference", "truncation", "difference"),
    *("aligned", "mix_nuclear", "truncation_nuclear", "truncation_bound", "truncation_by_rank"),
)


def diagnose(factors, Pi, rank=None):
    """Return the numbers of one site."""
    agents = adapters.Agents(("",) * len(factors.B), {"layer": factors}, {}, {}, (), {})
    (site,) = adapters.diagnose(agents, Pi, rank)
    return site


def draw(rng, kind, N, d, k, r):
    """Return factors of N agents, of a kind of its own."""
    B, A = rng.standard_normal((N, d, r)), rng.standard_normal((N, r, k))
    if kind == "unequal ranks":
        for j in range(N):
            B[j, :, 1 + j % r :] = 0
            A[j, 1 + j % r :] = 0
    elif kind == "deficient":
        A[0, -1] = A[0, 0]
        B[-1, :, -1] = 0
    elif kind == "gauges":
        B, A = np.repeat(B[:1], N, 0), np.repeat(A[:1], N, 0)
        for j in range(N):
            Q, _ = np.linalg.qr(rng.standard_normal((r, r)))
            B[j], A[j] = B[j] @ Q, Q.T @ A[j]
        B += 0.3 * rng.standard_normal(B.shape)
    elif kind == "equal":
        B[:], A[:] = B[0], A[0]
    elif kind == "one zero":
        B[0] = 0
    elif kind == "zero":
        B[:] = 0
    return Factors(B, A)


KINDS = ("generic", "unequal ranks", "deficient", "gauges", "equal", "one zero", "zero")


# ---------------------------------------------------------------- dense matrices


def balanced(W, r):
    """The balanced factors of the leading r singular directions of W, zero-padded."""
    U, S, Vh = np.linalg.svd(W, full_matrices=False)
    U, S, Vh = U[:, :r], np.sqrt(S[:r]), Vh[:r]
    pad = r - len(S)
    return np.pad(U * S, ((0, 0), (0, pad))), np.pad(S[:, None] * Vh, ((0, pad), (0, 0)))


def dense_geometry(factors, Pi, r):
    """The dict's norms from formed d x k matrices, squares averaged over the rows of Pi."""
    products = [b @ a for b, a in zip(*factors, strict=True)]
    R = factors.B.shape[-1]
    d, k = products[0].shape
    rows = []
    for pi in Pi:
        M = sum(p * W for p, W in zip(pi, products, strict=True))
        U, S, Vh = np.linalg.svd(M, full_matrices=False)
        toward_B, toward_A = balanced(M, R)
        mean_B, mean_A = np.zeros((d, R)), np.zeros((R, k))
        for p, W in zip(pi, products, strict=True):
            B, A = balanced(W, R)
            X, _, Yh = np.linalg.svd(B.T @ toward_B + A @ toward_A.T)
            mean_B += p * B @ (X @ Yh)
            mean_A += p * (X @ Yh).T @ A
        P = (U[:, :r] * S[:r]) @ Vh[:r]
        spread = sum(p * np.sum((W - P) ** 2) for p, W in zip(pi, products, strict=True))
        bound = truncation_by_spread(mean_square=spread, kept=S[:r].tolist())
        rows.append(
            {
                "aligned": np.linalg.norm(M - mean_B @ mean_A),
                "mix_nuclear": S.sum(),
                "truncation_nuclear": S[r:].sum(),
                "truncation_bound": bound if min(R, d, k) <= r else None,
                **{q: math.sqrt(np.sum(S[q:] ** 2)) for q in range(len(S) + 1)},
                "effective_rank": S.sum() ** 2 / np.sum(S**2),
            }
        )
    found = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        found[name] = None if None in values else math.sqrt(np.mean(np.square(values)))
    found["effective_rank"] = np.mean([row["effective_rank"] for row in rows])
    return found


def space(X):
    """An orthonormal basis of the columns of X that are there, by its dense projector's SVD."""
    U, S, _ = np.linalg.svd(X, full_matrices=False)
    return U[:, S > 1e-10 * S[0]] if S[0] > 0 else U[:, :0]


def dense_angles(blocks):
    """The mean and largest angle of the column spaces to the best subspace of the mean projector.

    Also the gap of its eigenvalues: without one the subspace, and the largest angle, is not unique.
    """
    held = [Q for Q in map(space, blocks) if Q.shape[1]]
    values, vectors = np.linalg.eigh(sum(Q @ Q.T for Q in held))
    m = max(Q.shape[1] for Q in held)
    consensus = vectors[:, -m:]
    every = [subspace_angles(Q, consensus) for Q in held]
    squares = np.concatenate([np.sin(own) ** 2 for own in every])
    mean = math.degrees(math.asin(math.sqrt(min(1.0, squares.mean()))))
    gap = values[-m] - values[-m - 1] if m < len(values) else math.inf
    return mean, math.degrees(max(own.max() for own in every)), gap


@pytest.mark.parametrize("kind", ["generic", "unequal ranks", "deficient", "gauges"])
@pytest.mark.parametrize(
    ("N", "d", "k", "r", "topology", "rank"),
    [
        (1, 6, 5, 2, "complete", None),
        (2, 9, 4, 3, "path", 1),
        (3, 4, 4, 2, "star", 2),
        (5, 7, 11, 2, "ring", 4),
        (11, 5, 6, 2, "path", None),
    ],
)
def test_the_causes_are_those_of_dense_matrices(kind, N, d, k, r, topology, rank):
    factors = draw(np.random.default_rng([N, d, r]), kind, N, d, k, r)
    Pi = TOPOLOGIES[topology](N)
    found = diagnose(factors, Pi, rank)
    dense = dense_geometry(factors, Pi, rank or r)
    size = max(np.linalg.norm(b) * np.linalg.norm(a) for b, a in zip(*factors, strict=True))
    # QR and SVD of matrices of this size; nuclear norms add a root
    slip = 100 * max(d, k) * EPS * size * math.sqrt(min(d, k))
    # a singular value that is zero is off by eps, its root in balanced factors, and the level of
    # T21's bound, by the root; so is a subspace with a gap of that root, and an angle of zero
    coarse = 10 * math.sqrt(EPS)
    for name in ("mix_nuclear", "truncation_nuclear"):
        assert abs(found[name] - dense[name]) <= slip, name
    curve = found["truncation_by_rank"]
    assert all(abs(x - dense[q]) <= slip for q, x in enumerate(curve))
    assert len(curve) == found["mix_rank"] + 1
    assert abs(found["effective_rank"] - dense["effective_rank"]) <= 10 * slip / found["mix"]
    assert (found["agents"], found["factor_rank"]) == (N, min(r, d, k))
    for name in ("A", "B"):
        blocks = [X.T for X in factors.A] if name == "A" else factors.B
        mean, largest, gap = dense_angles(blocks)
        assert abs(found[f"angle_{name}"] - mean) <= math.degrees(coarse)
        unique = gap > math.sqrt(EPS)
        assert not unique or abs(found[f"largest_angle_{name}"] - largest) <= math.degrees(coarse)
    assert abs(found["aligned"] - dense["aligned"]) <= coarse * size
    assert (found["truncation_bound"] is None) == (dense["truncation_bound"] is None)
    if dense["truncation_bound"] is not None:
        assert abs(found["truncation_bound"] - dense["truncation_bound"]) <= coarse * size
        assert found["truncation_nuclear"] <= found["truncation_bound"] + slip
    for name, whole in (("aligned", "mix"), ("truncation_nuclear", "mix_nuclear")):
        assert found[f"relative_{name}"] == pytest.approx(found[name] / found[whole], rel=4 * EPS)


# ---------------------------------------------------------------- any size


@given(
    st.sampled_from(KINDS),
    st.integers(1, 4),
    st.sampled_from([(5, 3, 2), (3, 7, 2), (4, 4, 1), (2, 3, 3)]),
    st.sampled_from(["complete", "path"]),
    st.sampled_from([None, 1]),
    st.tuples(st.integers(-300, 300), st.integers(-300, 300)),
    st.integers(0, 2**32 - 1),
)
def test_powers_of_two_in_the_factors_change_no_digit(kind, N, shape, topology, rank, powers, seed):
    of_B, of_A = powers
    factors = draw(np.random.default_rng(seed), kind, N, *shape)
    Pi = TOPOLOGIES[topology](N)
    unit = diagnose(factors, Pi, rank)
    found = diagnose(Factors(np.ldexp(factors.B, of_B), np.ldexp(factors.A, of_A)), Pi, rank)
    expected = dict(unit)
    for name in OF_PRODUCTS:
        x = unit[name]
        many = isinstance(x, list)
        scaled = [times_power(y, of_B + of_A) for y in x] if many else x
        expected[name] = scaled if many or x is None else times_power(x, of_B + of_A)
    expected |= {
        "Xi_A": times_power(unit["Xi_A"], 2 * of_A),
        "Xi_B": times_power(unit["Xi_B"], 2 * of_B),
    }
    if of_B == of_A:
        expected["sigma_max"] = times_power(unit["sigma_max"], of_B)
    for name in expected:
        if of_B == of_A or name not in ("sigma_max", "imbalance"):
            assert found[name] == expected[name], name
    largest = [np.max(np.linalg.norm(X, 2, axis=(-2, -1))) for X in factors]
    sizes = [times_power(x, e) for x, e in zip(largest, powers, strict=True)]
    assert found["sigma_max"] == pytest.approx(max(sizes), rel=100 * EPS)
    assert adapters.advise([found]) == adapters.advise([unit])


@pytest.mark.parametrize("e", [-1000, -300, 0, 300, 1000])
def test_lapack_is_given_factors_of_size_one(monkeypatch, e):
    seen = []
    real = diagnosis._triangle
    monkeypatch.setattr(diagnosis, "_triangle", lambda X: (seen.append(np.max(abs(X))), real(X))[1])
    factors = draw(np.random.default_rng(1), "generic", 3, 5, 4, 2)
    small = adapters.compress(Factors(np.ldexp(factors.B, e), np.ldexp(factors.A, -e)))
    assert len(seen) == 2
    assert all(0.5 <= size < 1 for size in seen)
    unit = adapters.compress(factors)
    assert np.array_equal(small.B, np.ldexp(unit.B, e))
    assert np.array_equal(small.A, np.ldexp(unit.A, -e))


@pytest.mark.parametrize("powers", [(0, 0), (-300, -300), (300, 300), (250, -300), (-290, 210)])
def test_losses_and_imbalance_of_any_size_are_those_of_long_doubles(powers):
    rng = np.random.default_rng(3)
    wide = Factors(rng.standard_normal((3, 6, 2)), rng.standard_normal((3, 2, 4)))
    found = diagnose(wide.map(lambda X: X), TOPOLOGIES["complete"](3))
    scaled = Factors(np.ldexp(wide.B, powers[0]), np.ldexp(wide.A, powers[1]))
    far = diagnose(scaled, TOPOLOGIES["complete"](3))
    B, A = (X.astype(np.longdouble) for X in scaled)  # squares of 2^600 and of 2^-600 are in range
    norm = lambda X: np.sqrt(np.sum(X**2))  # noqa: E731
    gaps = [norm(b.T @ b - a @ a.T) / norm(b @ a) for b, a in zip(B, A, strict=True)]
    assert far["imbalance"] == pytest.approx(float(max(gaps)), rel=100 * EPS)
    M = sum(b @ a for b, a in zip(B, A, strict=True)) / 3
    lost = norm(M - B.mean(0) @ A.mean(0)) / norm(M)
    assert far["relative_interference"] == pytest.approx(float(lost), rel=100 * EPS)
    assert far["relative_interference"] == found["relative_interference"]


@pytest.mark.parametrize(("e", "words"), [(520, "beyond .* down"), (-520, "below .* up")])
def test_an_update_without_digits_in_float64_is_refused(e, words):
    factors = Factors(np.ldexp(np.ones((2, 3, 1)), e), np.ldexp(np.ones((2, 1, 3)), e))
    with pytest.raises(ValueError, match=f"site layer: its update is about 2.*{words}$"):
        diagnose(factors, TOPOLOGIES["complete"](2))


def test_nan_is_neither_balanced_nor_nothing_lost():
    factors = draw(np.random.default_rng(0), "generic", 3, 4, 5, 2)
    factors.B[1, 0, 0] = np.nan
    with pytest.raises(ValueError, match="agent 1"):
        diagnose(factors, TOPOLOGIES["ring"](3))
    assert [over(x, y) for x, y in ((2.0, 4.0), (0.0, 0.0), (2.0, 0.0))] == [0.5, 0.0, math.inf]
    assert all(math.isnan(over(x, y)) for x, y in ((math.nan, 1.0), (1.0, math.nan), (math.nan, 0)))


# ---------------------------------------------------------------- planted cases


def test_equal_agents_and_a_single_one_lose_nothing():
    for N, kind in ((4, "equal"), (1, "generic")):
        found = diagnose(draw(np.random.default_rng(0), kind, N, 6, 5, 2), TOPOLOGIES["ring"](N))
        assert found["aligned"] <= 100 * EPS * found["mix"]
        for name in ("angle_A", "angle_B", "largest_angle_A", "largest_angle_B"):
            assert found[name] <= 1e-12
        assert found["truncation_bound"] <= 10 * math.sqrt(EPS) * found["mix"]


def test_without_an_update_there_is_no_angle_and_nothing_is_lost():
    found = diagnose(draw(np.random.default_rng(0), "zero", 3, 6, 5, 2), TOPOLOGIES["ring"](3))
    assert (found["angle_B"], found["largest_angle_B"]) == (None, None)
    assert found["angle_A"] > 0
    assert found["truncation_by_rank"] == [0.0]
    assert found["effective_rank"] == found["relative_aligned"] == 0
    assert found["relative_truncation_bound"] == 0


def test_orthogonal_spaces_have_the_largest_mean_angle():
    for N in (2, 4, 9):
        E = np.eye(2 * N)
        A = np.stack([E[2 * j : 2 * j + 2] for j in range(N)])
        found = diagnose(Factors(np.ones((N, 3, 2)) + A[:, :, :3].mT, A), TOPOLOGIES["complete"](N))
        assert found["angle_A"] == pytest.approx(math.degrees(math.acos(N**-0.5)), abs=1e-10)


def test_two_lines_have_half_their_angle_to_the_line_between_them():
    for angle in (1e-9, 0.1, 30.0, 44.0):
        t = math.radians(angle)
        A = np.array([[[math.cos(t), math.sin(t)]], [[math.cos(t), -math.sin(t)]]])
        found = diagnose(Factors(np.ones((2, 3, 1)), A), TOPOLOGIES["complete"](2))
        assert found["angle_A"] == pytest.approx(angle, rel=1e-6)  # 1e-9 degrees are 1e5 eps
        assert found["largest_angle_A"] == pytest.approx(angle, rel=1e-6)
        # T21's own pair: the bound is attained at every angle
        vectors = Factors(A.mT, A)
        pair = diagnose(vectors, TOPOLOGIES["complete"](2))
        assert pair["truncation_nuclear"] == pytest.approx(math.sin(t) ** 2, abs=10 * EPS)
        assert pair["truncation_bound"] == pytest.approx(math.sin(t) ** 2, rel=1e-6, abs=10 * EPS)


def test_rotations_of_balanced_factors_are_undone_and_other_gauges_too():
    rng = np.random.default_rng(5)
    B, A = balanced(rng.standard_normal((7, 2)) @ rng.standard_normal((2, 5)), 2)
    gauges = [np.linalg.qr(rng.standard_normal((2, 2)))[0] for _ in range(4)]
    gauges += [rng.standard_normal((2, 2)) for _ in range(2)]
    turned = Factors(
        np.stack([B @ np.linalg.inv(R) for R in gauges]), np.stack([R @ A for R in gauges])
    )
    found = diagnose(turned, TOPOLOGIES["complete"](6))
    assert found["relative_interference"] > 0.1
    condition = max(np.linalg.cond(R) for R in gauges)
    assert found["relative_aligned"] <= 1000 * EPS * condition**2
    assert found["angle_A"] <= math.degrees(1000 * EPS * condition)


def test_the_total_pools_the_causes():
    rng = np.random.default_rng(6)
    factors = {
        name: draw(rng, "generic", 3, d, k, r)
        for name, (d, k, r) in {"a": (5, 4, 1), "b": (3, 6, 2)}.items()
    }
    agents = adapters.Agents(("",) * 3, factors, {}, {}, (), {})
    one, two = sites = adapters.diagnose(agents, TOPOLOGIES["complete"](3))
    total = adapters.pool(sites)
    for name in ("aligned", "mix_nuclear", "truncation_nuclear", "truncation_bound"):
        assert total[name] == pytest.approx(math.hypot(one[name], two[name]), rel=4 * EPS)
    assert total["relative_aligned"] == total["aligned"] / total["mix"]
    assert total["relative_truncation_bound"] == total["truncation_bound"] / total["mix_nuclear"]
    a, b = one["truncation_by_rank"], two["truncation_by_rank"]
    assert (len(a), len(b)) == (4, 4)  # rank 3 each
    common = [math.hypot(x, y) for x, y in zip(a, b, strict=True)]
    assert total["truncation_by_rank"] == pytest.approx(common, rel=4 * EPS)
    assert total["angle_A"] == (one["angle_A"] + two["angle_A"]) / 2
    assert total["largest_angle_B"] == max(one["largest_angle_B"], two["largest_angle_B"])
    assert total["factor_rank"] == 2
    unbounded = [one | {"truncation_bound": None}, two]
    assert adapters.pool(unbounded)["relative_truncation_bound"] is None
    shorter = [one | {"truncation_by_rank": a[:2]}, two]
    assert adapters.pool(shorter)["truncation_by_rank"][3] == math.hypot(a[1], b[3])


def test_the_same_rows_of_a_graph_in_any_kind_of_matrix_give_the_same_causes():
    from scipy.sparse import csr_array

    factors = draw(np.random.default_rng(7), "generic", 4, 6, 5, 2)
    Pi = np.array([[0.5, 0.5, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0], [0, 0, 0.3, 0.7]])
    found = diagnose(factors, Pi)
    single = [diagnose(factors, row[None])["aligned"] for row in Pi]
    assert found["aligned"] == pytest.approx(math.sqrt(np.mean(np.square(single))), rel=1e-9)
    small = adapters.compress(factors)
    sparse = site_geometry((6, 5), small, csr_array(Pi), 2)
    assert sparse == site_geometry((6, 5), small, Pi, 2)
