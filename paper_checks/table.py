"""The paper's table from stored runs: methods x graphs x partitions, one experiment at a time.

A cell is the mean over seeds with its t-interval. Differences are paired seed by seed, since
methods see the same data, order and start; their intervals hold together (Bonferroni over all that
are shown), and if one contains zero neither method is said to be better.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from decaf_theory.methods import METHODS
from decaf_theory.stats import Interval, bonferroni, mean_interval, paired_interval
from paper_checks.baseline import BASELINE
from verification.harness import AGAIN, Stored, read, require_alike
from verification.store import RUN, StoreError, read_run, read_sealed

REPORTED = Path(__file__).parent / "reported.csv"
EQUAL = 1e-9  # points; scores on n examples differ by 100/n or more, and rounding is 1e-13
Column = tuple[str, str]  # partition, graph
Scores = dict[str, dict[Column, dict[int, float]]]  # method -> column -> seed -> score
Choice = Callable[[Stored], float]  # which of a run's scores counts
Cell = Callable[[str, Column], str]  # what a table shows of a method in a column


class Reported(NamedTuple):
    """A number that a publication gives."""

    config: str
    method: str
    partition: str
    graph: str
    metric: str
    value: float
    source: str


def text(
    folders: Sequence[Path],
    *,
    against: str = "dlora",
    level: float = 0.95,
    accept_code: bool = False,
) -> str:
    """Return the tables of all runs below the folders, in Markdown.

    StoreError: no finished run; a damaged one; runs of one experiment with other settings, code or
    data; one run that is stored twice with unlike scores.
    """
    runs, unfinished = collect(folders)
    parts = []
    for name in sorted({run.settings["name"] for run in runs}):
        own = [run for run in runs if run.settings["name"] == name]
        require_alike(name, own, accept_code=accept_code)
        parts.append(experiment(name, own, against, level))
    if unfinished:
        parts.append(f"left out because not finished: {', '.join(unfinished)}")
    return "\n\n".join(parts)


def collect(folders: Sequence[Path]) -> tuple[list[Stored], list[str]]:
    """Return the finished runs below the folders, and the names of the unfinished ones."""
    places = [path.parent for folder in folders for path in sorted(folder.rglob(RUN))]
    # the claims' own run.json has none
    found = [read(place) for place in places if "settings" in read_run(place, AGAIN)]
    done = [run for run in found if run.finished]
    if not done:
        raise StoreError(
            f"no finished run below {', '.join(map(str, folders))}; train some: "
            f"python -m paper_checks sweep"
        )
    return done, [run.folder.name for run in found if not run.finished]


def experiment(name: str, runs: Sequence[Stored], against: str, level: float) -> str:
    """Return the tables of one experiment: last round, best round, differences."""
    settings = runs[0].settings
    columns = columns_of(runs)
    what = f"{settings['mix.agents']} agents, rank {settings['lora.rank']}, "
    parts = [f"## {name}\n\n{what}{settings['train.steps']} steps; {runs[0].run['metric']} in %."]
    last, best = (scores(runs, columns, choose) for choose in (_last, _best))
    given = reported(name)
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


def columns_of(runs: Sequence[Stored]) -> list[Column]:
    """Return partitions and graphs in the order of their names; runs without a graph fit in all."""
    seen = {
        (run.settings["data.partition"], run.settings["mix.graph"])
        for run in runs
        if run.settings["mix.graph"] != "any"
    }
    partitions = {run.settings["data.partition"] for run in runs}
    lonely = {(partition, "any") for partition in partitions - {p for p, _ in seen}}
    return sorted(seen | lonely)


def scores(runs: Sequence[Stored], columns: Sequence[Column], choose: Choice) -> Scores:
    """Return the score of every run by method, column and seed, in percent."""
    found: Scores = {}
    for run in runs:
        settings = run.settings
        method, partition = settings["mix.method"], settings["data.partition"]
        for column in columns:
            fits = settings["mix.graph"] in ("any", column[1])
            if column[0] == partition and fits:
                cell = found.setdefault(method, {}).setdefault(column, {})
                cell[settings["train.seed"]] = 100 * choose(run)
    return {method: found[method] for method in METHODS if method in found}


def _last(run: Stored) -> float:
    return float(run.scores[-1])


def _best(run: Stored) -> float:
    return float(max(run.scores))


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
        return shown if known is None else f"{shown}; reported {known.value:g} [{known.source}]"

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
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    lines.insert(1, ["-" * width for width in widths])
    padded = [[x.ljust(w) for x, w in zip(line, widths, strict=True)] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def separation(
    runs: Sequence[Stored], last: Scores, columns: Sequence[Column], level: float
) -> str:
    """Return whether centralized training beats the baseline stored with the runs, if any."""
    path = runs[0].folder.parent / BASELINE
    if not path.is_file():
        return ""
    baseline = read_sealed(path, "remove it and sweep again")
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


def reported(config: str, path: Path = REPORTED) -> dict[tuple[str, str, str], Reported]:
    """Return published numbers of an experiment, by method, partition and graph.

    StoreError: a line without a source, or with a value that is not a number.
    """
    found = {}
    with path.open(encoding="utf-8", newline="") as file:
        for number, line in enumerate(csv.DictReader(file), start=2):
            try:
                value = float(line.pop("value"))
                one = Reported(**line, value=value)
            except (TypeError, ValueError) as error:
                raise StoreError(f"{path.name}, line {number}: {error}") from None
            if not one.source:
                raise StoreError(f"{path.name}, line {number}: source must say where it is read")
            if one.config == config:
                found[one.method, one.partition, one.graph] = one
    return found
