"""Put every case through a function, and say what is wrong with what comes back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches

import numpy as np

from decaf_theory.conformance.asking import Asking
from decaf_theory.conformance.calls import BY_MATRIX, SHAPES, Call, Function, calls
from decaf_theory.conformance.cases import SITES, SPACING, Asked, Case, cases
from decaf_theory.conformance.guesses import IN_PART, named
from decaf_theory.conformance.heads import OTHER_HEAD, heads_named
from decaf_theory.conformance.judge import (
    compared,
    keeps_own_ranks,
    other_means,
    unbalanced,
)
from decaf_theory.conformance.mistakes import rank_words
from decaf_theory.conformance.outcomes import RIGHT_UPDATE, Outcome, report_of
from decaf_theory.conformance.report import Report
from decaf_theory.conformance.results import UnreadableError, read
from decaf_theory.conformance.rules import RULES, Rule
from decaf_theory.extras import installed
from decaf_theory.topology import TOPOLOGIES

# what a function may decline, with an error, and still be right in what it takes
MAY_DECLINE = ("float16", "bfloat16", "unequal ranks")
AT = {"zero": ": collapses at zero", "rank deficient": ": collapses at rank one"}
AT["large"] = ": overflows"
OF_THE_USER = (Exception, SystemExit)  # what a function may raise; Ctrl-C ends the check


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
    ways = calls(function, graph=topology is not None, samples=samples, heads=heads, shape=shape)
    trial = _readable([Trial(call, chosen, topology) for call in ways], seed)
    if chosen.referred and not trial.call.wants("reference"):
        raise ValueError(f"{rule} turns to the last mixed factors: take them as `reference`")
    wanted = [case for case in cases(seed, trial.asked) if belongs(case, chosen)]
    outcomes: list[Outcome] = []
    for i, case in enumerate([*wanted, wanted[0]]):
        said = {words.removesuffix(IN_PART) for found in outcomes for words in found.wrong}
        outcomes.append(trial.outcome(case, wanted[:i], said))
    return report_of(trial.call, chosen, outcomes[:-1], outcomes[-1])


def _rule(rule: str, topology: str | None, shape: str | None) -> Rule:
    for name, value, known in (
        ("rule", rule, RULES),
        ("topology", topology, TOPOLOGIES),
        ("shape", shape, SHAPES),
    ):
        if value is not None and value not in known:
            near = get_close_matches(str(value).lower(), known, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"{name} must be one of {', '.join(known)}, got {value!r}; the nearest is {near}"
            )
    return RULES[rule]


def belongs(case: Case, rule: Rule) -> bool:
    """Return whether the rule has one answer: a rotation onto fewer directions has many."""
    return not (rule.referred and case.about in ("rank deficient", "zero"))


def _readable(trials: list[Trial], seed: int) -> Trial:
    """Return the first trial that gives what can be read; else one that gives anything at all."""
    said: dict[str, str] = {}
    ran = []
    for trial in trials:
        if trial.call.torch and not installed("torch"):
            continue
        first = next(cases(seed, trial.asked))
        try:
            trial.read(first)
        except OF_THE_USER as error:
            said.setdefault(SHAPES[trial.call.shape], f"{type(error).__name__}: {_line(error)}")
            ran += [trial] if isinstance(error, UnreadableError) else []
        else:
            return trial
    if ran:
        return ran[0]
    tried = "; ".join(f"{shape}: {text}" for shape, text in said.items())
    raise ValueError(f"function could not be called in any shape ({tried})")


@dataclass(frozen=True)
class Trial:
    """A way to call a function, and the rule that it is to follow, on a graph or not."""

    call: Call
    rule: Rule
    topology: str | None

    @property
    def graph(self) -> bool:
        """Whether each agent has a result of its own."""
        return self.topology is not None

    @property
    def asked(self) -> Asked:
        """What the function can be asked for."""
        call, rule = self.call, self.rule
        return Asked(
            graph=self.topology,
            weighs=call.weighs and (not self.graph or call.wants("Pi")),
            scaled=call.wants("scales", "configs"),
            referred=call.wants("reference"),
            timed=call.wants("round") and rule.referred,
            torch=call.torch,
            shared=rule.shared,
            listed=call.listed and rule.unequal,
        )

    def read(self, case: Case) -> Outcome:
        """Return what a case gives, not judged yet. UnreadableError: it is not an update."""
        returned = self.call(case)
        results = read(self.call, case, returned.values)
        matrices = compared(self.rule, case, results, graph=self.graph)
        return Outcome(case, matrices, results=results, changed=returned.changed)

    def outcome(self, case: Case, earlier: list[Case], said: set[str]) -> Outcome:
        """Return what became of a case, after others of which this was `said`."""
        try:
            found = self.read(case)
        except UnreadableError as error:
            return Outcome(case, faults=[str(error)])
        except OF_THE_USER as error:
            text = f"raises {type(error).__name__}: {_line(error)}"
            declined = case.about in MAY_DECLINE and self.rule.name not in ("hetlora", "raflora")
            if declined:
                return Outcome(case, notes=[text])
            return Outcome(case, faults=[text + AT.get(case.about, "")])
        if found.changed:
            found.faults.append("changes the arguments that it was given")
        if self.graph and case.N == 2 and not self.call.wants("Pi") and not found.mixed_right:
            self._take_halves(found)
        self._judge(found, earlier, said)
        if self.call.heads and self.call.shape not in BY_MATRIX:
            of_heads = heads_named(found.case, found.results)
            # what is wrong with all that is mixed is said once
            found.faults += [text for text in of_heads if found.mixed_right or text != OTHER_HEAD]
        return found

    def _take_halves(self, found: Outcome) -> None:
        """Take a ring of two for one edge, of weight 1/2, if that makes the updates right.

        Here it has two edges, and so weights 1/3 and 2/3; who makes the weights has either.
        """
        halves = replace(found.case, weights=np.full((2, 2), 0.5))
        matrices = compared(self.rule, halves, found.results, graph=True)
        if all(m.right for m in matrices):
            found.case, found.matrices = halves, matrices

    def _judge(self, found: Outcome, earlier: list[Case], said: set[str]) -> None:
        """Add what is wrong with the updates, or with their factors where the update is right."""
        case, matrices = found.case, found.matrices
        if not found.finite:
            text = "returns numbers that are not finite" + AT.get(case.about, "")
            found.faults.append(text)
        elif all(m.right for m in matrices):
            coarser = [
                m.given.dtype for m in matrices if SPACING[m.given.dtype] > SPACING[case.dtype]
            ]
            found.notes += [f"returns {coarser[0]} for {case.dtype}"] if coarser else []
            found.faults += self._of_factors(found)
        else:
            own_rank = keeps_own_ranks(self.rule, case, found.results)
            asking = Asking(self.rule, case, own_rank)
            found.wrong = named(asking, matrices, self._comparable(case, earlier), said)
            self._take_another_rank(found, own_rank=own_rank)

    def _of_factors(self, found: Outcome) -> Iterator[str]:
        """Yield what is wrong with the factors of right updates."""
        rule, case = self.rule, found.case
        if rule.balanced and any(unbalanced(rule, case, m) for m in found.matrices):
            yield f"{RIGHT_UPDATE}its split is not balanced: B'B is not AA'"
        if rule.means and any(other_means(rule, case, m) for m in found.matrices):
            yield f"{RIGHT_UPDATE}not the means of the factors: later rounds differ"

    def _comparable(self, case: Case, earlier: list[Case]) -> list[Case]:
        """Return the earlier cases whose adapters could be taken for those of a case."""
        alike = [c for c in earlier if c is not case and _alike(c, case)]
        if self.call.shape not in BY_MATRIX or not earlier:
            return alike
        # the last call had the other matrix
        one, other = SITES
        same = _alike(earlier[-1], case) and earlier[-1].N == case.N
        before = earlier[-1].sites[other] if same else case.sites[one]
        return [*alike, replace(case, sites={one: before, other: case.sites[one]})]

    def _take_another_rank(self, found: Outcome, *, own_rank: bool) -> None:
        """Take the rank of another agent for a choice, where the function does not ask for ranks.

        On a graph an agent may hold more directions than it had, and no fewer.
        """
        ranks = {*found.case.ranks}
        if self.graph:
            ranks = {max(ranks)}
        if len({*found.case.ranks}) == 1 or self.call.wants("rank", "ranks"):
            return
        for words in (rank_words(found.case, r, own_rank=own_rank) for r in sorted(ranks)):
            if words in found.wrong:
                found.notes.append(words)
                found.chosen_rank = True


def _alike(case: Case, other: Case) -> bool:
    return case.shape == other.shape and max(case.ranks) == max(other.ranks)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
