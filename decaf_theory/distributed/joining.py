"""How ranks come together: one process group, and what all of them must have alike."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

import decaf_theory
from decaf_theory.arrays import Array, Host, host
from decaf_theory.distributed.collective import of_everyone
from decaf_theory.distributed.wire import RankError
from decaf_theory.lowrank import Factors
from decaf_theory.methods.base import Method

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

Graph: TypeAlias = Array | Callable[[int], Array]
Record: TypeAlias = dict[str, str]
PLACE = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PAUSE = 0.05  # seconds between looks at who has come
ROUNDS = 8  # of a schedule that are compared at a time


def enter(timeout: float) -> tuple[int, int]:
    """Return this process's rank and their number, in a group that is made unless there is one.

    From the environment that torchrun sets: gloo for tensors on the CPU, NCCL for those on a GPU.
    RankError: some ranks, who are named, did not come within `timeout` seconds. ValueError: that
    environment is not there.
    """
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        missing = [name for name in PLACE if name not in os.environ]
        if missing:
            raise ValueError(
                f"ranks need {', '.join(PLACE)} in the environment, and {missing[0]} is not there; "
                f"start them by torchrun"
            )
        rank, ranks = (int(os.environ[name]) for name in PLACE[:2])
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        limit = timedelta(seconds=timeout)
        try:
            store = _together(rank, ranks, timeout)
            dist.init_process_group(
                backend, store=store, rank=rank, world_size=ranks, timeout=limit
            )
        except RuntimeError as error:
            raise RankError(
                f"rank {rank}: not all ranks joined within {timeout:g} s: {_first_line(error)}"
            ) from None
    return dist.get_rank(), dist.get_world_size()


def _together(rank: int, ranks: int, timeout: float) -> Store:
    """Return the store by which ranks meet, when all have come there; RankError: who has not."""
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    place, port = os.environ[PLACE[2]], int(os.environ[PLACE[3]])
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    limit = timedelta(seconds=timeout)
    found = TCPStore(place, port, ranks, serves, limit, wait_for_workers=False, multi_tenant=True)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # each has ranks of its own
    store = PrefixStore(f"decaf-theory/{attempt}", found)
    store.set(str(rank), "here")
    ends, lack = monotonic() + timeout, list(range(ranks))
    while lack and monotonic() < ends:
        try:
            lack = [other for other in lack if not store.check([str(other)])]
        except RuntimeError:  # rank 0, who serves it, has waited as long
            break
        sleep(PAUSE if lack else 0)
    if lack:
        who = f"rank {lack[0]}" if len(lack) == 1 else f"ranks {', '.join(map(str, lack))}"
        raise RankError(f"rank {rank}: {who} of {ranks} did not join within {timeout:g} s")
    return store


def _first_line(error: Exception) -> str:
    """Return what torch says first, without the place in its sources."""
    line = next(iter(str(error).splitlines()), "")
    return re.sub(r"^\[[^]]*:\d+\] |GLHF.*|\. This is.*", "", line).strip()


def agree(record: Record, at: str = "joined") -> None:
    """Raise RankError unless all ranks have the same record; the first that differs is named."""
    records = of_everyone(record, f"as ranks were compared, where they {at}")
    for other, found in enumerate(records):
        for name in {**records[0], **found}:
            if records[0].get(name) != found.get(name):
                raise RankError(
                    f"rank {other} {at} with {name} {found.get(name)}, rank 0 with {name} "
                    f"{records[0].get(name)}; start all ranks alike"
                )


def record_of(
    method: Method,
    graph: Graph,
    factors: Mapping[str, Factors],
    settings: Mapping[str, object] | None,
) -> Record:
    """Return what ranks must have alike, by name: a word, a rule, or a digest of arrays.

    Of a graph that changes its first rounds, as the others are compared later; of factors their
    shapes, and the values of those that the method needs equal at all agents.
    """
    rule = method.origin.rule if method.origin else ""
    shapes = {
        site: [(*X.shape[:-3], *X.shape[-2:], str(X.dtype)) for X in pair]
        for site, pair in factors.items()
    }
    shared = [getattr(pair, part) for pair in factors.values() for part in sorted(method.fixed)]
    return {
        "decaf-theory": decaf_theory.__version__,
        "method": f"{method.name} ({rule}) with W - W0 = {method.form.name}",
        **(rounds_of(graph, 0) if callable(graph) else {"graph": digest([dense(graph)])}),
        "factors": str(shapes),
        "what is equal at all agents": digest(host(X[..., :1, :, :]) for X in shared),
    } | {name: str(value) for name, value in (settings or {}).items()}


def rounds_of(graph: Callable[[int], Array], start: int) -> Record:
    """Return digests of the graphs of the next rounds, up to one that has no more."""
    found: Record = {}
    with suppress(ValueError):
        for t in range(start, start + ROUNDS):
            found[f"graph of round {t}"] = digest([dense(graph(t))])
    return found


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
