"""What the page says of the project: the answers in short, links, and how to cite it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from figures.report.formulas import claims_in, prose

ROOT = Path(__file__).parents[2]
README, PROJECT, CITATION = ROOT / "README.md", ROOT / "pyproject.toml", ROOT / "citation.bib"
HEAD = "| what one might read | verdict |\n|---|---|\n"


def answers(unexpected: Mapping[str, bool]) -> list[dict[str, Any]]:
    """Return the rows of the README's table of verdicts, as HTML, for the claims of a run.

    `unexpected` says of each claim whether its outcome differs from what is expected: a row names
    those of its claims that do. ValueError: the README has no such table.
    """
    _, found, rest = README.read_text(encoding="utf-8").partition(HEAD)
    if not found:
        raise ValueError(f"{README} has no table {HEAD.splitlines()[0]!r}")
    rows = [line.strip("| ").split(" | ") for line in rest.partition("\n\n")[0].splitlines()]
    ids = list(unexpected)
    return [
        {
            "read": prose(read, ids),
            "verdict": prose(verdict, ids),
            "differs": [name for name in claims_in(verdict, ids) if unexpected[name]],
        }
        for read, verdict in rows
    ]


def links() -> list[tuple[str, str]]:
    """Return the project's links, (name, address), as they are given in pyproject.toml."""
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    return list(project.get("urls", {}).items())


def citation() -> str:
    """Return the BibTeX entries of the project and of the paper that it checks."""
    return CITATION.read_text(encoding="utf-8").strip()


def symbols(texts: Sequence[str]) -> str:
    r"""Return what formulas are searched by: the names of their commands (\varphi: phi varphi)."""
    names = {name for text in texts for name in SYMBOL.findall(text)}
    names |= {name.removeprefix("var") for name in names}
    return " ".join(sorted(names - LAYOUT))


SYMBOL = re.compile(r"(?<=\\)[A-Za-z]+|\bOmega(?=_)")  # Omega_c stands in prose, too
# commands that say how a formula is set and not what it says
LAYOUT = {"left", "right", "frac", "tfrac", "mathrm", "text", "big", "Big", "bigl", "bigr", "quad"}
LAYOUT |= {"Bigl", "Bigr", "biggl", "biggr", "qquad", "ldots", "cdots"}
