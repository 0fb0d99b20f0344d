"""The stacks of the panel path: shared or of each row, in blocks, and what is redone of them."""

import importlib

import numpy as np
import pytest

from decaf_theory.lowrank import Factors, product
from decaf_theory.tsvd import PATHS, panel, tsvd_of_mix
from tests.mixes import EPS, assert_near, assert_same_result, gaussian, rows, slack
from tests.test_tsvd_panel import D, K, R, reasons

redo = importlib.import_module("decaf_theory.tsvd.redo")  # the package's `redo` is its function


def test_one_element_of_many_falls_back_alone():
    factors, Pi = gaussian(4, D, K, R, 3), rows(5, 4)
    clean = tsvd_of_mix(factors, Pi, R, method="panel")
    B, A = (X.copy() for X in factors)
    B[1, 2] *= 1e200
    A[1, 2] *= 1e-200
    Pi[:2, 2] = 0.0
    found = tsvd_of_mix(Factors(B, A), Pi, R, method="panel")
    assert found.info.fell_back == tuple(("range", (1, i)) for i in (2, 3, 4))
    expected = tsvd_of_mix(factors, Pi, R, method="panel")
    assert expected.info.fell_back == clean.info.fell_back == ()
    assert_near(product(found.factors), product(expected.factors), 100 * slack(factors, Pi))
    kept = np.ones((3, 5), dtype=bool)
    kept[1, 2:] = False
    for x, y in zip(
        (*found.factors, *found[1:3]), (*expected.factors, *expected[1:3]), strict=True
    ):
        assert np.array_equal(x[kept], y[kept])


def test_a_refused_element_of_one_block_is_found_among_the_others(monkeypatch):
    factors, Pi = gaussian(4, D, K, R, 3), rows(5, 4)
    factors.B[1, 2] *= 1e200
    factors.A[1, 2] *= 1e-200
    together = tsvd_of_mix(factors, Pi, R, method="panel")
    monkeypatch.setattr(panel, "BLOCK", 0)  # a block for each layer
    one_by_one = tsvd_of_mix(factors, Pi, R, method="panel")
    assert one_by_one.info == together.info
    assert {at[0] for _, at in together.info.fell_back} == {1}
    assert_same_result(one_by_one, together)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("power", "refused"), [(180, ()), (220, (("range", (0,)),))])
def test_products_at_the_ends_of_the_range_keep_their_digits(power, refused, sign):
    factors, Pi, size = (
        gaussian(3, D, K, R),
        np.array([[0.5, 0.5, 0], [0, 0, 1]]),
        2.0 ** (sign * power),
    )
    factors.B[0, :, 1] = 0.0
    plain = tsvd_of_mix(factors, Pi, R, method="qr")
    found = tsvd_of_mix(scaled_up(factors, size), Pi, R, method="panel")
    assert found.info.fell_back == refused
    allowed = slack(factors, Pi)
    for row, unit in ((0, size**2), (1, 1.0)):
        assert_near(found.singular_values[row] / unit, plain.singular_values[row], allowed)


def scaled_up(factors, size):
    """Return the factors of three agents with those of the first two multiplied by `size`."""
    return factors.map(lambda X: X * np.array([size, size, 1.0])[:, None, None])


def test_a_product_beyond_the_range_is_named():
    Pi = np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    with pytest.raises(ValueError, match=r"product at index \(0,\) overflows float64"):
        tsvd_of_mix(scaled_up(gaussian(3, D, K, R), 2.0**508), Pi * 2.0**20, R, method="panel")


def test_a_sparse_row_falls_back_alone_too():
    factors = gaussian(6, D, K, R)
    allowed = slack(factors, np.eye(6))
    factors.B[3] *= 1e200
    factors.A[3] *= 1e-200
    Pi = (np.eye(6) + np.roll(np.eye(6), 1, axis=1)) / 2
    found = tsvd_of_mix(factors, Pi, R, method="panel")
    assert found.info.fell_back == (("range", (2,)), ("range", (3,)))
    expected = tsvd_of_mix(factors, Pi, R, method="qr")
    assert_near(found.singular_values, expected.singular_values, allowed)


def test_skipping_and_falling_back_go_together():
    factors, Pi = gaussian(4, D, K, R), np.eye(4)
    factors.A[0, 0, 0] = np.nan
    factors.B[2] *= 1e200
    factors.A[2] *= 1e-200
    found = tsvd_of_mix(factors, Pi, R, method="panel", on_nonfinite="skip")
    assert found.info[1:] == (3, ((0,),), (("range", (2,)),))
    with pytest.raises(ValueError, match="factors of agent 0 hold nan or inf"):
        tsvd_of_mix(factors, Pi, R, method="panel")


