"""A file of safetensors written from a stream: its header first, then tensor by tensor."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import IO, Any

from decaf_theory.adapters.stored import Tensor

CHUNK = 1 << 20  # bytes that are read at a time
BYTES = {"F32": 4, "F16": 2, "BF16": 2}


def write_tensors(
    file: IO[bytes],
    shapes: Mapping[str, tuple[int, ...]],
    dtype: str,
    numbers: Iterable[bytes],
    metadata: Mapping[str, str],
) -> None:
    """Write tensors of these names and shapes, all of one type, whose bytes come in this order.

    The header is sorted, so that equal tensors give equal bytes.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)  # the numbers stay aligned
    file.write(struct.pack("<Q", len(text)) + text)
    for chunk in numbers:
        file.write(chunk)


def chunks(tensor: Tensor) -> Iterator[bytes]:
    """Yield the bytes of a tensor that is stored, a few at a time."""
    left = math.prod(tensor.shape) * BYTES[tensor.dtype]
    with tensor.path.open("rb") as file:
        file.seek(tensor.start)
        while left:
            chunk = file.read(min(CHUNK, left))
            left -= len(chunk)
            yield chunk
