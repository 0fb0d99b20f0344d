"""The table of methods in words: what each does, preserves, sends, and where it comes from."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from decaf_theory.arrays import Array
from decaf_theory.formats import digits
from decaf_theory.lowrank import Factors
from decaf_theory.methods.base import Method
from decaf_theory.methods.cost import round_bytes, round_flops
from decaf_theory.methods.state import Clock
from decaf_theory.terminal import width
from decaf_theory.tsvd import check_rank

Row: TypeAlias = dict[str, Any]

ROUNDS = ("first", "second")
SENDS = [f"sends_{time}" for time in ROUNDS]
BYTES = [f"bytes_{time}" for time in ROUNDS]
FLOPS = [f"flops_{time}" for time in ROUNDS]
HEAD = ("method", "preserves", "sends", "bytes", "flops", "sure")


def rows(methods: Mapping[str, Method], Pi: Array, *, d: int, k: int, r: int) -> list[Row]:
    """Return a flat record of each method, for one d x k matrix in float32.

    Bytes and flops are what all agents send and compute in a round of one local step
    (`cost.round_flops`), on the graph Pi or by a server; they and what is sent are those of the
    first and of the second round, flops None where they are not counted. ValueError: a shape or
    rank that no matrix has.
    """
    if min(d, k) < 1:
        raise ValueError(f"shape must be two numbers >= 1, got {d} {k}")
    check_rank(r, d, k)
    return [_row(method.on(Pi), Pi, d, k, r) for method in methods.values()]


def listing(found: Iterable[Row]) -> str:
    """Return records of `rows` as a table in text; rule and source stand below each line.

    What differs between the first two rounds is shown for both. Where the table does not fit, the
    cells of a method stand below its name, too.
    """
    found = list(found)
    lines = [HEAD, *map(_cells, found)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    fits = sum(widths) + 2 * (len(widths) - 1) <= width()
    text = [_aligned(HEAD, widths)] if fits else []
    for line, row in zip(lines[1:], found, strict=True):
        text += [_aligned(line, widths)] if fits else _listed(line)
        text += [*_below(row["rule"]), *_below(row["source"])]
    return "\n".join(text)


def _row(method: Method, Pi: Array, d: int, k: int, r: int) -> Row:
    assert method.origin is not None  # each of the table has one
    sizes = {"d": d, "k": k, "r": r}
    tiny = Factors(np.zeros((1, 1, 1)), np.zeros((1, 1, 1)))
    flops = round_flops(method, Pi, **sizes) or (None, None)
    found: Row = {"method": method.name, "preserves": ", ".join(method.keeps)}
    sent = [", ".join(method.send(method.begin(tiny), Clock(t))) for t in (0, 1)]
    found |= dict(zip(SENDS, sent, strict=True))
    found |= dict(zip(BYTES, round_bytes(method, Pi, **sizes), strict=True))
    found |= dict(zip(FLOPS, flops, strict=True))
    about = method.origin
    return found | {"sure": about.confidence, "rule": about.rule, "source": about.source}


def _cells(row: Row) -> tuple[str, ...]:
    flops = [row[name] for name in FLOPS]
    return (
        row["method"],
        row["preserves"] or "nothing",
        _both(row[name] for name in SENDS) or "nothing",
        _both(f"{row[name]:,}" for name in BYTES),
        "not counted" if None in flops else _both(map(digits, flops)),
        row["sure"],
    )


def _both(texts: Iterable[str]) -> str:
    """Return the texts of the first and the second round, once where they are the same."""
    return " / ".join(dict.fromkeys(texts))


def _aligned(cells: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _listed(cells: tuple[str, ...]) -> list[str]:
    """Return a method's name, and below it its cells by name."""
    name, *others = cells
    named = (f"{head}: {cell}" for head, cell in zip(HEAD[1:], others, strict=True))
    return [name, *_below("; ".join(named))]


def _below(text: str) -> list[str]:
    indent = " " * 4
    return textwrap.wrap(text, width(), initial_indent=indent, subsequent_indent=indent)
