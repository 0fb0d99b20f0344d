"""What a check of a problem or a method of one's own found: a table to print, errors to raise."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, Self, TypeVar


class Finding(Protocol):
    """The worst that was found of one thing; prints as a line of a table."""

    @property
    def name(self) -> str:
        """What was looked at."""

    @property
    def held(self) -> bool:
        """Whether it is as it should be, up to rounding."""

    @property
    def complaint(self) -> str:
        """What is wrong, and where."""


F = TypeVar("F", bound=Finding)


class Checked(dict[str, F]):
    """The findings by name; prints as a table, one line for each, below its heading."""

    def __init__(self, findings: Iterable[F], heading: str) -> None:
        """Take findings in the order of their lines."""
        super().__init__({finding.name: finding for finding in findings})
        self.heading = heading

    def __str__(self) -> str:
        """Return the table."""
        return "\n".join([self.heading, *map(str, self.values())])

    def require(self, subject: str) -> Self:
        """Return the findings; ValueError unless all held, with each complaint."""
        wrong = [finding.complaint for finding in self.values() if not finding.held]
        if wrong:
            raise ValueError(f"{subject}: " + "; ".join(wrong))
        return self
