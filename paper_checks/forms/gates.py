"""SoRA's path: how many gates stay open, and at what error, as lambda grows.

The problem is the isotropic one of `effects.model`, whose mean target has rank 4, with adapters of
rank 5. A method has one step size for all of its path, the best of plain LoRA on other seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from decaf_theory.arrays import Array
from decaf_theory.methods import METHODS, Method, State, sora, with_form
from decaf_theory.methods.form import Form
from decaf_theory.simulate import Visit, simulate
from decaf_theory.stats import bonferroni, mean_interval
from decaf_theory.topology import TOPOLOGIES
from paper_checks import reported
from paper_checks.effects.engine import LEVEL, STEPS, tuned
from paper_checks.effects.model import AGENTS, config_of, draw, excess

RANK = 5
SEEDS, TUNING = tuple(range(20)), tuple(range(1000, 1004))
LAMBDAS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)
COUNTED = 0.05  # a singular value of W - W0 above it counts: a fifth of the least that was planted
RECORDED = ("interference", "truncation", "consensus_products")
REOPENED = "decaf, gates reopened"  # its split of a truncation is DeCAF's, whatever the gates
NAMES = ("local", "centralized", "dlora", "decaf", REOPENED)
Row = dict[str, Any]


def formed(name: str, lam: float | None) -> Method:
    """Return the method of a row, None: as it is, plain LoRA."""
    method = METHODS["decaf" if name == REOPENED else name]
    return method if lam is None else with_form(method, form_of(name, lam))


def form_of(name: str, lam: float) -> Form:
    """Return SoRA; where gates are reopened, with the split of gates that do not train."""
    form = sora(lam)
    return replace(form, split=sora(speed=0.0).split) if name == REOPENED else form


def path(
    name: str,
    seeds: Sequence[int] = SEEDS,
    tuning: Sequence[int] = TUNING,
    lambdas: Sequence[float | None] = (None, *LAMBDAS),
    **others: Any,
) -> list[Row]:
    """Return the rows of a method, one for each lambda and seed; lambda None is plain LoRA.

    others: settings of the simulations in place of those of `effects.model`.
    """
    Pi, plain = TOPOLOGIES["ring"](AGENTS), formed(name, None)

    def score(lr: float, some: Sequence[int]) -> Array:
        own = {"rank": RANK, **others}
        return excess("isotropic", plain, Pi, lr, some, **own).mean(axis=-1)

    _, lr = tuned(score, seeds, tuning, STEPS)
    return [row for lam in lambdas for row in rows_at(name, lam, lr, seeds, **others)]


def rows_at(
    name: str, lam: float | None, lr: float, seeds: Sequence[int], **others: Any
) -> list[Row]:
    """Return a row for each seed.

    open: gates of an agent that are not zero after its last local step, before the mix. rank: the
    singular values of its W - W0 above COUNTED then. excess: F - min F of an agent after the last
    mix. The rest are means over the rounds. All are means over agents.
    """
    draws, method, last = draw("isotropic", seeds), formed(name, lam), []
    settings = {"rank": RANK, "record": list(RECORDED), "record_every": 1, **others}
    config = config_of(draws, method, TOPOLOGIES["ring"](AGENTS), lr, seeds, **settings)
    trace = simulate(config, lambda visit: last.append(visit)).require_finished()
    before = unmixed(last[-1])
    found = {
        "rank": np.count_nonzero(
            np.linalg.svdvals(method.form.update(before, 1.0)) > COUNTED, axis=-1
        ),
        "excess": draws.excess(last[-1].W),
    }
    if lam is not None:
        found["open"] = np.count_nonzero(before.memory["gate"], axis=(-2, -1))
    means = {what: X.mean(axis=-1) for what, X in found.items()}
    means |= {what: getattr(trace, what)[:, 1:].mean(axis=-1) for what in RECORDED}
    about = {"what": "gates", "method": name, "lam": lam, "lr": lr}
    return [
        {**about, "seed": seed, **{what: round(float(x[i]), 6) for what, x in means.items()}}
        for i, seed in enumerate(seeds)
    ]


def unmixed(visit: Visit) -> State:
    """Return the state that entered the mix of a visit, or its own where there was none."""
    mix = visit.mix
    return visit.state if mix.before is None else State(mix.before, mix.memory)


SHOWN = ("open", "rank", "excess", *RECORDED)
HEAD = (
    *("method", "lambda", "gates open", "rank of W - W0", "excess"),
    *("interference", "truncation", "consensus"),
)


def table(rows: Sequence[Row]) -> str:
    """Return the path of every method with intervals that hold together at LEVEL."""
    cells = list(dict.fromkeys((row["method"], row["lam"]) for row in rows))
    each = bonferroni(LEVEL, len(SHOWN) * len(cells))
    lines: list[tuple[str, ...]] = [HEAD]
    for name, lam in cells:
        own = [row for row in rows if (row["method"], row["lam"]) == (name, lam)]
        shown = [
            interval([row[what] for row in own], each) if what in own[0] else "-" for what in SHOWN
        ]
        lines.append((name, "LoRA" if lam is None else f"{lam:g}", *shown))
    return reported.table(lines)


def interval(values: Sequence[float], level: float) -> str:
    """Return a mean with half the length of its interval."""
    mean, low, high = mean_interval(values, level)
    return f"{mean:.3f} ± {(high - low) / 2:.3f}"


def monotone(rows: Sequence[Row]) -> str:
    """Return, by method, the seeds on which neither gates nor rank grow with lambda."""
    lines: list[tuple[str, ...]] = [("method", "gates open", "rank of W - W0", "step size")]
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name and row["lam"] is not None]
        seeds = sorted({row["seed"] for row in own})
        counts = [sum(falls(own, seed, what) for seed in seeds) for what in ("open", "rank")]
        lines.append((name, *(f"{count} of {len(seeds)}" for count in counts), f"{own[0]['lr']:g}"))
    return reported.table(lines)


def falls(rows: Sequence[Row], seed: int, what: str) -> bool:
    """Whether a number of this seed never grows from one lambda to the next."""
    own = sorted((row for row in rows if row["seed"] == seed), key=lambda row: row["lam"])
    return all(later <= earlier for earlier, later in pairwise(row[what] for row in own))
