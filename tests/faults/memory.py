"""How much memory a call leaves behind: `python -m tests.faults.memory NAME [CALLS]`.

Prints how many bytes more are held after the calls than before them: by Python objects and NumPy
arrays, which tracemalloc counts, and by the process, which also has what libraries hold.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import sys
import tracemalloc
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from decaf_theory import adapters
from decaf_theory.bench.memory import STATUS as STATUS
from decaf_theory.bench.memory import resident
from decaf_theory.lowrank import Factors, product
from decaf_theory.problems import PROBLEMS
from decaf_theory.simulate import Config, simulate
from decaf_theory.topology import TOPOLOGIES
from decaf_theory.tsvd import tsvd, tsvd_of_mix
from tests.adapter_files import STORED
from verification import cli
from verification.run import LEDGER, Settings, evaluate

CALLS = 1000
OBJECT = 56  # bytes of an empty list
MATRIX = 480  # bytes of the smallest matrix of these calls, [20, 3] in float64


class Left(NamedTuple):
    """Bytes that the calls left behind."""

    traced: int
    resident: int


def _factors() -> Factors:
    draw = np.random.default_rng(0)
    return Factors(draw.standard_normal((4, 24, 3)), draw.standard_normal((4, 3, 20)))


def _tsvd() -> Callable[[], object]:
    M = product(_factors())
    return lambda: tsvd(M, 3)


def _mix(like: Callable[[np.ndarray], object] = lambda X: X) -> Callable[[], object]:
    factors, Pi = _factors().map(like), TOPOLOGIES["ring"](4)
    return lambda: [tsvd_of_mix(factors, Pi, 3, method=path) for path in ("dense", "panel", "qr")]


def _mix_of_torch() -> Callable[[], object]:
    import torch

    return _mix(torch.as_tensor)


def _simulate() -> Callable[[], object]:
    problem = PROBLEMS["P3"](N=4, d=6, k=5)
    config = {"problem": problem, "Pi": TOPOLOGIES["ring"](4), "rank": 2, "lr": 0.1, "steps": 2}
    return lambda: simulate(Config(**config))


def _diagnose() -> Callable[[], object]:
    return lambda: adapters.diagnose(adapters.load_agents(STORED[:2]), np.full((2, 2), 0.5))


def _merge() -> Callable[[], object]:
    return lambda: adapters.merge(adapters.load_agents(STORED[:2]))


def _rows() -> Callable[[], object]:
    (claim,) = [claim for claim in LEDGER.claims if claim.id == "W2"]
    return lambda: evaluate(claim, Settings())


def _replay() -> Callable[[], object]:
    words = ["replay", str(LEDGER.counterexample("T18-op"))]

    def call() -> str:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            assert cli.main(words) == 0
        return said.getvalue()

    return call


CALLED = {
    "tsvd": _tsvd,
    "tsvd_of_mix": _mix,
    "tsvd_of_mix on torch": _mix_of_torch,
    "simulate": _simulate,
    "diagnose": _diagnose,
    "merge": _merge,
    "rows of a claim": _rows,
    "replay": _replay,
}


def measured(call: Callable[[], object], calls: int = CALLS) -> Left:
    """Return what the calls leave behind, each time after half as many.

    The first ones load modules and fill NumPy's store of small buffers, seven at most of each size,
    which tracemalloc counts as held; after some hundred calls it still grows by 20 kB or less. The
    process is measured first, as tracemalloc's own notes grow, and thrice: what is left behind
    grows each time, a heap that settles does not.
    """
    gc.collect()
    gc.freeze()  # else each collection goes through all that is loaded, a second among many tests
    held = min(_grown(call, calls, _anonymous) for _ in range(3))
    tracemalloc.start()
    traced = _grown(call, calls, lambda: tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    gc.unfreeze()
    return Left(traced, held)


def _grown(call: Callable[[], object], calls: int, size: Callable[[], int]) -> int:
    """Return by how much a size grows in so many calls."""
    for _ in range(calls // 2):
        call()
    gc.collect()
    before = size()
    for _ in range(calls):
        call()
    gc.collect()
    return size() - before


def _anonymous() -> int:
    """Return the bytes of the process that no file backs: the system may take back the others."""
    return resident("RssAnon")


if __name__ == "__main__":
    counted = int(sys.argv[2]) if len(sys.argv) > 2 else CALLS
    print(json.dumps(measured(CALLED[sys.argv[1]](), counted)._asdict()))
