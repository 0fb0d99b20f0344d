"""The check of aggregation functions: no false alarm on right ones, words for wrong ones."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from decaf_theory.conformance import check
from tests.right_aggregators import RIGHT


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(s, marks=pytest.mark.night) for s in range(1, 5))]
)
@pytest.mark.parametrize("name", RIGHT)
def test_right_functions_raise_no_alarm(name, seed):
    function, rule, options = RIGHT[name]
    report = check(function, rule, seed=seed, **options)
    assert report, report
    assert report.passed == report.asked >= 19
