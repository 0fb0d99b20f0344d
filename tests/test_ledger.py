"""What every claim must have: the tests run over the list, so that a new claim is tested too."""

import json
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from verification.run import LEDGER

ROOT = Path(__file__).parents[1]
CLAIMS = {claim.id: claim for claim in LEDGER.claims}
STATEMENTS = tomllib.loads((ROOT / "paper_checks/statements.toml").read_text())["statement"]
AREAS = "smoothness interference truncation rates networks problems examples methods".split()
STATUSES = ("paraphrased", "derived", "numerical")
OUTCOMES = ("holds", "violated")
SECTIONS = ("Assumptions", "Proof", "Extremal", "Counterexample", "Source")

each = pytest.mark.parametrize("name", CLAIMS)


def test_ids_are_unique_and_fit_file_names():
    assert len(CLAIMS) == len(LEDGER.claims)
    assert [
        name for name in CLAIMS if not re.fullmatch(r"[A-Z]\d+[a-z]?(-[a-z0-9-]+)?", name)
    ] == []
    assert len({name.lower() for name in CLAIMS}) == len(CLAIMS)


def test_an_outcome_is_expected_of_every_claim_and_of_nothing_else():
    assert list(LEDGER.expected) == list(CLAIMS)
    assert set(LEDGER.expected.values()) <= set(OUTCOMES)


@each
def test_area_and_status_are_of_the_vocabulary(name):
    assert CLAIMS[name].area in AREAS
    assert CLAIMS[name].status in STATUSES


@each
def test_the_text_of_a_claim_stands_alone(name):
    text = CLAIMS[name].text
    first, second = text.split("\n")[:2]
    assert len(first) < 90
    assert first.endswith(".")
    assert second == ""
    # a word in brackets may say how far a proof goes: "Proof (leading order only): ..."
    heads = [rf"^{section}(?: \([^)]*\))?:(?=[ \n])" for section in SECTIONS]
    places = [re.search(head, text, re.MULTILINE) for head in heads]
    assert all(places), f"of {SECTIONS} one is missing"
    assert places == sorted(places, key=lambda found: found.start()), "in this order"
    assert text.count("$") % 2 == 0
    # a docstring with \b or \v that is not raw loses letters of its formulas
    assert all(letter.isprintable() or letter == "\n" for letter in text)
    assert not re.search(r"\b(theory|design|spec)\.md\b|/work/", text)


@each
def test_a_false_reading_can_be_built_replayed_and_run_as_a_program(name):
    claim = CLAIMS[name]
    if LEDGER.expected[name] == "violated":
        assert claim.instance
        assert claim.replay
        assert claim.script
        assert "none" not in re.search(r"^Counterexample:(.*)", claim.text, re.MULTILINE)[1]


@each
def test_an_instance_is_plain_json_and_its_replay_is_judged_as_the_claim_is(name):
    claim = CLAIMS[name]
    if claim.instance:
        assert claim.replay
        instance = json.loads(json.dumps(claim.instance(), allow_nan=False))
        assert claim.replay(instance).outcome == LEDGER.expected[name]


def test_every_claim_supports_exactly_one_statement_of_its_status():
    found = Counter(claim for statement in STATEMENTS for claim in statement["claims"])
    assert found == Counter(list(CLAIMS))
    for statement in STATEMENTS:
        for claim in statement["claims"]:
            assert CLAIMS[claim].status == statement["status"], claim


def test_statements_are_complete_and_in_reading_order():
    for statement in STATEMENTS:
        assert set(statement) == {"id", "wording", "where", "status", "claims"}
        assert statement["wording"].endswith(".")
        assert statement["claims"]
    ids = [statement["id"] for statement in STATEMENTS]
    assert len(set(ids)) == len(ids)
    assert [claim for statement in STATEMENTS for claim in statement["claims"]] == list(CLAIMS)
