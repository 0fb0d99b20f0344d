"""Files that commands write next to what they print: refused before the work, whole at its end."""

from __future__ import annotations

import argparse
from typing import Any

from decaf_theory.files import place, require_free, to_json, write_atomically

STDOUT = "-"


def add_json(p: argparse.ArgumentParser) -> None:
    """Add --json, and --force for all files of a command."""
    p.add_argument(
        "--json", metavar="FILE", help="write the report as JSON, too; -: to stdout, alone"
    )
    p.add_argument("--force", action="store_true", help="replace files that exist already")


def check_targets(*files: str | None, force: bool) -> None:
    """Raise ValueError or UnwritableError if one of these files must not or cannot be written."""
    targets = [place(file) for file in files if file not in (None, STDOUT)]
    for target in targets:
        require_free(target, overwrite=force)
    if len({target.resolve() for target in targets}) < len(targets):
        raise ValueError(f"{targets[0]}: named twice; each file needs a place of its own")


def deliver(report: Any, text: str, json: str | None) -> None:
    """Write the report as JSON where --json says, if it does, and print the text."""
    data = to_json(report)
    if json == STDOUT:
        print(data.decode(), end="")
        return
    if json:  # first, as printing may fail
        write_atomically(place(json), data)
    print(text)
