"""The numbers of a diagnosis as plain text of at most 100 columns: a table, and what it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from decaf_theory.adapters.agents import Agents, count
from decaf_theory.adapters.diagnosis import LOSSES, pool
from decaf_theory.adapters.oversights import remarks
from decaf_theory.formats import digits

Numbers = Mapping[str, Any]

NAME_WIDTH = 30
NEGLIGIBLE = 1e-11  # of |M|: max(d, k) eps for the largest layers in use
LEGEND = """\
r: rank kept.  ranks: least of an agent's product / largest of a mix.  Xi_A, Xi_B: consensus
distances of the factors, squared.  |M|: mixed update.  In % of |M|: I, lost by averaging factors;
E, lost by truncating the mix; D, the difference of the two results.  c: largest singular value of
a factor.  bal: largest |B'B - AA'| / |BA|.  All norms are Frobenius norms, root mean square over
the agents that mix; the total pools all matrices (root of the sum of squares).  B carries the LoRA
scale."""


def table(sites: Sequence[Numbers]) -> str:
    """Return one line per site and a line for all together; the sites' common stem is cut off."""
    paths = [str(site["site"]).split(".")[:-1] for site in sites]
    common = takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    stem = "".join(f"{parts[0]}." for parts in common)
    named = [{**site, "site": str(site["site"]).removeprefix(stem)} for site in sites]
    lines = [list(HEAD), *map(_cells, named), _cells(pool(sites))]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]

    def row(line: Sequence[str]) -> str:
        name, *numbers = (f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True))
        return "  ".join([f"{name.strip():<{widths[0]}}", *numbers]).rstrip()

    where = f"matrices of {stem[:-1]}\n" if stem else ""
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return where + "\n".join([row(lines[0]), *map(row, lines[1:-1]), rule, row(lines[-1])])


HEAD = ("matrix", "d x k", "r", "ranks", *"Xi_A Xi_B |M|".split(), "I %", "E %", "D %", "c", "bal")


def _cells(site: Numbers) -> list[str]:
    shape = ["", "", ""]
    if "d" in site:
        ranks = f"{site['agent_rank']}/{site['mix_rank']}"
        shape = [f"{site['d']}x{site['k']}", str(site["r"]), ranks]
    return [
        _shorten(site["site"]),
        *shape,
        *(digits(site[name]) for name in ("Xi_A", "Xi_B", "mix")),
        *(percentage(site[f"relative_{name}"]) for name in LOSSES),
        *(digits(site[name]) for name in ("sigma_max", "imbalance")),
    ]


def percentage(ratio: float) -> str:
    """Return 100 times a ratio; "0" if it is no more than the rounding of float64."""
    return digits(100 * ratio) if ratio > NEGLIGIBLE else "0"


def _shorten(name: str) -> str:
    """Return a name, its middle cut out if it is too long."""
    half = (NAME_WIDTH - 3) // 2
    return name if len(name) <= NAME_WIDTH else f"{name[:half]}...{name[-half:]}"


def plain_words(sites: Sequence[Numbers], N: int) -> str:
    """Return one paragraph: what averaging the factors loses compared with mixing the products."""
    total = pool(sites)
    ranks = sorted({site["r"] for site in sites})
    kept = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
    lost, cut = total["relative_interference"], total["relative_truncation"]
    words = [
        f"Averaging the factors of {'these ' * (N > 1)}{count(N)} would lose "
        f"{percentage(lost)} % of the mixed update (Frobenius norm, all matrices pooled).",
        f"Mixing the products and truncating to {kept} loses {percentage(cut)} %"
        + (f": {lost / cut:.2g} times less." if lost > cut > NEGLIGIBLE else "."),
    ]
    if len(sites) > 1 and lost > NEGLIGIBLE:
        worst = max(sites, key=lambda site: float(site["relative_interference"]))
        words.append(
            f"Averaging loses most at {worst['site']}: "
            f"{percentage(worst['relative_interference'])} %, against "
            f"{percentage(worst['relative_truncation'])} % by truncation."
        )
    return " ".join(words)


def notes(agents: Agents) -> list[str]:
    """Return what a reader must know besides the numbers: other tensors, and `remarks`."""
    found = []
    if agents.others:
        names = ", ".join(list(agents.others)[:4]) + (", ..." if len(agents.others) > 4 else "")
        found.append(
            f"Also to be mixed, and not in these numbers: {len(agents.others)} tensors that are "
            f"not LoRA factors ({names})."
        )
    return found + remarks(agents)
