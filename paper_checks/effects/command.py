"""The command line of the effects."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from decaf_theory.files import place, require_place
from paper_checks import effects
from paper_checks.effects import engine, page
from paper_checks.rules import ConfigError, require_known

OK = 0
OUT = Path("results/effects.json")


def add_to(commands: Any) -> None:
    """Add the subcommand."""
    p = commands.add_parser("effects", help="reported effects, tried at small scale")
    p.add_argument("--only", nargs="+", metavar="E", help="of these effects alone")
    p.add_argument("--quick", action="store_true", help="1 core-minute instead of 10")
    p.add_argument("--out", type=place, default=OUT, metavar="FILE", help="default %(default)s")
    p.add_argument("--page", action="store_true", help="run nothing, write docs/effects.md")


def main(args: argparse.Namespace) -> int:
    """Compare methods on the problems of some effects; print what each comparison says."""
    if args.page:
        page.write()
        return OK
    names = args.only or list(effects.EFFECTS)
    size = "quick" if args.quick else "full"
    require_known("effect", names, effects.EFFECTS)
    require_place(args.out)
    try:
        effects.require_packages(names, effects.SIZES[size])
    except ValueError as error:
        raise ConfigError(f"{error}, or add --quick, which needs none of them") from error
    start = time.monotonic()

    def show(name: str, one: engine.Comparison) -> None:
        about = f"{name}: {one.problem}, {one.where}, {one.what}"
        print(f"{about} ({time.monotonic() - start:.0f} s)", file=sys.stderr, flush=True)

    results = effects.run(names, size, args.out, show)
    for name, effect in results["effects"].items():
        print(f"{name}, {effect['core_seconds']:.0f} s\n\n{page.table(effect['findings'])}\n")
    print(f"-> {args.out}")
    return OK
