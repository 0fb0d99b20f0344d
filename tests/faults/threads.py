"""The public functions in four threads at once, first calls too: `python -m tests.faults.threads`.

Ends with an error that names the calls whose bits differ from those of one thread afterwards.
"""

from __future__ import annotations

import dataclasses
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch  # here: array_api_compat meets half of it where another thread is about to load it

import decaf_theory
from tests.adapter_files import STORED

THREADS, TIMES = 4, 2
D, K, R, N = 24, 20, 3, 5


def _factors(like: Callable[[Any], Any] = np.asarray) -> Any:
    draw = np.random.default_rng(0)
    B, A = draw.standard_normal((N, D, R)), draw.standard_normal((N, R, K))
    return decaf_theory.Factors(like(B), like(A))


def _like_torch(X: Any) -> Any:
    return torch.as_tensor(X)


def _mix(path: str, like: Callable[[Any], Any] = np.asarray) -> Any:
    Pi = decaf_theory.TOPOLOGIES["ring"](N)
    return decaf_theory.tsvd_of_mix(_factors(like), Pi, R, method=path)


def _measures(like: Callable[[Any], Any] = np.asarray) -> Any:
    factors, Pi, measure = _factors(like), decaf_theory.TOPOLOGIES["star"](N), decaf_theory.measure
    mixed = decaf_theory.tsvd_of_mix(factors, Pi, R)
    return [
        measure.interference_norm(factors, like(Pi), "nuc"),
        measure.consensus_distance(factors),
        measure.truncation_error(mixed, "op"),
        measure.sigma_max(factors),
        measure.imbalance(factors),
        measure.effective_rank(mixed.singular_values),
    ]


def _simulate(method: str) -> Any:
    problem = decaf_theory.PROBLEMS["P4"](N=N, d=6, k=5)
    Pi = decaf_theory.TOPOLOGIES["ring"](N)
    config = decaf_theory.Config(problem=problem, method=method, Pi=Pi, lr=0.1, steps=4, rank=2)
    return decaf_theory.simulate.simulate(config)


def _merge(method: str) -> Any:
    adapters = decaf_theory.adapters
    return adapters.merge(adapters.load_agents(STORED), method=method).sites


def _diagnose() -> Any:
    adapters = decaf_theory.adapters
    agents = adapters.load_agents(STORED)
    return adapters.diagnose(agents, adapters.mixing_matrix("ring", len(STORED)))


def _spectrum() -> Any:
    Pi = decaf_theory.TOPOLOGIES["torus"](32**2, sparse=True)
    return decaf_theory.sqrt_rho(Pi), decaf_theory.spectral_gap(Pi)


CALLS: dict[str, Callable[[], Any]] = {
    **{f"mix {path}": lambda path=path: _mix(path) for path in ("dense", "panel", "qr")},
    **{f"torch {path}": lambda path=path: _mix(path, _like_torch) for path in ("panel", "qr")},
    "measures": _measures,
    "measures of torch": lambda: _measures(_like_torch),
    **{f"run {name}": lambda name=name: _simulate(name) for name in ("decaf", "choco", "dlora")},
    **{f"merge {name}": lambda name=name: _merge(name) for name in ("decaf", "dlora")},
    "diagnose": _diagnose,
    "spectrum": _spectrum,
}


def bits(value: Any) -> bytes:
    """Return the bytes of all numbers in a value, in order."""
    if hasattr(value, "detach"):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray):
        return value.tobytes()
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return b"".join(map(bits, value))
    return repr(value).encode()


def together() -> list[dict[str, set[bytes]]]:
    """Return what each call gave in each thread; all begin at once, each with another call."""
    gate = threading.Barrier(THREADS)
    found: list[dict[str, set[bytes]]] = [{name: set() for name in CALLS} for _ in range(THREADS)]

    def work(number: int) -> None:
        names = list(CALLS)
        first = number * len(names) // THREADS
        gate.wait()
        for _ in range(TIMES):
            for name in names[first:] + names[:first]:
                found[number][name].add(bits(CALLS[name]()))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


if __name__ == "__main__":
    sys.setswitchinterval(1e-5)  # as often as possible another thread goes on
    several = together()
    alone = {name: {bits(call())} for name, call in CALLS.items()}
    unlike = sorted({n for found in several for n in CALLS if found[n] != alone[n]})
    sys.exit(f"other bits in {THREADS} threads: {', '.join(unlike)}" if unlike else 0)
