"""What numbers come from: the commit, the sources, the versions of libraries, the settings."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import decaf_theory
from decaf_theory.extras import compiled_asked

HOUSE = ("decaf_theory", "verification", "paper_checks")
LIBRARIES = ("numpy", "scipy", "torch", "networkx", "array-api-compat", "safetensors")


def commit() -> str | None:
    """Return the commit of the source tree ("-dirty" if changed), None outside a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


@cache
def code_sum(*modules: str) -> str:
    """Return the first 12 digits of the checksum of the sources that numbers come from.

    They are those that the modules load; without any, all of the library and of this package.
    """
    total = hashlib.sha256()
    for name, path in sorted(sources(*modules).items() if modules else _all_sources()):
        total.update(f"{name}\n".encode() + path.read_bytes())
    return total.hexdigest()[:12]


def sources(*modules: str) -> dict[str, Path]:
    """Return the files of the house that some modules load, themselves included, by dotted name.

    What is imported inside functions counts, what is imported for type checkers does not.
    """
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        path = _file(name)
        if name not in found and path is not None:
            found[name] = path
            waiting += [name.rpartition(".")[0], *_imported(ast.parse(path.read_bytes()))]
    return found


def _file(name: str) -> Path | None:
    """Return the file of a module of the house; None for anything else."""
    room, *parts = name.split(".")
    if room not in HOUSE or (spec := importlib.util.find_spec(room)) is None or not spec.origin:
        return None
    path = Path(spec.origin).parent.joinpath(*parts)  # not found by importing what is above it
    files = (path / "__init__.py", path.with_suffix(".py"))
    return next((file for file in files if file.is_file()), None)


def _imported(node: ast.AST) -> Iterator[str]:
    """Yield the dotted names that a syntax tree imports; `from a import b` gives a and a.b."""
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from _imported(child)


def _all_sources() -> Iterator[tuple[str, Path]]:
    for room in ("decaf_theory", "verification"):
        package = _file(room)
        assert package is not None  # this file is in one of them
        for path in package.parent.rglob("*.py"):
            yield path.relative_to(package.parent.parent).as_posix(), path


def library_versions(*more: str) -> dict[str, str]:
    """Return the versions of the libraries that numbers depend on, without importing them."""
    found = {}
    for name in (*LIBRARIES, *(["numba"] if compiled_asked() else []), *more):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def software(*modules: str) -> dict[str, Any]:
    """Return the code that the modules load (see `code_sum`), versions, and the BLAS's threads."""
    return {
        "code": code_sum(*modules),
        "python": platform.python_version(),
        "libraries": library_versions(),
        "threads": _threads(),
    }


def _threads() -> int | None:
    threads = os.environ.get("OPENBLAS_NUM_THREADS", "")
    return int(threads) if threads.isdigit() else None


def configuration(*, size: str, seed: int, device: str) -> dict[str, Any]:
    """Return what the numbers of a run depend on; results of two configurations are not mixed."""
    return {
        "version": decaf_theory.__version__,
        "commit": commit(),
        "code": code_sum(),
        "python": platform.python_version(),
        "libraries": library_versions(),
        "device": device,
        "dtype": "float64",
        "threads": _threads(),
        "seed": seed,
        "size": size,
    }


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], *, accept_code: bool = False
) -> list[str]:
    """Return "name: old -> new" for every entry that differs.

    The commit is not compared: `code` is, and it changes only with the sources. accept_code: nor
    are code, Python and libraries.
    """
    return [
        f"{name}: {old.get(name)} -> {new.get(name)}"
        for name in sorted({*old, *new} - {"commit"})
        if old.get(name) != new.get(name) and not (accept_code and of_software(name))
    ]


def of_software(name: str) -> bool:
    """Whether an entry names the code or a version, and not what was asked for."""
    return name.partition(".")[0] in ("code", "python", "libraries", "version")
