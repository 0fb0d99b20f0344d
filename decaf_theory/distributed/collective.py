"""What all ranks say to each other at once, besides messages: not counted among the bytes sent.

It goes by way of rank 0, one rank after the other, so that an error has the number of a rank.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from decaf_theory.distributed.wire import RankError, fault

T = TypeVar("T")
TAG = 2**31 - 1  # of what is said here; messages of mixes have the number of their round


def of_everyone(value: T, doing: str) -> list[T]:
    """Return the values of all ranks, in their order; RankError: which one has ended or is late."""
    return of_first(at_first(value, doing) or [], doing)


def at_first(value: T, doing: str) -> list[T] | None:
    """Return the values of all ranks at rank 0, None at the others; RankError as `of_everyone`."""
    import torch.distributed as dist

    if dist.get_rank() > 0:
        _named(doing, 0, partial(_tell, value, 0))
        return None
    others = range(1, dist.get_world_size())
    return [value, *(_named(doing, peer, partial(_hear, peer)) for peer in others)]


def of_first(value: T, doing: str) -> T:
    """Return rank 0's value; RankError as `of_everyone`."""
    import torch.distributed as dist

    if dist.get_rank() > 0:
        found: T = _named(doing, 0, partial(_hear, 0))
        return found
    for peer in range(1, dist.get_world_size()):
        _named(doing, peer, partial(_tell, value, peer))
    return value


def _tell(value: object, peer: int) -> None:
    """Send a value to a rank: its size, then its bytes."""
    import torch
    import torch.distributed as dist

    data = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
    for part in (torch.tensor([len(data)]), data):
        dist.send(part, peer, tag=TAG)


def _hear(peer: int) -> Any:
    """Return the value that a rank sends."""
    import torch
    import torch.distributed as dist

    size = torch.empty(1, dtype=torch.int64)
    dist.recv(size, peer, tag=TAG)
    data = torch.empty(int(size), dtype=torch.uint8)
    dist.recv(data, peer, tag=TAG)
    return pickle.loads(data.numpy().tobytes())


def _named(doing: str, peer: int, told: Callable[[], T]) -> T:
    """Return told(); raise torch's errors as a RankError of one line that says who failed, when."""
    import torch.distributed as dist

    try:
        return told()
    except RuntimeError as error:
        raise RankError(
            f"rank {dist.get_rank()}: {doing}, rank {peer} {fault(error, 'in time')}"
        ) from None
