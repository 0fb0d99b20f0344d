"""Where rows are stored: JSON lines, one file per claim, with `run.json` and `verdicts.json`.

    <out>/rows/<claim>.jsonl   one flat JSON object per row, keys sorted, no time stamp
    <out>/verdicts.json        one object per claim, with its own SHA-256 sum
    <out>/run.json             configuration, seconds, the sum of every row file, and its own

Equal inputs give equal bytes in the row files. JSON knows neither NaN nor infinities: they are
stored as the strings "nan", "inf" and "-inf", and `read_rows` turns them back in the fields of
`NUMBERS`. Every file is written under a temporary name and renamed, so that a reader never sees
half a file; a file that is damaged later no longer matches its checksum, and readers say so.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from decaf_theory import files
from decaf_theory.extras import installed
from decaf_theory.files import (
    NUMBER,
    Kinds,
    from_json,
    from_lines,
    require_kinds,
    to_json,
    to_lines,
    write_atomically,
)
from decaf_theory.files import strict as strict  # for those who know it by this module
from decaf_theory.sums import sealed, unsealed
from verification.claim import Outcome, Row
from verification.provenance import differences

NUMBERS = ("measured", "low", "high", "bound", "rounding")
ROWS, RUN, VERDICTS = "rows.jsonl", "run.json", "verdicts.json"
AGAIN = "run python -m verification again"
Record = dict[str, Any]
# what code raises on values of another shape than it was written for
MISFITS = (ArithmeticError, AttributeError, LookupError, TypeError)
VERDICT: dict[str, Kinds] = {
    **dict.fromkeys(("claim", "outcome"), str),
    **{"expected": (str, type(None)), "rows": int, "seconds": NUMBER, "regimes": list},
    **dict.fromkeys(("tightness", "slack"), (*NUMBER, type(None))),
}


class StoreError(Exception):
    """Results that cannot be read or written; the message names the file and what to do."""


@contextmanager
def fitting(what: object, again: str) -> Iterator[None]:
    """Turn what code inside raises on values of another shape into a StoreError about `what`."""
    try:
        yield
    except MISFITS as error:
        why = f"{type(error).__name__}: {error}"
        raise StoreError(f"{what}: not as this version writes it ({why}); {again}") from error


def number(value: Any) -> float:
    """Return a stored number as a float; ValueError for anything else (booleans too)."""
    if value in ("nan", "inf", "-inf"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"expected a number, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError("expected a number, got an integer beyond float64") from None


def encode_rows(claim: str, rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Return the bytes of a row file; rows that name their own claim keep it."""
    return to_lines({"claim": claim, **row} for row in rows)


def decode_rows(data: bytes) -> list[Record]:
    """Return the rows of a row file, with the fields of `NUMBERS` as floats."""
    return [
        {**row, **{name: number(row.get(name)) for name in NUMBERS if row.keys() & {*NUMBERS}}}
        for row in from_lines(data)
    ]


def require_writable(out: Path) -> None:
    """Make the folder `out`; StoreError if files cannot be written there."""
    try:
        files.require_writable(out)
    except files.UnwritableError as error:
        raise StoreError(
            f"cannot write results to {out}: {error.strerror}; choose another folder with --out"
        ) from error


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the folder `out` for one writer; StoreError if another process holds it."""
    if not installed("fcntl"):
        print(
            f"this system has no file locks (fcntl): start no second run that writes to {out}",
            file=sys.stderr,
        )
        yield
        return
    import fcntl

    with open(out / ".lock", "ab") as file:  # "w" would empty a file that a link there points to
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(
                f"another run is writing to {out}; wait for it or choose another folder with --out"
            ) from error
        yield


def settings_of(out: Path) -> Record:
    """Return size, seed and device of the run under `out`; empty if there is none."""
    try:
        run = read_run(out)
        return {name: run[name] for name in ("size", "seed", "device")}
    except (StoreError, KeyError):
        return {}


def rows_path(out: Path, claim: str) -> Path:
    """Return the path of a claim's row file."""
    return Path(out) / "rows" / f"{claim}.jsonl"


def read_json(path: Path, again: str = AGAIN) -> Any:
    """Return the content of a JSON file; StoreError if it is missing or damaged."""
    try:
        return from_json(path.read_bytes())
    except FileNotFoundError:
        raise StoreError(f"{path} is missing; {again.removesuffix(' again')}") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise StoreError(f"{path} is damaged ({error}); {again}") from None


def read_sealed(path: Path, again: str = AGAIN) -> Record:
    """Return the object of a JSON file that holds its checksum; StoreError: missing, damaged."""
    try:
        return unsealed(read_json(path, again))
    except ValueError as error:
        raise StoreError(f"{path} is damaged ({error}); {again}") from None


def read_records(path: Path, again: str = AGAIN) -> list[Record]:
    """Return the objects of a JSON list, each with its checksum; StoreError: missing, damaged."""
    found = read_json(path, again)
    try:
        if not isinstance(found, list):
            raise ValueError("not a list")
        return [unsealed(record) for record in found]
    except ValueError as error:
        raise StoreError(f"{path} is damaged ({error}); {again}") from None


def read_verdicts(out: Path) -> list[Record]:
    """Return the verdicts of the run under `out`; StoreError: missing, damaged."""
    found = read_records(out / VERDICTS)
    try:
        for verdict in found:
            require_kinds(verdict, VERDICT)
            Outcome(verdict["outcome"])
    except ValueError as error:
        raise StoreError(f"{out / VERDICTS} is damaged ({error}); {AGAIN}") from None
    return found


