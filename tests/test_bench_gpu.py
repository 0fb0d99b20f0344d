"""What is timed on a GPU, on the CPU: the bytes of the floor, the peer, how runs are counted."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the peers are torch's")

from decaf_theory.bench import gpu, settings  # noqa: E402
from decaf_theory.bench.cases import Case, draw, on_torch  # noqa: E402
from decaf_theory.tsvd import tsvd_of_mix  # noqa: E402

CASE = Case(20, 12, 2, 6, "ring", "float64", layers=3)


def inputs():
    return on_torch(draw(CASE), "cpu")


def test_a_round_moves_every_factor_twice_and_the_outputs_once():
    factors, outputs = 3 * 6 * 2 * (20 + 12) * 8, 3 * 6 * 2 * (20 + 12) * 8
    assert gpu.moved(inputs()) == 2 * factors + outputs
    fewer = inputs()._replace(Pi=np.full((1, 6), 1 / 6), rank=1)
    assert gpu.moved(fewer) == 2 * factors + outputs // 12


def test_batched_qr_gives_what_the_kernel_gives():
    x = inputs()
    found, wanted = gpu.batched_qr(x)(), tsvd_of_mix(*x)
    first = wanted.singular_values[..., :1, None]
    # both are backward stable: a few dozen roundings of sigma_1, in 6 columns
    assert torch.all(abs(found.B @ found.A - wanted.factors.B @ wanted.factors.A) < 1e-13 * first)


def test_the_copies_are_equal_and_apart_and_exceed_the_caches(monkeypatch):
    monkeypatch.setattr(gpu, "CACHE", 100_000)
    x = inputs()
    copies = gpu.rotated(x)
    size = sum(X.nbytes for X in x.factors)
    assert len(copies) * size >= 100_000 > (len(copies) - 1) * size
    assert len({X.factors.B.data_ptr() for X in copies}) == len(copies)
    assert all(torch.equal(X.factors.A, x.factors.A) for X in copies)
    monkeypatch.setattr(gpu, "COPIES", 2)
    assert len(gpu.rotated(x)) == 2


@pytest.mark.parametrize(
    ("first", "each", "expected"),
    [(0.1, 0.1, 11), (0.1, 0.001, 50), (0.1, 0.6, 3), (2.0, 0.5, 1)],
)
def test_runs_take_turns_until_the_budget_is_spent(first, each, expected, monkeypatch):
    ran, left = [], [first]
    monkeypatch.setattr(gpu, "timed", lambda run, device: run() or (left.pop() if left else each))
    found = gpu.seconds([lambda: ran.append(0), lambda: ran.append(1)], "cpu", budget=1.0)
    assert found == [each] * expected
    assert len(ran) == expected + 1
    if expected > 1:
        assert ran[1:4] == [0, 1, 0]


def test_on_the_cpu_the_goal_is_skipped_and_small_sizes_give_every_row():
    (row,) = gpu.goal(settings())
    assert (row["status"], row["reason"]) == ("skipped", "runs on cuda")
    sizes = gpu.Sizes((CASE._replace(dtype="float32"),), ((2, 70, 3),), 2**12)
    rows = list(gpu.measured("cpu", sizes))
    assert [row["measure"] for row in rows] == [
        "GB/s",
        "ours, ms",
        "ours / byte floor",
        *(f"{peer} / ours" for peer in ("batched QR", "dense SVD", "svd_lowrank")),
        *("torch's SVD, ms", "torch's SVD / ours"),
    ]
    assert "skipped" in {row["status"] for row in rows[-1:]}
    assert all(row["reached"] > 0 for row in rows[:-1])


def test_where_the_solver_cannot_run_its_row_is_skipped_and_says_why(monkeypatch):
    monkeypatch.setattr(gpu.extras, "no_interpreter", lambda: "too old")
    monkeypatch.setattr(gpu.extras, "missing", lambda name: f"no {name}")
    theirs, ours = gpu.batch_of((2, 3, 2), "x", "cpu")
    assert (theirs["status"], ours["status"], ours["reason"]) == ("no goal", "skipped", "too old")
    assert gpu.unsolved(3, "cuda") == "no triton"  # compiled: no interpreter is asked for


def test_an_error_fails_its_case_and_no_other(monkeypatch, capsys):
    def broken(case, device, bytes_a_second):
        yield {"kind": "verdict", "fails": False}
        raise RuntimeError("no room")

    monkeypatch.setattr(gpu, "round_of", broken)
    sizes = gpu.Sizes((CASE, CASE), ((2, 70, 3),), 2**12)
    rows = list(gpu.measured("cpu", sizes))
    assert [row["fails"] for row in rows] == [False, False, True, False, True, False, False]
    assert rows[2]["reason"] == "RuntimeError('no room')"
    assert "no room" in capsys.readouterr().err
