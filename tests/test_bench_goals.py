"""The benchmark's goals, its measures of accuracy and its count of memory."""

import json

import numpy as np
import pytest

from decaf_theory.bench import accuracy, goals, lapack, memory
from decaf_theory.bench.cases import Case, draw
from decaf_theory.bench.race import Settings
from decaf_theory.lowrank import Factors, product
from decaf_theory.tsvd import PATHS, tsvd_of_mix
from tests.test_bench import TINY, FakeClock

EPS32 = float(np.finfo(np.float32).eps)


def test_the_whole_is_scaled_from_what_is_measured():
    """A dense SVD at 1024 stands for all agents of a 4096 x 4096 layer: 10 x 4^3 of it."""
    assert goals.dense(goals.LLAMA, 1024).times == 10 * 4**3
    assert goals.dense(goals.LLAMA).times == 10
    assert goals.dense(goals.LLAMA).once
    assert goals.dense(goals.CLIP).times == 10 * 36
    assert not goals.dense(goals.CLIP).once


def asked(name, monkeypatch, quick=False):
    """Return the case and the limits of every race that a goal runs, without running any."""
    races = []
    monkeypatch.setattr(
        goals,
        "race",
        lambda goal, case, field, limits, settings: races.append((case, limits)) or (),
    )
    for part in ("error", "peer_errors"):
        monkeypatch.setattr(goals, part, lambda *arguments: ())
    monkeypatch.setattr(goals.merging, "merges", lambda *arguments: ())
    list(goals.GOALS[name](Settings(quick, "cpu", FakeClock())))
    return [
        (
            case,
            {
                (f"{over} / {under}", relation, limit)
                for over, under, relation, limit in limits
                if relation
            },
        )
        for case, limits in races
    ]


def test_the_goals_on_layers_are_the_published_ones(monkeypatch):
    layer = Case(4096, 4096, 4, 10, "ring")
    krylov = {("PROPACK / ours", ">=", 25), ("ARPACK / ours", ">=", 25)}
    assert asked("G1", monkeypatch) == [
        (
            layer,
            {
                *(("QR loop / ours", ">=", 5), ("dense SVD / ours", ">=", 1e5), *krylov),
                ("batched QR / ours", ">=", 3),
                ("ours / GEMM floor", "<=", 1.5),
            },
        ),
        (layer._replace(layers=12), set()),
    ]
    complete = layer._replace(graph="complete")
    loop = ("QR loop / ours", ">=", 12)
    assert asked("G2", monkeypatch)[:2] == [
        (complete, {loop, ("ours / GEMM floor", "<=", 2.5)}),
        (complete._replace(apart=1e-3), {loop, ("ours / GEMM floor", "<=", 2.0)}),
    ]
    assert all(limits == set() for _, limits in asked("G2", monkeypatch)[2:])
    never_slower = {("batched QR / ours", ">=", 1)}
    assert [limits for _, limits in asked("sizes", monkeypatch)] == [never_slower] * 5
    assert asked("G3", monkeypatch) == [
        (
            Case(768, 768, 2, 10, "ring", layers=36),
            {
                ("batched QR / ours", ">=", 3),
                *(("QR loop / ours", ">=", 10), ("dense SVD / ours", ">=", 8000)),
                ("ours / GEMM floor", "<=", 2),
            },
        )
    ]
    assert asked("G4", monkeypatch) == [
        (Case(d, d, 4, 10, "ring", "float64", 64), {("batched SVD / ours", ">=", least)})
        for d, least in ((32, 3), (64, 10), (128, 35))
    ]
    libraries = [
        (
            Case(d, d, 4, 4, "ring"),
            {("peft svd / ours", ">=", least), ("dense aggregation / ours", ">=", 400)},
        )
        for d, least in ((768, 500), (2048, 5000))
    ]
    assert asked("G9", monkeypatch) == libraries
    assert asked("G9", monkeypatch, quick=True) == libraries[:1]


