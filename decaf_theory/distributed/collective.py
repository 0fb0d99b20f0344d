"""What all ranks say to each other at once, besides messages: not counted among the bytes sent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from decaf_theory.distributed.wire import RankError

T = TypeVar("T")


def of_everyone(value: T, doing: str) -> list[T]:
    """Return the values of all ranks, in their order; RankError: one has ended or is late."""
    import torch.distributed as dist

    found: list[Any] = [None] * dist.get_world_size()
    with _named(doing):
        dist.all_gather_object(found, value)
    return found


def at_first(value: T, doing: str) -> list[T] | None:
    """Return the values of all ranks at rank 0, None at the others; RankError as `of_everyone`."""
    import torch.distributed as dist

    first = dist.get_rank() == 0
    found: list[Any] | None = [None] * dist.get_world_size() if first else None
    with _named(doing):
        dist.gather_object(value, found)
    return found


def of_first(value: T, doing: str) -> T:
    """Return rank 0's value; RankError as `of_everyone`."""
    import torch.distributed as dist

    held: list[Any] = [value]
    with _named(doing):
        dist.broadcast_object_list(held)
    found: T = held[0]
    return found


@contextmanager
def _named(doing: str) -> Iterator[None]:
    """Raise torch's errors as a RankError of one line that says what failed."""
    import torch.distributed as dist

    try:
        yield
    except RuntimeError as error:
        raise RankError(
            f"rank {dist.get_rank()}: another rank ended or was late {doing}: {first_line(error)}"
        ) from None


def first_line(error: Exception) -> str:
    """Return what torch says first, without the place in its sources."""
    line = next(iter(str(error).splitlines()), "")
    return re.sub(r"^\[[^]]*:\d+\] |GLHF.*|\. This is.*", "", line).strip()
