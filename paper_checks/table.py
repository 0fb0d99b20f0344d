"""The paper's table from stored runs: methods x graphs x partitions, one experiment at a time.

A cell is the mean over seeds with its t-interval. Differences are paired seed by seed, since
methods see the same data, order and start; their intervals hold together (Bonferroni over all that
are shown), and if one contains zero neither method is said to be better.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from decaf_theory.methods import METHODS
from decaf_theory.stats import Interval, bonferroni, mean_interval, paired_interval
from paper_checks import reported
from paper_checks.baseline import BASELINE
from paper_checks.record import RUN, Stored, read
from paper_checks.reported import Place, Reported
from verification.store import StoreError

PER_RUN = ("mix.method", "mix.graph", "data.partition", "train.seed")  # differ inside a table
EQUAL = 1e-9  # points; scores on n examples differ by 100/n or more, and rounding is 1e-13
Column = tuple[str, str]  # partition, graph
Scores = dict[str, dict[Column, dict[int, float]]]  # method -> column -> seed -> score
Choice = Callable[[Stored], float]  # which of a run's scores counts
Cell = Callable[[str, Column], str]  # what a table shows of a method in a column


def text(folders: Sequence[Path], *, against: str = "dlora", level: float = 0.95) -> str:
    """Return the tables of all runs below the folders, in Markdown.

    StoreError: no finished run; a damaged one; runs of one experiment with other settings.
    """
    runs, unfinished = collect(folders)
    given = reported.read()
    parts: list[str] = []
    shown: set[Place] = set()
    for name in sorted({run.run["settings"]["name"] for run in runs}):
        own = [run for run in runs if run.run["settings"]["name"] == name]
        parts.append(experiment(name, own, against, level, given))
        shown |= places_of(name, own)
    if unfinished:
        parts.append(f"left out because not finished: {', '.join(unfinished)}")
    if listing := reported.listing(reported.elsewhere(given, shown)):
        parts.append(f"## Reported elsewhere\n\nIn other settings than ours.\n\n{listing}")
    return "\n\n".join(parts)


def places_of(name: str, runs: Sequence[Stored]) -> set[Place]:
    """Return the cells that an experiment's tables show."""
    found = scores(runs, columns_of(runs), _last)
    metric = runs[0].run["metric"]
    return {(name, method, *column, metric) for method in found for column in found[method]}


def collect(folders: Sequence[Path]) -> tuple[list[Stored], list[str]]:
    """Return the finished runs below the folders, and the names of the unfinished ones."""
    found = [read(path.parent) for folder in folders for path in sorted(folder.rglob(RUN))]
    found = [run for run in found if "settings" in run.run]
    done = [run for run in found if run.finished]
    if not done:
        places = ", ".join(map(str, folders))
        raise StoreError(
            f"no finished run below {places}; train some: python -m paper_checks sweep"
        )
    return done, [run.folder.name for run in found if not run.finished]


def experiment(
    name: str, runs: Sequence[Stored], against: str, level: float, published: Sequence[Reported]
) -> str:
    """Return the tables of one experiment: last round, best round, differences."""
    require_alike(name, runs)
    settings = runs[0].run["settings"]
    columns = columns_of(runs)
    what = f"{settings['mix.agents']} agents, rank {settings['lora.rank']}, "
    parts = [f"## {name}\n\n{what}{settings['train.steps']} steps; {runs[0].run['metric']} in %."]
    last, best = (scores(runs, columns, choose) for choose in (_last, _best))
    metric = runs[0].run["metric"]
    given = {row.place[1:4]: row for row in published if row.place[::4] == (name, metric)}
    for title, found in (("Last round", last), ("Best round (chosen on the test set)", best)):
        parts.append(f"### {title}\n\n{score_table(found, columns, level, given)}")
    comparisons = sum(
        len(_pairs(found, method, against, column)) >= 2
        for found in (last, best)
        for method in found
        for column in columns
        if method != against
    )
    if against in last and comparisons:
        each = bonferroni(level, comparisons)
        for title, found in (("last", last), ("best", best)):
            table = difference_table(found, columns, against, each)
            parts.append(f"### Difference from {against}, {title} round\n\n{table}")
        parts.append(
            f"Differences in points, paired by seed; all {comparisons} intervals hold together at "
            f"{level:.0%} (Bonferroni). No word: nothing is shown, "
            f"as the interval contains zero or all differences are equal."
        )
    parts.append(separation(runs, last, columns, level))
    return "\n\n".join(part for part in parts if part)


def require_alike(name: str, runs: Sequence[Stored]) -> None:
    """Raise StoreError unless the runs differ only in method, graph, partition and seed."""
    first = runs[0].run["settings"]
    for run in runs[1:]:
        other = run.run["settings"]
        changed = [n for n in {*first, *other} - {*PER_RUN} if first.get(n) != other.get(n)]
        if changed:
            raise StoreError(
                f"runs of {name} differ in {', '.join(sorted(changed))} ({runs[0].folder}, "
                f"{run.folder}): one table holds one setting; give their folders separately"
            )


