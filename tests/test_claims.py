"""Every claim of the list: a new one is tested by being there."""

import io
import json
import re
from contextlib import redirect_stdout
from dataclasses import replace

import pytest

from decaf_theory import bounds
from tests.claim_rows import CLAIMS, rows_of
from verification import store
from verification.claim import RESOLUTION, Context, Outcome
from verification.judge import judge
from verification.ledger import TITLES
from verification.reaches import entry, found, missing
from verification.replay import Stored, equal, program
from verification.run import LEDGER

STATUSES = ("paraphrased", "derived", "numerical")
SECTIONS = ("Assumptions", "Proof", "Extremal", "Counterexample", "Source")
FALSE = [name for name, claim in CLAIMS.items() if claim.expected == "violated"]
STORED = [name for name, claim in CLAIMS.items() if claim.instance]
# at every change; the others by night
ON_TORCH = "T5 T9 T16 T18-rank T20-distance T22 T24 T25 T27 R1 R2 R3 R4 R5 R6 R7 R8".split()
# evaluated a second time by night only: the rest is three quarters of the time of all
LONG = "P1 P6 T2 T2-sharp T16 T17 T22-feedback T22-share T23 T23-start T25 T25-sharp T28".split()
LONG += "T30-certificate T30-cone T30-law T30-needed T30-order T31 T32 T32-feedback T33".split()
LONG += "T36 T37".split()
FORMULAS = [(name, f.__name__) for name, claim in CLAIMS.items() for f in claim.bounds]

each = pytest.mark.parametrize("name", CLAIMS)


def by_night(names):
    """Every claim, those of these names by night."""
    return [pytest.param(name, marks=pytest.mark.night if name in names else ()) for name in CLAIMS]


# ---------------------------------------------------------------- the record


def test_ids_are_unique_and_fit_file_names():
    assert len(CLAIMS) == len(LEDGER.claims)
    pattern = r"[A-Z]\d+[a-z]?(-[a-z0-9-]+)?"
    assert [name for name in CLAIMS if not re.fullmatch(pattern, name)] == []
    assert len({name.lower() for name in CLAIMS}) == len(CLAIMS)


@each
def test_what_a_claim_says_of_itself_is_of_the_vocabulary(name):
    claim = CLAIMS[name]
    assert claim.area in TITLES
    assert claim.status in STATUSES
    assert claim.expected in ("holds", "violated")
    assert not claim.chosen_bound or claim.expected == "violated" or claim.loose


@each
def test_the_text_of_a_claim_stands_alone(name):
    claim = CLAIMS[name]
    text = claim.text
    first, second = text.split("\n")[:2]
    assert len(first) < 90
    assert first.endswith(".")
    assert second == ""
    # a word in brackets may say how far a proof goes: "Proof (leading order only): ..."
    found = re.findall(rf"^({'|'.join(SECTIONS)})(?: \([^)]*\))?:[ \n]", text, re.MULTILINE)
    assert found == [section for section in SECTIONS if section in found], "each once, in order"
    assert {"Assumptions", "Source"} <= set(found)
    if claim.expected == "violated":
        assert "\nCounterexample:" in text
    elif claim.status == "derived":
        assert "Proof" in found
    assert not re.search(r"^(Proof|Extremal|Counterexample|Source).*: none\b", text, re.MULTILINE)
    assert text.count("$") % 2 == 0
    # a docstring with \b or \v that is not raw loses letters of its formulas
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert not re.search(r"\b(theory|design|spec)\.md\b|/work/", text)


@each
def test_a_claim_is_attacked_or_says_why_not(name):
    claim = CLAIMS[name]
    if claim.expected == "violated":
        assert not claim.attacks
        assert not claim.not_attacked
    else:
        assert bool(claim.attacks) is not bool(claim.not_attacked)
        assert not claim.not_attacked.endswith(".")


# ---------------------------------------------------------------- the evidence


