"""Attacks tell the truth about their claims, and break every bound called attained made smaller."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")

from decaf_theory import terminal
from decaf_theory.rng import generator
from verification import attack as program
from verification.attack import WEAKENED, Attempt, campaign, chosen, keep, run, variants
from verification.claim import Outcome
from verification.claims import CLAIMS
from verification.cli import main
from verification.evidence import at_most
from verification.replay import ReplayError, load, recompute
from verification.run import LEDGER

EPS = float(np.finfo(np.float64).eps)
BY_ID = {claim.id: claim for claim in CLAIMS}
ATTACKS = {claim.id: variants(claim) for claim in CLAIMS if claim.attacks}
EVERY = [(claim, variant) for claim, found in ATTACKS.items() for variant in found]
TIGHT = [pair for pair in EVERY if not ATTACKS[pair[0]][pair[1]].loose]
QUICK = [
    ("T2-sharp", "euclid, large G"),
    ("T11", "fro, thirds"),
    ("T13", "nuc, halves"),
    ("T18", "fro"),
    ("T20-distance", "r = 2"),
    ("T25", "Xi, MS, drift"),
    ("R5", "t = 4"),
]


def random_rows(claim, variant, count):
    """Return (ratio by torch, row by replay) of random instances, projected onto the domain."""
    import torch

    attack, rng = ATTACKS[claim][variant], generator(0, "instances", claim, variant)
    raw = {
        name: torch.as_tensor(rng.standard_normal((count, *shape)))
        for name, shape in attack.shapes.items()
    }
    inside = attack.project(raw)
    for i, ratio in enumerate(attack.ratio(inside).tolist()):
        instance = attack.instance({name: X[i].numpy() for name, X in inside.items()})
        yield ratio, BY_ID[claim].replay(instance)


@pytest.mark.parametrize(("claim", "variant"), EVERY)
def test_the_ratio_is_that_of_the_claims_own_replay_inside_its_domain(claim, variant):
    for ratio, row in random_rows(claim, variant, 6):
        assert row.assumptions_held
        assert row.relation == "<="
        assert row.outcome == Outcome.HOLDS
        # both programs round: each by at most the row's own allowance, and a quotient
        allowed = 2 * row.rounding + 4 * EPS * row.bound
        assert abs(ratio * row.bound - row.measured) <= allowed


@pytest.mark.parametrize(("claim", "variant"), EVERY)
def test_an_instance_is_plain_json_that_gives_the_same_row_again(claim, variant):
    import torch

    attack, rng = ATTACKS[claim][variant], generator(1, "instances", claim, variant)
    raw = {n: torch.as_tensor(rng.standard_normal((1, *s))) for n, s in attack.shapes.items()}
    inside = {name: X[0].numpy() for name, X in attack.project(raw).items()}
    instance = attack.instance(inside)
    again = json.loads(json.dumps(instance, allow_nan=False))
    assert again == instance


@pytest.mark.parametrize(("claim", "variant"), EVERY)
def test_projecting_twice_is_projecting_once(claim, variant):
    import torch

    attack, rng = ATTACKS[claim][variant], generator(2, "instances", claim, variant)
    raw = {n: torch.as_tensor(3 * rng.standard_normal((4, *s))) for n, s in attack.shapes.items()}
    once = attack.project(raw)
    twice = attack.project(once)
    for name, X in once.items():
        # one more SVD, or one more quotient of norms: a few eps of the largest entry per entry
        size = float(X.abs().max()) * max(X.shape[1:], default=1)
        assert float((twice[name] - X).abs().max()) <= 50 * EPS * size


def broken(claim, variant, seed):
    """Break the bound 2 % smaller from random starts, and not the true one; return the attempt."""
    attempt, instance = run(BY_ID[claim], variant, seconds=0.0, seed=seed, enough=WEAKENED)
    row = BY_ID[claim].replay(instance)
    assert row.tightness == attempt.ratio
    assert row.outcome == attempt.outcome == Outcome.HOLDS
    assert replace(row, bound=WEAKENED * row.bound).outcome == Outcome.VIOLATED
    return attempt


@pytest.mark.slow
@pytest.mark.parametrize(("claim", "variant"), QUICK)
def test_a_bound_two_percent_too_small_is_broken_from_random_starts(claim, variant):
    attempt = broken(claim, variant, seed=0)
    assert not attempt.failed


@pytest.mark.night
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("claim", "variant"), TIGHT)
def test_every_bound_called_attained_is_broken_when_two_percent_smaller(claim, variant, seed):
    attempt = broken(claim, variant, seed)
    assert attempt.broken_s < program.PATIENCE_S


@pytest.mark.night
@pytest.mark.parametrize(("claim", "variant"), [pair for pair in EVERY if pair not in TIGHT])
def test_bounds_called_loose_withstand_where_two_percent_smaller(claim, variant):
    attempt, _ = run(BY_ID[claim], variant, seconds=20.0, seed=0)
    # T11-odd: the two uneven ones miss 7e-4 and 1e-4 of it; all others lose more than 2 %
    assert attempt.ratio <= (1 - 1e-4 if claim == "T11-odd" else WEAKENED)
    assert attempt.outcome == Outcome.HOLDS


def test_a_false_bound_is_reported_as_broken():
    true = BY_ID["T17"]

    def smaller(instance):
        row = true.replay(instance)
        return replace(row, bound=0.5 * row.bound)

    attempt, instance = run(replace(true, replay=smaller), "fro", seconds=0.0, seed=0)
    assert attempt.outcome == Outcome.VIOLATED
    assert attempt.failed
    assert "BROKEN" in attempt.line()
    assert smaller(instance).outcome == Outcome.VIOLATED


ATTEMPT = Attempt("T9", "fro", "", 0.99, "ascent", 3, 0.5, 1.0, "holds")


@pytest.mark.parametrize(
    ("change", "failed", "words"),
    [
        ({}, False, ["0.990000", "attained", "withstood", "broken in  0.50 s"]),
        ({"broken_s": None}, True, ["attained", "withstood          "]),
        ({"broken_s": None, "loose": "why not"}, False, ["loose", "; why not"]),
        ({"outcome": "violated"}, True, ["BROKEN"]),
        ({"outcome": "violated", "loose": "why not"}, True, ["BROKEN"]),
    ],
)
def test_an_attempt_fails_where_a_true_bound_breaks_or_a_false_one_does_not(change, failed, words):
    attempt = replace(ATTEMPT, **change)
    assert attempt.failed is failed
    assert all(word in attempt.line() for word in words)


def test_the_table_keeps_other_attempts_and_replaces_the_same_one(tmp_path):
    claim = BY_ID["T9"]
    instance = claim.instance() | {"norm": "fro"}
    found = keep(claim, ATTEMPT, None, tmp_path)
    assert found == (None, "", False)
    keep(claim, replace(ATTEMPT, variant="op"), instance, tmp_path)
    found = keep(claim, replace(ATTEMPT, ratio=0.5), instance, tmp_path)
    assert found == (tmp_path / "T9-fro.json", f"-> {tmp_path / 'T9-fro.json'}", False)
    assert table_of(tmp_path) == [("op", 0.99, "T9-op.json"), ("fro", 0.5, "T9-fro.json")]
    assert recompute(claim, load(found.path)).outcome == Outcome.HOLDS


def table_of(folder):
    rows = json.loads((folder / "attacks.json").read_text())
    return [(row["variant"], row["ratio"], row["file"]) for row in rows]


def square(x):
    """Return what an attempt of a fake claim found: the instance x, whose ratio is x."""
    return replace(ATTEMPT, claim="T1", ratio=float(x)), {"x": x}


@pytest.fixture
def squares():
    def row(instance):
        if instance["x"] < 0:
            raise ValueError("x must be >= 0")
        return at_most("x", instance["x"], 1.0, held=instance["x"] != 50, rounding=0.0)

    return replace(BY_ID["T1"], replay=row, attacks=lambda: {"fro": None})


def x_of(folder):
    return load(folder / "T1-fro.json").instance["x"]


def test_the_strongest_instance_is_kept_and_it_is_said(squares, tmp_path):
    path = tmp_path / "T1-fro.json"
    assert keep(squares, *square(0.5), tmp_path).line == f"-> {path}"
    assert keep(squares, *square(0.25), tmp_path).line.endswith("its ratio 0.500000 is not smaller")
    assert keep(squares, *square(0.5), tmp_path).line == (
        f"{path} is kept: its ratio 0.500000 is not smaller"
    )
    assert keep(squares, square(0.25)[0], None, tmp_path).path == path
    assert (x_of(tmp_path), table_of(tmp_path)) == (0.5, [("fro", 0.5, path.name)])
    found = keep(squares, *square(0.75), tmp_path)
    assert found.line == f"-> {path}, in place of one with ratio 0.500000"
    assert (x_of(tmp_path), table_of(tmp_path)) == (0.75, [("fro", 0.75, path.name)])


def test_a_broken_bound_is_stronger_than_any_that_does_not_apply(squares, tmp_path):
    keep(squares, *square(50), tmp_path)  # its assumption fails
    assert keep(squares, *square(2), tmp_path).violated
    assert keep(squares, *square(50), tmp_path).violated
    assert x_of(tmp_path) == 2


def test_a_table_behind_its_instance_is_mended(squares, tmp_path):
    keep(squares, *square(0.5), tmp_path)
    before = (tmp_path / "attacks.json").read_bytes()
    keep(squares, *square(0.75), tmp_path)
    (tmp_path / "attacks.json").write_bytes(before)  # as if killed between the two files
    keep(squares, *square(0.25), tmp_path)
    assert (x_of(tmp_path), table_of(tmp_path)) == (0.75, [("fro", 0.75, "T1-fro.json")])


@pytest.mark.parametrize("text", ["[", "{}", None])
def test_an_instance_that_cannot_be_replayed_is_an_error_and_not_replaced(squares, tmp_path, text):
    keep(squares, *square(0.5), tmp_path)
    path = tmp_path / "T1-fro.json"
    path.write_text(path.read_text().replace("0.5", "-1") if text is None else text)
    text = path.read_text()
    with pytest.raises(ReplayError, match=r"T1-fro\.json would be replaced: .*; move it elsewhere"):
        next(campaign([squares], seconds=0.0, seed=0, folder=tmp_path))  # before it searches
    with pytest.raises(ReplayError, match="would be replaced"):
        keep(squares, *square(0.75), tmp_path)
    assert path.read_text() == text


@pytest.mark.parametrize("text", ["[", "{}", "[1]", '[{"claim": "T9"}]'])
def test_a_damaged_table_is_an_error_and_not_overwritten(tmp_path, text):
    (tmp_path / "attacks.json").write_text(text)
    with pytest.raises(ReplayError, match="damaged"):
        keep(BY_ID["T9"], ATTEMPT, None, tmp_path)
    assert (tmp_path / "attacks.json").read_text() == text


def test_all_are_the_claims_with_an_attack_in_reading_order():
    ids = [claim.id for claim in chosen(["all"], LEDGER)]
    assert ids == list(ATTACKS)
    assert [claim.id for claim in chosen(["T17", "T9"], LEDGER)] == ["T17", "T9"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("T8", r"claim T8 has no attack \(an identity\); these have: T1, "),
        ("T4a", r"false as worded .* replay verification/counterexamples/T4a\.json"),
        ("T99", "unknown claim 'T99'"),
    ],
)
def test_claims_that_cannot_be_attacked_say_why(name, message, monkeypatch):
    monkeypatch.chdir(program.__file__.rsplit("/verification/", 1)[0])
    with pytest.raises(ReplayError, match=message):
        chosen(["T9", name], LEDGER)


def test_a_campaign_serves_every_variant_and_stores_what_it_finds(tmp_path, monkeypatch):
    def fake_run(claim, variant, *, seconds, seed):
        assert (claim.id, seconds, seed) == ("T9", 2.0, 7)
        return replace(ATTEMPT, variant=variant), claim.instance()

    monkeypatch.setattr(program, "run", fake_run)
    found = list(campaign([BY_ID["T9"]], seconds=6.0, seed=7, folder=tmp_path))
    assert [attempt.variant for attempt, _ in found] == ["fro", "op", "nuc"]
    assert all(load(kept.path).claim == "T9" for _, kept in found)


def test_every_attack_has_a_file_of_its_own():
    assert len({program.file_of(*pair) for pair in EVERY}) == len(EVERY)


@pytest.mark.parametrize(("broken_s", "code"), [(0.5, 0), (None, 1)])
def test_the_exit_code_tells_whether_a_weakened_bound_withstood(
    tmp_path, monkeypatch, capsys, broken_s, code
):
    def fake_run(claim, variant, **_):
        attempt = replace(ATTEMPT, claim=claim.id, variant=variant, broken_s=broken_s)
        return attempt, claim.instance()

    monkeypatch.setattr(program, "run", fake_run)
    assert main(["attack", "T9", "T10", "--out", str(tmp_path)]) == code
    out = capsys.readouterr().out
    assert out.startswith(program.HEADER)
    assert out.endswith(f"table -> {tmp_path / 'attacks' / 'attacks.json'}\n")
    assert out.count("  -> ") == 5  # three variants of T9, two of T10


@pytest.fixture
def attempted(tmp_path, monkeypatch, capsys):
    """The folder of attacks on T9 and what they print, on a terminal of so many columns or none."""
    why = "three unit vectors on a line do not cancel, and it takes a whole sentence to say so"
    ended = replace(ATTEMPT, loose=why, searcher="hypothesis", seconds=123.4)

    def fake_run(claim, variant, **_):
        return replace(ended, claim=claim.id, variant=variant), claim.instance()

    monkeypatch.setattr(program, "run", fake_run)
    monkeypatch.chdir(tmp_path)

    def printed(columns):
        with monkeypatch.context() as patch:
            patch.setattr(terminal, "columns", lambda: columns)
            main(["attack", "T9", "--out", "here"])
        return capsys.readouterr().out

    printed(None)  # the first time, there is no instance to keep
    return tmp_path / "here" / "attacks", printed


@pytest.mark.parametrize("columns", [60, 80, 101, 200])
def test_the_table_of_attacks_fits_the_terminal(attempted, columns):
    _, printed = attempted
    whole, out = printed(None), printed(columns)
    assert max(map(len, whole.splitlines())) > 101
    assert max(map(len, out.splitlines())) <= columns
    assert out.split() == whole.split()
    assert out.startswith(program.HEADER) is (columns > 100)


def test_an_attack_that_cannot_begin_prints_no_head(attempted):
    folder, printed = attempted
    (folder / program.TABLE).write_text("[")
    assert printed(None) == ""


def test_an_attempt_is_not_printed_behind_the_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for _ in program.progress(iter([(ATTEMPT, program.Kept(None))]), [BY_ID["T9"]]):
        left = capsys.readouterr().err.split("\r")
        assert any("attack" in part for part in left)
        assert (left[-1], left[-2].strip()) == ("", "")  # the bar is wiped out
