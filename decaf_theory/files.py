"""Files that are written whole or not at all, and strict JSON, which has no NaN."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and rename it; no part of it stays behind on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)  # mkstemp makes files that only the owner can read
        os.replace(name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(name)
        raise


def strict(value: Any) -> Any:
    """Return `value` for strict JSON: NaN and infinities become strings, at any depth."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    if isinstance(value, Mapping):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    return value


def to_json(value: Any) -> bytes:
    """Return the bytes of a file of strict JSON, one entry per line."""
    return (json.dumps(strict(value), indent=1, allow_nan=False) + "\n").encode()


def to_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Return the bytes of a file of JSON lines, keys sorted: equal rows give equal bytes."""
    lines = (json.dumps(strict(row), sort_keys=True, allow_nan=False) + "\n" for row in rows)
    return "".join(lines).encode()


def from_json(data: bytes) -> Any:
    """Return the value of a JSON text; ValueError, with the line, for anything that is not one."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("brackets are nested too deeply") from None


def from_lines(data: bytes) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines as they are stored; ValueError: damaged."""
    found = []
    # not splitlines, which also splits at characters that a JSON string may hold
    for n, line in enumerate(data.removesuffix(b"\n").split(b"\n") if data else (), start=1):
        try:
            row = from_json(line)
        except ValueError as error:
            raise ValueError(f"line {n}: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"line {n}: must be an object, got {type(row).__name__}")
        found.append(row)
    return found
