"""How the rows of a claim are judged: its outcome, and how near each regime comes to its bound.

The largest tightness of all rows would hide a bound that goes slack in one norm behind another
norm that still attains it. So rows are grouped by regime, and a claim stores what each reaches.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from verification.claim import RESOLUTION, Claim, Outcome, Row

# coordinates that say which instance a row is of, or of which figure: not of which regime
INSTANCE = ("family", "topology", "graph", "sequence", "start", "curve", "which", "evidence")


@dataclass(frozen=True)
class Regime:
    """The inequalities of a claim in one regime that apply: their number, their best tightness.

    `reaches` is the tightness that the claim stores of it, None if it stores none.
    """

    name: str
    rows: int
    tightness: float | None
    reaches: float | None

    @property
    def went_slack(self) -> bool:
        """Whether it stays below what is stored, by more than rounding, or has no rows left."""
        if self.reaches is None:
            return False
        return not self.rows or (self.tightness or 0.0) < (1 - RESOLUTION) * self.reaches


@dataclass(frozen=True)
class Verdict:
    """The judgement of a claim: its outcome, its best tightness, its least slack, its regimes."""

    claim: str
    status: str
    outcome: Outcome
    tightness: float | None
    slack: float | None
    rows: int
    seconds: float
    regimes: tuple[Regime, ...] = ()


def judge(claim: Claim, rows: Iterable[Row], seconds: float = 0.0) -> Verdict:
    """Return the verdict: violated > inconclusive > holds; not_applicable if no row applies.

    Where that is as expected but a regime went slack: slack. Tightness is the largest of the rows,
    None if the claim's bound was chosen; slack is the least. Rows that do not apply count in
    `rows` alone.
    """
    found = list(rows)
    outcomes = {row.outcome for row in found}
    outcome = next((o for o in Outcome if o in outcomes), Outcome.NOT_APPLICABLE)
    regimes = tuple(regimes_of(claim, found))
    if outcome == claim.expected and any(regime.went_slack for regime in regimes):
        outcome = Outcome.SLACK
    slacks = [row.slack for row in found if row.assumptions_held and math.isfinite(row.slack)]
    return Verdict(
        claim.id,
        claim.status,
        outcome,
        _tightness(claim, found),
        min(slacks, default=None),
        len(found),
        seconds,
        regimes,
    )


def _tightness(claim: Claim, rows: Iterable[Row]) -> float | None:
    return None if claim.chosen_bound else best(rows)


def best(rows: Iterable[Row]) -> float | None:
    """Return the largest tightness of rows, None if none has one."""
    # finite: a ratio may overflow, and one NaN would make the maximum depend on the order
    ratios = [t for row in rows if (t := row.tightness) is not None and math.isfinite(t)]
    return max(ratios, default=None)


def regimes_of(claim: Claim, rows: Iterable[Row]) -> list[Regime]:
    """Return the regimes of a claim: those of its rows, then those stored that have no rows."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.relation != "==" and row.assumptions_held:
            groups.setdefault(regime_name(row, claim.regimes), []).append(row)
    groups |= {name: [] for name in claim.reaches if name not in groups}
    return [
        Regime(name, len(group), _tightness(claim, group), claim.reaches.get(name))
        for name, group in groups.items()
    ]


def regime_name(row: Row, numbers: Sequence[str] = ()) -> str:
    """Return the regime of a row: its case without the instance, and its coordinates in words.

    These are the texts and truths (norm, order, ...) that name no instance and that the case does
    not contain; and the coordinates `numbers`.
    """
    case = row.case.removesuffix(", reached")
    for name in INSTANCE:
        if name in row.params:
            case = case.replace(f", {row.params[name]}", "")
    words = [case]
    for name, value in sorted(row.params.items()):
        if name in numbers:
            words.append(f"{name} = {value}")
        elif name not in INSTANCE and value is True:
            words.append(name)
        elif name not in INSTANCE and isinstance(value, str) and not _says(case, value):
            words.append(value)
    return ", ".join(words)


def _says(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) is not None
