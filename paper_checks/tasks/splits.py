"""Splits of images by a JSON file, in the form that is common with prompt learning on CLIP.

{"train": [["path", label, "class name"], ...], "val": [...], "test": [...]}
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from decaf_theory.files import from_json

PARTS = ("train", "val", "test")  # val may be missing


class Entry(NamedTuple):
    """One image of a split, and where the file names it."""

    where: str
    path: str
    label: int
    name: str


def read(file: Path, images: Path) -> tuple[dict[str, tuple[list[Path], np.ndarray]], list[str]]:
    """Return {part: (paths, labels)} of a file of splits, and the class names as it has them.

    images: the folder where its paths start. ValueError, with file, part and entry: a form other
    than the above, a path that leads elsewhere, labels with gaps or two names, a class without
    training images, an image that occurs twice, as in training and test, or is missing.
    """
    parts = {part: list(_entries(file, part, rows)) for part, rows in _tables(file).items()}
    everything = [entry for entries in parts.values() for entry in entries]
    names = _names(everything)
    _require_all_trained(file, parts, names)
    _require_once(everything)
    for entry in everything:
        if not (images / entry.path).is_file():
            raise ValueError(
                f"{entry.where}: the image {images / entry.path} is missing; data.split_images "
                f"names the folder where the paths start"
            )
    found = {
        part: ([images / e.path for e in entries], np.array([e.label for e in entries]))
        for part, entries in parts.items()
    }
    return found, names


def _tables(file: Path) -> dict[str, list[Any]]:
    try:
        splits = from_json(file.read_bytes())
    except OSError as error:
        raise ValueError(f"data.split_file {file}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    found: dict[str, Any] = {}
    if isinstance(splits, dict):
        found = {part: splits.get(part) for part in PARTS if part != "val" or part in splits}
    if not found or not all(isinstance(rows, list) and rows for rows in found.values()):
        raise ValueError(
            f"{file}: must be an object whose train, test and, if there, val are lists of images"
        )
    return found


def _entries(file: Path, part: str, rows: list[Any]) -> Iterator[Entry]:
    for at, row in enumerate(rows):
        where = f"{file}: {part}[{at}]"
        kinds = [type(x) for x in row] if isinstance(row, list) else []
        if kinds != [str, int, str] or row[1] < 0:
            raise ValueError(f"{where} must be [path, label, class name], got {row!r}")
        path = PurePosixPath(row[0])
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"{where}: a path must stay in the data set's folder, got {row[0]!r}")
        yield Entry(where, str(path), row[1], row[2])


def _names(entries: list[Entry]) -> list[str]:
    """Return the name of every label 0, 1, ..."""
    names: dict[int, str] = {}
    labels: dict[str, int] = {}
    for entry in entries:
        name = names.setdefault(entry.label, entry.name)
        label = labels.setdefault(entry.name, entry.label)
        if (name, label) != (entry.name, entry.label):
            raise ValueError(
                f"{entry.where}: class {entry.label} is {entry.name!r}, but elsewhere {label} is "
                f"{entry.name!r} and {entry.label} is {name!r}"
            )
    return [names.get(label, "") for label in range(max(names) + 1)]


def _require_all_trained(file: Path, parts: dict[str, list[Entry]], names: list[str]) -> None:
    there = {entry.label for entry in parts["train"]}
    for label, name in enumerate(names):
        if label not in there:
            raise ValueError(f"{file}: class {label} {name!r} has no training image")


def _require_once(entries: list[Entry]) -> None:
    seen: dict[str, str] = {}
    for entry in entries:
        if entry.path in seen:
            raise ValueError(f"{entry.where}: {entry.path} is already {seen[entry.path]}")
        seen[entry.path] = entry.where.rpartition(" ")[2]
