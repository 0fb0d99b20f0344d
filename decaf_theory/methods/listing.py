"""The table of methods in words: what each does, preserves, sends, and where it comes from."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping

import numpy as np

from decaf_theory.arrays import Array
from decaf_theory.formats import digits
from decaf_theory.lowrank import Factors
from decaf_theory.methods.base import Method
from decaf_theory.methods.cost import round_bytes, round_flops
from decaf_theory.methods.state import Clock
from decaf_theory.tsvd import check_rank

WIDTH = 96
HEAD = ("method", "preserves", "sends", "bytes", "flops", "sure")


def listing(methods: Mapping[str, Method], Pi: Array, *, d: int, k: int, r: int) -> str:
    """Return the table of methods as text, with bytes and flops for one d x k matrix in float32.

    They are what all agents send and compute in a round of one local step (`cost.round_flops`), the
    first and the second where these differ, on the graph Pi or by a server. Rule and source stand
    below each line. ValueError: a shape or rank that no matrix has.
    """
    if min(d, k) < 1:
        raise ValueError(f"shape must be two numbers >= 1, got {d} {k}")
    check_rank(r, d, k)
    lines = [HEAD] + [_line(method.on(Pi), Pi, d, k, r) for method in methods.values()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [_row(HEAD, widths)]
    for line, method in zip(lines[1:], methods.values(), strict=True):
        assert method.origin is not None  # each of the table has one
        text += [_row(line, widths), *_below(method.origin.rule), *_below(method.origin.source)]
    return "\n".join(text)


def _line(method: Method, Pi: Array, d: int, k: int, r: int) -> tuple[str, ...]:
    assert method.origin is not None
    sizes = {"d": d, "k": k, "r": r}
    flops = round_flops(method, Pi, **sizes)
    tiny = Factors(np.zeros((1, 1, 1)), np.zeros((1, 1, 1)))
    sent = [list(method.send(method.begin(tiny), Clock(t))) for t in (0, 1)]
    return (
        method.name,
        ", ".join(method.keeps) or "nothing",
        _both(", ".join(each) for each in sent) or "nothing",
        _both(f"{number:,}" for number in round_bytes(method, Pi, **sizes)),
        _both(map(digits, flops)) if flops else "not counted",
        method.origin.confidence,
    )


def _both(texts: Iterable[str]) -> str:
    """Return the texts of the first and the second round, once where they are the same."""
    return " / ".join(dict.fromkeys(texts))


def _row(cells: tuple[str, ...], widths: list[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _below(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="    ", subsequent_indent="    ")
