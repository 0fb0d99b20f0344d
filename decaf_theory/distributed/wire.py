"""What travels between ranks: flat buffers of bytes, one to each neighbour, within a time limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from math import prod
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from array_api_compat import is_torch_array

from decaf_theory.arrays import Array
from decaf_theory.methods.state import Message

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 1e-3  # seconds; a wait of zero would have no limit


class RankError(ConnectionError):
    """Ranks cannot go on together; one line says which rank found it, and whom it names."""


def packed(messages: Sequence[Message], rows: Sequence[int]) -> Tensor:
    """Return these rows of the messages of a rank's agents as one contiguous buffer of bytes."""
    import torch

    chosen = [
        torch.as_tensor(X[..., list(rows), :, :]) for message in messages for X in message.values()
    ]
    return torch.cat([X.contiguous().reshape(-1).view(torch.uint8) for X in chosen])


def room(messages: Sequence[Message], agents: int) -> Tensor:
    """Return an empty buffer for such messages of so many agents."""
    return packed(messages, [0] * agents)


def unpacked(buffer: Tensor, like: Sequence[Message], agents: int) -> list[Message]:
    """Return the messages of so many agents, of the kinds, dtypes and shapes of `like`."""
    start = 0
    found: list[Message] = []
    for message in like:
        parts: dict[str, Array] = {}
        for name, X in message.items():
            shape = (*X.shape[:-3], agents, *X.shape[-2:])
            end = start + prod(shape) * X.dtype.itemsize
            parts[name] = _array(buffer[start:end], shape, X)
            start = end
        found.append(parts)
    return found


def _array(data: Tensor, shape: tuple[int, ...], like: Array) -> Array:
    """Return the array in these bytes; a copy, which is aligned."""
    if is_torch_array(like):
        return data.clone().view(like.dtype).reshape(shape)
    return data.numpy().copy().view(like.dtype).reshape(shape)


class Swap(NamedTuple):
    """Messages of a round that are on their way: what to wait for, and who has failed, by rank.

    outgoing, incoming: the buffers, which are kept until then.
    """

    round: int
    outgoing: Mapping[int, Tensor]
    incoming: Mapping[int, Tensor]
    works: dict[int, list[Any]]
    silent: dict[int, str]


def post(
    outgoing: Mapping[int, Tensor], incoming: Mapping[int, Tensor], *, round: int, timeout: float
) -> Swap:
    """Begin to send to each rank its buffer, and to fill those of the ranks that send something.

    A batch for each neighbour, in the order of ranks, so that an error has a name and no two ranks
    wait for each other.
    """
    swap = Swap(round, outgoing, incoming, {}, {})
    for peer in sorted({*outgoing, *incoming}):
        try:
            swap.works[peer] = _started(outgoing.get(peer), incoming.get(peer), peer, round)
        except RuntimeError as error:
            swap.silent[peer] = fault(error, f"within {timeout:g} s")
    return swap


def wait(swap: Swap, *, rank: int, timeout: float) -> None:
    """Wait until everything has arrived.

    RankError: some ranks did not answer within `timeout` seconds from now, or have ended.
    """
    ends = monotonic() + timeout
    for peer, begun in swap.works.items():
        try:
            for work in begun:
                work.wait(timedelta(seconds=max(ends - monotonic(), LEAST)))
        except RuntimeError as error:
            swap.silent[peer] = fault(error, f"within {timeout:g} s")
    if swap.silent:
        reasons = "; ".join(f"rank {peer} {reason}" for peer, reason in sorted(swap.silent.items()))
        raise RankError(f"rank {rank} cannot mix in round {swap.round}: {reasons}")


def _started(out: Tensor | None, into: Tensor | None, peer: int, round: int) -> list[Any]:
    import torch.distributed as dist

    operations = []
    if out is not None:
        operations.append(dist.P2POp(dist.isend, out, peer, tag=round))
    if into is not None:
        operations.append(dist.P2POp(dist.irecv, into, peer, tag=round))
    return dist.batch_isend_irecv(operations)


def fault(error: RuntimeError, limit: str) -> str:
    """Return what torch's error says of the other rank: it was late, by the limit, or has ended."""
    late = "timed out" in str(error).lower()
    return f"did not answer {limit}" if late else "has ended: its connection is closed"
