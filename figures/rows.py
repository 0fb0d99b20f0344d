"""Where a figure's rows come from, and how the rows of one curve are found among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from decaf_theory.files import from_lines
from verification import store

Row: TypeAlias = Mapping[str, Any]
RUNS = ("paper", "runs")  # where the harness writes, below the results
NUMBERS = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


class MissingError(ValueError):
    """Rows that a figure needs are missing; the message says which, and how to make them."""


def read(results: Path, needs: Sequence[str]) -> list[dict[str, Any]]:
    """Return the rows of all needs: claims, or the names of `SOURCES`; each row names its own.

    MissingError, StoreError: some have none; all such claims are named at once.
    """
    found = []
    if claims := [need for need in needs if need not in SOURCES]:
        store.checksums(results, claims)
    for need in needs:
        rows = SOURCES[need](results) if need in SOURCES else store.read_rows(results, need)
        found += [{"source": need, **row} for row in rows]
    return found


def verdicts(results: Path) -> list[dict[str, Any]]:
    """Return one row per claim: outcome, tightness, slack."""
    rows: list[dict[str, Any]] = store.read_json(results / "verdicts.json")
    return rows


def attacks(results: Path) -> list[dict[str, Any]]:
    """Return one row per attack; none if no claim was attacked."""
    path = results / "attacks" / "attacks.json"
    rows: list[dict[str, Any]] = store.read_json(path) if path.exists() else []
    return rows


def adapters(results: Path) -> list[dict[str, Any]]:
    """Return the rows of the report on adapters."""
    try:
        return store.read_rows(results, "adapters")
    except store.StoreError:
        again = f"python -m verification adapters FOLDER ... --out {results}"
        raise MissingError(f"no rows of adapters in {results}; run {again}") from None


def bench(results: Path) -> list[dict[str, Any]]:
    """Return the rows of the benchmark."""
    return _timed(results / "bench.jsonl", "decaf bench --quick")


def scaling(results: Path) -> list[dict[str, Any]]:
    """Return the rows of the benchmark of the number of agents."""
    return _timed(results / "scaling.jsonl", "decaf bench scaling")


def _timed(path: Path, command: str) -> list[dict[str, Any]]:
    if not path.exists():
        raise MissingError(f"{path} is missing; run {command} --json {path}")
    return json_lines(path)


def runs(results: Path) -> list[dict[str, Any]]:
    """Return the records of training of every run of the harness, with its settings."""
    found = []
    for path in sorted(p for name in RUNS for p in (results / name).glob("*/*/rows.jsonl")):
        settings = store.read_json(path.parent / "run.json")["settings"]
        records = [row for row in json_lines(path) if row["claim"] == "training"]
        found += [{**settings, **record} for record in records]
    if not found:
        folder = results / RUNS[0]
        again = f"python -m paper_checks sweep CONFIG --out {folder}"
        raise MissingError(f"no runs of the harness in {folder}; run {again}")
    return found


def tournament(results: Path) -> list[dict[str, Any]]:
    """Return the judged rows of the tournament, after one that says what was run."""
    path = results / "tournament.jsonl"
    if not path.exists():
        again = f"python -m paper_checks tournament --out {path.with_suffix('')}"
        raise MissingError(f"{path} is missing; run {again}")
    return json_lines(path)


SOURCES: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    "verdicts": verdicts,
    "attacks": attacks,
    "adapters": adapters,
    "bench": bench,
    "scaling": scaling,
    "runs": runs,
    "tournament": tournament,
}


def json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines; "nan" and "inf" become numbers again."""
    try:
        lines = from_lines(path.read_bytes())
    except ValueError as error:
        raise MissingError(f"{path} is damaged ({error}); make it again") from None
    return [
        {k: NUMBERS.get(v, v) if isinstance(v, str) else v for k, v in x.items()} for x in lines
    ]


def matches(row: Row, wanted: Mapping[str, Any]) -> bool:
    """Whether a row has all wanted entries."""
    return all(row.get(name) == value for name, value in wanted.items())


def pick(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """Return the rows that have all wanted entries. MissingError: there is none."""
    found = [row for row in rows if matches(row, wanted)]
    if not found:
        sources = " or ".join(sorted({str(row.get("source")) for row in rows})) or "any source"
        raise MissingError(f"no rows of {sources} with {wanted}; run python -m verification again")
    return found


def curve(
    rows: Sequence[Row], x: str, y: str = "measured", **wanted: Any
) -> tuple[list[Any], list[Any]]:
    """Return the columns x and y of the rows with all wanted entries, by growing x."""
    found = sorted((row[x], row[y]) for row in pick(rows, **wanted))
    return [a for a, _ in found], [b for _, b in found]
