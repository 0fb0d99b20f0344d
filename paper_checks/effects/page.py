"""The tables of docs/effects.md, made of stored findings and reported numbers.

Each stands between two comments that name it; the words around them are written by hand.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from decaf_theory.files import write_atomically
from decaf_theory.formats import digits
from paper_checks import reported
from paper_checks.effects.engine import CONTRADICTED, NOT_SEEN, SEEN
from paper_checks.reported import Reported

STORED = Path(__file__).parent / "results.json"
PAGE = Path(__file__).parents[2] / "docs" / "effects.md"
LOGARITHMS = ("log ratio", "log")
BLOCK = re.compile(r"(?<=<!-- begin: )(.*?)( -->\n).*?(\n<!-- end -->)", re.S)
Found = dict[str, Any]  # a finding, or all results, as stored

# effect -> the sources, by their first word, and the methods whose numbers stand in its section
SHOWN = {
    "rolora": (("ADF-LoRA", "FedRot-LoRA"), ("dlora", "fedavg", "rolora")),
    "thinning": (("ADF-LoRA", "TAD-LoRA"), ("dlora", "adf_lora", "tad_lora")),
    "interval": (("ADF-LoRA",), ("adf_lora",)),
    "alignment": (("FedRot-LoRA",), ("fedavg", "fedrot")),
    "ranks": (("NVIDIA/NVFlare,",), ("fedavg", "flexlora")),
}


def filled(text: str, results: Found, rows: Sequence[Reported]) -> str:
    """Return the page with its tables made anew. KeyError: a table of another name."""

    def anew(block: re.Match[str]) -> str:
        return block[1] + block[2] + part(block[1], results, rows) + block[3]

    return BLOCK.sub(anew, text)


def write() -> None:
    """Fill docs/effects.md from the stored results."""
    results = json.loads(STORED.read_text(encoding="utf-8"))
    write_atomically(
        PAGE, filled(PAGE.read_text(encoding="utf-8"), results, reported.read()).encode()
    )


def part(name: str, results: Found, rows: Sequence[Reported]) -> str:
    """Return the table of this name: overview, reported, or one of these and an effect."""
    kind, _, effect = name.partition(" ")
    parts: dict[str, Callable[[], str]] = {
        "overview": lambda: overview(results),
        "findings": lambda: table(results["effects"][effect]["findings"]),
        "reported": lambda: reported.listing(of_effect(effect, rows) if effect else rows),
    }
    return parts[kind]()


def of_effect(effect: str, rows: Sequence[Reported]) -> list[Reported]:
    """Return the reported numbers that stand in an effect's section."""
    sources, methods = SHOWN[effect]
    return [row for row in rows if row.source.split()[0] in sources and row.method in methods]


def overview(results: Found) -> str:
    """Return one line per effect: how many comparisons have which verdict."""
    words = (SEEN, NOT_SEEN, CONTRADICTED)
    lines = [("effect", *words, "core seconds")]
    for name, effect in results["effects"].items():
        given = [finding["verdict"] for finding in effect["findings"]]
        counts = [str(given.count(word)) for word in words]
        lines.append((name, counts[0], counts[1], counts[2], f"{effect['core_seconds']:.0f}"))
    return reported.table(lines)


def table(findings: Sequence[Found]) -> str:
    """Return a Markdown table of findings."""
    head = ("problem", "where", "compared", "estimate", "interval", "seeds", "verdict")
    return reported.table([head, *(_cells(finding) for finding in findings)])


def _cells(finding: Found) -> tuple[str, ...]:
    estimate, low, high = (shown(finding, name) for name in ("estimate", "low", "high"))
    about = finding["problem"], finding["where"], finding["what"]
    return *about, estimate, f"[{low}, {high}]", str(finding["seeds"]), finding["verdict"] or "-"


def shown(finding: Found, name: str) -> str:
    """Return a number of a finding as text: what was a logarithm as the ratio itself."""
    value = float(finding[name])
    return digits(math.exp(value)) if finding["unit"] in LOGARITHMS else f"{value:+.2f}"
