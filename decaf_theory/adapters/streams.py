"""A file of safetensors written from a stream: its header first, then tensor by tensor."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

import numpy as np

from decaf_theory.adapters.stored import TYPES, Tensor

CHUNK = 1 << 20  # bytes that are read at a time


def write_tensors(
    file: IO[bytes],
    table: Mapping[str, tuple[str, tuple[int, ...]]],
    numbers: Iterable[bytes],
    metadata: Mapping[str, str],
) -> None:
    """Write tensors of these names, types and shapes, whose bytes come in this order.

    The header is sorted, so that equal tensors give equal bytes.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, (dtype, shape) in table.items():
        start, end = end, end + math.prod(shape) * itemsize(dtype)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)  # the numbers stay aligned
    file.write(struct.pack("<Q", len(text)) + text)
    for chunk in numbers:
        file.write(chunk)


def chunks(tensor: Tensor) -> Iterator[bytes]:
    """Yield the bytes of a tensor that is stored, a few at a time."""
    left = tensor.nbytes
    with tensor.path.open("rb") as file:
        file.seek(tensor.start)
        while left:
            chunk = file.read(min(CHUNK, left))
            left -= len(chunk)
            yield chunk


def itemsize(dtype: str) -> int:
    """Return the bytes of a number of a type of safetensors."""
    return np.dtype(TYPES[dtype]).itemsize
