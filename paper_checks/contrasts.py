"""Differences between methods, paired seed by seed: methods see the same data, order and start.

One contrast may be named before there are results; it is tested for itself. All other differences
that are shown are one family: a word stands where Holm's adjusted p-value is at most 1 - level.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from decaf_theory.stats import (
    Interval,
    bonferroni,
    detectable_difference,
    holm,
    paired_interval,
    paired_p,
)
from paper_checks.protocol import SEEDS, Contrast, Plan, contrast_of
from paper_checks.scores import Column, Scores, markdown

EQUAL = 1e-9  # points; scores on n examples differ by 100/n or more, and rounding is 1e-13
POWER = 0.8
Pairs = list[tuple[float, float]]


class Difference(NamedTuple):
    """What is known of the mean difference of two rows: interval, p-value, spread, seeds."""

    interval: Interval
    p: float
    deviation: float
    seeds: int

    def seen_from(self, level: float) -> float:
        """Return the difference that these seeds show with a probability of POWER."""
        return detectable_difference(self.deviation, self.seeds, level, POWER)

    def text(self) -> str:
        """Return mean and interval in points."""
        mean, low, high = (f"{x:+.1f}" for x in self.interval)
        return f"{mean} [{low}, {high}]"


Place = tuple[str, str, Column]  # endpoint, row, column


def pairs(found: Scores, row: str, against: str, column: Column) -> Pairs:
    """Return the scores of two rows at the seeds that both have."""
    left, right = (found.get(m, {}).get(column, {}) for m in (row, against))
    return [(left[seed], right[seed]) for seed in sorted(left.keys() & right.keys())]


def difference(both: Pairs, level: float) -> Difference | None:
    """Return the difference of paired scores, None of fewer than two.

    Its p-value is 1 if all differences are equal: scores are counts, and a few of them without
    spread are no evidence that there is none.
    """
    if len(both) < 2:
        return None
    own, other = zip(*both, strict=True)
    gaps = np.subtract(own, other)
    p = 1.0 if np.ptp(gaps) < EQUAL else paired_p(own, other)
    return Difference(paired_interval(own, other, level), p, float(np.std(gaps, ddof=1)), len(both))


def differences(
    endpoints: Mapping[str, Scores], against: str, columns: Sequence[Column], level: float
) -> dict[Place, Difference]:
    """Return the differences of all rows from one, by endpoint, row and column."""
    return {
        (endpoint, row, column): found
        for endpoint, scores in endpoints.items()
        for row in scores
        for column in columns
        if row != against
        and (found := difference(pairs(scores, row, against, column), level)) is not None
    }


def text(
    endpoints: Mapping[str, Scores],
    against: str,
    columns: Sequence[Column],
    level: float,
    plan: Plan | None,
) -> Iterator[str]:
    """Yield the parts of a page on differences: the primary contrast, then all others.

    endpoints: the scores of the last round, those of the agents' own models first.
    """
    own = next(iter(endpoints))
    shown = differences(endpoints, against, columns, level)
    if plan is not None and plan.primary:
        contrast = contrast_of(plan.primary[-1]["contrast"])  # the one named last
        yield primary_text(endpoints[own], contrast, plan, level)
        column = (contrast.partition, contrast.graph)
        if contrast.second == against:
            shown.pop((own, contrast.first, column), None)
    if not shown:
        return
    adjusted = dict(zip(shown, holm([x.p for x in shown.values()]), strict=True))
    for endpoint, scores in endpoints.items():
        table = difference_table(endpoint, scores, columns, shown, adjusted, level)
        yield f"### Difference from {against}, {endpoint}, last round\n\n{table}"
    yield (
        f"Differences in points, paired by seed, each with its own interval at {level:.0%}; p is "
        f"corrected for all {len(shown)} differences shown (Holm), and a word stands where it is "
        f"at most {1 - level:.2g}. No word: nothing is shown."
    )
    first = bonferroni(level, len(shown))
    table = seen_table(own, endpoints[own], columns, shown, first)
    yield (
        f"### Difference that would have been seen, {own}\n\n{table}\n\nIn points, either way: "
        f"what the first step of the correction finds with a probability of {POWER:.0%}, given the "
        f"spread and the seeds of each difference. A smaller one may be there."
    )


def difference_table(
    endpoint: str,
    scores: Scores,
    columns: Sequence[Column],
    shown: Mapping[Place, Difference],
    adjusted: Mapping[Place, float],
    level: float,
) -> str:
    """Return one line per row: difference, interval, adjusted p-value, a word if it is clear."""

    def cell(row: str, column: Column) -> str:
        place = (endpoint, row, column)
        if place not in shown:
            return "-"
        p = adjusted[place]
        return f"{shown[place].text()} p {p_text(p)}{word(shown[place], p, level)}"

    return markdown(rows_of(endpoint, scores, shown), columns, cell)


def seen_table(
    endpoint: str,
    scores: Scores,
    columns: Sequence[Column],
    shown: Mapping[Place, Difference],
    level: float,
) -> str:
    """Return one line per row: the difference that would have been seen."""

    def cell(row: str, column: Column) -> str:
        place = (endpoint, row, column)
        return f"{shown[place].seen_from(level):.1f}" if place in shown else "-"

    return markdown(rows_of(endpoint, scores, shown), columns, cell)


def rows_of(endpoint: str, scores: Scores, shown: Mapping[Place, Difference]) -> list[str]:
    """Return the rows of an endpoint that have a difference."""
    there = {row for at, row, _ in shown if at == endpoint}
    return [row for row in scores if row in there]


def word(found: Difference, p: float, level: float) -> str:
    """Return " better" or " worse" if the p-value is at most 1 - level, else nothing."""
    if p > 1 - level:
        return ""
    return " better" if found.interval.estimate > 0 else " worse"


def p_text(p: float) -> str:
    """Return a p-value in two digits."""
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def primary_text(scores: Scores, contrast: Contrast, plan: Plan, level: float) -> str:
    """Return what the primary contrast shows, and when it was named."""
    both = pairs(scores, contrast.first, contrast.second, (contrast.partition, contrast.graph))
    found = difference(both, level)
    parts = [f"### Primary contrast: {contrast}", named_when(plan)]
    if found is None:
        return "\n\n".join([*parts, f"{len(both)} common seeds: nothing to compare yet."])
    clear = word(found, found.p, level).strip()
    few = "" if found.seeds >= SEEDS else f", fewer than {SEEDS}"
    parts.append(
        f"Agents' own models, last round: {found.text()} points at {level:.0%}, p "
        f"{p_text(found.p)}, {found.seeds} seeds{few}: "
        f"{f'{contrast.first} is {clear}' if clear else 'nothing is shown'}. A difference of "
        f"{found.seen_from(level):.1f} would have been seen with a probability of {POWER:.0%}."
    )
    return "\n\n".join(parts)


def named_when(plan: Plan) -> str:
    """Return when the primary contrast was named, and what it was before."""
    *before, now = plan.primary
    count = now["finished"]
    when = "before any result" if not count else f"when {count} runs had finished"
    said = f"Named {when}."
    for old in before:
        said += f" It was {old['contrast']} before, and was changed."
    return said
