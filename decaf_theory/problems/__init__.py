"""Exactly specified problems with proved constants, by number. Add a new one as a line below.

    from decaf_theory.problems import check_problem, quadratic
    problem = quadratic(curvatures, targets, tau=0.1)    # least squares of your own
    print(check_problem(problem))                        # its constants against searched points

Each builder takes keyword-only parameters, all with defaults, and returns a `Problem`; draws are
seeded by its `seed`.
"""

from __future__ import annotations

from collections.abc import Callable

from decaf_theory.names import Table
from decaf_theory.problems.approximation import (
    approximation,
    frame,
    gauge_flip,
    heterogeneous,
    homogeneous,
    least_loss,
    out_of_reach,
    rank_competition,
)
from decaf_theory.problems.base import Constants, Problem, entry_noise
from decaf_theory.problems.checking import check_problem
from decaf_theory.problems.frames import FRAMES
from decaf_theory.problems.frozen import frozen_curvature, frozen_heterogeneous
from decaf_theory.problems.quadratic import quadratic
from decaf_theory.problems.scalar import bernoulli_logit, huber, indefinite_pair, scalar_lora
from decaf_theory.problems.sequence import TaskSequence, planted_sequence, sequence
from decaf_theory.problems.trap import rank_trap

__all__ = [
    "FRAMES",
    "PROBLEMS",
    "Constants",
    "Problem",
    "TaskSequence",
    "approximation",
    "check_problem",
    "entry_noise",
    "least_loss",
    "planted_sequence",
    "quadratic",
    "sequence",
]

PROBLEMS: Table[Callable[..., Problem]] = Table(
    {
        "P1": gauge_flip,
        "P2": homogeneous,
        "P3": heterogeneous,
        "P4": out_of_reach,
        "P5": frozen_heterogeneous,
        "P6": rank_competition,
        "P7": scalar_lora,
        "P8": bernoulli_logit,
        "P9": huber,
        "P10": frozen_curvature,
        "P11": indefinite_pair,
        "P12": rank_trap,
        "P13": frame,
    }
)
