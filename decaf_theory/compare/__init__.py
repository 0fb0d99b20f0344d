"""What a run did against every bound that applies, and which assumption failed where none does.

    from decaf_theory.compare import compare

    found = compare(config)               # runs it, and looks at every step and every mix
    print(found)                          # claim, measured, bound, their ratio, or what failed
    found.draw("bounds.svg")              # the same as curves and bars
    found.trace.loss                      # what `simulate` would have returned

A bound is shown where its assumptions are checked from the problem and the run: constants as the
problem declares them (`problems.check_problem` searches for a point that breaks one), kappa where
the run stayed where it holds, the c of Omega_c as the run reached it, the spectrum of the graph.
The functions that measure and bound are those of the claims (`python -m verification list`). With
noise, bounds are of expectations: these are estimated over the runs, with intervals that hold
together at 99.9 %.
"""

from decaf_theory.compare.comparing import Comparison, ViolatedWarning, compare
from decaf_theory.compare.lines import Line

__all__ = ["Comparison", "Line", "ViolatedWarning", "compare"]
