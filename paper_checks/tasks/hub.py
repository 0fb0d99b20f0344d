"""Data sets of the hub: parts by name, whose columns and classes are those that a task reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from paper_checks.tasks.models import require


def load(
    name: str,
    place: str,
    subset: str | None,
    splits: Mapping[str, str],
    columns: Collection[str],
    instead: str,
) -> dict[str, Any]:
    """Return {part: `datasets` object} of a task's data set `place`, each with these columns.

    splits: part -> its split on the hub; instead: what else a user can do. ValueError: a package, a
    network, a data set, a split or a column that is missing, each with a way on.
    """
    require("datasets")
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        loaded = {part: load_dataset(place, subset, split=split) for part, split in splits.items()}
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        raise ValueError(
            f"data set {name} cannot be loaded from the hub ({place}): {error}\n"
            f"{_way(error)}{instead}"
        ) from error
    for part, rows in loaded.items():
        for column in columns:
            if column not in rows.column_names:
                raise ValueError(
                    f"{place}, {splits[part]}: no column {column!r} among "
                    f"{', '.join(rows.column_names)}; {instead}"
                )
    return loaded


def _way(error: Exception) -> str:
    """Return what may mend an error of loading, besides other data."""
    said = str(error)
    if "script" in said:  # RuntimeError since datasets 4
        return "datasets 4 and later run no scripts, and this copy of the data is one; "
    if "gated" in said or "authenticat" in said or "private" in said:
        return "accept the data set's terms on its page and run `hf auth login`, "
    return "a network is needed, "


def class_names(
    place: str, loaded: Mapping[str, Any], column: str, wanted: Sequence[str] | None = None
) -> list[str]:
    """Return the names of the classes 0, 1, ... of a column, if it has any.

    ValueError: they are not those wanted, or not the same in all parts: classes would be mixed up.
    """
    found = {part: getattr(rows.features[column], "names", None) for part, rows in loaded.items()}
    first = next(iter(found.values()))
    expected = first if wanted is None or first is None else list(wanted)
    for part, names in found.items():
        if names != expected:
            raise ValueError(
                f"{place}, {part}: the classes of column {column!r} must be {expected}, got {names}"
            )
    return list(first or [])
