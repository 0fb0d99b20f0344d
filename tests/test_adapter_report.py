"""The report on trained adapters against dense matrices, and bounds that it must see attained."""

import dataclasses
import math

import numpy as np
import pytest

from decaf_theory import adapters, bounds
from decaf_theory.lowrank import Factors
from tests.adapter_files import EPS, STORED, write_agents
from tests.dense_adapter_report import losses
from verification.adapter_evidence import EVIDENCE
from verification.adapter_report import report, report_on
from verification.claim import Outcome

ORDER = {"fro": "fro", "op": 2, "nuc": "nuc"}


def outcomes(found):
    return {verdict.claim: verdict.outcome.value for verdict in found.verdicts}


def tightness(found):
    return {verdict.claim: verdict.tightness for verdict in found.verdicts}


def norms(X):
    return np.linalg.matrix_norm(X)


# ---------------------------------------------------------------- real adapters


@pytest.mark.parametrize("topology", ["complete", "ring"])
def test_the_report_on_stored_adapters_is_that_of_dense_matrices(topology):
    found = report(STORED, topology)
    dense = losses(STORED, adapters.mixing_matrix(topology, 4))
    ours = [found.total[f"relative_{name}"] for name in ("interference", "truncation")]
    # relative norms of matrices of at most 64 columns, each off by some 64 eps
    assert ours == pytest.approx(dense, abs=10 * 64 * EPS)
    assert 0.4 < ours[0] < 0.6  # trained apart: substantial
    assert outcomes(found) == dict.fromkeys(EVIDENCE, "holds") | {"T21": "not_applicable"}
    assert found.as_expected


def test_the_report_on_minilm_adapters_has_the_known_figures(outside_data):
    folders = sorted(outside_data("adapters/minilm-sst2-local").glob("agent*"))
    found = report(folders)
    ours = [found.total[f"relative_{name}"] for name in ("interference", "truncation")]
    assert ours == pytest.approx(losses(folders), abs=10 * 384 * EPS)
    assert [round(x, 3) for x in ours] == [0.661, 0.238]
    assert len(found.sites) == 12
    assert found.as_expected


def test_every_row_is_the_worst_of_its_matrix_recomputed_with_dense_matrices():
    found = report(STORED, "ring")
    Pi, agents = adapters.mixing_matrix("ring", 4), adapters.load_agents(STORED)
    for row in [row for rows in found.rows.values() for row in rows]:
        pi, (B, A) = Pi[row.params["agent"]], agents.factors[row.params["site"]]
        assert (row.params["topology"], row.params["N"], row.params["r"]) == ("ring", 4, 4)
        assert (row.params["d"], row.params["k"]) == (B.shape[1], A.shape[2])
        measured, bound = dense_row(row.case, pi, B, A)
        # QR, SVD and the mix: each 64 eps of the factors' size; bounds at most twice that
        slip = 10 * 64 * EPS * np.linalg.norm(B) * np.linalg.norm(A) * math.sqrt(40)
        assert abs(row.measured - measured) <= slip, row
        assert bound is None or abs(row.bound - bound) <= slip, row
        others = [dense_row(row.case, other, B, A) for other in Pi]
        if bound is not None:
            assert min(b - m for m, b in others) == pytest.approx(row.bound - row.measured)


def dense_row(case, pi, B, A):
    """The measured value and the bound of a row, from formed matrices; T21's bound is left out."""
    M = sum(p * b @ a for p, b, a in zip(pi, B, A, strict=True))
    Bbar, Abar = np.tensordot(pi, B, 1), np.tensordot(pi, A, 1)
    U, S, Vh = np.linalg.svd(M)
    P = (U[:, :4] * S[:4]) @ Vh[:4]
    mean = Bbar @ Abar
    norm = ORDER[case.split()[-1]] if case.split()[-1] in ORDER else "fro"
    size = lambda X: np.linalg.norm(X, norm)  # noqa: E731
    if case.startswith("|I|"):
        X = np.concatenate([math.sqrt(p) * (b - Bbar) for p, b in zip(pi, B, strict=True)], axis=1)
        Y = np.concatenate([math.sqrt(p) * (a - Abar) for p, a in zip(pi, A, strict=True)])
        op, fro = [[np.linalg.norm(Z, n) for Z in (X, Y)] for n in (2, "fro")]
        limits = {
            "fro": min(op[0] * fro[1], fro[0] * op[1]),
            2: op[0] * op[1],
            "nuc": fro[0] * fro[1],
        }
        return size(M - mean), limits[norm]
    if case.startswith("|E| against |I|"):
        return size(M - P), size(M - mean)
    if case.startswith("|E| against the nearest"):
        return size(M - P), min(size(M - b @ a) for b, a in zip(B, A, strict=True))
    if case.startswith("|P - Bbar Abar| by norms"):
        return size(P - mean), (size(M) + size(M - 2 * mean)) / 2
    if case == "|E| by the spread nuc":
        mean_square = sum(p * np.sum((b @ a - P) ** 2) for p, b, a in zip(pi, B, A, strict=True))
        return size(M - P), bounds.truncation_by_spread(mean_square=mean_square, kept=S[:4])
    if case.startswith("|P - Bbar Abar|"):
        factor = (1 + math.sqrt(5)) / 2 if norm == "fro" else 2
        return size(P - mean), factor * size(M - mean)
    assert case == "|E| second order"
    return size(M - P), None


