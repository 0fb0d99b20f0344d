"""The tables of docs/benchmark.md, made of stored rows and of predictions stored before them.

Each stands between two comments that name it; the words around them are written by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from decaf_theory.files import write_atomically
from decaf_theory.methods import METHODS
from decaf_theory.stats import detectable_difference
from paper_checks import reported
from paper_checks.benchmark import judge
from paper_checks.benchmark.cells import (
    MEAN_SCORE,
    PRIMARY,
    SUITES,
    cell_of,
    needs_common_start,
    why_not,
)
from paper_checks.benchmark.command import ROWS, STUDY
from paper_checks.benchmark.judge import Finding, Place
from paper_checks.benchmark.predict import STORED
from paper_checks.config import ADAPTER_METHODS
from paper_checks.effects.page import BLOCK

JOINS = {  # a row's method -> its column
    "local": "one member",
    "dlora": "mean factors",
    "decaf": "truncated",
    "flora": "side by side",
    MEAN_SCORE: "mean score",
}
PAGES = [Path(__file__).parents[2] / "docs" / name for name in ("benchmark.md", "full_models.md")]
TOO_FEW = "One seed: no interval."
Rows = Sequence[Mapping[str, Any]]


def write() -> None:
    """Fill the pages from the stored rows."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        write_atomically(page, filled(text, stored(), STUDY.read(STORED)).encode())


def stored() -> dict[str, Rows]:
    """Return the stored rows of every suite that has been run."""
    return {suite: STUDY.read(path) for suite, path in ROWS.items() if path.exists()}


def filled(text: str, rows: Mapping[str, Rows], predicted: Rows) -> str:
    """Return the page with its tables made anew, from the rows of each suite.

    KeyError: a table of another name.
    """

    def anew(block: Any) -> str:
        kind, _, suite = block[1].partition(" ")
        return str(block[1] + block[2] + part(kind, suite, rows[suite], predicted) + block[3])

    return BLOCK.sub(anew, text)


def part(kind: str, suite: str, rows: Rows, predicted: Rows) -> str:
    """Return the table of this kind of a suite."""
    about, found = rows[0], rows[1:]
    parts: dict[str, Callable[[], str]] = {
        "run": lambda: run(about, found),
        "primary": lambda: contrasts(found, predicted, suite, primary=True),
        "contrasts": lambda: contrasts(found, predicted, suite, primary=False),
        "effects": lambda: effects(found, predicted, suite),
        "predictions": lambda: predictions(found, predicted, suite),
        "methods": lambda: methods(found, suite),
        "once": lambda: once(found, suite),
        "join": lambda: join(found, suite),
    }
    return parts[kind]()


def run(about: Mapping[str, Any], found: Rows) -> str:
    """Return what was run, in a line."""
    diverged = sum("diverged" in row for row in found)
    return (
        f"Trainings: {about['trainings']}; {about['core_minutes']:.0f} minutes of a core, "
        f"{diverged or 'none'} diverged; code {about['code']}."
    )


def contrasts(found: Rows, predicted: Rows, suite: str, *, primary: bool) -> str:
    """Return a table of contrasts in points of accuracy: the primary one, or all others."""
    head = ("where", "compared", "predicted", "own models", "interval", "averaged", "seeds", "word")
    findings = judge.judged(found, judge.contrasts(suite, predicted))
    chosen = [one for one in findings if one.contrast.place.primary is primary]
    return reported.table([head, *map(_cells, chosen)]) if chosen else TOO_FEW


def _cells(one: Finding) -> tuple[str, ...]:
    contrast, own = one.contrast, one.own
    cell = cell_of(contrast.place.suite, contrast.place.cell)
    return (
        judge.title(cell, contrast.place),
        f"{contrast.first} - {contrast.second}",
        "+" if contrast.sign else "none",
        f"{own.estimate:+.1f}",
        f"[{own.low:+.1f}, {own.high:+.1f}]",
        f"{one.mean:+.1f}",
        str(one.seeds),
        one.word,
    )


