"""The texts of the claims for the report page: `<out>/claims.json`, beside the verdicts.

    {"notation": [paragraph, ...], "sum": its checksum,
     "claims": [{"claim", "area", "title", "name", "status", "expected", "statement", "sections",
                 "command", "explain", "counterexample"}, ...]}

in reading order. The name is that of the claim's file, in words. A section is [its name, its text],
the name of the first ones empty; formulas are LaTeX between dollars. A counterexample is null or
{"file", "replay", "relation", "measured", "bound", "program"}: `program` shows it with NumPy alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from decaf_theory.files import to_json, write_atomically
from decaf_theory.sums import sealed
from verification import replay
from verification.claim import Claim
from verification.ledger import NOTATION, SECTION, TITLES, paragraphs
from verification.options import MAIN
from verification.run import Ledger, Settings
from verification.store import Record

FILE = "claims.json"


def write(out: Path, ledger: Ledger, settings: Settings) -> None:
    """Write the texts of all claims of a ledger under `out`."""
    content = {
        "notation": [_joined(text) for text in re.split(r"\n(?=- )", NOTATION.strip())],
        "claims": [entry(claim, ledger, settings) for claim in ledger.claims],
    }
    write_atomically(out / FILE, to_json(sealed(content)))


def entry(claim: Claim, ledger: Ledger, settings: Settings) -> Record:
    """Return what the page says of one claim."""
    return {
        "claim": claim.id,
        "area": claim.area,
        "title": TITLES[claim.area],
        "name": claim.rows.__module__.rpartition(".")[2].replace("_", " "),
        "status": claim.status,
        "expected": claim.expected,
        "statement": claim.statement,
        "sections": [section(text) for text in paragraphs(claim.text)[1:]],
        "command": f"{MAIN} --only {claim.id}{options(settings)}",
        "explain": f"{MAIN} explain {claim.id}",
        "counterexample": counterexample(claim, ledger),
    }


def section(text: str) -> list[str]:
    """Return the name and the text of a paragraph; no name where it begins with none."""
    found = re.match(rf"{SECTION}\s*", text)
    return [found[1], _joined(text[found.end() :])] if found else ["", _joined(text)]


def options(settings: Settings) -> str:
    """Return the options of a run that are not the default ones, as they are typed."""
    given: Mapping[str, Any] = vars(settings)
    usual = vars(Settings())
    return "".join(f" --{name} {value}" for name, value in given.items() if value != usual[name])


def counterexample(claim: Claim, ledger: Ledger) -> Record | None:
    """Return the stored counterexample of a claim, None where there is none."""
    path = ledger.counterexample(claim.id)
    if not path.exists():
        return None
    found = replay.load(path)
    file = path.relative_to(ledger.folder.parent).as_posix()
    return {
        "file": file,
        "replay": f"{MAIN} replay {file}",
        "relation": found.relation,
        "measured": found.measured,
        "bound": found.bound,
        "program": replay.program(claim, found, ledger),
    }


def _joined(text: str) -> str:
    return " ".join(text.removeprefix("- ").split())
