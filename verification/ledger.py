"""The ledger as a page: `python -m verification --write-docs docs/claims.md`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from verification.claim import Claim

# a bracket may qualify a section: "Proof (leading order only):"
SECTION = r"((?:Assumptions|Proof|Extremal|Counterexample|Source)(?: \([^)]*\))?):"
TITLES = {
    "smoothness": "Smoothness",
    "interference": "Interference",
    "truncation": "Truncation",
    "methods": "Methods",
    "rates": "Rates",
    "networks": "Networks",
    "problems": "Problems",
    "examples": "Worked examples",
}
HEAD = """# The claims

Every statement that `python -m verification` judges, with its assumptions, a proof that can be
followed, its extremal example and, where it is false as worded, its counterexample. This page is
generated from the claims themselves (`python -m verification --write-docs docs/claims.md`).

Status: *paraphrased* (of the paper, from public summaries of it), *derived* (a proof is given
here), *numerical* (evidence only). A claim whose expected outcome is `violated` is worded as it
might be read, and false.
"""


def page(claims: Sequence[Claim], expected: Mapping[str, str]) -> str:
    """Return the page of all claims in Markdown, in reading order, with a table of contents."""
    lines = [HEAD, "| claim | statement | status | expected |", "|---|---|---|---|"]
    lines += [
        f"| [{c.id}](#{c.id.lower()}) | {_cell(c.statement)} | {c.status} | {expected[c.id]} |"
        for c in claims
    ]
    area = None
    for claim in claims:
        if claim.area != area:
            area = claim.area
            lines += ["", f"## {TITLES[area]}"]
        lines += ["", entry(claim, expected[claim.id])]
    return "\n".join(lines) + "\n"


def entry(claim: Claim, expected: str) -> str:
    """Return the section of one claim."""
    paragraphs = [_paragraph(text) for text in re.split(r"\n\s*\n", _with_breaks(claim.text))]
    again = f"`python -m verification --only {claim.id}`"
    if expected == "violated":
        again += f", `--replay verification/counterexamples/{claim.id}.json`"
    head = f"### {claim.id}\n\n*{claim.status}, expected: {expected}*"
    return "\n\n".join([head, *paragraphs, f"Again: {again}"])


def _with_breaks(text: str) -> str:
    """Return the text with an empty line before each section, whether its author put one or not."""
    return re.sub(rf"\n+(?={SECTION})", "\n\n", text)


def _paragraph(text: str) -> str:
    """Return one paragraph on one line, the name of its section in bold."""
    joined = _formulas(" ".join(line.strip() for line in text.splitlines()))
    return re.sub(f"^{SECTION}", r"**\1.**", joined)


def _formulas(text: str) -> str:
    """Return the text with formulas in the form that Markdown leaves alone: $`...`$."""
    return re.sub(r"\$+([^$]+)\$+", r"$`\1`$", text)


def _cell(text: str) -> str:
    """Return the text for a cell of a table, where a bar would end the cell."""
    return _formulas(text.replace(r"\|", r"\Vert ").replace("|", r"\vert "))
