"""Many trials in processes, each stored as it ends, for pages that compare methods."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from decaf_theory.faults import OK
from decaf_theory.interrupts import interruptions
from decaf_theory.sums import unseal_lines
from paper_checks import sweep
from verification import provenance, store

FAILED = 1


def opened(out: Path, wanted: Mapping[str, Any], order: Sequence[str]) -> store.Run:
    """Return the store under `out`. StoreError: it holds rows of other settings or code.

    order: the names of all trials.
    """
    if (out / "run.json").exists():
        reasons = provenance.differences(store.asked(store.read_run(out)), wanted)
        if reasons:
            raise store.StoreError(
                f"{out} holds rows of another configuration ({'; '.join(reasons)[:500]}); choose "
                f"another folder with --out, or remove this one"
            )
    run, damaged = store.open_run(out, dict(wanted), order)
    for reason in damaged:
        print(f"done again: {reason.split('; run ')[0]}", file=sys.stderr)
    run.seconds = store.read_run(out)["seconds"] if run.files else 0.0
    return run


def take(
    run: store.Run,
    wanted: Sequence[sweep.Named],
    jobs: int,
    trial: Callable[[Any, Callable[[], bool]], sweep.Outcome],
) -> int:
    """Take the trials that are not stored yet, and store each as it ends; return the exit code."""
    missing = [one for one in wanted if one.name not in run.files]
    done, failed = len(run.files), False
    total = done + len(missing)
    with interruptions() as signals:
        for outcome in sweep.run_all(missing, jobs, signals, trial):
            if outcome.rows:
                run.seconds += outcome.seconds
                run.put(outcome.cell, outcome.rows)
                done += 1
            failed |= outcome.status == "failed"
            print(f"[{done}/{total}] {outcome.cell}: {outcome.line}", file=sys.stderr, flush=True)
    if signals:
        print("stopped; the same command resumes from here", file=sys.stderr)
        return 128 + signals[0]
    return FAILED if failed else OK


def rows_of(run: store.Run) -> list[dict[str, Any]]:
    """Return the rows of all trials that are stored."""
    return [
        {field: value for field, value in row.items() if field != "claim"}
        for name in run.files
        for row in store.read_rows(run.out, name)
    ]


def read(path: Path, command: str) -> list[dict[str, Any]]:
    """Return the rows of a sealed file, the first about them. StoreError: none, or damaged.

    command: what writes the file.
    """
    try:
        return unseal_lines(path.read_bytes())
    except (OSError, ValueError) as error:
        raise store.StoreError(f"{path} cannot be read ({error}); run {command}") from None
