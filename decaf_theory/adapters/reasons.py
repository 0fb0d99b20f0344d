"""What a diagnosis says beyond the losses, as text: why mixing loses, and at which matrices."""

from __future__ import annotations

from collections.abc import Sequence

from decaf_theory.adapters.advice import AT_MOST, enough_rank
from decaf_theory.adapters.diagnosis import Numbers, pool
from decaf_theory.adapters.tables import NEGLIGIBLE, columns, percentage, short_name, stem_of
from decaf_theory.formats import digits

MOST = 0.8  # of the energy that is lost: the few matrices that matter
ALL, WORST = 40, 20  # matrices in a table: all up to ALL, else the WORST
NAMED = 4  # matrices in a sentence
CAUSES = f"""\
share    of the energy (squared norm) that averaging / that truncating loses, in %
aligned  I in % of |M| after each agent's factors are balanced and turned by the rotation that
         brings them nearest to the mix
E*, T21  lost by truncating the mix, and its bound by the spread of the agents' products about
         the truncated mix (T21-global), both nuclear norms in % of |M|'s; -: r < agents' rank
eff      effective rank of a mix, (nuclear norm / Frobenius norm)^2
r5       smallest rank whose truncation loses {AT_MOST} of |M|; in total, one for all matrices
A, B     principal angles, in degrees, of the row spaces of A and of the column spaces of B to
         their consensus, the subspace nearest to all (in the sum of squared sines): mean (of
         squared sines; at most arccos 1/sqrt N for N agents) / largest. Another gauge changes
         neither. In total, the mean of the means and the largest"""


def causes(sites: Sequence[Numbers], shown: Sequence[Numbers] | None = None) -> str:
    """Return one line per site, of those `shown` if not of all, and a line for all together."""
    stem = stem_of(sites)
    total = pool(sites)
    lines = [_cells(site, total, stem) for site in (sites if shown is None else shown)]
    return columns(HEAD, lines, _cells(total, total))


HEAD = ("matrix", "share", "aligned", "E* %", "T21 %", "eff", "r5", "A", "B")


def _cells(site: Numbers, total: Numbers, stem: str = "") -> list[str]:
    shares = (f"{100 * share(site, total, name):.0f}" for name in ("interference", "truncation"))
    bound = site["relative_truncation_bound"]
    return [
        str(site["site"]).removeprefix(stem),
        "/".join(shares),
        percentage(site["relative_aligned"]),
        percentage(site["relative_truncation_nuclear"]),
        "-" if bound is None else percentage(bound),
        digits(site["effective_rank"]) if "effective_rank" in site else "",
        str(enough_rank(site)),
        _angles(site, "A"),
        _angles(site, "B"),
    ]


def _angles(site: Numbers, factor: str) -> str:
    mean, largest = site[f"angle_{factor}"], site[f"largest_angle_{factor}"]
    return "-" if mean is None else f"{mean:.0f}/{largest:.0f}"


def share(site: Numbers, total: Numbers, loss: str) -> float:
    """Return a site's part of the energy of a loss of all matrices; 0 if nothing is lost."""
    lost = total[f"relative_{loss}"] > NEGLIGIBLE
    return float(site[loss] / total[loss]) ** 2 if lost else 0.0


def decisive(sites: Sequence[Numbers], loss: str) -> list[Numbers]:
    """Return the fewest sites that make MOST of the energy of a loss, largest first."""
    total, found, sum_ = pool(sites), [], 0.0
    for site in sorted(sites, key=lambda site: -site[loss]):
        if sum_ >= MOST - NEGLIGIBLE or share(site, total, loss) == 0:
            break
        found.append(site)
        sum_ += share(site, total, loss)
    return found


def worst(sites: Sequence[Numbers]) -> list[Numbers]:
    """Return the sites of a table: all if they are few, else those that lose most by averaging."""
    if len(sites) <= ALL:
        return list(sites)
    return sorted(sites, key=lambda site: -site["interference"])[:WORST]


def where(sites: Sequence[Numbers]) -> str:
    """Return in words which matrices make most of what is lost."""
    total, words = pool(sites), []
    for loss, name in (("interference", "averaging"), ("truncation", "truncating")):
        few = decisive(sites, loss)
        if 0 < len(few) < len(sites):
            part = sum(share(site, total, loss) for site in few)
            words.append(
                f"{100 * part:.0f} % of the energy that {name} loses is in {len(few)} of "
                f"{len(sites)} matrices: {_listed(few, stem_of(sites))}."
            )
    return " ".join(words)


def _listed(few: Sequence[Numbers], stem: str) -> str:
    names = [short_name(site, stem) for site in few]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED + 1 else ""
    return ", ".join(names[:NAMED] if more else names) + more