def columns_of(runs: Sequence[Stored]) -> list[Column]:
    """Return partitions and graphs in the order of their names; runs without a graph fit in all."""
    seen = {
        (run.run["settings"]["data.partition"], run.run["settings"]["mix.graph"])
        for run in runs
        if run.run["settings"]["mix.graph"] != "any"
    }
    partitions = {run.run["settings"]["data.partition"] for run in runs}
    lonely = {(partition, "any") for partition in partitions - {p for p, _ in seen}}
    return sorted(seen | lonely)


def scores(runs: Sequence[Stored], columns: Sequence[Column], choose: Choice) -> Scores:
    """Return the score of every run by method, column and seed, in percent."""
    found: Scores = {}
    for run in runs:
        settings = run.run["settings"]
        method, partition = settings["mix.method"], settings["data.partition"]
        for column in columns:
            fits = settings["mix.graph"] in ("any", column[1])
            if column[0] == partition and fits:
                cell = found.setdefault(method, {}).setdefault(column, {})
                cell[settings["train.seed"]] = 100 * choose(run)
    return {method: found[method] for method in METHODS if method in found}


def _last(run: Stored) -> float:
    return float(_scored(run)[-1])


def _best(run: Stored) -> float:
    return float(max(_scored(run)))


def _scored(run: Stored) -> list[float]:
    return [record["score"] for record in run.records if "score" in record]


def score_table(
    found: Scores,
    columns: Sequence[Column],
    level: float,
    given: Mapping[tuple[str, str, str], Reported],
) -> str:
    """Return one line per method: mean +- half its interval, number of seeds, reported value."""

    def cell(method: str, column: Column) -> str:
        values = list(found[method].get(column, {}).values())
        if not values:
            return "-"
        if len(values) == 1:
            shown = f"{values[0]:.1f} (1 seed)"
        else:
            mean = mean_interval(values, level)
            shown = f"{mean.estimate:.1f} ± {mean.high - mean.estimate:.1f} ({len(values)})"
        known = given.get((method, *column))
        return shown if known is None else f"{shown}; reported {known.value:g} [{known.origin}]"

    return markdown(found, columns, cell)


def difference_table(found: Scores, columns: Sequence[Column], against: str, level: float) -> str:
    """Return one line per method: paired difference, its interval, a word if it is clear."""

    def cell(method: str, column: Column) -> str:
        pairs = _pairs(found, method, against, column)
        if len(pairs) < 2:
            return "-"
        own, other = zip(*pairs, strict=True)
        interval = paired_interval(own, other, level)
        mean, low, high = (f"{x:+.1f}" for x in interval)
        return f"{mean} [{low}, {high}]{word(interval, pairs)}"

    return markdown([m for m in found if m != against], columns, cell)


def word(interval: Interval, pairs: Sequence[tuple[float, float]]) -> str:
    """Return " better" or " worse" if the interval is on one side of zero, else nothing.

    Nothing either if all differences are equal: scores are counts, and a few of them without
    spread are no evidence that there is none.
    """
    differences = [x - y for x, y in pairs]
    if max(differences) - min(differences) < EQUAL:
        return ""
    if interval.low > 0:
        return " better"
    return " worse" if interval.high < 0 else ""


def _pairs(found: Scores, method: str, against: str, column: Column) -> list[tuple[float, float]]:
    """Return the scores of two methods at the seeds that both have."""
    left, right = (found.get(m, {}).get(column, {}) for m in (method, against))
    return [(left[seed], right[seed]) for seed in sorted(left.keys() & right.keys())]


def markdown(methods: Iterable[str], columns: Sequence[Column], cell: Cell) -> str:
    """Return a Markdown table with aligned columns."""
    lines = [["method", *(" ".join(column) for column in columns)]]
    lines += [[method, *(cell(method, column) for column in columns)] for method in methods]
    return reported.table(lines)


def separation(
    runs: Sequence[Stored], last: Scores, columns: Sequence[Column], level: float
) -> str:
    """Return whether centralized training beats the baseline stored with the runs, if any."""
    path = runs[0].folder.parent / BASELINE
    if not path.is_file():
        return ""
    baseline = json.loads(path.read_text())
    lines = [f"Baseline, {baseline['what']}: {100 * baseline['score']:.1f}."]
    for column in columns:
        values = list(last.get("centralized", {}).get(column, {}).values())
        if len(values) >= 2:
            mean = mean_interval(values, level)
            beats = mean.low > 100 * baseline["score"]
            lines.append(
                f"{' '.join(column)}: centralized {mean.estimate:.1f} [{mean.low:.1f}, "
                f"{mean.high:.1f}] {'beats it' if beats else 'does not beat it: says nothing'}."
            )
    return "\n".join(lines)
