"""The cache, $DECAF_CACHE or ~/.cache/decaf-theory, and arrays of bytes that are kept there.

A file of arrays is the SHA-256 sum of the rest; the arrays' bytes; their shapes, int64 [n, 3]; n.
It is written whole or not at all, and mapped into memory: of a file larger than the memory, the
system holds the parts that were used last.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from decaf_theory.files import UnwritableError, opened_atomically
from decaf_theory.sums import LENGTH, WRONG


def place(name: str) -> Path:
    """Return the path of a file in the cache."""
    folder = os.environ.get("DECAF_CACHE") or os.path.join("~", ".cache", "decaf-theory")
    return Path(os.path.expanduser(folder)) / name


class Arrays:
    """Arrays of uint8 with three axes in one file; each is a view of it until it is copied."""

    def __init__(self, path: Path) -> None:
        """Map a file into memory. ValueError: damaged; OSError: none, or it cannot be read."""
        with path.open("rb") as file:
            expected = file.read(LENGTH)
            if hashlib.file_digest(file, "sha256").digest() != expected:
                raise ValueError(WRONG)
        self.bytes = np.memmap(path, np.uint8, "r")
        count = int(self.bytes[-8:].view(np.int64)[0])
        self.shapes = self.bytes[-8 - 24 * count : -8].view(np.int64).reshape(count, 3)
        self.ends = LENGTH + self.shapes.prod(axis=1).cumsum()

    def __getitem__(self, i: int) -> np.ndarray:
        """Return array i."""
        end, shape = self.ends[i], self.shapes[i]
        return self.bytes[end - shape.prod() : end].reshape(shape)


def kept(path: Path, make: Callable[[], Iterable[np.ndarray]]) -> Arrays | None:
    """Return the arrays of a file; make and write them first if there is none.

    A damaged file is made again, and that is reported. None: it cannot be written, which is
    reported too; the caller then does without it.
    """
    if path.is_file():
        try:
            return Arrays(path)
        except (OSError, ValueError) as error:
            print(f"{path} is of no use ({error}); it is made again", file=sys.stderr)
    try:
        _write(path, make())
        return Arrays(path)
    except OSError as error:
        said = error if isinstance(error, UnwritableError) else f"cannot read {path}: {error}"
        print(f"{said}; choose another place with DECAF_CACHE=DIR", file=sys.stderr)
        return None


def _write(path: Path, arrays: Iterable[np.ndarray]) -> None:
    shapes, total = [], hashlib.sha256()
    with opened_atomically(path) as file:
        file.write(bytes(LENGTH))

        def add(array: np.ndarray) -> None:
            data = np.ascontiguousarray(array).data
            file.write(data)
            total.update(data)

        for array in arrays:
            add(array)
            shapes.append(array.shape)
        add(np.array(shapes, dtype=np.int64))
        add(np.array([len(shapes)], dtype=np.int64))
        file.seek(0)
        file.write(total.digest())
