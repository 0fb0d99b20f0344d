r"""What theory says of a cell before it is run, from the start of the factors alone.

Agents' A_i are independent, B_i moves along G_i A_i', so that at a mix with weights w the terms
w_j w_l B_j A_l, j != l, of the product of means are orthogonal to each other and to the w_j B_j A_j
in expectation, and as large (A_l A_l' is close to 1/3 in r << k dimensions). Hence

    |I|^2 / |M|^2 = (1 - w)^2 + ((m - 1)/m^2) / (1 + (m - 1) q),    w = 1/m,

for m agents that average, q the mean cosine of two agents' products. q = 0 gives 1 - 1/m. Where A
stays near its start, q is at most r/k, the overlap of two random subspaces; where it moves by more
than its own size, up to 1. One common A leaves I = -mean (B_j - Bbar)(A_j - Abar): it is zero until
A moves, and then at most the movement relative to the start times 1 - 1/m under the root.

The mean of m orthogonal products, each with a share f of its energy in its first direction, loses
at least 1 - min(1, r/m) (f = 1) and at most 1 - 1/m (flat spectra) of |M|^2; it never loses more
than |I| (T17). Which of both holds depends on the gradients, so that a range is predicted.

A sign is predicted for the score of DeCAF minus that of DLoRA where interference is large for a
good part of the training: the least predicted |I|/|M|, times the share of steps until the
deviations of A have fallen to 1/e on the graph, is at least MATERIAL. Elsewhere theory does not
decide: no sign.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from decaf_theory.topology import SCHEDULES, TOPOLOGIES, sqrt_rho
from paper_checks.benchmark.cells import SUITES, Cell, Job, config_of, of_members

MATERIAL = 0.25
STORED = Path(__file__).parents[2] / "docs" / "rows" / "predictions.jsonl"  # before the runs
WIDTH = {"vit-digits": 48, "smollm2-sst2": 576, "minilm-sst2": 384}  # k of the sites


class Range(NamedTuple):
    """Where a number is expected."""

    low: float
    high: float


class Start(NamedTuple):
    """What a prediction is made from.

    meet: agents that average in a mix, itself included. forget: the factor by which deviations
    shrink in a round. moved: the largest movement of an entry of A between two mixes, over its root
    mean square at the start, if all of AdamW's steps were of size lr.
    """

    meet: int
    forget: float
    spread: float
    moved: float
    overlap: float
    rank: int
    rounds: int


class Prediction(NamedTuple):
    """What is expected of a cell at its first mix, and of the sign of DeCAF - DLoRA, 0: none."""

    interference: Range
    truncation: Range
    share: float
    sign: int


def start_of(suite: str, cell: Cell, graph: str | None = None) -> Start:
    """Return what a cell's predictions are made from."""
    members = {of_members(m): m for m in cell.joined}.get(graph or "")
    graph = "complete" if members else graph or cell.graph
    config = config_of(Job(suite, cell.name, "decaf", 0), graph)
    N, k = members or config.mix.agents, WIDTH[SUITES[suite].experiment]
    if graph in SCHEDULES:
        schedule: Any = SCHEDULES[graph](N)  # a random one, which knows its rho
        Pi, forget = np.asarray(schedule(0)), math.sqrt(schedule.rho())
    else:
        Pi = np.asarray(TOPOLOGIES[graph](N))
        forget = 0.0 if np.ptp(Pi) == 0 else sqrt_rho(Pi)  # and not what rounding leaves of it
    K = config.train.steps if cell.alone else config.mix.every
    assert K is not None  # the suites give steps, not epochs
    return Start(
        meet=int(np.count_nonzero(Pi[0])),
        forget=forget,
        spread=cell.spread,
        moved=config.train.lr * (K - 1) * math.sqrt(3 * k),
        overlap=config.lora.rank / k,
        rank=config.lora.rank,
        rounds=max(1, config.train.steps // K),
    )


def predict(start: Start) -> Prediction:
    """Return the prediction (see above). Between one common A and own ones both ends are scaled."""
    m, s = start.meet, start.spread
    most = math.sqrt(1 - 1 / m)
    q = start.overlap if start.moved <= 1 else 1.0
    least = math.sqrt((1 - 1 / m) ** 2 + (m - 1) / m**2 / (1 + (m - 1) * q))
    if s == 1:
        interference = Range(least, most)
        lost = max(0.0, 1 - start.rank / m) * (1 - q) / (1 + (m - 1) * q)
        truncation = Range(math.sqrt(lost), most)
    else:
        interference = Range(s**2 * least / math.sqrt(m), min(1.0, s + start.moved) * most)
        truncation = Range(0.0, interference.high)
    share = share_apart(start)
    return Prediction(interference, truncation, share, int(interference.low * share >= MATERIAL))


def share_apart(start: Start) -> float:
    """Return the share of rounds whose mix finds A apart: the first, and 1/-log(forget) more."""
    more = 1 / -math.log(start.forget) if start.forget else 0.0
    return min(1.0, (1 + more) / start.rounds)


def predictions() -> list[dict[str, Any]]:
    """Return the predictions of all cells that compare DeCAF with DLoRA, as plain rows."""
    found = []
    for suite, about in SUITES.items():
        for cell in about.cells:
            for graph in cell.graphs:
                start = start_of(suite, cell, graph)
                one = predict(start)
                found.append(
                    {
                        **{"suite": suite, "cell": cell.name, "graph": graph},
                        **{name: rounded(value) for name, value in start._asdict().items()},
                        **{name: rounded(value) for name, value in one._asdict().items()},
                    }
                )
    return found


def rounded(value: Any) -> Any:
    """Return numbers to four decimals, as they are stored."""
    if isinstance(value, Range):
        return [round(x, 4) for x in value]
    return round(value, 4) if isinstance(value, float) else value
