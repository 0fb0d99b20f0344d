"""The tables of docs/prism.md, made of the stored rows.

Each stands between two comments that name it; the words around them are written by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from decaf_theory.arrays import Host
from decaf_theory.concentration import STATISTICS, median_split
from decaf_theory.files import write_atomically
from decaf_theory.rng import generator
from decaf_theory.stats import Interval, bonferroni, mean_interval
from paper_checks import reported, trials
from paper_checks.effects.page import BLOCK
from paper_checks.prism.command import ROWS
from paper_checks.prism.planted import CASES

PAGE = Path(__file__).parents[2] / "docs" / "prism.md"
LEVEL, RESAMPLES = 0.95, 2000
SPLITS = (*STATISTICS, "random")
OTHERS = ("loss", "length")
QUANTILES = (0, 10, 50, 90, 100)
Row = Mapping[str, Any]


def write() -> None:
    """Fill docs/prism.md from the stored rows."""
    rows = trials.read(ROWS, "python -m paper_checks prism")
    write_atomically(PAGE, filled(PAGE.read_text(encoding="utf-8"), rows).encode())


def filled(text: str, rows: Sequence[Row]) -> str:
    """Return the page with its tables made anew. KeyError: a table of another name."""
    about, *found = rows
    heads = {row["head"]: row for row in found if row["part"] == "sentences"}
    parts: dict[str, Callable[[], str]] = {
        "run": lambda: f"{about['core_minutes']:.0f} minutes of a core; code {about['code']}.",
        "planted": lambda: planted([row for row in found if row["part"] == "planted"]),
        "distribution": lambda: distribution(heads),
        "pairs": lambda: pairs(heads),
        "heads": lambda: between_heads(heads),
    }
    return BLOCK.sub(lambda block: block[1] + block[2] + parts[block[1]]() + block[3], text)


def planted(rows: Sequence[Row]) -> str:
    """Return what each split recovers; the intervals of the table hold together at LEVEL."""
    each = bonferroni(LEVEL, len(rows) * len(SPLITS))
    lines = [("kinds", "noise", *SPLITS)]
    for row in rows:
        cells = [spread(row[name], each) for name in SPLITS]
        lines.append((CASES[row["case"]].title, f"{row['noise']:g}", *cells))
    return reported.table(lines)


def spread(values: Sequence[float], level: float) -> str:
    """Return a mean with its interval, one number where all values are one."""
    if len({*values}) == 1:
        return f"{values[0]:.3f}"
    return shown(mean_interval(values, level))


def shown(found: Interval) -> str:
    """Return an estimate with its interval."""
    return f"{found.estimate:.3f} [{found.low:.3f}, {found.high:.3f}]"


def distribution(heads: Mapping[str, Row]) -> str:
    """Return quantiles of the statistics over the samples, and what the other label changes."""
    lines = [("head", "statistic", *(f"{q} %" for q in QUANTILES), "changed by the label")]
    for head, row in heads.items():
        for name in STATISTICS:
            values = (f"{x:.3f}" for x in np.percentile(row[name], QUANTILES))
            lines.append((head, name, *values, f"{row['flipped']:.0e}"))
    return reported.table(lines)


def pairs(heads: Mapping[str, Row]) -> str:
    """Return rank correlations of the statistics, with loss and length, and how splits agree."""
    lines = [("head", "pair", "rank correlation", "same side of the split")]
    for head, row in heads.items():
        for first, second in (*combinations(STATISTICS, 2), *with_others()):
            x, y = np.array(row[first]), np.array(row[second])
            agree = shown(bootstrapped(x, y, agreement)) if second in STATISTICS else ""
            lines.append(
                (head, f"{first}, {second}", shown(bootstrapped(x, y, correlation)), agree)
            )
    return reported.table(lines)


def with_others() -> Iterator[tuple[str, str]]:
    """Yield the pairs of a statistic and what else is known of a sample."""
    for name in STATISTICS:
        for other in OTHERS:
            yield name, other


def between_heads(heads: Mapping[str, Row]) -> str:
    """Return how the splits of one corpus under two heads agree, by statistic."""
    lines = [("heads", *STATISTICS)]
    for first, second in combinations(heads, 2):
        both = [(np.array(heads[first][n]), np.array(heads[second][n])) for n in STATISTICS]
        cells = [shown(bootstrapped(x, y, agreement)) for x, y in both]
        lines.append((f"{first}, {second}", *cells))
    return reported.table(lines)


def correlation(x: Host, y: Host) -> float:
    """Return Spearman's rank correlation."""
    return float(stats.spearmanr(x, y).statistic)


def agreement(x: Host, y: Host) -> float:
    """Return the share of samples that both splits put on the same side."""
    return float(np.mean(median_split(x) == median_split(y)))


def bootstrapped(x: Host, y: Host, of: Callable[[Host, Host], float]) -> Interval:
    """Return a number of paired samples with its percentile interval, at LEVEL by itself."""
    found = stats.bootstrap(
        (x, y),
        of,
        paired=True,
        vectorized=False,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=generator(0, "prism", "bootstrap"),
    ).confidence_interval
    return Interval(of(x, y), float(found.low), float(found.high))
