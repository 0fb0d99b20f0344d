"""Files that are written whole or not at all, and strict JSON, which has no NaN."""

from __future__ import annotations

import errno
import json
import math
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import IO, Any, TypeAlias

Kinds: TypeAlias = type | tuple[type, ...]
NUMBER = (int, float)
TRIED = 1 << 16  # bytes that a place must have room for: an empty file fits on a full disk


class UnwritableError(OSError):
    """A file or folder that cannot be written; the message names it and the reason."""

    def __str__(self) -> str:
        """Return the message, without the number of the error."""
        return f"cannot write {self.filename}: {self.strerror}"


def place(text: str | Path) -> Path:
    """Return the path that a user typed; a leading ~ is the home folder, as in --out=~/x."""
    return Path(os.path.expanduser(text))


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file as `opened_atomically` does. UnwritableError: no room, no permission, ..."""
    with opened_atomically(path) as file:
        file.write(data)


@contextmanager
def opened_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file under a temporary name and rename it at the end; of a link, its target.

    No part of it stays behind on failure, and what killed processes left of it is removed.
    UnwritableError: no room, no permission, ...
    """
    path = Path(os.path.realpath(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_torn(path)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=temporary(path))
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
            os.chmod(name, 0o644)  # mkstemp makes files that only the owner can read
            os.replace(name, path)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(name)
            raise
    except OSError as error:
        raise UnwritableError(error.errno, error.strerror, str(path)) from error


def require_writable(folder: Path) -> None:
    """Make a folder; UnwritableError if files cannot be written there, as on a full disk."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * TRIED)
            file.flush()
    except OSError as error:
        raise UnwritableError(error.errno, error.strerror, str(folder)) from error


def require_place(file: Path) -> None:
    """Make a file's folder; UnwritableError if the file cannot be written or replaced there."""
    if file.is_dir():
        raise UnwritableError(errno.EISDIR, os.strerror(errno.EISDIR), str(file))
    require_writable(file.parent)


def require_free(path: Path, *, overwrite: bool = False) -> None:
    """Raise ValueError or UnwritableError if a file must not, or could not, be written here.

    One that exists is replaced only under `overwrite`; what is not a file never is.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: is not a file; name another")
    if path.exists() and not overwrite:
        raise ValueError(f"{path}: exists already; overwrite it (--force) or name another")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise ValueError(f"{path}: {above} is a file, not a folder; name another")
    require_writable(above)


def temporary(path: Path) -> str:
    """Return how the temporary names of this process for a file or folder begin."""
    return f"{_begin(path)}{os.getpid()}."


def torn(path: Path) -> Iterator[Path]:
    """Yield what processes that were killed left of a file or folder under temporary names."""
    for left in list(path.parent.glob(f"{escape(_begin(path))}*")):
        process = left.name.removeprefix(_begin(path)).partition(".")[0]
        if process.isdigit() and not _alive(int(process)):
            yield left


def remove_torn(path: Path) -> None:
    """Remove what killed processes left of a file or folder."""
    for left in torn(path):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _begin(path: Path) -> str:
    # the machine: another one that shares the disk has its own numbers of processes
    return f".{path.name}.{platform.node()}-"


def _alive(process: int) -> bool:
    if os.name == "nt":  # signal 0 is Ctrl-C there
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it belongs to someone else
        return True
    return True


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


def require_kinds(record: Mapping[str, Any], kinds: Mapping[str, Kinds]) -> None:
    """Raise ValueError unless the entries of a record are of these kinds; None may be missing.

    True and False are no numbers, and an integer must be within float64.
    """
    for name, kind in kinds.items():
        value = record.get(name)
        flag = isinstance(value, bool) and kind is not bool
        huge = isinstance(value, int) and abs(value) > sys.float_info.max
        if flag or huge or not isinstance(value, kind):
            one = kind if isinstance(kind, tuple) else (kind,)
            known = " or ".join(k.__name__.replace("NoneType", "null") for k in one)
            raise ValueError(f"{name} must be {known}, got {str(value)[:60]!r}")


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