def read_run(folder: Path, again: str = AGAIN) -> Record:
    """Return the run.json of a folder, whose `files` give sums; StoreError: missing, damaged."""
    run = read_sealed(folder / RUN, again)
    if not isinstance(run.get("files"), dict):
        raise StoreError(f"{folder / RUN} names no files; {again}")
    return run


def read_summed(path: Path, checksum: str, again: str) -> bytes:
    """Return the bytes of a file; StoreError if they do not have the checksum of run.json."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise StoreError(f"{path} is missing; {again}") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}; {again}") from None
    if hashlib.sha256(data).hexdigest() != checksum:
        raise StoreError(f"{path} is truncated or altered: its checksum is not run.json's; {again}")
    return data


def checksums(out: Path, claims: Sequence[str]) -> list[str]:
    """Return the checksums of the rows of these claims; StoreError names all that have none."""
    sums = read_run(out)["files"]
    missing = [claim for claim in claims if claim not in sums]
    if missing:
        names = f"claim{'s' * (len(missing) > 1)} {', '.join(missing)}"
        again = f"run python -m verification --only {' '.join(missing)} --out {out}"
        raise StoreError(f"no rows of {names} in {out}; {again}")
    return [sums[claim] for claim in claims]


def read_rows(out: Path | str, claim: str, again: str = "") -> list[Record]:
    """Return the stored rows of a claim, checked against their checksum in run.json.

    StoreError: no such claim in the run, or a file that is missing, truncated or altered.
    """
    out = Path(out)
    (checksum,) = checksums(out, [claim])
    again = again or f"run python -m verification --only {claim} --out {out}"
    path = rows_path(out, claim)
    data = read_summed(path, checksum, again)
    try:
        return decode_rows(data)
    except ValueError as error:
        raise StoreError(f"{path} is damaged ({error}); {again}") from None


def read_evidence(out: Path | str, claim: str) -> list[Row]:
    """Return the stored rows of a claim, to be judged; StoreError as in `read_rows`."""
    try:
        return [Row.from_json(row) for row in read_rows(out, claim)]
    except ValueError as error:
        again = f"run python -m verification --only {claim} --out {out}"
        raise StoreError(f"{rows_path(Path(out), claim)} is damaged ({error}); {again}") from None


@dataclass
class Run:
    """The results of one configuration under `out`, kept on disk after every claim.

    `order` is the order in which claims are listed in the files.
    """

    out: Path
    configuration: Record
    order: Sequence[str] = ()
    seconds: float = 0.0
    files: dict[str, str] = field(default_factory=dict)
    verdicts: dict[str, Record] = field(default_factory=dict)

    def put(
        self, claim: str, rows: Iterable[Mapping[str, Any]], verdict: Record | None = None
    ) -> None:
        """Store the rows of a claim, and its verdict if it has one; no rows, no file."""
        self.drop(claim)
        data = encode_rows(claim, rows)
        if data:
            write_atomically(rows_path(self.out, claim), data)
            self.files[claim] = hashlib.sha256(data).hexdigest()
        if verdict:
            self.verdicts[claim] = verdict
        self.save()

    def drop(self, claim: str) -> None:
        """Forget a claim and remove its row file."""
        rows_path(self.out, claim).unlink(missing_ok=True)
        self.files.pop(claim, None)
        self.verdicts.pop(claim, None)

    def save(self) -> None:
        """Write run.json and verdicts.json."""
        place = {claim: i for i, claim in enumerate(self.order)}

        def in_order(found: Mapping[str, Any]) -> dict[str, Any]:
            return dict(sorted(found.items(), key=lambda item: place.get(item[0], len(place))))

        files, verdicts = in_order(self.files), in_order(self.verdicts)
        run = {**self.configuration, "seconds": round(self.seconds, 3), "files": files}
        records = [sealed(verdict) for verdict in verdicts.values()]
        for name, content in ((VERDICTS, records), (RUN, sealed(run))):
            write_atomically(self.out / name, to_json(content))


def asked(run: Record) -> Record:
    """Return the configuration that a run.json holds, without its results."""
    return {name: value for name, value in run.items() if name not in ("files", "seconds")}


def open_run(
    out: Path, configuration: Record, order: Sequence[str], *, partial: bool = False
) -> tuple[Run, list[str]]:
    """Return the run under `out`, and why results found there were dropped (usually nothing).

    Results of the same configuration are kept: `--only` adds to them. Those of a different one
    (code, libraries, seed, size, ...) and damaged files are removed, never mixed in. StoreError: a
    run of only some claims, or a report on adapters (`partial`), would remove those of others.
    """
    run = Run(out, configuration, order)
    if not (out / RUN).exists():
        return run, []
    try:
        old = read_run(out)
        run.files = dict(old["files"])
        run.verdicts = {str(v["claim"]): v for v in read_records(out / VERDICTS)}
    except (StoreError, KeyError) as error:
        if partial:
            raise StoreError(f"{error}, of all claims; or choose another folder") from None
        return Run(out, configuration, order), [str(error)]
    reasons = differences(asked(old), configuration)
    if reasons and partial:
        raise StoreError(
            f"{out} holds results of another configuration ({'; '.join(reasons)}); choose "
            f"another folder with --out to keep them, or replace them by running all claims"
        )
    stale = list(run.verdicts | run.files) if reasons else []
    for claim in run.files.keys() - set(stale):
        try:
            read_rows(out, claim)
        except StoreError as error:
            reasons.append(str(error))
            stale.append(claim)
    for claim in stale:
        run.drop(claim)
    return run, reasons