@pytest.mark.parametrize("N", [3, 7])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_shared_and_gathered_stacks_agree(N, dtype, monkeypatch):
    factors = gaussian(N, D, K, R, 2).map(lambda X: X.astype(dtype))
    Pi = rows(N, N) * (np.eye(N) + np.roll(np.eye(N), 1, axis=1))
    found = []
    for shared in (True, False):
        monkeypatch.setattr(panel, "shares_stack", lambda *sizes, shared=shared: shared)
        found.append(tsvd_of_mix(factors, Pi, R, method="panel"))
        assert found[-1].info.fell_back == ()
    exact = factors.map(lambda X: X.astype(np.float64))
    allowed = 10 * slack(exact, Pi) * np.finfo(dtype).eps / EPS
    assert_near(found[0].singular_values, found[1].singular_values, allowed)
    assert_near(product(found[0].factors), product(found[1].factors), 10 * allowed)


def test_a_stack_is_shared_where_agents_are_few_and_gathered_on_large_sparse_graphs():
    assert panel.shares_stack(10, 10, 3, 4, 4)
    assert panel.shares_stack(10, 1, 9, 4, 4)
    assert not panel.shares_stack(10_000, 10_000, 3, 4, 4)
    assert not panel.shares_stack(1000, 1, 3, 4, 4)


@pytest.mark.parametrize("N", [3, 60])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_agents_who_mix_with_nobody_keep_their_product(N, dtype):
    """One direction a row: of a stack that is shared, and of stacks of their own."""
    factors = gaussian(N, D, K, 1, 2).map(lambda X: X.astype(dtype))
    assert panel.shares_stack(N, N, 1, 1, 1) is (N == 3)
    found = tsvd_of_mix(factors, np.eye(N), 1, method="panel")
    size = np.linalg.norm(factors.B, axis=-2) * np.linalg.norm(factors.A, axis=-1)
    # one product and one root each of numbers that are right to their last digits, then BA
    allowed = 10 * np.finfo(dtype).eps * np.max(size)
    assert_near(found.singular_values, size, allowed)
    assert_near(product(found.factors), product(factors), allowed)


def test_the_switch_lies_where_the_costs_are_equal():
    """As many rows as agents, rank = r = 4: 3/2 N <= m (m/2 + 11)."""
    for m, N in ((40, 826), (30, 520)):  # at 826.7, and at 520 exactly
        assert panel.shares_stack(N, N, m, 4, 4)
        assert not panel.shares_stack(N + 1, N + 1, m, 4, 4)
    # one row of m = 20, r = 2, rank 4: N^2/2 + 2 N <= 20 (10 + 2 + 20) = 640
    assert panel.shares_stack(33, 1, 20, 2, 4)
    assert not panel.shares_stack(34, 1, 20, 2, 4)


def recorded(module, name, monkeypatch):
    """Return a list that grows by the results and arguments of every call of a function."""
    calls, function = [], getattr(module, name)

    def spy(*arguments):
        calls.append((function(*arguments), arguments))
        return calls[-1][0]

    monkeypatch.setattr(module, name, spy)
    return calls


WIDE_AND_TALL = pytest.mark.parametrize(("d", "k"), [(D, K), (K, D)])


@WIDE_AND_TALL
@pytest.mark.parametrize("shared", [True, False])
def test_blocks_are_as_large_as_they_may_be(d, k, shared, monkeypatch):
    factors, N, m = gaussian(5, d, k, R, 7), 5, 2
    Pi = np.eye(N) + np.roll(np.eye(N), 1, axis=1)
    stack = (N if shared else m) * R * D  # the longer side decides
    for room, layers_or_rows in ((stack, 1), (3 * stack - 1, 2), (3 * stack, 3), (0, 1)):
        monkeypatch.setattr(panel, "BLOCK", room)
        monkeypatch.setattr(panel, "shares_stack", lambda *sizes: shared)
        with monkeypatch.context() as own:
            stacks = recorded(panel, "_stack", own)
            tsvd_of_mix(factors, Pi, R, method="panel")
        most = max(len(found) if shared else found.shape[1] for found, _ in stacks)
        assert most == layers_or_rows
        assert max(found.size for found, _ in stacks) == most * stack


@WIDE_AND_TALL
def test_the_core_is_told_the_longer_side(d, k, monkeypatch):
    calls = recorded(panel, "solve_core", monkeypatch)
    tsvd_of_mix(gaussian(3, d, k, R), rows(2, 3), R, method="panel")
    ((_, (G, unfit, weights, rank, longest, precision)),) = calls
    assert (G.shape, unfit, weights.shape) == ((2, 1, 1, 6, 6), None, (2, 6))
    assert (rank, longest, precision.double) == (R, D, True)


