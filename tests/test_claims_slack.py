"""A bound that goes slack in one regime, or a regime that vanishes, turns its claim red."""

from dataclasses import replace

import pytest

from decaf_theory import bounds
from decaf_theory.measure import NORMS
from tests.claim_rows import CLAIMS
from verification.claim import RESOLUTION, Outcome
from verification.claims.truncation import beats_averaging
from verification.judge import judge, regime_name
from verification.run import Settings, evaluate


def loosened(row):
    """The row of a bound that is 1.5 times slacker."""
    return replace(row, bound=row.bound * (1.5 if row.relation == "<=" else 1 / 1.5))


@pytest.mark.parametrize("name", [name for name, claim in CLAIMS.items() if claim.reaches])
def test_each_attained_regime_alone_is_noticed_when_it_goes_slack_or_vanishes(stored, name):
    claim, rows = CLAIMS[name], stored(name)
    for regime in (regime for regime, value in claim.reaches.items() if value == 1):
        inside = [regime_name(row, claim.regimes) == regime for row in rows]
        changed = [loosened(row) if own else row for row, own in zip(rows, inside, strict=True)]
        assert judge(claim, changed).outcome != claim.expected
        others = [row for row, own in zip(rows, inside, strict=True) if not own]
        assert judge(claim, others).outcome != claim.expected


def slacker(formula, there):
    """The formula, 1.5 times too large where `there(arguments, letters)`."""

    def wrong(*given, **letters):
        return formula(*given, **letters) * (1.5 if there(given, letters) else 1)

    return wrong


@pytest.mark.parametrize(
    ("name", "formula", "there", "regimes"),
    [
        ("T9", "interference_operator", lambda *_: True, {"random op", "extremal op"}),
        (
            *("T11", "interference_worst_case"),
            lambda _, letters: letters["pi_max"] > 0.5,
            {f"extremal {norm}, heavy" for norm in NORMS},
        ),
        (
            *("T18", "decaf_dlora_difference"),
            lambda _, letters: letters["norm"] == "op",
            {"|P - Bbar Abar| <= const |I|, op"},
        ),
        pytest.param(
            *("T25", "network_q"),
            lambda _, letters: letters["order"] == "CB",
            {"E Xi at rest, CB, heterogeneity"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_formula_that_is_slacker_in_one_regime_turns_its_claim_red(
    monkeypatch, name, formula, there, regimes
):
    monkeypatch.setattr(bounds, formula, slacker(getattr(bounds, formula), there))
    check(name, regimes)


@pytest.mark.slow
def test_a_norm_that_is_slacker_turns_a_claim_red(monkeypatch):
    wrong = slacker(beats_averaging.schatten, lambda given, _: given[1] == "op")
    monkeypatch.setattr(beats_averaging, "schatten", wrong)
    check("T17", {"|E| <= |I|, op"})


def check(name, regimes):
    """Only the regimes tell: the largest tightness of all is what it was."""
    verdict = evaluate(CLAIMS[name], Settings()).verdict
    assert verdict.tightness >= 1 - RESOLUTION
    assert verdict.outcome == Outcome.SLACK
    assert {regime.name for regime in verdict.regimes if regime.went_slack} >= regimes
