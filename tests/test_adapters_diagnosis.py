"""The diagnosis of adapters against dense matrices, and its limits."""

import math

import numpy as np
import pytest

from decaf_theory import adapters
from decaf_theory.lowrank import Factors
from decaf_theory.topology import TOPOLOGIES
from tests.adapter_files import EPS, STORED, pair, write


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def dense_numbers(factors, Pi, r):
    """The dict's numbers from formed d x k matrices."""
    B, A = factors
    N = len(B)
    products = [B[j] @ A[j] for j in range(N)]
    squares = dict.fromkeys(("mix", "interference", "truncation", "difference"), 0.0)
    for pi in Pi:
        M = sum(p * W for p, W in zip(pi, products, strict=True))
        mean = np.tensordot(pi, B, 1) @ np.tensordot(pi, A, 1)
        U, S, Vh = np.linalg.svd(M)
        P = (U[:, :r] * S[:r]) @ Vh[:r]
        for name, X in (
            ("mix", M),
            ("interference", M - mean),
            ("truncation", M - P),
            ("difference", P - mean),
        ):
            squares[name] += np.sum(X**2) / len(Pi)
    gaps = [
        np.linalg.norm(b.T @ b - a @ a.T) / np.linalg.norm(b @ a) for b, a in zip(B, A, strict=True)
    ]
    return {name: math.sqrt(x) for name, x in squares.items()} | {
        "Xi_A": sum(np.sum((a - A.mean(0)) ** 2) for a in A) / N,
        "Xi_B": sum(np.sum((b - B.mean(0)) ** 2) for b in B) / N,
        "sigma_max": max(np.linalg.norm(X, 2) for X in (*B, *A)),
        "imbalance": max(gaps),
    }


@pytest.mark.parametrize("topology", ["complete", "ring", "star"])
@pytest.mark.parametrize(("d", "k", "r"), [(30, 20, 2), (20, 31, 3), (5, 4, 2), (3, 7, 3)])
@pytest.mark.parametrize("rank", [None, 1, 3])
def test_a_diagnosis_is_that_of_dense_matrices(rng, topology, d, k, r, rank):
    N = 5
    factors = Factors(rng.standard_normal((N, d, r)), rng.standard_normal((N, r, k)))
    Pi = TOPOLOGIES[topology](N)
    agents = adapters.Agents(("",) * N, {"layer": factors}, {}, {}, (), {})
    (found,) = adapters.diagnose(agents, Pi, rank)
    dense = dense_numbers(factors, Pi, rank or r)
    # each norm comes from QR and SVD of matrices of this size
    size = max(np.linalg.norm(b) * np.linalg.norm(a) for b, a in zip(*factors, strict=True))
    for name, value in dense.items():
        scale = max(size, abs(value))
        assert abs(found[name] - value) <= 10 * max(d, k) * EPS * scale, name
    for name in ("interference", "truncation", "difference"):
        assert found[f"relative_{name}"] == found[name] / found["mix"]
    assert (found["d"], found["k"], found["r"]) == (d, k, rank or r)
    used = int(np.max(np.sum(Pi > 0, axis=1)))
    assert (found["agent_rank"], found["mix_rank"]) == (r, min(used * r, d, k))


def test_compressed_factors_keep_every_product_of_two_factors(rng):
    for d, k in ((40, 30), (3, 30), (2, 3)):
        factors = Factors(rng.standard_normal((4, d, 2)), rng.standard_normal((4, 2, k)))
        small = adapters.compress(factors)
        assert small.shape == (min(d, 8), min(k, 8))
        gram_B, small_B = (np.einsum("iar,jas->ijrs", X, X) for X in (factors.B, small.B))
        gram_A, small_A = (np.einsum("ira,jsa->ijrs", X, X) for X in (factors.A, small.A))
        slip = 10 * max(d, k) * EPS * max(np.sum(factors.B**2), np.sum(factors.A**2))
        assert np.max(np.abs(gram_B - small_B)) <= slip
        assert np.max(np.abs(gram_A - small_A)) <= slip


def test_one_agent_loses_nothing():
    agents = adapters.load_agents(STORED[:1])
    for site in adapters.diagnose(agents, adapters.mixing_matrix("ring", 1)):
        assert site["Xi_A"] == site["Xi_B"] == site["interference"] == 0
        assert site["relative_truncation"] <= 10 * 64 * EPS


def test_a_rank_beyond_that_of_the_mix_loses_nothing(rng):
    factors = Factors(rng.standard_normal((2, 30, 2)), rng.standard_normal((2, 2, 20)))
    agents = adapters.Agents(("", ""), {"layer": factors}, {}, {}, (), {})
    (site,) = adapters.diagnose(agents, TOPOLOGIES["complete"](2), 20)
    assert (site["r"], site["truncation"], site["mix_rank"]) == (20, 0.0, 4)
    with pytest.raises(ValueError, match=r"rank must be in 1 \.\.\. min\(d, k\) = 20 for 30 x 20"):
        adapters.diagnose(agents, TOPOLOGIES["complete"](2), 21)


def test_the_least_rank_of_an_agent_and_the_largest_of_a_mix_are_told(rng):
    B, A = rng.standard_normal((3, 9, 2)), rng.standard_normal((3, 2, 7))
    B[1, :, 1] = 0
    agents = adapters.Agents(("",) * 3, {"layer": Factors(B, A)}, {}, {}, (), {})
    (site,) = adapters.diagnose(agents, TOPOLOGIES["path"](3))
    # ranks 2, 1, 2; the ends of the path mix two agents, its middle all three
    assert (site["agent_rank"], site["mix_rank"]) == (1, 5)


def test_untrained_adapters_lose_nothing_and_give_no_nan(tmp_path, rng):
    sites = {"layer": pair(np.zeros((6, 2)), rng.standard_normal((2, 4)))}
    agents = adapters.load_agents([write(tmp_path / str(i), sites) for i in range(2)])
    (site,) = adapters.diagnose(agents, TOPOLOGIES["complete"](2))
    assert site["mix"] == site["relative_interference"] == site["relative_truncation"] == 0
    assert (site["agent_rank"], site["mix_rank"], site["imbalance"]) == (0, 0, math.inf)
    assert "inf" in adapters.table([site])


def test_pooled_norms_are_those_of_one_block_diagonal_update(rng):
    Pi = TOPOLOGIES["ring"](4)
    shapes = [(6, 4), (3, 5)]
    blocks = [
        Factors(rng.standard_normal((4, d, 2)), rng.standard_normal((4, 2, k))) for d, k in shapes
    ]
    agents = adapters.Agents(("",) * 4, dict(zip("ab", blocks, strict=True)), {}, {}, (), {})
    total = adapters.pool(adapters.diagnose(agents, Pi))
    joint = Factors(
        np.stack([_block_diagonal(x.B[i], y.B[i]) for i in range(4) for x, y in [blocks]]),
        np.stack([_block_diagonal(x.A[i], y.A[i]) for i in range(4) for x, y in [blocks]]),
    )
    dense = dense_numbers(joint, Pi, 4)
    for name in ("mix", "interference", "Xi_A", "Xi_B", "sigma_max"):
        assert total[name] == pytest.approx(dense[name], rel=1e3 * EPS)
    assert total["relative_interference"] == total["interference"] / total["mix"]


def _block_diagonal(x, y):
    out = np.zeros((x.shape[0] + y.shape[0], x.shape[1] + y.shape[1]))
    out[: x.shape[0], : x.shape[1]] = x
    out[x.shape[0] :, x.shape[1] :] = y
    return out
