"""What became of each case, and the report of all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from decaf_theory.conformance.calls import Call
from decaf_theory.conformance.cases import SQUARE, Case
from decaf_theory.conformance.guesses import DIGITS
from decaf_theory.conformance.judge import Matrix
from decaf_theory.conformance.report import Finding, Report
from decaf_theory.conformance.results import Result
from decaf_theory.conformance.rules import Rule

UNKNOWN = "differs from the rule, and from every mistake that is known here"
ROUNDED = "is right to its first digits alone: computed, or rounded, in too coarse a precision"
RIGHT_UPDATE = "gives the right update, but "
FORGETS = (
    "gives another result when it is called with the same again: it keeps something of an earlier "
    "call, or draws at random"
)


@dataclass
class Outcome:
    """What became of one case.

    wrong: explanations of its updates. faults, notes: what else is said of it. changed: whether the
    arguments were. chosen_rank: whether the updates have the rank of another agent, by choice.
    """

    case: Case
    matrices: list[Matrix] = field(default_factory=list)
    results: Sequence[Result] = ()
    changed: bool = False
    wrong: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    chosen_rank: bool = False

    @property
    def mixed_right(self) -> bool:
        """Whether all updates are right, or truncated to the rank of another agent."""
        return self.chosen_rank or all(m.right for m in self.matrices)

    @property
    def right(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults and self.mixed_right

    @property
    def finite(self) -> bool:
        """Whether all updates are finite."""
        return all(bool(np.isfinite(m.update).all()) for m in self.matrices)

    @property
    def error(self) -> float:
        """The largest error over the size of the update."""
        sizes = [(m.error, float(np.linalg.norm(m.expected))) for m in self.matrices]
        return max((e / size if size else math.inf for e, size in sizes), default=0.0)


def report_of(call: Call, rule: Rule, outcomes: Sequence[Outcome], again: Outcome) -> Report:
    """Return the report of all cases; `again` is the first of them, called once more at the end."""
    faults = list(_explained(outcomes))
    # once updates are wrong, the factors of right ones say nothing more
    for finding in _grouped(outcomes, lambda o: o.faults):
        faults += [] if faults and finding.words.startswith(RIGHT_UPDATE) else [finding]
    if _differ(outcomes[0], again):
        faults.append(Finding(FORGETS, (again.case.name,), again.error))
    return Report(
        function=name_of(call.function),
        rule=rule.name,
        called=str(call),
        asked=len(outcomes),
        passed=sum(o.right for o in outcomes),
        faults=tuple(faults),
        notes=tuple(_grouped(outcomes, lambda o: o.notes)),
        unasked=tuple(_unasked(call, rule)),
    )


def name_of(function: Callable[..., object]) -> str:
    """Return the name of a function, of the class of a callable object."""
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}:{named.__qualname__}"


def _differ(first: Outcome, again: Outcome) -> bool:
    """Return whether two calls with the same gave different updates, or one of them none."""
    pairs = list(zip(first.matrices, again.matrices, strict=False))
    apart = any(np.linalg.norm(m.update - n.update) > 2 * m.room for m, n in pairs)
    return apart or first.right != again.right


def _explained(outcomes: Sequence[Outcome]) -> Iterator[Finding]:
    """Yield the explanations of wrong updates: those first that explain the most cases."""
    left = [o for o in outcomes if not o.mixed_right and o.finite]
    while left:
        order = list(dict.fromkeys(words for o in left for words in o.wrong))
        best = max(order, key=lambda words: sum(words in o.wrong for o in left), default=None)
        found = [o for o in left if best is None or best in o.wrong]
        largest = max(o.error for o in found)
        words = best or (ROUNDED if largest < DIGITS else UNKNOWN)
        yield Finding(words, tuple(o.case.name for o in found), largest)
        left = [o for o in left if o not in found]


def _grouped(
    outcomes: Sequence[Outcome], said: Callable[[Outcome], list[str]]
) -> Iterator[Finding]:
    """Yield each thing that was said of cases, with them; errors by their type."""
    texts: dict[str, list[tuple[str, Case]]] = {}
    for outcome in outcomes:
        for text in said(outcome):
            kind = text.partition(":")[0] if text.startswith("raises") else text
            texts.setdefault(kind, []).append((text, outcome.case))
    for found in texts.values():
        cases = [case for _, case in found]
        alone = "works for square matrices alone: " if _only_not_square(cases) else ""
        yield Finding(alone + found[0][0], tuple(case.name for case in cases))


def _only_not_square(cases: Sequence[Case]) -> bool:
    both = {(case.shape > case.shape[::-1]) for case in cases}
    return len(both) == 2 and all(case.shape != SQUARE for case in cases)


def _unasked(call: Call, rule: Rule) -> Iterator[str]:
    if not call.weighs:
        yield "unequal weights, as the function takes none"
    if rule.unequal and not call.listed:
        yield "unequal ranks, as agents come stacked"
    if not call.wants("scales", "configs"):
        yield "scales, as it takes neither scales nor configs"
    if not call.torch:
        yield "bfloat16, which NumPy lacks"