@pytest.mark.parametrize(("d", "k"), [(64, K), (K, 64)])
@pytest.mark.parametrize("small", ["B", "A"])
def test_squares_that_may_have_lost_digits_are_left_to_qr(d, k, small):
    """Of a sum of max(d, k) squares: each is off by up to 2^-1074, together by eps of the least."""
    least = 8 * 2.0**-511
    for factor, expected in ((0.995, {"range"}), (1.0, set())):
        B, A = np.zeros((1, d, 1)), np.zeros((1, 1, k))
        B[0, 0], A[0, 0, 0] = np.array([least * factor, 1 / least])[:: 1 if small == "B" else -1]
        found = tsvd_of_mix(Factors(B, A), np.ones((1, 1)), 1, method="panel")
        assert reasons(found) == expected
        assert_near(found.singular_values, [[factor]], 10 * EPS)


def test_a_direction_that_meets_zeros_is_fit_however_long():
    factors, Pi = gaussian(2, D, K, R), rows(1, 2)
    factors.B[0, :, 1] = 0.0
    expected = tsvd_of_mix(factors, Pi, R, method="panel")
    factors.A[0, 1] = 1e308
    found = tsvd_of_mix(factors, Pi, R, method="panel")
    assert found.info.fell_back == ()
    assert_same_result(found, expected)


@pytest.mark.parametrize("distinct", [False, True])
def test_equal_rows_share_their_core_and_sub_blocks_are_cut_only_where_needed(
    distinct, monkeypatch
):
    cut, solved = (recorded(panel, name, monkeypatch) for name in ("_taken", "solve_core"))
    tsvd_of_mix(
        gaussian(3, D, K, R), rows(3, 3) if distinct else np.ones((3, 3)), R, method="panel"
    )
    assert cut == []
    assert len(solved[0][1][2]) == (3 if distinct else 1)


@WIDE_AND_TALL
@pytest.mark.parametrize("shared", [True, False])
def test_what_is_redone_goes_in_blocks_and_into_its_place(d, k, shared, monkeypatch):
    """Layers 0, 2, 3 and 4 of a complete graph; on a ring the rows that use an agent of theirs."""
    N, m, L = 4, 4 if shared else 2, 6
    factors = gaussian(N, d, k, R, L)
    Pi = rows(3, N)
    if not shared:
        Pi *= (np.eye(N) + np.roll(np.eye(N), 1, axis=1))[:3]
    expected = tsvd_of_mix(factors, Pi, R, method="qr")
    for layer, agent in ((0, 1), (2, 3), (3, 0), (4, 2)):
        factors.B[layer, agent] *= 2.0**700
        factors.A[layer, agent] *= 2.0**-700
    monkeypatch.setattr(redo, "BLOCK", 3 * m * R * D)
    calls = recorded(redo, "qr_rows", monkeypatch)
    found = tsvd_of_mix(factors, Pi, R, method="panel")
    again = [at for _, at in found.info.fell_back]
    assert {layer for layer, _ in again} == {0, 2, 3, 4}
    stacks = len({layer for layer, _ in again}) if shared else len(again)
    assert [len(panels.B) for _, (panels, *_) in calls] == [3] * (stacks // 3) + [stacks % 3] * (
        stacks % 3 > 0
    )
    allowed = 10 * slack(gaussian(N, d, k, R, L), Pi)
    assert_near(found.singular_values, expected.singular_values, allowed)
    assert_near(found.tail, expected.tail, allowed)
    assert_near(product(found.factors), product(expected.factors), 10 * allowed)


@pytest.mark.parametrize("shared", [True, False])
def test_blocks_change_no_bit(shared, monkeypatch):
    factors = gaussian(5, D, K, R, 4)
    Pi = rows(5, 5) * (np.eye(5) + np.roll(np.eye(5), 1, axis=1))
    monkeypatch.setattr(panel, "shares_stack", lambda *sizes: shared)
    whole = tsvd_of_mix(factors, Pi, R, method="panel")
    for block, chunk in ((1, 1), (1000, 700)):
        monkeypatch.setattr(panel, "BLOCK", block)
        monkeypatch.setattr(panel, "CHUNK", chunk)
        assert_same_result(tsvd_of_mix(factors, Pi, R, method="panel"), whole)


@pytest.mark.parametrize("method", PATHS)
def test_equal_rows_of_a_complete_graph_are_computed_once_and_are_separate_arrays(method):
    factors, Pi = gaussian(3, D, K, R, 2), np.full((3, 3), 1 / 3)
    found = tsvd_of_mix(factors, Pi, R, method=method)
    one = tsvd_of_mix(factors, Pi[:1], R, method=method)
    assert found.info.elements == 6
    for x, y in zip((*found.factors, *found[1:3]), (*one.factors, *one[1:3]), strict=True):
        for i in range(3):
            assert np.array_equal(x[:, i], y[:, 0])
    found.factors.B[:, 0] = 0.0
    assert found.factors.B[:, 1].any()
