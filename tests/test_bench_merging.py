"""Ways to merge: timed on the same factors, judged by one reference, and measured apart."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="half of the ways are torch's")

from decaf_theory import bench  # noqa: E402
from decaf_theory.bench import memory, merging, peers  # noqa: E402
from decaf_theory.bench.cases import Case, draw  # noqa: E402
from decaf_theory.bench.merging import SVD, WAYS, Way  # noqa: E402
from decaf_theory.bench.race import Settings  # noqa: E402
from decaf_theory.lowrank import Factors, mix_products  # noqa: E402

EPS32 = float(np.finfo(np.float32).eps)
SMALL = Case(12, 9, 2, 4, "merge", layers=2)
WITHOUT_PEFT = {role: way for role, way in WAYS.items() if "peft" not in role}


class Ticking:
    """A clock that moves by a second at each look."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(merging, "CASES", (SMALL, SMALL._replace(r=1)))


def rows_of(quick, device="cpu"):
    return list(merging.merges("G9", Settings(quick, device, Ticking(), 1)))


def test_a_merge_is_timed_and_judged_and_its_memory_measured(small, monkeypatch):
    asked = []

    def told_by(code):
        asked.append(code)
        return {"results": 1, "added": 3_000_000}

    monkeypatch.setattr(merging, "WAYS", WITHOUT_PEFT)
    monkeypatch.setattr(memory, "told_by", told_by)
    rows = rows_of(quick=False)
    assert {row["goal"] for row in rows} == {"G9"}
    verdicts = [row for row in rows if row["kind"] == "verdict"]
    measures = {row["measure"] for row in verdicts}
    others = [role for role in WITHOUT_PEFT if role != "ours"]
    assert measures == {
        *(f"{role} / ours" for role in others),
        *(f"{role}: error" for role in WITHOUT_PEFT),
        *(f"{role}: added MB" for role in WITHOUT_PEFT),
    }
    for row in verdicts:
        if row["measure"].endswith("error"):  # one value per backend, LAPACK's in float32
            assert 0 <= row["low"] <= row["high"] <= 10 * 12 * EPS32
        if row["measure"].endswith("MB"):
            assert row["reached"] == 3.0
    assert len(asked) == 2 * len(WITHOUT_PEFT)
    sizes = ", ".join(map(repr, SMALL._replace(layers=1)))
    assert asked[0] == f"from decaf_theory.bench.merging import tell; tell('ours', ({sizes}))"
    assert {row["layers"] for row in rows if row["kind"] == "seconds"} == {2}


def test_a_quick_run_times_the_first_case_and_starts_no_process(small, monkeypatch):
    monkeypatch.setattr(merging, "WAYS", WITHOUT_PEFT)
    monkeypatch.setattr(memory, "told_by", lambda code: pytest.fail(code))
    rows = rows_of(quick=True)
    assert {row["r"] for row in rows if row["kind"] == "seconds"} == {2}


def test_every_way_does_all_layers_and_a_wrong_one_is_seen(small, monkeypatch):
    def careless(inputs):
        return lambda: Factors(*(1.001 * X for X in peers.kernel(inputs)()))

    calls = []

    def watched(inputs):
        run = peers.kernel(inputs)
        return lambda: (calls.append(inputs.factors.B[0, 0, 0, 0]), run())[1]

    monkeypatch.setattr(merging, "WAYS", {"ours": Way(watched, ("numpy",)), "bad": Way(careless)})
    rows = rows_of(quick=True)
    B = draw(SMALL).factors.B[:, 0, 0, 0]
    assert calls[:2] == [B[0], B[1]]
    (wrong,) = [row for row in rows if row.get("measure") == "bad: error"]
    # both factors are off by a thousandth
    assert wrong["low"] == pytest.approx(2e-3, rel=1e-2)
    assert wrong["high"] == pytest.approx(2e-3, rel=1e-2)


def test_what_keeps_all_of_the_mean_is_compared_with_all_of_it(small, monkeypatch):
    def whole(inputs):
        B, A = inputs.factors
        weighted = inputs.Pi[0][:, None, None] * A[0]
        pair = np.concatenate(list(B[0]), axis=-1), np.concatenate(list(weighted), axis=-2)
        return lambda: Factors(*(X.astype(np.float32) for X in pair))

    ways = {"ours": Way(peers.kernel), "cat": Way(whole, ("numpy",), whole=True)}
    monkeypatch.setattr(merging, "WAYS", ways)
    (row,) = [row for row in rows_of(quick=True) if row.get("measure") == "cat: error"]
    assert row["reached"] <= 10 * 12 * EPS32
    factors = draw(SMALL).factors
    M = mix_products(factors, np.array([[0.1, 0.2, 0.3, 0.4]]))
    assert np.linalg.matrix_rank(M[0, 0]) > SMALL.r


def test_a_library_that_is_missing_is_named(small, monkeypatch):
    def build(inputs, combination="svd"):
        raise ModuleNotFoundError("No module named 'peft'", name="peft")

    cat = next(role for role in WAYS if role.endswith("cat"))
    absent = {cat: Way(build, ("torch",), whole=True), SVD: Way(build, ("torch",))}
    monkeypatch.setattr(merging, "WAYS", {"ours": Way(peers.kernel), **absent})
    skipped = [row for row in rows_of(quick=True) if row.get("status") == "skipped"]
    assert [row["measure"] for row in skipped] == [f"{cat} / ours", f"{SVD} / ours"]
    assert {row["reason"] for row in skipped} == {"peft is not installed"}
    assert merging.named("no-such-library") == "no-such-library"


def test_a_dense_svd_does_one_matrix_and_a_large_one_once():
    assert merging.peer(SVD, SMALL).times == SMALL.layers
    assert not merging.peer(SVD, SMALL).once
    assert merging.peer(SVD, SMALL._replace(d=4096)).once
    assert merging.peer("ours", SMALL).times == 1


@pytest.mark.skipif(not memory.PEAK.exists(), reason="the peak begins anew by /proc")
def test_the_memory_of_a_merge_is_that_of_its_peak(monkeypatch, capsys):
    def wasteful(inputs):
        run = peers.kernel(inputs)
        return lambda: (np.ones(inputs.factors.B.shape[2] * 10**5).sum(), run())[1]

    monkeypatch.setattr(merging, "WAYS", {"ours": Way(wasteful), "light": Way(peers.kernel)})
    found = {}
    for role in ("ours", "light"):
        np.ones(32 * 10**6).sum()  # a peak of before does not count
        merging.tell(role, tuple(SMALL._replace(d=250, layers=1)))
        found[role] = json.loads(capsys.readouterr().out)
    assert found["light"]["results"] == 4 * 2 * (250 + 9)
    assert found["ours"]["added"] >= 0.99 * 200e6  # the system counts pages by the batch
    assert found["light"]["added"] < 100e6


def test_a_system_that_does_not_tell_its_memory_skips_it(small, monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "none")
    monkeypatch.setattr(merging, "WAYS", {"ours": Way(peers.kernel)})
    skipped = [row for row in rows_of(quick=False) if row.get("status") == "skipped"]
    assert {row["measure"] for row in skipped} == {"ours: added MB"}
    assert not bench.failed(skipped)