# ---------------------------------------------------------------- attained and broken bounds


def test_orthogonal_products_attain_truncation_against_interference(tmp_path):
    E = np.eye(3, 4)
    products = [(np.eye(3)[:, [i]], E[[i]]) for i in (0, 1)]
    found = report(write_agents(tmp_path, products, r=1, scale=3.0))
    assert tightness(found)["T17"] == pytest.approx(1, abs=1e-12)
    assert found.sites[0]["relative_truncation"] == pytest.approx(math.sqrt(1 / 2), abs=1e-12)


def test_a_gauge_flip_attains_the_deviation_bounds_and_loses_everything(tmp_path):
    rng = np.random.default_rng(0)
    B, _ = np.linalg.qr(rng.standard_normal((5, 2)))
    A, _ = np.linalg.qr(rng.standard_normal((7, 2)))
    found = report(write_agents(tmp_path, [(B, A.T), (-B, -A.T)], r=2))
    for row in found.rows["T9"]:
        # the nuclear bound too: A = B' up to isometries
        assert row.tightness == pytest.approx(1, abs=1e-12)
    total = found.total
    for row in found.rows["T13-data"]:
        assert abs(row.measured - row.bound) <= row.rounding
    assert total["relative_interference"] == pytest.approx(1, abs=1e-12)
    assert total["relative_truncation"] <= 10 * 7 * EPS
    assert "would lose 100 % of the mixed update" in " ".join(found.text().split())
    assert "truncating to rank 2 loses 0 %." in " ".join(found.text().split())


def test_near_consensus_truncation_is_of_second_order(tmp_path):
    rng = np.random.default_rng(1)
    B, A = rng.standard_normal((9, 2)), rng.standard_normal((2, 6))
    near = [
        (B + 0.02 * rng.standard_normal(B.shape), A + 0.02 * rng.standard_normal(A.shape))
        for _ in range(3)
    ]
    found = report(write_agents(tmp_path, near, r=2))
    assert outcomes(found)["T21"] == "holds"
    (row,) = found.rows["T21"]
    products = [b @ a for b, a in near]
    M = sum(products) / 3
    U, S, Vh = np.linalg.svd(M)
    P0 = (U[:, :2] * S[:2]) @ Vh[:2]
    square = sum(np.sum((W - P0) ** 2) for W in products) / 3 + np.sum((M - P0) ** 2)
    delta = max(np.linalg.norm(W - P0, 2) for W in products)
    assert row.bound == pytest.approx(square / (2 * (S[1] - delta)), rel=1e-11)
    assert 0 < row.tightness <= 1


def test_an_agent_far_away_spoils_only_the_mixes_that_weight_it(tmp_path):
    near, far = np.array([[1.0], [0.0]]), np.array([[0.0], [5.0]])
    folders = write_agents(tmp_path, [(near, near.T), (near, 1.1 * near.T), (far, far.T)], r=1)
    (row,) = report(folders, "path").rows["T21"]
    assert (row.params["agent"], row.outcome) == (0, Outcome.HOLDS)
    (row,) = report(folders, "complete").rows["T21"]
    assert row.outcome == Outcome.NOT_APPLICABLE