@each
def test_a_claim_has_its_expected_outcome(stored, name):
    claim, rows = CLAIMS[name], stored(name)
    held = [row.assumptions_held for row in rows]
    assert judge(claim, rows).outcome == claim.expected
    assert all(held) is not claim.conditional
    assert sum(held) >= len(held) / 3


@pytest.mark.parametrize("name", by_night(LONG))
def test_a_run_stores_the_rows_of_this_process_byte_by_byte(quick_run, name):
    ours = store.encode_rows(name, (row.as_json() for row in rows_of(name)))
    assert store.rows_path(quick_run[1], name).read_bytes() == ours


@pytest.mark.parametrize("name", by_night(CLAIMS.keys() - ON_TORCH))
def test_torch_gives_the_same_outcomes(stored, name):
    ours, theirs = stored(name), rows_of(name, "torch")
    assert [(row.case, row.outcome) for row in ours] == [(row.case, row.outcome) for row in theirs]


def stricter(row):
    """The row of a bound that is 2 % nearer."""
    return replace(row, bound=(1.02 if row.relation == ">=" else 0.98) * row.bound)


@each
def test_an_inequality_is_attained_or_says_why_not_and_2_percent_less_is_refuted(stored, name):
    claim = CLAIMS[name]
    rows = [row for row in stored(name) if row.relation != "==" and row.assumptions_held]
    if claim.expected == "violated" or not rows:
        assert not claim.loose
        return
    best = max(row.tightness or 0.0 for row in rows)
    assert best <= 1 + 1e-9
    assert (best >= 1 - RESOLUTION) is not bool(claim.loose)
    if claim.loose and not claim.chosen_bound:
        assert f"{best:.2f} of its bound" in claim.loose
    if not claim.loose:
        assert any(stricter(row).outcome == Outcome.VIOLATED for row in rows)


@each
def test_what_every_regime_reaches_is_stored_with_its_claim(stored, name):
    claim = CLAIMS[name]
    assert not (claim.reaches and claim.expected == "violated")
    assert all(0 <= value <= 1 for value in claim.reaches.values())
    lacking = missing(claim, stored(name))
    assert not lacking, f"to store in Claim({name!r}, ...):\n{entry(found(claim))}"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "formula"), FORMULAS)
def test_a_formula_that_is_2_percent_off_breaks_a_row(monkeypatch, stored, name, formula):
    right = getattr(bounds, formula)
    factor = 0.98 if any(row.relation == "<=" for row in stored(name)) else 1.02

    def wrong(*args, **letters):
        found = right(*args, **letters)
        return tuple(factor * x for x in found) if isinstance(found, tuple) else factor * found

    monkeypatch.setattr(bounds, formula, wrong)
    assert any(row.outcome == Outcome.VIOLATED for row in CLAIMS[name].rows(Context(name)))


# ---------------------------------------------------------------- instances


@pytest.mark.parametrize("name", FALSE)
def test_a_false_reading_has_an_instance_and_a_program(name):
    assert CLAIMS[name].instance
    assert CLAIMS[name].script


@pytest.mark.parametrize("name", STORED)
def test_an_instance_is_plain_json_and_attains_the_bound_or_breaks_a_false_one(name):
    claim = CLAIMS[name]
    row = claim.replay(json.loads(json.dumps(claim.instance(), allow_nan=False)))
    assert row.outcome == claim.expected
    if claim.expected == "holds":
        assert 1 - RESOLUTION <= row.tightness <= 1 + 1e-9


@pytest.mark.parametrize("name", FALSE)
def test_the_program_finds_the_numbers_of_the_replay(name):
    claim = CLAIMS[name]
    instance = dict(claim.instance())
    row = claim.replay(instance)
    out = io.StringIO()
    with redirect_stdout(out):
        exec(program(claim, Stored(name, row.relation, 0.0, 0.0, instance), LEDGER), {})
    printed = dict(re.findall(r"^(measured|bound) = (\S+)$", out.getvalue(), re.MULTILINE))
    numbers = {key: float(value) for key, value in printed.items()}
    assert equal(row, Stored(name, row.relation, **numbers, instance=instance))
