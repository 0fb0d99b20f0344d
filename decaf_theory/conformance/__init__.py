"""Is somebody's aggregation function right? Adapters of every kind through it, against a rule.

from decaf_theory.conformance import check
assert check(my_aggregate, "fedavg")    # one line in anybody's tests; print it to read why
"""

from decaf_theory.conformance.checking import check
from decaf_theory.conformance.loading import load
from decaf_theory.conformance.report import Report
from decaf_theory.conformance.rules import RULES, Rule

__all__ = ["RULES", "Report", "Rule", "check", "load"]