def test_two_vectors_at_a_small_angle_attain_the_second_order_bound(tmp_path):
    for angle in (0.1, 0.01):
        vectors = [np.array([[math.cos(t)], [math.sin(t)], [0]]) for t in (angle, -angle)]
        found = report(write_agents(tmp_path / str(angle), [(v, v.T) for v in vectors], r=1))
        # E = sin^2, S = sin^2 + sin^4 (P0 = cos^2 e1 e1'), delta ~ angle: ratio 1 - O(angle)
        assert 1 - 1.5 * angle < tightness(found)["T21"] < 1


@pytest.mark.parametrize("angle", [0.01, 0.5, 1.2])
def test_two_vectors_at_any_angle_attain_the_bound_by_the_spread(tmp_path, angle):
    vectors = [np.array([[math.cos(t)], [math.sin(t)], [0]]) for t in (angle, -angle)]
    found = report(write_agents(tmp_path, [(v, v.T) for v in vectors], r=1))
    (row,) = found.rows["T21-global"]
    # the mix is diag(cos^2, sin^2)
    assert abs(row.measured - min(math.sin(angle), math.cos(angle)) ** 2) <= row.rounding
    assert abs(row.measured - row.bound) <= row.rounding <= 1e-9 * row.bound


def test_agents_that_share_a_direction_attain_the_bound_by_the_spread(tmp_path):
    e = np.eye(5)
    agents = [(e[:, [0, j]] * [2, 1], e[[0, j]]) for j in (1, 2, 3)]
    found = report(write_agents(tmp_path, agents, r=2), "ring")
    # M = diag(2, 1/3, 1/3, 1/3), S = 1 - 1/9, |E|_* = 2/3
    (row,) = found.rows["T21-global"]
    assert (row.measured, row.bound) == pytest.approx((2 / 3, 2 / 3), abs=row.rounding)
    assert row.outcome == Outcome.HOLDS
    assert outcomes(found)["T21"] == "not_applicable"


@pytest.mark.parametrize(("e", "alpha"), [(-300, 0), (-480, 0), (400, 0), (0, 700), (-200, -300)])
def test_bounds_do_not_depend_on_the_size_of_the_adapters(e, alpha, tmp_path):
    rng = np.random.default_rng(4)
    products = [(rng.standard_normal((7, 2)), rng.standard_normal((2, 5))) for _ in range(3)]
    found = report(write_agents(tmp_path / "of size one", products, r=2), "ring")
    scaled = [(np.ldexp(B, e), np.ldexp(A, e)) for B, A in products]
    other = report(write_agents(tmp_path / "far", scaled, r=2, scale=2.0**alpha), "ring")
    # powers of two change no digit
    assert tightness(other) == tightness(found)
    assert outcomes(other) == outcomes(found)
    for name in ("interference", "truncation", "difference"):
        assert other.total[f"relative_{name}"] == found.total[f"relative_{name}"]
    for row, unit in zip(other.rows["T9"], found.rows["T9"], strict=True):
        assert row.measured == math.ldexp(unit.measured, 2 * e + alpha)


def test_agents_that_are_all_zero_break_no_bound(tmp_path):
    found = report(write_agents(tmp_path, [(np.zeros((4, 2)), np.ones((2, 3)))] * 2, r=2))
    assert found.as_expected
    assert outcomes(found)["T21-global"] == outcomes(found)["T13-data"] == "holds"


def test_bounds_that_need_the_agents_rank_do_not_apply_below_it():
    found = report(STORED, rank=2)
    assert outcomes(found) == {"T9": "holds", "T13-data": "holds"} | dict.fromkeys(
        ("T17", "T18", "T21", "T21-global"), "not_applicable"
    )
    assert found.as_expected
    assert "r < agents' rank" in found.text()


@pytest.mark.parametrize(
    ("name", "claim"),
    [
        ("interference_frobenius", "T9"),
        ("interference_operator", "T9"),
        ("interference_nuclear", "T9"),
        ("decaf_dlora_by_norms", "T13-data"),
        ("decaf_dlora_difference", "T18"),
        ("truncation_by_spread", "T21-global"),
    ],
)
def test_a_bound_that_is_too_small_is_seen(monkeypatch, name, claim):
    exact = getattr(bounds, name)
    monkeypatch.setattr(bounds, name, lambda **letters: 0.3 * exact(**letters))
    found = report(STORED)
    assert outcomes(found)[claim] == Outcome.VIOLATED
    assert not found.as_expected


