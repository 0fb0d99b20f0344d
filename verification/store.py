"""Where rows are stored: JSON lines, one file per claim, with `run.json` and `verdicts.json`.

    <out>/rows/<claim>.jsonl   one flat JSON object per row, keys sorted, no time stamp
    <out>/verdicts.json        one object per claim
    <out>/run.json             configuration, seconds, and the SHA-256 sum of every row file

Equal inputs give equal bytes in the row files. JSON knows neither NaN nor infinities: they are
stored as the strings "nan", "inf" and "-inf", and `read_rows` turns them back in the fields of
`NUMBERS`. Every file is written under a temporary name and renamed, so that a reader never sees
half a file; a file that is damaged later no longer matches its checksum, and `read_rows` says so.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from decaf_theory.files import from_lines, to_json, to_lines, write_atomically
from decaf_theory.files import strict as strict  # for those who know it by this module

NUMBERS = ("measured", "low", "high", "bound", "rounding")
LIBRARIES = ("numpy", "scipy", "torch", "networkx", "array-api-compat", "safetensors")
Record = dict[str, Any]


class StoreError(Exception):
    """Results that cannot be read or written; the message names the file and what to do."""


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
    return [{**row, **{name: number(row[name]) for name in NUMBERS}} for row in from_lines(data)]


def require_writable(out: Path) -> None:
    """Make the folder `out`; StoreError if files cannot be written there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise StoreError(
            f"cannot write results to {out}: {error.strerror}; choose another folder with --out"
        ) from error


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the folder `out` for one writer; StoreError if another process holds it."""
    import fcntl

    with open(out / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StoreError(
                f"another run is writing to {out}; wait for it or choose another folder with --out"
            ) from error
        yield


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


def code_sum() -> str:
    """Return the first 12 digits of the checksum of the sources that numbers come from."""
    spec = importlib.util.find_spec("decaf_theory")
    library = Path(spec.origin).parent if spec and spec.origin else Path()
    total = hashlib.sha256()
    for root in (library, Path(__file__).parent):
        for path in sorted(root.rglob("*.py")):
            total.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return total.hexdigest()[:12]


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that numbers depend on, without importing them."""
    found = {}
    for name in LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def configuration(*, size: str, seed: int, device: str) -> Record:
    """Return what the numbers of a run depend on; results of two configurations are not mixed."""
    threads = os.environ.get("OPENBLAS_NUM_THREADS", "")
    return {
        "version": importlib.metadata.version("decaf-theory"),
        "commit": commit(),
        "code": code_sum(),
        "python": platform.python_version(),
        "libraries": library_versions(),
        "device": device,
        "dtype": "float64",
        "threads": int(threads) if threads.isdigit() else None,
        "seed": seed,
        "size": size,
    }


def settings_of(out: Path) -> Record:
    """Return size, seed and device of the run under `out`; empty if there is none."""
    try:
        run = read_json(out / "run.json")
        return {name: run[name] for name in ("size", "seed", "device")}
    except (StoreError, KeyError, TypeError):
        return {}


def differences(old: Record, new: Record) -> list[str]:
    """Return "name: old -> new" for every entry of the configuration `new` that differs.

    The commit is not compared: `code` is, and it changes only with the sources.
    """
    return [
        f"{name}: {old.get(name)} -> {value}"
        for name, value in new.items()
        if name != "commit" and old.get(name) != value
    ]


def rows_path(out: Path, claim: str) -> Path:
    """Return the path of a claim's row file."""
    return Path(out) / "rows" / f"{claim}.jsonl"


def read_json(path: Path) -> Any:
    """Return the content of a JSON file; StoreError if it is missing or damaged."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise StoreError(f"{path} is missing; run python -m verification") from None
    except ValueError as error:
        raise StoreError(f"{path} is damaged ({error}); run python -m verification again") from None


def checksums(out: Path, claims: Sequence[str]) -> list[str]:
    """Return the checksums of the rows of these claims; StoreError names all that have none."""
    sums = read_json(out / "run.json")["files"]
    missing = [claim for claim in claims if claim not in sums]
    if missing:
        names = f"claim{'s' * (len(missing) > 1)} {', '.join(missing)}"
        again = f"run python -m verification --only {' '.join(missing)} --out {out}"
        raise StoreError(f"no rows of {names} in {out}; {again}")
    return [sums[claim] for claim in claims]


def read_rows(out: Path | str, claim: str) -> list[Record]:
    """Return the stored rows of a claim, checked against their checksum in run.json.

    StoreError: no such claim in the run, or a file that is missing, truncated or altered.
    """
    out = Path(out)
    (checksum,) = checksums(out, [claim])
    path = rows_path(out, claim)
    again = f"run python -m verification --only {claim} --out {out}"
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise StoreError(f"{path} is missing; {again}") from None
    if hashlib.sha256(data).hexdigest() != checksum:
        raise StoreError(f"{path} is truncated or altered: its checksum is not run.json's; {again}")
    return decode_rows(data)


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
        files, verdicts = (
            dict(sorted(found.items(), key=lambda item: place.get(item[0], len(place))))
            for found in (self.files, self.verdicts)
        )
        run = {**self.configuration, "seconds": round(self.seconds, 3), "files": files}
        for name, content in (("verdicts", list(verdicts.values())), ("run", run)):
            write_atomically(self.out / f"{name}.json", to_json(content))


def open_run(
    out: Path, configuration: Record, order: Sequence[str], *, partial: bool = False
) -> tuple[Run, list[str]]:
    """Return the run under `out`, and why results found there were dropped (usually nothing).

    Results of the same configuration are kept: `--only` adds to them. Those of a different one
    (code, libraries, seed, size, ...) and damaged files are removed, never mixed in. StoreError: a
    run of only some claims (`partial`) would remove the results of a run of all.
    """
    run = Run(out, configuration, order)
    if not (out / "run.json").exists():
        return run, []
    try:
        old = read_json(out / "run.json")
        run.files = dict(old["files"])
        run.verdicts = {v["claim"]: v for v in read_json(out / "verdicts.json")}
    except (StoreError, KeyError, TypeError) as error:
        return Run(out, configuration, order), [str(error)]
    reasons = differences(old, configuration)
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
