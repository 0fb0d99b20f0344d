"""One sentence on how to mix these adapters, from the pooled numbers of a diagnosis."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from decaf_theory.adapters.diagnosis import Numbers, pool
from decaf_theory.adapters.sizes import over
from decaf_theory.adapters.tables import kept_ranks, percentage

FINE = 0.05  # of |M|: what may be lost
RAISE = 2  # times the rank: beyond that, it is another adapter
APART = 0.5  # of the largest mean squared sine that N subspaces can have


class Facts(NamedTuple):
    """What the advice rests on, of all matrices pooled; losses are relative to |M|_F."""

    averaged: float  # lost by averaging the factors
    aligned: float  # by averaging them after `geometry.aligned_interference`
    cut: float  # by truncating the mix to the rank kept
    kept: str  # that rank, or the ranks, in words
    rank: int  # the largest of them
    held: int  # that rank or, if it is larger, that of the agents' factors
    cut_held: float  # lost by truncating the mix to it
    enough: int  # the smallest rank whose truncation loses at most FINE
    angle: float  # of the row spaces of the A_j to their consensus, mean in degrees
    widest: float  # the largest that this can be for N agents


class Advice(NamedTuple):
    """What to do, a key of `RULES`; the sentence that says so and why; the rank that it names."""

    kind: str
    text: str
    rank: int | None


def advise(sites: Sequence[Numbers]) -> Advice:
    """Return the advice on mixing the sites of `diagnose`: that of the first of `RULES` to hold."""
    f = facts(sites)
    kind = next(kind for kind, (holds, _, _) in RULES.items() if holds(f))
    _, sentence, rank = RULES[kind]
    return Advice(kind, sentence(f), rank(f))


def facts(sites: Sequence[Numbers]) -> Facts:
    """Return the facts of the sites of `diagnose`, one at least."""
    total = pool(sites)
    rank = max(site["r"] for site in sites)
    held = max(rank, total["factor_rank"])
    return Facts(
        averaged=total["relative_interference"],
        aligned=total["relative_aligned"],
        cut=total["relative_truncation"],
        kept=kept_ranks(sites),
        rank=rank,
        held=held,
        cut_held=over(loss_at(total, held), total["mix"]),
        enough=enough_rank(total),
        angle=total["angle_A"] or 0.0,
        widest=math.degrees(math.acos(total["agents"] ** -0.5)),
    )


def loss_at(numbers: Numbers, rank: int) -> float:
    """Return |M - TSVD_rank(M)|_F of a site or of the total, from its truncation_by_rank."""
    curve = numbers["truncation_by_rank"]
    return float(curve[rank]) if rank < len(curve) else 0.0


def enough_rank(numbers: Numbers) -> int:
    """Return the smallest rank whose truncation loses at most FINE, of a site or of the total."""
    curve = numbers["truncation_by_rank"]
    fits = (q for q in range(len(curve)) if curve[q] <= FINE * numbers["mix"])
    return next(fits, len(curve) - 1)


def far_apart(f: Facts) -> bool:
    """Whether the row spaces of the A_j are over APART of the mean squared sine that can be."""
    sine, largest = (math.sin(math.radians(x)) for x in (f.angle, f.widest))
    return sine**2 > APART * largest**2


def percent(ratio: float) -> str:
    """Return a ratio in per cent, with the sign."""
    return f"{percentage(ratio)} %"


def instead(f: Facts) -> str:
    """Return what averaging would lose, in words."""
    return (
        f"averaging the factors would lose {percent(f.averaged)}, "
        f"and {percent(f.aligned)} after alignment"
    )


AT_MOST = f"at most {100 * FINE:g} %"
Rule = tuple[Callable[[Facts], bool], Callable[[Facts], str], Callable[[Facts], int | None]]
# kind -> (whether it is the advice, if none before it is; its sentence; the rank that it names)
RULES: dict[str, Rule] = {
    "average": (
        lambda f: f.averaged <= FINE,
        lambda f: f"Average the factors: that loses {percent(f.averaged)}, {AT_MOST}.",
        lambda f: None,
    ),
    "align": (
        lambda f: f.aligned <= FINE,
        lambda f: (
            f"Align first, then average the factors: turned onto the mix they lose "
            f"{percent(f.aligned)}, {AT_MOST}, and {percent(f.averaged)} as they are."
        ),
        lambda f: None,
    ),
    "mix": (
        lambda f: f.cut <= FINE,
        lambda f: (
            f"Mix the products and keep {f.kept}: that loses {percent(f.cut)}, {AT_MOST}; "
            f"{instead(f)}."
        ),
        lambda f: f.rank,
    ),
    "raise_rank": (
        lambda f: f.enough <= max(RAISE * f.rank, f.held),
        lambda f: (
            f"Mix the products and raise the rank to {f.enough}, the smallest that loses "
            f"{AT_MOST}: {f.kept} loses {percent(f.cut)}; {instead(f)}."
        ),
        lambda f: f.enough,
    ),
    "common_A": (
        far_apart,
        lambda f: (
            f"Start the next run from a common A: the row spaces of these are {f.angle:.0f} "
            f"degrees from their consensus, of {f.widest:.0f} possible, so that the mix needs rank "
            f"{f.enough} to lose {AT_MOST}; if the agents kept one A, rank {f.held} would "
            f"lose nothing (T15)."
        ),
        lambda f: f.held,
    ),
    "mix_at_a_loss": (
        lambda f: True,
        lambda f: (
            f"Mix the products and keep rank {f.held}: that loses {percent(f.cut_held)}, which is "
            f"the least at this rank; {instead(f)}. Rank {f.enough} would lose {AT_MOST}."
        ),
        lambda f: f.held,
    ),
}
