"""Rows of few agents go apart from rows of many, and nothing but the time changes."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from decaf_theory.topology import TOPOLOGIES
from decaf_theory.tsvd import PATHS, grouping, tsvd_of_mix
from tests.mixes import gaussian, slack

N, D, K, R = 12, 60, 50, 2
KINDS = ["numpy", "torch"]


@pytest.fixture
def apart(monkeypatch):
    """Let rows go apart whatever it costs."""
    monkeypatch.setattr(grouping, "WORTH", 0)
    monkeypatch.setattr(grouping, "_remembered", grouping._remembered.__wrapped__)


def unlike_rows():
    """Return rows of 12, 2, 0, 3, 1, 12, 6 and 7 agents, in an order of no pattern."""
    rng, Pi = np.random.default_rng(0), np.zeros((8, N))
    for row, count in enumerate((12, 2, 0, 3, 1, 12, 6, 7)):
        Pi[row, rng.permutation(N)[:count]] = rng.uniform(0.1, 1.0, count)
    return Pi


def test_rows_are_grouped_by_halves_where_it_pays(monkeypatch):
    counts = np.count_nonzero(unlike_rows(), axis=1)
    assert [list(rows) for rows in grouping.groups(counts, R)] == [list(range(8))]
    monkeypatch.setattr(grouping, "WORTH", 8 * (12 * R) ** 3 - 1)
    assert [list(rows) for rows in grouping.groups(counts, R)] == [[0, 5, 7], [1, 2, 3, 4, 6]]
    monkeypatch.setattr(grouping, "WORTH", 0)
    # of 12 agents at most half are 6, of 6 are 3, of 3 is 1
    expected = [[0, 5, 7], [6], [1, 3], [2, 4]]
    assert [list(rows) for rows in grouping.groups(counts, R)] == expected


@pytest.mark.parametrize(("n", "parts"), [(32, 1), (33, 2)])
def test_a_second_pass_is_worth_a_million_multiply_adds(n, parts):
    """Of n rows on 32 agents of rank 1: n 32^3 of them, 2^20 where n is 32."""
    counts = np.array([32, *[1] * (n - 1)])
    assert len(grouping.groups(counts, 1)) == parts


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", PATHS)
def test_rows_apart_are_the_rows_one_by_one(apart, method, kind):
    factors, Pi = gaussian(N, D, K, R, 3), unlike_rows()
    given = factors if kind == "numpy" else factors.map(torch.from_numpy)
    found = tsvd_of_mix(given, Pi, 3, method=method)
    assert found.info[:3] == (method, 24, ())
    assert found.tail.shape == (3, 8, N * R - 3)
    for row in range(8):
        alone = tsvd_of_mix(factors, Pi[row : row + 1], 3, method=method)
        allowed = slack(factors, Pi)
        assert np.all(
            np.abs(np.asarray(found.singular_values)[:, row] - alone.singular_values[:, 0])
            <= allowed
        )
        tail = np.zeros((3, N * R - 3))
        tail[:, : alone.tail.shape[-1]] = alone.tail[:, 0]
        assert np.all(np.abs(np.asarray(found.tail)[:, row] - tail) <= allowed)
        B, A = (np.asarray(X)[:, row] for X in found.factors)
        product = alone.factors.B[:, 0] @ alone.factors.A[:, 0]
        gap = np.min(alone.singular_values[..., -1] - tail[:, :1])
        if gap > 0.05:
            assert np.max(np.abs(B @ A - product)) <= 100 * allowed / gap


def test_bad_and_refused_elements_keep_their_own_row(apart):
    factors, Pi = gaussian(N, D, K, R, 2), unlike_rows()
    used = [set(np.flatnonzero(row)) for row in Pi]
    bad, huge = 3, 7
    factors.A[1, bad, 0, 0] = np.nan
    factors.B[0, huge] *= 1e200
    factors.A[0, huge] *= 1e-200
    found = tsvd_of_mix(factors, Pi, 2, method="panel", on_nonfinite="skip")
    assert found.info.skipped == tuple((1, row) for row in range(8) if bad in used[row])
    expected = tuple(("range", (0, row)) for row in range(8) if huge in used[row])
    assert found.info.fell_back == expected
    assert found.info.elements == 16 - len(found.info.skipped)
    lost = np.zeros((2, 8), dtype=bool)
    lost[tuple(np.transpose(found.info.skipped))] = True
    assert np.array_equal(np.isnan(found.singular_values).any(axis=-1), lost)


def test_a_hub_may_go_by_another_path_than_its_leaves():
    factors = gaussian(40, 64, 50, 2)
    found = tsvd_of_mix(factors, TOPOLOGIES["star"](40), 2)
    assert found.info.path == "dense and panel"
    exact = tsvd_of_mix(factors, TOPOLOGIES["star"](40), 2, method="dense")
    gap = np.abs(found.singular_values - exact.singular_values).max()
    assert gap <= slack(factors, TOPOLOGIES["star"](40))


def test_a_matrix_changed_in_place_is_a_new_one():
    """Also for factors of another rank, and another number of rows with the same numbers."""
    factors, Pi = gaussian(4, 6, 5, 1), np.full((4, 4), 0.25)
    wider = gaussian(4, 6, 5, 2)
    tsvd_of_mix(factors, Pi, 1)
    Pi[0, 1], Pi[0, 2] = 0.0, 0.5
    for given, rows in ((factors, Pi), (wider, Pi), (wider, Pi[:1]), (factors, Pi.T)):
        found = tsvd_of_mix(given, rows, 1)
        exact = tsvd_of_mix(given, csr_array(rows), 1)  # not remembered
        assert np.array_equal(found.factors.B, exact.factors.B)
        assert np.array_equal(found.singular_values, exact.singular_values)


def test_small_dense_matrices_are_found_once_and_others_are_not_kept():
    Pi = TOPOLOGIES["ring"](32)
    once = grouping.plan(Pi, 32, 2)
    assert grouping.plan(np.asfortranarray(Pi.copy()), 32, 2) is once
    assert grouping.plan(Pi.astype(np.float32), 32, 2) is not once
    large = TOPOLOGIES["ring"](33)
    assert grouping.plan(large, 33, 2) is not grouping.plan(large, 33, 2)
