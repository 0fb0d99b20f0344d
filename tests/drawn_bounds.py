"""What a drawn figure says of bounds, read off its artists: which curves a bound bounds, and where.

A bound is black and dotted, or a black bar. One with open markers bounds the curves of their colour
and marker; any other bounds all curves of its panel, unless `MEANT` names those that it does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from matplotlib.colors import to_hex

from figures import style, tightness

BLACK = style.OKABE_ITO["black"].lower()
HOLDS = tightness.OUTCOMES["holds"]["color"].lower()
# (figure, panel) -> the side of the bound on which its curves are, and which these are
MEANT = {
    ("start", 1): (">=", lambda line: line.get_label() == "DeCAF"),
    ("tightness", 0): ("<=", lambda line: to_hex(line.get_color()) == HOLDS),
}


class Pair(NamedTuple):
    """A measured number, its bound, and the side of the bound on which it has to be."""

    measured: float
    side: str
    bound: float


def is_bound(line: Any) -> bool:
    """Whether a line has the look of a bound."""
    bar = line.get_marker() == "_" and line.get_linestyle() == "None"
    return to_hex(line.get_color()) == BLACK and (line.get_linestyle() == ":" or bar)


def pairs(name: str, panel: int, axis: Any) -> Iterator[Pair]:
    """Yield every measured point of a panel with each of its bounds.

    Where several points stand at one x, as many bounds must, or one number: the least is paired
    with the least.
    """
    curves = [line for line in axis.lines if not is_bound(line) and len(line.get_xdata())]
    for bound in filter(is_bound, axis.lines):
        if not len(bound.get_xdata()):
            continue
        side, meant = MEANT.get((name, panel), ("<=", _of_its_look(bound)))
        own = [line for line in curves if meant(line)]
        assert own, f"{name}, panel {panel}: {bound.get_label()} bounds nothing"
        yield from (Pair(y, side, limit) for y, limit in _met(own, bound, axis))


def _of_its_look(bound: Any) -> Any:
    if bound.get_marker() in ("None", "_"):
        return lambda line: True
    look = to_hex(bound.get_markeredgecolor()), bound.get_marker()
    return lambda line: (to_hex(line.get_color()), line.get_marker()) == look


def _met(curves: list[Any], bound: Any, axis: Any) -> Iterator[tuple[float, float]]:
    """Yield measured numbers with the bound where they stand; one without a bound is left out."""
    xs, ys = (list(map(float, values)) for values in bound.get_data())
    points = [tuple(map(float, xy)) for line in curves for xy in zip(*line.get_data(), strict=True)]
    if bound.get_transform() is axis.get_xaxis_transform():  # upright
        yield from ((x, xs[0]) for x, _ in points)
    elif bound.get_transform() is axis.get_yaxis_transform():  # across
        yield from ((y, ys[0]) for _, y in points)
    else:
        for place in sorted(set(xs)):
            measured = sorted(y for x, y in points if x == place)
            limits = sorted(y for x, y in zip(xs, ys, strict=True) if x == place)
            assert measured, f"a bound at {place:g}, where nothing is"
            same = limits * len(measured) if len(set(limits)) == 1 else limits
            yield from zip(measured, same[: len(measured)], strict=True)
