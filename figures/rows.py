"""Where a figure's rows come from, and how the rows of one curve are found among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from decaf_theory.sums import unseal_lines
from verification import harness, store

Row: TypeAlias = Mapping[str, Any]
RUNS = ("paper", "runs")  # where the harness writes, below the results
KEPT = "paper.jsonl"  # one experiment of it in one file, as paper_checks table --keep writes it
NUMBERS = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


class MissingError(ValueError):
    """Rows that a figure needs are missing; the message says which, and how to make them."""


def read(results: Path, needs: Sequence[str], *, accept_code: bool = False) -> list[dict[str, Any]]:
    """Return the rows of all needs: claims, or the names of `SOURCES`; each row names its own.

    accept_code: runs of the harness whatever code made them. MissingError, StoreError: some have
    none, or are damaged; all claims without rows are named at once.
    """
    found = []
    if claims := [need for need in needs if need not in SOURCES]:
        store.checksums(results, claims)
    sources = {**SOURCES}
    sources["runs"] = partial(runs, accept_code=accept_code)
    sources["partitions"] = partial(partitions, accept_code=accept_code)
    for need in needs:
        rows = sources[need](results) if need in sources else store.read_rows(results, need)
        found += [{"source": need, **row} for row in rows]
    return found


def verdicts(results: Path) -> list[dict[str, Any]]:
    """Return one row per claim: outcome, tightness, slack."""
    return store.read_verdicts(results)


def texts(results: Path) -> list[dict[str, Any]]:
    """Return one row per claim: area, name, statement, in reading order."""
    return list(store.read_sealed(results / "claims.json")["claims"])


def attacks(results: Path) -> list[dict[str, Any]]:
    """Return one row per attack; none if no claim was attacked."""
    path = results / "attacks" / "attacks.json"
    again = f"remove it and run python -m verification attack all --out {results}"
    return store.read_records(path, again) if path.exists() else []


def adapters(results: Path) -> list[dict[str, Any]]:
    """Return the rows of the report on adapters."""
    again = f"run python -m verification adapters FOLDER ... --out {results}"
    if not store.rows_path(results, "adapters").exists():
        raise MissingError(f"no rows of adapters in {results}; {again}")
    return store.read_rows(results, "adapters", again)


def bench(results: Path) -> list[dict[str, Any]]:
    """Return the rows of the benchmark."""
    return _timed(results / "bench.jsonl", "decaf bench --quick")


def scaling(results: Path) -> list[dict[str, Any]]:
    """Return the rows of the benchmark of the number of agents."""
    return _timed(results / "scaling.jsonl", "decaf bench scaling")


def _timed(path: Path, command: str) -> list[dict[str, Any]]:
    if not path.exists():
        raise MissingError(f"{path} is missing; run {command} --json {path}")
    return _sealed(path)


def _sealed(path: Path) -> list[dict[str, Any]]:
    try:
        return [numbers(row) for row in unseal_lines(path.read_bytes())]
    except ValueError as error:
        raise store.StoreError(f"{path} is damaged ({error}); make it again") from None


def runs(results: Path, accept_code: bool = False) -> list[dict[str, Any]]:
    """Return the records of training of every run of the harness, with its settings.

    StoreError: a damaged run; runs of one experiment with other settings, code or data.
    """
    found = _of_harness(results, accept_code)
    return [numbers({**run.settings, **record}) for run in found for record in run.records]


def partitions(results: Path, accept_code: bool = False) -> list[dict[str, Any]]:
    """Return who holds what in every run of the harness, counts [N, classes]; see `runs`."""
    return [
        {**run.settings, "counts": run.run["partition"]["counts"]}
        for run in _of_harness(results, accept_code)
        if "partition" in run.run  # not in those of older code
    ]


def _of_harness(results: Path, accept_code: bool) -> list[harness.Stored]:
    paths = sorted(p for name in RUNS for p in (results / name).glob(f"*/*/{store.ROWS}"))
    found = [*(harness.read(path.parent) for path in paths), *_kept(results / KEPT)]
    for name in sorted({run.settings["name"] for run in found}):
        own = [run for run in found if run.settings["name"] == name]
        harness.require_alike(name, own, accept_code=accept_code)
    if not found:
        folder = results / RUNS[0]
        again = f"python -m paper_checks sweep CONFIG --out {folder}"
        raise MissingError(f"no runs of the harness in {folder}; run {again}")
    return found


def _kept(path: Path) -> list[harness.Stored]:
    """Return the runs of a kept experiment, without what figures do not need; none without it."""
    if not path.exists():
        return []
    with store.fitting(path, f"run python -m paper_checks table FOLDER --keep {path}"):
        about, *rows = _sealed(path)
        shared: dict[str, Any] = about["settings"]
        return [
            harness.Stored(path, {"settings": shared | row["settings"]}, row["records"], [])
            for row in rows
        ]


def tournament(results: Path) -> list[dict[str, Any]]:
    """Return the judged rows of the tournament, after one that says what was run."""
    return _exported(results, "tournament")


def benchmark(results: Path) -> list[dict[str, Any]]:
    """Return the rows of the benchmark of adapters, after one that says what was run."""
    return _exported(results, "benchmark")


def _exported(results: Path, command: str) -> list[dict[str, Any]]:
    """Return the rows that a command of paper_checks leaves in one file."""
    path = results / f"{command}.jsonl"
    if not path.exists():
        again = f"python -m paper_checks {command} --out {path.with_suffix('')}"
        raise MissingError(f"{path} is missing; run {again}")
    return _sealed(path)


SOURCES: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
    "verdicts": verdicts,
    "texts": texts,
    "attacks": attacks,
    "adapters": adapters,
    "bench": bench,
    "scaling": scaling,
    "runs": runs,
    "partitions": partitions,
    "tournament": tournament,
    "benchmark": benchmark,
}


def numbers(row: Row) -> dict[str, Any]:
    """Return a row in which "nan" and "inf" are numbers again."""
    return {k: NUMBERS.get(v, v) if isinstance(v, str) else v for k, v in row.items()}


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