def test_a_truncation_that_is_not_the_best_is_seen(monkeypatch):
    worse = adapters.truncate_mix

    def careless(small, shape, Pi, rank):
        found = worse(small, shape, Pi, rank)
        return found._replace(tail=found.tail * 2.5)

    monkeypatch.setattr(adapters, "truncate_mix", careless)
    assert outcomes(report(STORED))["T17"] == Outcome.VIOLATED


# ---------------------------------------------------------------- what is handed over


def test_the_text_fits_a_hundred_columns_and_says_what_is_lost():
    text = report(STORED, "ring").text()
    assert max(map(len, text.splitlines())) <= 100
    assert text.isascii()
    words = " ".join(text.split())
    assert "4 agents, ring graph" in words
    assert "Averaging the factors of these 4 agents would lose 46.6 % of the mixed update" in words
    assert "Mixing the products and truncating to rank 4 loses 21.3 %: 2.2 times less." in words
    assert "Averaging loses most at fc3: 57.1 %, against 22.9 % by truncation." in words
    assert "Also to be mixed, and not in these numbers: 2 tensors that are not LoRA" in words
    assert "T17 |E| <= |I| holds" in words
    assert "0 of 3: near consensus only" in words


def test_sites_and_rows_are_flat():
    found = report(STORED)
    flat = str | int | float
    assert [site["site"] for site in found.sites] == ["fc1", "fc2", "fc3"]
    for record in (*found.sites, found.total):
        assert all(isinstance(value, flat) for value in record.values())
    for row in [row for rows in found.rows.values() for row in rows]:
        assert all(isinstance(value, flat | bool) for value in row.as_json().values())
    assert {claim: len(rows) for claim, rows in found.rows.items()} == {
        verdict.claim: verdict.rows for verdict in found.verdicts
    }


def test_every_row_knows_its_matrix_s_mix_and_what_is_lost_of_it():
    found = report(STORED, "ring")
    sites = {numbers["site"]: numbers for numbers in found.sites}
    for row in [row for rows in found.rows.values() for row in rows]:
        for name in ("mix", "interference", "truncation"):
            assert row.params[name] == sites[row.params["site"]][name]


def test_the_same_adapters_give_the_same_report():
    first, second = report(STORED, "star"), report(STORED, "star")
    assert first.sites == second.sites
    assert first.rows == second.rows
    assert first.text() == second.text()


def test_agents_in_memory_give_the_report_of_their_folders():
    agents, Pi = adapters.load_agents(STORED), adapters.mixing_matrix("ring", 4)
    found = report_on(agents, Pi, "ring")
    assert found.rows == report(STORED, "ring").rows
    assert found.text() == report(STORED, "ring").text()


def test_a_rotated_gauge_changes_averaging_but_not_truncation(tmp_path):
    agents = adapters.load_agents(STORED)
    rng = np.random.default_rng(3)
    for i in range(4):
        sites = {}
        for site, (B, A) in agents.factors.items():
            Q, _ = np.linalg.qr(rng.standard_normal((4, 4)))
            sites[site] = Factors(B[i] @ Q, Q.T @ A[i])
        adapter = adapters.Adapter("", agents.config, sites, dict.fromkeys(sites, 1.0), {})
        adapters.save(adapter, tmp_path / f"agent{i}")
    plain, rotated = report(STORED), report(sorted(tmp_path.iterdir()))
    # |E| is the distance to rank 4: it moves by no more than the products, each rounded to float32
    # and so off by 2^-23 |B||A|
    sizes = [np.max(norms(f.B) * norms(f.A)) for f in agents.factors.values()]
    slip = 2**-23 * math.hypot(*sizes)
    assert rotated.total["truncation"] == pytest.approx(plain.total["truncation"], abs=slip)
    assert rotated.total["relative_interference"] > 1.2 * plain.total["relative_interference"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([STORED[0] / "nowhere"],), "nowhere: no such folder"),
        ((STORED, "rnig"), "got 'rnig'; the nearest name is ring"),
        ((STORED, "hypercube", 99), r"site fc3, the smallest: rank must be .* = 32 for 32 x 40"),
        ((STORED[:3], "hypercube"), "hypercube"),
        (([],), "no adapter folder given"),
    ],
)
def test_a_wrong_argument_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        report(*arguments)


def test_a_report_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        report(STORED).topology = "ring"
