"""How ranks come together: one process group, and what all of them must have alike."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeAlias

import numpy as np

import decaf_theory
from decaf_theory.arrays import Array, Host, host
from decaf_theory.distributed.collective import first_line, of_everyone
from decaf_theory.distributed.wire import RankError
from decaf_theory.lowrank import Factors
from decaf_theory.methods.base import Method

Graph: TypeAlias = Array | Callable[[int], Array]
Record: TypeAlias = dict[str, str]
ROUNDS = 8  # of a schedule that are compared


def enter(timeout: float) -> tuple[int, int]:
    """Return this process's rank and their number, in a group that is made unless there is one.

    From the environment that torchrun sets: NCCL where torch sees a GPU, else gloo. RankError: not
    all ranks came within `timeout` seconds. ValueError: that environment is not there.
    """
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        try:
            dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
        except ValueError as error:
            raise ValueError(
                f"ranks need RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment; "
                f"start them by torchrun ({error})"
            ) from None
        except RuntimeError as error:
            raise RankError(
                f"not all ranks joined within {timeout:g} s: {first_line(error)}"
            ) from None
    return dist.get_rank(), dist.get_world_size()


def agree(record: Record) -> None:
    """Raise RankError unless all ranks have the same record; the first that differs is named."""
    records = of_everyone(record, "at the start")
    for other, found in enumerate(records):
        for name in sorted({*records[0], *found}):
            if records[0].get(name) != found.get(name):
                raise RankError(
                    f"rank {other} joined with {name} {found.get(name)}, rank 0 with {name} "
                    f"{records[0].get(name)}; start all ranks alike"
                )


def record_of(
    method: Method,
    graph: Graph,
    factors: Mapping[str, Factors],
    settings: Mapping[str, object] | None,
) -> Record:
    """Return what ranks must have alike, by name: a word, a rule, or a digest of arrays.

    Of a graph that changes its first rounds; of factors their shapes, and the values of those that
    the method needs equal at all agents.
    """
    rule = method.origin.rule if method.origin else ""
    shapes = {
        site: [(*X.shape[:-3], *X.shape[-2:], str(X.dtype)) for X in pair]
        for site, pair in factors.items()
    }
    shared = [getattr(pair, part) for pair in factors.values() for part in sorted(method.fixed)]
    rounds = [graph(t) for t in range(ROUNDS)] if callable(graph) else [graph]
    return {
        "decaf-theory": decaf_theory.__version__,
        "method": f"{method.name} ({rule}) with W - W0 = {method.form.name}",
        "graph": digest(map(dense, rounds)),
        "factors": str(shapes),
        "what is equal at all agents": digest(host(X[..., :1, :, :]) for X in shared),
    } | {name: str(value) for name, value in (settings or {}).items()}


def dense(Pi: Array) -> Host:
    """Return a mixing matrix as a dense one of float64."""
    full = Pi.toarray() if hasattr(Pi, "tocsr") else Pi
    full = full.to_dense() if hasattr(full, "to_dense") else full
    return np.asarray(host(full) if hasattr(full, "shape") else full, dtype=np.float64)


def digest(arrays: Any) -> str:
    """Return twelve digits that arrays of other values or shapes would not have."""
    found = hashlib.sha256()
    for X in arrays:
        found.update(str(X.shape).encode() + np.ascontiguousarray(X).tobytes())
    return found.hexdigest()[:12]
