"""What a check found, in words."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from decaf_theory.terminal import width, wrapped

SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth saying: in which cases, by how much of the update."""

    words: str
    cases: tuple[str, ...]
    error: float | None = None

    def __str__(self) -> str:
        """Return the finding as one sentence."""
        size = "" if self.error is None else f"; largest error {self.error:.2g} of the update"
        more = f" and {len(self.cases) - SHOWN} more cases" if len(self.cases) > SHOWN + 1 else ""
        shown = self.cases[:SHOWN] if more else self.cases
        return f"{self.words} ({', '.join(shown)}{more}{size})"


@dataclass(frozen=True)
class Report:
    """What a check found. True where nothing is wrong, so that `assert check(...)` is a test.

    faults: what differs from the rule. notes: what the function does not take, or does besides.
    called: how it was called. passed, asked: how many cases.
    """

    function: str
    rule: str
    called: str
    asked: int
    passed: int
    faults: tuple[Finding, ...] = ()
    notes: tuple[Finding, ...] = ()
    unasked: tuple[str, ...] = field(default=())

    def __bool__(self) -> bool:
        """Return whether nothing is wrong."""
        return not self.faults

    def __str__(self) -> str:
        """Return the report in words."""
        verdict = "as the rule has it" if self else "NOT as the rule has it: right"
        head = [
            f"{self.function}, rule {self.rule}: {verdict} in {self.passed} of {self.asked} cases",
            f"called with {self.called}",
        ]
        lines = [*map(wrapped, head), *_listed("fault", self.faults), *_listed("note", self.notes)]
        if self.unasked:
            lines += _wrapped("not asked", "; ".join(self.unasked))
        return "\n".join(lines)

    __repr__ = __str__

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON data."""
        return {"right": bool(self), **asdict(self)}


def _listed(kind: str, findings: Sequence[Finding]) -> Iterable[str]:
    for finding in findings:
        yield from _wrapped(kind, str(finding))


def _wrapped(kind: str, text: str) -> list[str]:
    return textwrap.wrap(f"{kind}: {text}", width(), subsequent_indent="  ", break_on_hyphens=False)