@pytest.mark.parametrize(("added", "status"), [(63_900_000, "ok"), (64_100_000, "missed")])
def test_a_round_of_a_whole_model_may_add_64_megabytes(added, status, monkeypatch):
    sizes = []

    def measure(*arguments):
        sizes.append(arguments)
        return {"factors": 1, "results": 2, "added": added}

    monkeypatch.setattr(memory, "added_bytes", measure)
    *measured, row = goals.g10(Settings(True, "cpu", FakeClock(), 3))
    assert sizes == [(64, 10, 4096, 4096, 4)] * 3
    assert [one["kind"] for one in measured] == ["memory"] * 3
    assert (row["status"], row["reached"]) == (status, added / 1e6)


def test_a_system_that_does_not_tell_its_memory_skips_the_goal(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "none")
    (row,) = goals.g10(Settings(True, "cpu", FakeClock()))
    assert (row["status"], row["goal"]) == ("skipped", "G10")
    assert "which is missing" in row["reason"]


@pytest.mark.parametrize(
    ("passed", "worst", "error", "fails"),
    [(323, 49.9, 9e-14, set()), (322, 50.1, 1.3e-13, {"cases", "worst ratio", "error"})],
)
def test_accuracy_is_promised_case_by_case(passed, worst, error, fails, monkeypatch):
    """Beside sigma_1, or beside the sum of the terms for what cancels; tenfold the other way."""
    hard = {name: accuracy.HardError(error, 10 * error) for name in ("random", "tie")}
    hard["cancelling"] = accuracy.HardError(10 * error, error)
    monkeypatch.setattr(accuracy, "protocol", lambda *_: accuracy.Protocol(passed, worst, "here"))
    monkeypatch.setattr(accuracy, "hard_cases", lambda dtype: dict.fromkeys(hard, dtype))
    unit = {"float64": 1.0, "float32": 1e7}
    monkeypatch.setattr(
        accuracy,
        "hard_error",
        lambda name, dtype, path, device: accuracy.HardError(
            *(unit[dtype] * x for x in hard[name])
        ),
    )
    rows = [row for row in goals.g8(Settings(True, "cpu", FakeClock())) if row["kind"] == "verdict"]
    counts = [row for row in rows if row["measure"] == "cases"]
    ratios = [row for row in rows if row["measure"] == "worst ratio"]
    errors = [row for row in rows if "error" in row["measure"] and row["limit"] is not None]
    assert [len(found) for found in (counts, ratios, errors)] == [8, 8, 6]
    found = {"cases": counts, "worst ratio": ratios, "error": errors}
    assert {name for name, own in found.items() if all(row["fails"] for row in own)} == fails
    assert {name for name, own in found.items() if any(row["fails"] for row in own)} == fails


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", "cpu:0"])
def test_every_goal_on_layers_runs_on_a_tiny_layer(device, monkeypatch):
    """Also on torch alone, as on CUDA: "cpu:0" is a device of torch that is not "cpu"."""
    small = TINY._replace(d=40, k=30)  # so large that the panels pay, with sums in float64
    monkeypatch.setattr(goals, "LLAMA", small)
    monkeypatch.setattr(goals, "CLIP", small._replace(layers=2))
    clock = FakeClock()

    def ticking():
        clock.now += 1.0
        return clock.now

    settings = Settings(False, device, ticking, 1)
    backends = {"torch"} if device == "cpu:0" else {"numpy", "torch"}
    for name in ("G1", "G2", "G3"):
        rows = list(goals.GOALS[name](settings))
        verdicts = [row for row in rows if row["kind"] == "verdict"]
        times = [row for row in rows if row["kind"] == "seconds"]
        assert {row["goal"] for row in rows} == {name}
        assert {row["backend"] for row in times} == backends
        absent = {row["measure"] for row in verdicts if row["status"] == "skipped"}
        on_host = {"PROPACK / ours", "ARPACK / ours"} if name == "G1" else set()
        assert absent == (on_host if device == "cpu:0" else set())
        errors = [row for row in verdicts if row["measure"] == "error / sigma_1"]
        assert {row["status"] for row in errors} == {"ok"}


@pytest.mark.skipif(not memory.STATUS.exists(), reason="the peak is read from /proc")
def test_memory_that_is_given_back_within_the_round_is_counted(monkeypatch, capsys):
    def wasteful(*args, **options):
        np.ones(25 * 10**6).sum()
        return tsvd_of_mix(*args, **options)

    monkeypatch.setattr(memory, "tsvd_of_mix", wasteful)
    memory.tell(1, 3, 50, 40, 2)
    found = json.loads(capsys.readouterr().out)
    assert found["added"] >= 0.99 * 200e6  # the system counts pages by the batch


