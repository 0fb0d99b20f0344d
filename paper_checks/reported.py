"""Numbers that publications give, each with what it was measured on; none of them is ours.

A number with a `config` was measured in the setting of that experiment, and the table shows it next
to our cell of the same method, partition, graph and metric. All others are listed apart.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from decaf_theory.methods import METHODS
from verification.store import StoreError

REPORTED = Path(__file__).parent / "reported.csv"
HEAD = ("method", "value", "metric", "measured on", "setting", "source")
READ = ("source", "notes of others")
Place = tuple[str, str, str, str, str]  # config, method, partition, graph, metric


class Reported(NamedTuple):
    """A number that a publication gives, and what it was measured on; "" where that is unknown.

    config: our experiment of the same setting, if there is one. graph: the name of ours in a row
    with a config, else in words. setting: what no other column has. version: of the source.
    read: at the source itself, or in the notes of others about it.
    """

    config: str
    method: str
    partition: str
    graph: str
    metric: str
    value: float
    model: str
    dataset: str
    agents: str
    rank: str
    rounds: str
    setting: str
    source: str
    version: str
    read: str
    note: str

    @property
    def place(self) -> Place:
        """The cell of our tables that it belongs to."""
        return self.config, self.method, self.partition, self.graph, self.metric

    @property
    def origin(self) -> str:
        """Source and version, and whether it was read in the notes of others."""
        heard = "" if self.read == "source" else f"; {self.read}"
        return f"{self.source}, {self.version}{heard}"


def read(path: Path = REPORTED) -> list[Reported]:
    """Return all reported numbers, in the order of the file.

    StoreError: other columns, a value that is not a number, an unknown method, a line without
    source or version, a `read` that is not in READ.
    """
    with path.open(encoding="utf-8", newline="") as file:
        lines = csv.DictReader(file, restkey="more", restval=None)
        if tuple(lines.fieldnames or ()) != Reported._fields:
            raise StoreError(f"{path.name} must have the columns {','.join(Reported._fields)}")
        return [_checked(line, f"{path.name}, line {lines.line_num}") for line in lines]


def _checked(line: dict[str, str], where: str) -> Reported:
    try:
        one = Reported(**{**line, "value": float(line["value"])})  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise StoreError(f"{where}: {error}") from None
    if None in one:
        raise StoreError(f"{where}: must have {len(one)} values")
    if one.method not in METHODS:
        raise StoreError(f"{where}: method must be one of ours, got {one.method!r}")
    for name in ("source", "version"):
        if not getattr(one, name):
            raise StoreError(f"{where}: {name} must say where it is read")
    if one.read not in READ:
        raise StoreError(f"{where}: read must be one of {READ}, got {one.read!r}")
    return one


def elsewhere(rows: Iterable[Reported], shown: Collection[Place]) -> list[Reported]:
    """Return the numbers that stand next to none of the cells shown."""
    return [row for row in rows if row.place not in shown]


def listing(rows: Sequence[Reported]) -> str:
    """Return a Markdown table of reported numbers, or "" where there are none."""
    if not rows:
        return ""
    return table([HEAD, *(_cells(row) for row in rows)])


def _cells(row: Reported) -> tuple[str, ...]:
    counts = ((row.agents, "{} agents"), (row.rank, "rank {}"), (row.rounds, "{} rounds"))
    on = [row.model, row.dataset, row.graph, *(form.format(x) for x, form in counts if x)]
    setting = "; ".join(text for text in (row.setting, row.note) if text)
    return (
        row.method,
        f"{row.value:g}",
        row.metric,
        ", ".join(filter(None, on)),
        setting,
        row.origin,
    )


def table(lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns, the first line its head."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    ruled = [lines[0], ["-" * width for width in widths], *lines[1:]]
    padded = [[x.ljust(w) for x, w in zip(line, widths, strict=True)] for line in ruled]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)
