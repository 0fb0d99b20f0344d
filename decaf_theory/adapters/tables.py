"""The numbers of a diagnosis as plain text: a table, and what it means."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

from decaf_theory.adapters.agents import Agents, count
from decaf_theory.adapters.diagnosis import LOSSES, Numbers, pool
from decaf_theory.adapters.oversights import remarks
from decaf_theory.formats import digits
from decaf_theory.terminal import groups, width

NAME_WIDTH, NAME_LEAST = 30, 15
NEGLIGIBLE = 1e-11  # of |M|: max(d, k) eps for the largest layers in use
LEGEND = """\
r        rank kept
ranks    least of an agent's product / largest of a mix
Xi_A, B  consensus distances of the factors, squared
|M|      mixed update; I, E and D are in % of it
I        lost by averaging the factors
E        lost by truncating the mix of the products
D        difference of the two results
c        largest singular value of a factor
bal      balance, largest |B'B - AA'| / |BA| of an agent; 0 for balanced factors
Norms are Frobenius norms, root mean square over the agents that mix. The total pools all
matrices (root of the sum of squares). B carries the LoRA scale."""


def table(sites: Sequence[Numbers], shown: Sequence[Numbers] | None = None) -> str:
    """Return one line per site, of those `shown` if not of all, and a line for all together.

    The common stem of the sites' names is cut off.
    """
    stem = stem_of(sites)
    where = f"matrices of {stem[:-1]}\n" if stem else ""
    lines = [_cells(site, stem) for site in (sites if shown is None else shown)]
    return where + columns(HEAD, lines, _cells(pool(sites)))


def stem_of(sites: Sequence[Numbers]) -> str:
    """Return the components with which the names of all layers begin, with a dot behind each.

    Layers have a number in their names; if there are none, the names of all sites count.
    """
    paths = [str(site["site"]).split(".")[:-1] for site in sites]
    layers = [path for path in paths if any(part.isdecimal() for part in path)]
    common = takewhile(lambda parts: len(set(parts)) == 1, zip(*(layers or paths), strict=False))
    return "".join(f"{parts[0]}." for parts in common)


def columns(head: Sequence[str], lines: Sequence[Sequence[str]], last: Sequence[str]) -> str:
    """Return a table: names to the left, numbers to the right, a rule above the last line.

    Names are shortened until the table fits, but not to less than NAME_LEAST; a table that does not
    fit then is printed in parts, each with the names.
    """
    every = [head, *lines, last]
    others = [max(len(line[i]) for line in every) for i in range(1, len(head))]
    room = min(NAME_WIDTH, max(NAME_LEAST, width() - sum(others) - 2 * len(others)))
    head, *lines, last = ([_shorten(line[0], room), *line[1:]] for line in every)
    widths = [max(len(line[0]) for line in (head, *lines, last)), *others]

    def part(chosen: Sequence[int]) -> str:
        def row(line: Sequence[str]) -> str:
            name, *numbers = (f"{line[i]:>{widths[i]}}" for i in chosen)
            return "  ".join([f"{name.strip():<{widths[0]}}", *numbers]).rstrip()

        rule = "-" * (sum(widths[i] + 2 for i in chosen) - 2)
        return "\n".join([row(head), *map(row, lines), rule, row(last)])

    return "\n\n".join(map(part, groups(widths)))


HEAD = ("matrix", "d x k", "r", "ranks", *"Xi_A Xi_B |M|".split(), "I %", "E %", "D %", "c", "bal")


def _cells(site: Numbers, stem: str = "") -> list[str]:
    shape = ["", "", ""]
    if "d" in site:
        ranks = f"{site['agent_rank']}/{site['mix_rank']}"
        shape = [f"{site['d']}x{site['k']}", str(site["r"]), ranks]
    return [
        str(site["site"]).removeprefix(stem),
        *shape,
        *(digits(site[name]) for name in ("Xi_A", "Xi_B", "mix")),
        *(percentage(site[f"relative_{name}"]) for name in LOSSES),
        *(digits(site[name]) for name in ("sigma_max", "imbalance")),
    ]


def percentage(ratio: float) -> str:
    """Return 100 times a ratio; "0" if it is no more than the rounding of float64."""
    return digits(100 * ratio) if ratio > NEGLIGIBLE else "0"


def short_name(site: Numbers, stem: str = "") -> str:
    """Return the name of a site without the stem, its middle cut out if it is too long."""
    return _shorten(str(site["site"]).removeprefix(stem), NAME_WIDTH)


def _shorten(name: str, width: int) -> str:
    half = (width - 3) // 2
    return name if len(name) <= width else f"{name[:half]}...{name[-half:]}"


def plain_words(sites: Sequence[Numbers], N: int) -> str:
    """Return one paragraph: what averaging the factors loses compared with mixing the products."""
    total = pool(sites)
    kept = kept_ranks(sites)
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


def kept_ranks(sites: Sequence[Numbers]) -> str:
    """Return "rank 4", or "ranks 2 to 4" of sites that keep different ranks."""
    ranks = sorted({site["r"] for site in sites})
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"


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
