"""The command line `python -m figures`: draw figures from stored rows, and the page of all."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from decaf_theory.faults import OK, USAGE, without_traceback
from decaf_theory.files import place, require_place, require_writable, write_atomically
from decaf_theory.interrupts import in_one_line
from decaf_theory.names import picked
from decaf_theory.terminal import add_version, fitting, prepare, printable, wrapped
from figures import report
from figures.rows import read
from figures.table import FIGURES
from verification import store
from verification.options import UsageError, hint_for, whole
from verification.workers import in_processes

MISSING = 1
PAGE = "report"
ENDINGS = ("svg", "pdf", "png", "txt")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = argparse.ArgumentParser(
        prog="python -m figures",
        description="Draw the figures from the rows that python -m verification stored, and write "
        "the page that shows claims, evidence and figures. "
        "Exit code 1: a figure requested by name has no rows; 2: bad usage, "
        "or too little memory; 3: a defect.",
    )
    add_version(p)
    p.add_argument("--list", action="store_true", help="print the figures and what they show")
    p.add_argument("--only", nargs="+", metavar="NAME", help=f"of: {', '.join([*FIGURES, PAGE])}")
    p.add_argument("--results", type=place, default=Path("results"), help="folder of the rows")
    p.add_argument("--out", type=place, default=Path("figures/out"), help="folder of the figures")
    p.add_argument(
        "--accept-code",
        action="store_true",
        help="draw runs of the harness that other code or libraries made, refused otherwise",
    )
    p.add_argument(
        "--jobs",
        type=whole(1),
        default=cores(),
        metavar="N",
        help="processes that draw (default: one per core)",
    )
    page = p.add_mutually_exclusive_group()
    page.add_argument("--report", type=place, metavar="FILE", help="the page (OUT/report.html)")
    page.add_argument("--no-report", action="store_true", help="draw only the figures")
    return p


def cores() -> int:
    """Return the number of cores that this process may use."""
    usable = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(usable(0)) if usable else os.cpu_count() or 1


def make(name: str, results: Path, out: Path, *, accept_code: bool = False) -> list[Path]:
    """Draw one figure and write its caption next to it; return the files."""
    figure = FIGURES[name]
    rows = read(results, figure.NEEDS, accept_code=accept_code)
    with store.fitting(f"the rows of {', '.join(figure.NEEDS)}", "make them again"):
        text = caption(name, rows)
        files = figure.draw(rows, out / name)
    write_atomically(out / f"{name}.txt", text.encode())
    return [*files, out / f"{name}.txt"]


def caption(name: str, rows: list[dict[str, Any]]) -> str:
    """Return the caption of a figure, with the numbers that its rows give."""
    figure = FIGURES[name]
    facts = figure.facts(rows) if hasattr(figure, "facts") else {}
    return str(figure.CAPTION.format(**facts))


def page_of(args: argparse.Namespace) -> Path:
    """Return where the page is written."""
    return Path(args.report or args.out / report.NAME)


def draw(name: str, args: argparse.Namespace) -> list[Path]:
    """Make a figure or the page; return the files. StoreError, ValueError: rows are missing."""
    if name == PAGE:
        with store.fitting(args.results, store.AGAIN):
            return [report.write(args.results, args.out, list(FIGURES), page_of(args))]
    try:
        return make(name, args.results, args.out, accept_code=args.accept_code)
    except (store.StoreError, ValueError):
        for ending in ENDINGS:  # drawn from other rows: they must not stay among these
            (args.out / f"{name}.{ending}").unlink(missing_ok=True)
        raise


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the requested figures; return the exit code."""
    prepare()
    args, rest = parser().parse_known_args(argv)
    if rest:
        hint = "--list prints the figures, --only NAME draws one"
        words = printable(" ".join(rest))
        print(f"error: unrecognized arguments: {words}; {hint}", file=sys.stderr)
        return USAGE
    line = "interrupted" if args.list else "interrupted; what is drawn is kept"
    return in_one_line(lambda: ended(args), line)


def ended(args: argparse.Namespace) -> int:
    """Draw; return the exit code. What the user can mend is said in one line."""
    work = list_all if args.list else draw_all
    return without_traceback(lambda: work(args), elsewhere="--out or --report")


def list_all(args: argparse.Namespace) -> int:
    """Print a line per figure: its name and what it shows."""
    width = max(map(len, FIGURES))
    for name, figure in FIGURES.items():
        shows = str(figure.__doc__).splitlines()[0].partition(": ")[2]
        print(fitting(f"{name:<{width}}  {shows}"))
    return OK


def unknown(name: str) -> UsageError:
    """Return the error of a figure that there is not, with those that there are."""
    known = [*FIGURES, PAGE]
    hint = hint_for(name, known, "none is near")
    return UsageError(f"unknown figure {name!r} of {', '.join(known)}; {hint}")


def draw_all(args: argparse.Namespace) -> int:
    """Draw the requested figures, or say what each of them lacks; return the exit code."""
    try:
        asked = picked(args.only or (), [*FIGURES, PAGE], unknown)
    except UsageError as error:
        print(f"error: {printable(error)}", file=sys.stderr)
        return USAGE
    require_writable(args.out)
    names = asked or [*FIGURES, *([] if args.no_report else [PAGE])]
    if PAGE in names:
        require_place(page_of(args))
    pictures = [name for name in names if name != PAGE]
    done = [say(name, args, files) for name, files in ahead(pictures, args)]
    done += [say(PAGE, args) for _ in names[len(pictures) :]]  # it shows what is drawn by then
    return OK if all(done) or not args.only else MISSING


def ahead(names: Sequence[str], args: argparse.Namespace) -> Iterator[tuple[str, list[Path]]]:
    """Yield figures with their files, drawn by several processes; no files: to be drawn here.

    What stops a figure there stops it here again, where it is said.
    """
    if min(args.jobs, len(names)) < 2:
        return ((name, []) for name in names)
    work = partial(attempt, args=args)
    return in_processes(work, names, jobs=args.jobs, name=str, failed=lambda name, died: (name, []))


def attempt(name: str, args: argparse.Namespace) -> tuple[str, list[Path]]:
    """Draw a figure; return its name and files, none if it could not be drawn."""
    try:
        return name, draw(name, args)
    except Exception:  # whatever it is, the figure is tried again where errors are met
        return name, []


def say(name: str, args: argparse.Namespace, files: Sequence[Path] = ()) -> bool:
    """Print the files of a figure, or of the page, made here unless given; whether there are any.

    What it lacks is printed instead.
    """
    try:
        files = files or draw(name, args)
    except (store.StoreError, ValueError) as error:
        kind = "written" if name == PAGE else "drawn"
        print(wrapped(f"{name}: not {kind}: {printable(error)}"), flush=True)
        return False
    print(wrapped(f"{name}: {', '.join(map(printable, files))}"), flush=True)
    return True
