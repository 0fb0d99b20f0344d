"""The command `python -m paper_checks.gpu`, which `.ci/gpu` runs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from decaf_theory import extras
from decaf_theory.files import place, require_writable
from paper_checks.gpu import page, runner
from paper_checks.gpu.parts import PARTS, Setting


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    p = argparse.ArgumentParser(prog="python -m paper_checks.gpu", description=__doc__)
    p.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    p.add_argument("--small", action="store_true", help="tiny sizes, to try the script itself")
    p.add_argument("--out", default="results/gpu", metavar="FOLDER", help="for gpu.jsonl and logs")
    p.add_argument(
        "--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}"
    )
    p.add_argument("--page", metavar="FILE", help="run nothing, fill docs/performance.md from rows")
    p.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)  # in a process of its own
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts and print one table; return 0, 1 if something failed, or 2 without a GPU."""
    asked = parser().parse_args(arguments)
    if asked.page is not None:
        page.write(place(asked.page))
        return 0
    if line := extras.missing("torch", "transformers"):
        print(f"error: {line}", file=sys.stderr)
        return 2
    import torch

    if asked.device == "cuda" and not torch.cuda.is_available():
        print("error: torch sees no GPU; try --device cpu --small", file=sys.stderr)
        return 2
    setting = Setting(asked.device, asked.small)
    if asked.part is not None:
        return part(asked.part, setting)
    folder = Path(place(asked.out))
    folder.mkdir(parents=True, exist_ok=True)
    require_writable(folder)
    return runner.run(asked.only or list(PARTS), setting, folder)


def part(name: str, setting: Setting) -> int:
    """Print the rows of one part as they come, JSON lines; whatever else prints goes to stderr."""
    rows_to, sys.stdout = sys.stdout, sys.stderr
    for row in PARTS[name].rows(setting):
        print(json.dumps(row), file=rows_to, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