def effects(found: Rows, predicted: Rows, suite: str) -> str:
    """Return a table of all contrasts by their size: in points, and in standard deviations (d).

    With the least difference that would have been seen with a probability of 80 %.
    """
    head = ("where", "compared", "predicted", "points", "interval", "d", "seen from", "word")
    lines = []
    for one in judge.judged(found, judge.contrasts(suite, predicted)):
        cells = _cells(one)
        d = one.own.estimate / one.deviation if one.deviation else float("inf")
        least = detectable_difference(one.deviation, one.seeds, one.level)
        lines.append((*cells[:5], f"{d:+.1f}", f"{least:.1f}", cells[-1]))
    return reported.table([head, *lines]) if lines else TOO_FEW


def predictions(found: Rows, predicted: Rows, suite: str) -> str:
    """Return a table of predicted ranges and what the first mix had."""
    head = ("where", "relative", "predicted", "least", "mean", "largest", "seeds", "in the range")
    lines = [
        (
            *(one.title, one.what),
            f"{one.predicted[0]:.2f} to {one.predicted[1]:.2f}",
            *(f"{x:.3f}" for x in one.measured),
            str(one.seeds),
            "yes" if one.inside else "no",
        )
        for one in judge.outcomes(found, predicted, suite)
    ]
    return reported.table([head, *lines])


def methods(found: Rows, suite: str) -> str:
    """Return a table of all methods in the primary cell: scores of both ends, and bytes."""
    head = ("method", "A at the start", "own models", "averaged", "MB sent", "seeds")
    lines = []
    for name in ADAPTER_METHODS:
        place = Place(suite, PRIMARY if name in ("dlora", "decaf") else "all")
        if judge.scores(found, place, name):
            start = "common" if needs_common_start(name) else "own"
            lines.append((name, start, *both(found, place, name)))
    confined = ", ".join(name for name in ADAPTER_METHODS if METHODS[name].confined)
    reason = "its steps stay in r columns, which those of AdamW leave"
    return reported.table([head, *lines]) + f"\n\nLeft out: {confined}: {reason}."


def once(found: Rows, suite: str) -> str:
    """Return a table of one local training mixed by every method; with those left out, and why."""
    cell = next(cell for cell in SUITES[suite].cells if cell.once)
    head = ("method", "mixed on", "own models", "averaged", "MB sent", "seeds")
    lines, left_out = [], []
    for name in ADAPTER_METHODS:
        reason = why_not(METHODS[name], 2)
        if reason:
            left_out.append(f"{name}: {reason}")
        for graph in cell.once if METHODS[name].meets == "graph" else ("any",):
            place = Place(suite, cell.name, graph)
            if judge.scores(found, place, name):
                where = {"none": "nothing", "server": "a server"}.get(METHODS[name].meets, graph)
                lines.append((name, where, *both(found, place, name)))
    return reported.table([head, *lines]) + "\n\nLeft out: " + "; ".join(left_out) + "."


def join(found: Rows, suite: str) -> str:
    """Return a table of joined adapters: the shares of |M|^2 that two are off by, and scores."""
    head = ("where", "off by I", "off by E", *JOINS.values(), "seeds")
    lines = []
    for cell in SUITES[suite].cells:
        for graph in cell.graphs:
            place = Place(suite, cell.name, graph)
            lost = [
                spread(
                    [x**2 for x in judge.scores(found, place, "decaf", f"first_{n}").values()], 2
                )
                for n in ("interference", "truncation")
            ]
            own = [[*judge.scores(found, place, name).values()] for name in JOINS]
            lines.append((judge.title(cell, place), *lost, *map(spread, own), str(len(own[0]))))
    return reported.table([head, *lines])


def both(found: Rows, place: Place, name: str) -> tuple[str, ...]:
    """Return mean and standard deviation at both ends, the megabytes of all agents, the seeds."""
    ends = [[*judge.scores(found, place, name, field).values()] for field in ("own", "mean")]
    sent = fmean(judge.scores(found, place, name, "sent").values()) / 1e6
    return (*map(spread, ends), f"{sent:.2f}", str(len(ends[0])))


def spread(values: Sequence[float], places: int = 1) -> str:
    """Return mean and standard deviation over the seeds."""
    apart = f" ± {stdev(values):.{places}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{places}f}{apart}"
