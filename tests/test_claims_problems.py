"""Claims P1, P6: what refutes them."""

from collections import Counter
from dataclasses import replace

import numpy as np

from tests.claim_rows import CLAIMS
from verification.claim import Context, Outcome
from verification.claims.problems import competing_targets, opposed_gauges


def violated(name):
    """The cases of the rows that violate the claim, by the functions as they are now."""
    rows = CLAIMS[name].rows(Context(name))
    return [row.case for row in rows if row.outcome == Outcome.VIOLATED]


def test_p6_notices_products_that_stay_as_large_as_at_the_start(monkeypatch):
    right = competing_targets._run

    def stuck(*args):
        trace = right(*args)
        return replace(trace, adapter_norm=np.ones_like(trace.adapter_norm))

    monkeypatch.setattr(competing_targets, "_run", stuck)
    cases = violated("P6")
    regimes = Counter(case.split(":")[0] for case in cases)
    assert regimes == {"below": 4, "at equality": 1, "above": 2}


def test_p1_notices_a_run_too_short_to_escape(monkeypatch):
    monkeypatch.setattr(opposed_gauges, "ESCAPED", opposed_gauges.STEPS)
    cases = violated("P1")
    assert len(cases) == len(opposed_gauges.CASES)
    assert all(case.startswith("DLoRA from 1e-12 away") for case in cases)