def test_the_protocol_counts_all_cases():
    found = accuracy.protocol("qr", "float32")
    assert found.passed == 323
    assert 0 < found.worst < lapack.THRESHOLD
    assert found.where


def test_the_protocol_fails_a_kernel_that_is_wrong(monkeypatch):
    def careless(factors, Pi, rank, method):
        found = tsvd_of_mix(factors, Pi, rank, method=method)
        return found._replace(factors=Factors(found.factors.B * 1.001, found.factors.A))

    monkeypatch.setattr(accuracy, "tsvd_of_mix", careless)
    found = accuracy.protocol("qr", "float32")
    # only zeros survive, and the 102 sizes that are refused
    assert found.passed == 102 + 13
    assert found.worst > 50


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_hard_cases_are_what_they_are_called(dtype):
    cases = accuracy.hard_cases(dtype)
    info = np.finfo(dtype)
    assert len(cases) == 12
    for inputs in cases.values():
        assert all(X.dtype == dtype and np.isfinite(X).all() for X in inputs.factors)
    B = cases["subnormal"].factors.B
    assert 0 < np.max(np.abs(B)) < info.smallest_normal
    values = np.linalg.svd(
        np.einsum("ij,jab->iab", cases["tie"].Pi, product(cases["tie"].factors)), compute_uv=False
    )
    assert np.ptp(values[:, :12]) <= 100 * info.eps
    M = np.einsum("ij,jab->iab", np.full((1, 6), 1 / 6), product(cases["cancelling"].factors))
    assert np.linalg.norm(M) < 0.1 * np.linalg.norm(product(cases["cancelling"].factors)[0])
    assert not cases["zero"].factors.B.any()


@pytest.mark.parametrize("path", ["auto", *PATHS])
@pytest.mark.parametrize("name", ["random", "tie", "cancelling", "zero", "scales 1e+-30"])
def test_a_hard_error_is_that_of_the_factors(name, path, monkeypatch):
    inputs = accuracy.hard_cases("float64")[name]
    honest = accuracy.hard_error(name, inputs, path)
    assert honest.over_terms <= 1e-13

    def careless(factors, Pi, rank, method):
        found = tsvd_of_mix(factors, Pi, rank, method=method)
        return found._replace(factors=Factors(found.factors.B * 1.001, found.factors.A))

    monkeypatch.setattr(accuracy, "tsvd_of_mix", careless)
    careless_error = accuracy.hard_error(name, inputs, path)
    # a thousandth of sigma_1, of the product and of the residual's leading values alike
    assert careless_error.over_sigma == pytest.approx(0.0 if name == "zero" else 1e-3, rel=0.01)


def test_the_error_of_a_layer_is_that_of_its_worst_agent(monkeypatch):
    inputs = draw(TINY._replace(layers=2))
    assert accuracy.layer_error(inputs) <= 10 * 12 * EPS32

    def careless(*args):
        found = tsvd_of_mix(*args)
        B = found.factors.B.copy()
        B[0, 3] *= 1.001
        return found._replace(factors=Factors(B, found.factors.A))

    monkeypatch.setattr(accuracy, "tsvd_of_mix", careless)
    assert accuracy.layer_error(inputs) == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.slow
@pytest.mark.skipif(not memory.STATUS.exists(), reason="the peak is read from /proc")
def test_memory_is_counted_beside_factors_and_results():
    found = memory.added_bytes(2, 3, 500, 400, 4)
    numbers = 2 * 3 * 4 * (500 + 400)
    # results: factors of the same shapes, 4 kept and 12 - 4 dropped singular values an agent
    assert found["factors"] == 4 * numbers
    assert found["results"] == 4 * (numbers + 2 * 3 * 12)
    assert abs(found["added"]) < 64e6  # small results may lie where something was freed before


def test_hard_cases_run_on_torch_too():
    for name, inputs in accuracy.hard_cases("float32").items():
        assert accuracy.hard_error(name, inputs, "auto", "cpu").over_terms <= 1e-6
    assert accuracy.protocol("panel", "float32", "cpu").passed == 323
