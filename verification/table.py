"""Text for the terminal: the table of verdicts, its last line, a claim's explanation."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from decaf_theory import terminal
from decaf_theory.terminal import fitting, shorten, wrapped
from verification.claim import Claim, Outcome, Row, deciding_row, tightest_row
from verification.formulas import plain
from verification.judge import Regime, Verdict
from verification.ledger import paragraphs, span

COLUMNS = ("claim", "statement", "outcome", "expected", "tightness", "rows", "seconds")
# what a table does without where a statement has no room; an outcome that is not expected is marked
LEFT_OUT = ("seconds", "rows", "expected", "statement")
WIDTH = 120
MARK = "<- unexpected"
SIDES = dict.fromkeys(("tightness", "rows", "seconds"), ">")
Record = Mapping[str, Any]


def width() -> int:
    """Return the number of columns to fill: the terminal's, or WIDTH if there is none."""
    return terminal.columns() or WIDTH


def ratio(value: float | None) -> str:
    """Return a tightness with four digits; "-" for none."""
    if value is None:
        return "-"
    return f"{value:.4f}" if value == 0 or 1e-3 <= value < 1e4 else f"{value:.1e}"


def cells(record: Record, statement: str) -> list[str]:
    """Return the texts of one line of the table."""
    return [
        record["claim"],
        plain(statement),
        record["outcome"],
        record["expected"] or "-",
        ratio(record["tightness"]),
        str(record["rows"]),
        f"{record['seconds']:.2f}",
    ]


def table(verdicts: Sequence[Record], statements: Mapping[str, str], columns: int = WIDTH) -> str:
    """Return the table of verdicts; the statements are shortened until the lines fit.

    Columns are left out where that is not enough.
    """
    lines = [list(COLUMNS)] + [cells(v, statements.get(v["claim"], "")) for v in verdicts]
    marks = ["", *("" if as_expected(v) else f"  {MARK}" for v in verdicts)]
    sizes = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    widths = dict(zip(COLUMNS, sizes, strict=True))
    room = columns - max(map(len, marks))
    for name in LEFT_OUT:
        taken = sum(size + 2 for other, size in widths.items() if other != "statement")
        if room - taken >= len("statement") or "statement" not in widths:
            break
        del widths[name]
    if "statement" in widths:
        widths["statement"] = min(widths["statement"], room - taken)

    def row(line: Sequence[str]) -> str:
        own = dict(zip(COLUMNS, line, strict=True))
        texts = (shorten(own[name], size) for name, size in widths.items())
        pads = zip(texts, widths.items(), strict=True)
        return "  ".join(f"{text:{SIDES.get(name, '<')}{size}}" for text, (name, size) in pads)

    return "\n".join((row(line) + mark).rstrip() for line, mark in zip(lines, marks, strict=True))


def as_expected(verdict: Record) -> bool:
    """Return whether a claim came out as expected."""
    return bool(verdict["outcome"] == verdict["expected"])


def outcome_words(outcome: str, expected: str | None) -> str:
    """Return an outcome, and whether it is the expected one where that is not plain."""
    if outcome != expected:
        return f"{outcome}, unexpected"
    return outcome if outcome == Outcome.HOLDS else f"{outcome} as expected"


def summary(verdicts: Sequence[Record]) -> str:
    """Return the counts: `31 claims: 22 hold, 9 violated as expected, 0 unexpected`."""
    counts = Counter(v["outcome"] for v in verdicts if as_expected(v))
    words = {
        Outcome.HOLDS: "hold",
        Outcome.VIOLATED: "violated as expected",
        Outcome.INCONCLUSIVE: "inconclusive as expected",
        Outcome.NOT_APPLICABLE: "not applicable as expected",
    }
    always = (Outcome.HOLDS, Outcome.VIOLATED)
    parts = [f"{counts[o]} {words[o]}" for o in words if counts[o] or o in always]
    unexpected = len(verdicts) - counts.total()
    claims = "1 claim" if len(verdicts) == 1 else f"{len(verdicts)} claims"
    return f"{claims}: {', '.join(parts)}, {unexpected} unexpected"


def listing(claims: Sequence[Claim]) -> str:
    """Return id, area, status, what its regimes reach, and statement of every claim."""
    text = aligned([(c.id, c.area, c.status, span(c) or "-", plain(c.statement)) for c in claims])
    return "\n".join(map(fitting, text.splitlines()))


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Return lines of cells as columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = (map(str.ljust, line, widths) for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in texts)


def explanation(claim: Claim, columns: int = WIDTH) -> str:
    """Return a claim's whole text, paragraph by paragraph, with its formulas as plain text."""
    filled = (
        textwrap.fill(plain(" ".join(text.split())), columns, break_on_hyphens=False)
        for text in paragraphs(claim.text)
    )
    return "\n\n".join(filled)


def row_line(row: Row) -> str:
    """Return a row as one line of text."""
    params = ", ".join(
        f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in row.params.items()
    )
    interval = "" if row.low == row.high else f" in [{row.low:.6g}, {row.high:.6g}]"
    return (
        f"{row.case}: {row.measured:.10g}{interval} {row.relation} {row.bound:.10g} "
        f"(rounding {row.rounding:.1e}) {row.outcome.value}" + (f"  [{params}]" if params else "")
    )


def deciding(rows: Sequence[Row]) -> str:
    """Return the row that decided a claim and, if it is a different one, the tightest."""
    decides, tightest = deciding_row(rows), tightest_row(rows)
    named = {"deciding row": decides, "tightest row": None if tightest is decides else tightest}
    return "\n".join(wrapped(f"{name} {row_line(row)}") for name, row in named.items() if row)


def why(verdict: Verdict, rows: Sequence[Row]) -> str:
    """Return what made an outcome: the regimes that went slack, or the deciding row."""
    if verdict.outcome != Outcome.SLACK:
        return deciding(rows)
    return "\n".join(
        wrapped(
            f"regime {regime.name!r} reaches {ratio(regime.tightness)} of its bound, "
            f"stored: {regime.reaches:g} ({regime.rows} rows)"
        )
        for regime in verdict.regimes
        if regime.went_slack
    )


def regimes(found: Sequence[Regime]) -> str:
    """Return how near each regime comes to its bound, and what is stored of it.

    The numbers stand below the names on a terminal that is too narrow for both.
    """
    lines = [
        (
            regime.name,
            str(regime.rows),
            ratio(regime.tightness),
            "-" if regime.reaches is None else f"{regime.reaches:g}",
            "<- slack" if regime.went_slack else "",
        )
        for regime in found
    ]
    if not lines:
        return ""
    text = aligned([("regime", "rows", "tightness", "stored", ""), *lines])
    if max(map(len, text.splitlines())) <= (terminal.columns() or inf):
        return text
    parts = []
    for name, count, tight, stored, slack in lines:
        below = f"    rows {count}, tightness {tight}, stored {stored} {slack}".rstrip()
        parts += [wrapped(f"regime {name}"), below]
    return "\n".join(parts)
