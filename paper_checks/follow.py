"""The rounds of a run as they end, in a file that can be read while it grows: tail -f rounds.jsonl.

One JSON line for each round, with its checksum. Whatever ends the process, the rounds before are
there: a line that is cut short is not one. A run that resumes writes the file anew from its
checkpoint and appends from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from decaf_theory.files import UnwritableError, from_lines, to_lines, write_atomically
from decaf_theory.sums import sealed, unsealed

ROUNDS = "rounds.jsonl"


def begin(folder: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write the rounds so far."""
    write_atomically(folder / ROUNDS, _lines(records))


def append(folder: Path, record: Mapping[str, Any]) -> None:
    """Add a round at the end. UnwritableError: no room, no permission, ..."""
    path = folder / ROUNDS
    try:
        with path.open("ab") as file:
            file.write(_lines([record]))
    except OSError as error:
        raise UnwritableError(error.errno, error.strerror, str(path)) from error


def read(folder: Path) -> list[dict[str, Any]]:
    """Return the rounds of a run that is under way, or was: up to the first damaged line."""
    path, found = folder / ROUNDS, []
    for line in path.read_bytes().splitlines(keepends=True) if path.is_file() else ():
        try:
            (record,) = from_lines(line)
            found.append(unsealed(record))
        except ValueError:
            break
    return found


def _lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    return to_lines(sealed(record) for record in records)
