"""Checksums of what is stored and read back, so that damage is met and not believed.

    write_atomically(path, to_json(sealed(record)))       unsealed(json.loads(path.read_bytes()))
    write_atomically(path, seal_lines(rows))              unseal_lines(path.read_bytes())
    write_atomically(path, seal_bytes(payload))           unseal_bytes(path.read_bytes())

What is read back is what was written, or a ValueError says what is wrong.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from decaf_theory.files import from_lines, strict, to_lines

SUM = "sum"
LENGTH = hashlib.sha256().digest_size
MISSING = "its checksum is missing: it is cut short, altered, or from an earlier version"
WRONG = "its checksum is wrong: cut short or altered"


def sum_of(value: Any) -> str:
    """Return the SHA-256 sum of a value of JSON, the same before and after it was stored."""
    return hashlib.sha256(json.dumps(strict(value), sort_keys=True).encode()).hexdigest()


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with the checksum of its other entries under "sum"."""
    rest = {name: value for name, value in record.items() if name != SUM}
    return {**rest, SUM: sum_of(rest)}


def unsealed(record: Any) -> dict[str, Any]:
    """Return a sealed record without its checksum; ValueError: missing or wrong."""
    if not isinstance(record, dict) or SUM not in record:
        raise ValueError(MISSING)
    rest = {name: value for name, value in record.items() if name != SUM}
    if sum_of(rest) != record[SUM]:
        raise ValueError(WRONG)
    return rest


def seal_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Return the bytes of a file of JSON lines whose last line is the checksum of the others."""
    data = to_lines(rows)
    return data + to_lines([{SUM: hashlib.sha256(data).hexdigest()}])


def unseal_lines(data: bytes) -> list[dict[str, Any]]:
    """Return the rows of such a file without its last line; ValueError: damaged."""
    *rows, last = from_lines(data) or [{}]
    if not isinstance(last, dict) or SUM not in last:
        raise ValueError(MISSING)
    if seal_lines(rows) != data:
        raise ValueError(WRONG)
    return rows


def seal_bytes(payload: bytes) -> bytes:
    """Return the checksum of some bytes, followed by them."""
    return hashlib.sha256(payload).digest() + payload


def unseal_bytes(data: bytes) -> bytes:
    """Return the bytes that follow their checksum; ValueError: damaged."""
    payload = data[LENGTH:]
    if hashlib.sha256(payload).digest() != data[:LENGTH]:
        raise ValueError(WRONG)
    return payload


def sum_of_arrays(arrays: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> str:
    """Return the SHA-256 sum of NumPy arrays with their names, types and shapes.

    Of a mapping in any order; pairs of name and array come one at a time, in the order of names.
    """
    total = hashlib.sha256()
    for name, X in sorted(arrays.items()) if isinstance(arrays, Mapping) else arrays:
        total.update(f"{name} {X.dtype.str} {X.shape}\n".encode())
        total.update(np.ascontiguousarray(X).data)
    return total.hexdigest()


def sum_of_files(paths: Iterable[Path], more: Any = None) -> str:
    """Return the SHA-256 sum over files and all files in folders; a missing one counts as such."""
    total = hashlib.sha256(json.dumps(more, sort_keys=True).encode())
    for path in paths:
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in inside:
            if file.is_file() and "__pycache__" not in file.parts:
                with file.open("rb") as opened:
                    found = hashlib.file_digest(opened, "sha256").hexdigest()
                total.update(f"{path.name}/{file.relative_to(path)} {found}\n".encode())
    return total.hexdigest()
