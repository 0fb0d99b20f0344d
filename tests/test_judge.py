"""How rows are grouped into regimes, what is stored of them, and when a claim is slack."""

from dataclasses import replace

import pytest

from verification.claim import RESOLUTION, Claim, Outcome
from verification.evidence import at_least, at_most, attained, same
from verification.judge import judge, regime_name
from verification.ledger import entry as page_entry
from verification.reaches import entry, found, lowered, missing
from verification.table import why


def le(case, measured, bound=1.0, **where):
    return at_most(case, measured, bound, rounding=0.0, **where)


def claim_of(*rows, **more):
    return Claim("T0", "rates", "derived", lambda ctx: iter(rows), **more)


# ---------------------------------------------------------------- regimes


@pytest.mark.parametrize(
    ("case", "where", "name"),
    [
        ("|E| <= |I|, op", {"norm": "op", "r": 2, "family": "tie"}, "|E| <= |I|, op"),
        ("random op, tie", {"norm": "op", "family": "tie"}, "random op"),
        ("mean, ring, far, off", {"topology": "ring", "family": "far, off"}, "mean"),
        ("mean, ring", {"topology": "ring", "order": "MS", "curve": "rate"}, "mean, MS"),
        ("stopped", {"norm": "op"}, "stopped, op"),  # the letters alone do not name it
        ("mean", {"dependent": True, "heavy": False}, "mean, dependent"),
        ("mean", {"order": "CB", "errors": "any"}, "mean, any, CB"),  # by name
        ("mean", {"K": 2, "N": 5}, "mean, K = 2"),
    ],
)
def test_a_regime_is_a_case_without_its_instance_and_with_its_words(case, where, name):
    assert regime_name(le(case, 1, **where), ("K",)) == name


def test_a_row_and_that_it_is_attained_are_of_one_regime():
    assert {regime_name(row) for row in attained(le("mean", 1, norm="op"))} == {"mean, op"}


def test_every_regime_has_its_rows_and_the_largest_of_their_ratios():
    rows = [
        le("a", 0.2),
        le("a", 0.5),
        at_least("b", 4.0, 1.0, rounding=0.0),
        le("a", 0.9, held=False),
        same("c", 0.0, rounding=0.0),
        le("d", 1e-20, 0.0),
    ]
    verdict = judge(claim_of(reaches={"a": 0.5}), rows)
    shown = [(g.name, g.rows, g.tightness, g.reaches) for g in verdict.regimes]
    assert shown == [("a", 2, 0.5, 0.5), ("b", 1, 0.25, None), ("d", 1, None, None)]


# ---------------------------------------------------------------- what is stored


@pytest.mark.parametrize(
    ("stored", "measured", "slack"),
    [
        (1, 1 - RESOLUTION / 2, False),
        (1, 1 - 2 * RESOLUTION, True),
        (0.5, 0.5, False),
        (0.5, 0.7, False),
        (0.5, 0.49, True),
        (0.0, 0.0, False),
    ],
)
def test_a_claim_is_slack_where_a_regime_stays_below_what_is_stored(stored, measured, slack):
    verdict = judge(claim_of(reaches={"a": stored}), [le("a", measured), le("b", 1)])
    assert verdict.outcome == ("slack" if slack else "holds")


def test_a_regime_without_rows_or_without_a_ratio_is_slack_and_named():
    stored = claim_of(reaches={"a": 0.0, "b": 1.0})
    rows = [le("b", 1)]
    verdict = judge(stored, rows)
    assert verdict.outcome == Outcome.SLACK
    assert why(verdict, rows) == "regime 'a' reaches - of its bound, stored: 0 (0 rows)"
    rows = [le("a", 0), at_most("b", 1, 1, rounding=0.1)]  # too coarse to have a ratio
    assert why(judge(stored, rows), rows).startswith("regime 'b' reaches - of its bound, stored: 1")


def test_a_violated_row_outweighs_a_slack_regime():
    rows = [le("a", 0.1), le("b", 2)]
    assert judge(claim_of(reaches={"a": 1}), rows).outcome == "violated"


@pytest.mark.parametrize(
    ("ratios", "value"),
    [
        ([1, 1 - RESOLUTION / 10], 1),
        ([1, 1 - RESOLUTION], 0.99),
        ([1 - 0.7 * RESOLUTION], 0.99),
        ([0.75, 0.75], 0.75),
        ([0.759, 0.759], 0.75),
        ([0.8, 0.9], 0.6),
        ([0.1, 0.9], 0),
    ],
)
def test_what_is_stored_lies_below_what_was_reached_by_twice_its_spread(ratios, value):
    assert lowered(ratios) == pytest.approx(value, abs=1e-12)


def test_what_is_printed_can_be_pasted_and_then_nothing_is_missing():
    without = same("c", 0, rounding=0), le("d", 1e-20, 0.0)  # no ratio
    claim = claim_of(le("a, op", 0.5, norm="op"), le('"b"', 1), *without)
    assert missing(claim, claim.rows(None)) == ["a, op", '"b"']
    field = eval(f"dict({entry(found(claim))})")
    assert field == {"reaches": {"a, op": 0.5, '"b"': 1}}
    assert missing(replace(claim, **field), claim.rows(None)) == []
    assert missing(replace(claim, expected="violated"), claim.rows(None)) == []


@pytest.mark.parametrize(
    ("reaches", "words"),
    [
        ({"a": 1, "b": 0.5, "c": 0.7}, "; tightness by regime: 0.5 to 1 in 3*"),
        ({"a": 1}, "; tightness by regime: 1 in 1*"),
        ({}, "expected: holds*"),
    ],
)
def test_the_page_shows_the_least_and_the_most_and_the_number(reaches, words):
    assert words in page_entry(claim_of(reaches=reaches))
