"""`python -m figures`: draw the figures from stored rows."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from figures import FIGURES
from figures.rows import read
from verification import store

OK, MISSING, USAGE = 0, 1, 2


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    p = argparse.ArgumentParser(
        prog="python -m figures",
        description="Draw the figures from the rows that python -m verification stored. "
        "Exit code 1: a figure asked for by name has no rows; 2: bad usage.",
    )
    p.add_argument("--only", nargs="+", metavar="NAME", help=f"of: {', '.join(FIGURES)}")
    p.add_argument("--results", type=Path, default=Path("results"), help="folder of the rows")
    p.add_argument("--out", type=Path, default=Path("figures/out"), help="folder of the figures")
    return p


def make(name: str, results: Path, out: Path) -> list[Path]:
    """Draw one figure, with its caption beside it; return the files."""
    figure = FIGURES[name]
    rows = read(results, figure.NEEDS)
    text = caption(name, rows)
    files = figure.draw(rows, out / name)
    (out / f"{name}.txt").write_text(text)
    return [*files, out / f"{name}.txt"]


def caption(name: str, rows: list[dict[str, Any]]) -> str:
    """Return the caption of a figure, with the numbers that its rows give."""
    figure = FIGURES[name]
    facts = figure.facts(rows) if hasattr(figure, "facts") else {}
    return str(figure.CAPTION.format(**facts))


def main(argv: Sequence[str] | None = None) -> int:
    """Draw what is asked for; return the exit code."""
    args = parser().parse_args(argv)
    for name in args.only or ():
        if name not in FIGURES:
            close = get_close_matches(name, FIGURES, cutoff=0.3) or list(FIGURES)
            print(f"error: unknown figure {name!r}; did you mean {close[0]}?", file=sys.stderr)
            return USAGE
    try:
        store.require_writable(args.out)
    except store.StoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    missing = []
    for name in args.only or FIGURES:
        try:
            print(f"{name}: {', '.join(map(str, make(name, args.results, args.out)))}")
        except (store.StoreError, ValueError) as error:
            missing.append(name)
            print(f"{name}: not drawn: {error}")
    return MISSING if missing and args.only else OK


if __name__ == "__main__":
    sys.exit(main())
