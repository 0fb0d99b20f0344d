"""Put every case through a function, and say what is wrong with what comes back."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from decaf_theory.conformance.calls import BY_MATRIX, SHAPES, Call, Function, calls
from decaf_theory.conformance.cases import SPACING, Asked, Case, cases
from decaf_theory.conformance.guesses import OTHER_HEAD, heads_named, named
from decaf_theory.conformance.judge import (
    Matrix,
    compared,
    growth,
    head_room,
    other_means,
    unbalanced,
)
from decaf_theory.conformance.report import Finding, Report
from decaf_theory.conformance.results import Result, UnreadableError, read
from decaf_theory.conformance.rules import RULES, Rule
from decaf_theory.extras import installed
from decaf_theory.topology import TOPOLOGIES

# what a function may decline, with an error, and still be right in what it takes
MAY_DECLINE = ("float16", "bfloat16", "unequal ranks")


@dataclass
class Outcome:
    """What became of one case: what is wrong, by words, and whether that is a fault."""

    case: Case
    matrices: list[Matrix] = field(default_factory=list)
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
    def error(self) -> float:
        """The largest error over the size of the update."""
        sizes = [(m.error, float(np.linalg.norm(m.expected))) for m in self.matrices]
        return max((e / size if size else math.inf for e, size in sizes), default=0.0)


def check(
    function: Function,
    rule: str,
    *,
    topology: str | None = None,
    shape: str | None = None,
    samples: bool = False,
    heads: bool = True,
    seed: int = 0,
) -> Report:
    """Return what is wrong with an aggregation function, as a rule of RULES has it.

    The function gets the adapters of N agents in one of the SHAPES (tried in turn, or `shape`), and
    what its further parameters want by their names: weights, samples, Pi, scales, configs, rank,
    ranks, reference, round. It returns one result for all agents, or one per agent; with `topology`
    one per agent, mixed with its weights (Pi, where it takes one). Factors are judged by their
    product, to the rounding of their dtype. samples: weights are sample counts. heads: state dicts
    have a head, too, which is to be averaged. ValueError: an unknown rule, topology or shape; a
    function that cannot be called in any.
    """
    chosen = _rule(rule, topology, shape)
    call = _callable(function, chosen, topology, samples, heads, shape, seed)
    if chosen.referred and not call.wants("reference"):
        raise ValueError(f"{rule} turns to the last mixed factors: take them as `reference`")
    asked = _asked(call, chosen, topology)
    wanted = [case for case in cases(seed, asked) if _belongs(case, chosen)]
    outcomes: list[Outcome] = []
    for case in wanted:
        outcomes.append(_outcome(call, chosen, case, topology is not None, wanted[0]))
    again = _outcome(call, chosen, wanted[0], topology is not None, wanted[-1])
    return _report(call, chosen, outcomes, again)


def _rule(rule: str, topology: str | None, shape: str | None) -> Rule:
    for name, value, table in (("rule", rule, RULES), ("topology", topology, TOPOLOGIES)):
        if value is not None and value not in table:
            raise ValueError(f"{name} must be one of {', '.join(table)}, got {value!r}")
    if shape is not None and shape not in SHAPES:
        raise ValueError(f"shape must be one of {', '.join(SHAPES)}, got {shape!r}")
    return RULES[rule]


def _callable(
    function: Function,
    rule: Rule,
    topology: str | None,
    samples: bool,
    heads: bool,
    shape: str | None,
    seed: int,
) -> Call:
    """Return the first way of calling the function that gives something that can be read."""
    said: dict[str, str] = {}
    graph = topology is not None
    for call in calls(function, graph=graph, samples=samples, heads=heads, shape=shape):
        if call.torch and not installed("torch"):
            continue
        first = next(cases(seed, _asked(call, rule, topology)))
        try:
            compared(rule, first, read(call, first, call(first).values), graph=graph)
        except Exception as error:
            said.setdefault(call.shape, f"{type(error).__name__}: {error}")
        else:
            return call
    tried = "; ".join(f"{shape}: {SHAPES[shape]}: {_line(text)}" for shape, text in said.items())
    raise ValueError(f"function could not be called in any shape ({tried})")


def _asked(call: Call, rule: Rule, topology: str | None) -> Asked:
    return Asked(
        graph=topology,
        weighs=call.weighs and (topology is None or call.wants("Pi")),
        scaled=call.wants("scales", "configs"),
        referred=call.wants("reference"),
        timed=call.wants("round") and rule.referred,
        torch=call.torch,
        shared=rule.shared,
        listed=call.listed and rule.unequal,
    )


def _belongs(case: Case, rule: Rule) -> bool:
    """Return whether the rule has one answer: a rotation onto fewer directions has many."""
    return not (rule.referred and case.about in ("rank deficient", "zero"))


def _outcome(call: Call, rule: Rule, case: Case, graph: bool, earlier: Case) -> Outcome:
    """Return what became of a case."""
    found = Outcome(case)
    try:
        returned = call(case)
    except Exception as error:
        declined = case.about in MAY_DECLINE and rule.name not in ("hetlora", "raflora")
        text = f"raises {type(error).__name__}: {_line(str(error))}"
        (found.notes if declined else found.faults).append(text)
        return found
    if returned.changed:
        found.faults.append("changes the arguments that it was given")
    try:
        results = read(call, case, returned.values)
        found.matrices = compared(rule, case, results, graph=graph)
    except UnreadableError as error:
        found.faults.append(str(error))
        return found
    if graph and case.N == 2 and not call.wants("Pi") and not found.mixed_right:
        _with_halves(found, rule, results)
    _judge(found, rule, earlier)
    if call.heads and call.shape not in BY_MATRIX:
        said = heads_named(case, results, head_room(case))
        # what is wrong with all that is mixed is said once
        found.faults += [words for words in said if found.mixed_right or words != OTHER_HEAD]
    return found


def _with_halves(found: Outcome, rule: Rule, results: Sequence[Result]) -> None:
    """Take a ring of two for one edge, of weight 1/2, if that makes the updates right.

    Here it has two edges, and so weights 1/3 and 2/3; a function that makes its weights has either.
    """
    halves = replace(found.case, weights=np.full((2, 2), 0.5))
    matrices = compared(rule, halves, results, graph=True)
    if all(m.right for m in matrices):
        found.case, found.matrices = halves, matrices


def _judge(found: Outcome, rule: Rule, earlier: Case) -> None:
    """Add what is wrong with the updates, and with their factors where the update is right."""
    case, matrices = found.case, found.matrices
    if not all(np.isfinite(m.update).all() for m in matrices):
        found.faults.append("returns numbers that are not finite" + _of_zero(case))
        return
    if not all(m.right for m in matrices):
        comparable = earlier is not case and earlier.shape == case.shape and earlier.N == case.N
        found.wrong = list(named(rule, case, matrices, earlier if comparable else None))
        _take_another_rank(found)
        return
    coarser = [m.given.dtype for m in matrices if SPACING[m.given.dtype] > SPACING[case.dtype]]
    if coarser:
        found.notes.append(f"returns {coarser[0]} for {case.dtype}")
    if rule.balanced and any(unbalanced(case, m, _growth(rule, case, m)) for m in matrices):
        found.faults.append("gives the right update, but its split is not balanced: B'B is not AA'")
    if rule.means and any(other_means(rule, case, m) for m in matrices):
        found.faults.append(
            "gives the right update, in other factors than the means: later rounds will differ"
        )


def _growth(rule: Rule, case: Case, matrix: Matrix) -> float:
    return growth(rule, case, matrix.site, matrix.agent)


def _take_another_rank(found: Outcome) -> None:
    """Take the truncation to the rank of another of the agents, where ranks differ, as a choice."""
    most = max(found.case.ranks)
    for r in {*found.case.ranks} - {most}:
        if (words := f"truncates to rank {r}, not {most}") in found.wrong:
            found.notes.append(words)
            found.chosen_rank = True


def _of_zero(case: Case) -> str:
    return f": collapses at {case.about}" if case.about in ("zero", "rank deficient") else ""


def _report(call: Call, rule: Rule, outcomes: Sequence[Outcome], again: Outcome) -> Report:
    faults = [*_explained(outcomes), *_grouped(outcomes, "faults")]
    first = outcomes[0]
    if first.right and not again.right:
        faults.append(
            Finding(
                "gives another result when it is called with the same again",
                ("a later call",),
                again.error,
            )
        )
    return Report(
        function=f"{call.function.__module__}:{call.function.__qualname__}",
        rule=rule.name,
        called=str(call),
        asked=len(outcomes),
        passed=sum(o.right for o in outcomes),
        faults=tuple(faults),
        notes=tuple(_grouped(outcomes, "notes")),
        unasked=tuple(_unasked(call, rule)),
    )


def _explained(outcomes: Sequence[Outcome]) -> Iterator[Finding]:
    """Yield the explanations of wrong updates: those first that explain the most cases."""
    left = [o for o in outcomes if not o.mixed_right and np.isfinite(o.error)]
    while left:
        order = list(dict.fromkeys(words for o in left for words in o.wrong))
        best = max(order, key=lambda words: sum(words in o.wrong for o in left), default=None)
        told = [o for o in left if best is None or best in o.wrong]
        words = best or "differs from the rule, and from every mistake that is known here"
        yield Finding(words, tuple(o.case.name for o in told), max(o.error for o in told))
        left = [o for o in left if o not in told]


def _grouped(outcomes: Sequence[Outcome], kind: str) -> Iterator[Finding]:
    """Yield each thing that was said of cases, with them."""
    texts = dict.fromkeys(text for o in outcomes for text in getattr(o, kind))
    for text in texts:
        yield Finding(text, tuple(o.case.name for o in outcomes if text in getattr(o, kind)))


def _unasked(call: Call, rule: Rule) -> Iterator[str]:
    if not call.weighs:
        yield "unequal weights, as the function takes none"
    if rule.unequal and not call.listed:
        yield "unequal ranks, as agents come stacked"
    if not call.wants("scales", "configs"):
        yield "scales, as it takes neither scales nor configs"
    if not call.torch:
        yield "bfloat16, which NumPy lacks"


def _line(text: str) -> str:
    return " ".join(text.split())[:200]
