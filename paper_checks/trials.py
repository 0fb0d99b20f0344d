"""Many trials in processes, each stored as it ends, for pages that compare methods."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from decaf_theory.faults import OK
from decaf_theory.files import place, require_place, write_atomically
from decaf_theory.interrupts import interruptions
from decaf_theory.sums import seal_lines, unseal_lines
from decaf_theory.terminal import printable
from paper_checks import sweep
from verification import provenance, store
from verification.cluster import Cluster

Row: TypeAlias = dict[str, Any]

FAILED = 1
STOPPING = "stopping when what has begun is done, perhaps minutes; interrupt again to drop it"
ABOUT = ("version", "commit", "code")
DOCS = Path(__file__).parents[1] / "docs"
PLACES = 6  # decimals of stored numbers


class Trial(NamedTuple):
    """A trial by name, as it goes to another process."""

    name: str


class Study(NamedTuple):
    """Trials that answer one question, by a command of their own.

    name: of the command, of results/NAME and docs/rows/NAME.jsonl, and of the page docs/NAME.md.
    made_by: the modules that rows come from; their sum is stored. kept(rows): what of the rows of
    all trials goes to the page. unit: what a trial is, in the plural.
    """

    name: str
    made_by: tuple[str, ...]
    kept: Callable[[list[Row]], list[Row]] = list
    unit: str = "trainings"

    @property
    def rows(self) -> Path:
        """The rows that the page shows."""
        return DOCS / "rows" / f"{self.name}.jsonl"

    def parser(self, commands: Any, text: str) -> argparse.ArgumentParser:
        """Add the subcommand with the options that all studies have, and return its parser."""
        p: argparse.ArgumentParser = commands.add_parser(self.name, help=text)
        out = Path("results") / self.name
        sweep.add_places(p)
        p.add_argument("--out", type=place, default=out, metavar="DIR", help=f"default {out}")
        p.add_argument(
            "--page", action="store_true", help=f"run nothing, write docs/{self.name}.md"
        )
        return p

    @contextmanager
    def stored(self, args: argparse.Namespace, order: Sequence[str]) -> Iterator[store.Run]:
        """Let trials be taken into the store under --out; at the end all rows go to one file.

        order: the names of all trials. ConfigError, StoreError, OSError: the options, the store.
        """
        sweep.require_jobs(args.jobs)
        store.require_writable(args.out)
        require_place(args.out.with_suffix(".jsonl"))
        with store.locked(args.out):
            run = opened(args.out, self.configuration(), order)
            yield run
            self.export(run)
        print(f"-> {args.out.with_suffix('.jsonl')}")

    def configuration(self) -> dict[str, Any]:
        """Return what the rows depend on; those of two configurations are not mixed."""
        found = provenance.configuration(size="full", seed=0, device="cpu")
        return found | {"code": provenance.code_sum(*self.made_by)}

    def export(self, run: store.Run) -> None:
        """Write the rows to one file next to the store, after one that says what was run."""
        about = {name: run.configuration[name] for name in ABOUT}
        about |= {self.unit: len(run.files), "core_minutes": round(run.seconds / 60, 1)}
        rows = [about, *self.kept(rows_of(run))]
        write_atomically(run.out.with_suffix(".jsonl"), seal_lines(rows))

    def read(self, path: Path | None = None) -> list[Row]:
        """Return the rows of a file of `export`, the first about them; by default the page's.

        StoreError: there is none, or it is damaged.
        """
        return read(path or self.rows, f"python -m paper_checks {self.name}")


def timed(
    name: str, work: Callable[[], list[Row]], said: Callable[[list[Row]], str]
) -> sweep.Outcome:
    """Return the rows of one trial, made to the end, with what is `said` of them on a line.

    Without rows where the data, the model or adapters given are at fault: each names its argument.
    """
    begun = time.process_time()
    try:
        rows = work()
    except (OSError, ValueError, store.StoreError) as error:
        return sweep.Outcome(name, "failed", f"failed: {printable(error)}")
    seconds = time.process_time() - begun
    line = f"{said(rows)}; {seconds:.0f} s of a core"
    return sweep.Outcome(name, "finished", line, 0, rows, seconds)


def told(row: Row) -> Row:
    """Return a row with its numbers as they are stored."""
    return {n: round(x, PLACES) if isinstance(x, float) else x for n, x in row.items()}


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
    jobs: int | Cluster,
    trial: Callable[[Any, Callable[[], bool]], sweep.Outcome],
) -> int:
    """Take the trials that are not stored yet, and store each as it ends; return the exit code."""
    missing = [one for one in wanted if one.name not in run.files]
    done, failed = len(run.files), False
    total = done + len(missing)
    with interruptions(STOPPING) as signals:
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


def rows_of(run: store.Run) -> list[Row]:
    """Return the rows of all trials that are stored."""
    return [
        {field: value for field, value in row.items() if field != "claim"}
        for name in run.files
        for row in store.read_rows(run.out, name)
    ]


def read(path: Path, command: str) -> list[Row]:
    """Return the rows of a sealed file, the first about them. StoreError: none, or damaged.

    command: what writes the file.
    """
    try:
        return unseal_lines(path.read_bytes())
    except (OSError, ValueError) as error:
        raise store.StoreError(f"{path} cannot be read ({error}); run {command}") from None
