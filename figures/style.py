"""One look for every figure: 3.4 in wide, 8 pt, Okabe-Ito colours, files that are byte-stable."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decaf_theory.files import write_atomically

if TYPE_CHECKING:  # matplotlib takes long to load: only where something is drawn
    from matplotlib.figure import Figure

Dash = str | tuple[int, tuple[int, int]]  # by name, or offset and lengths of stroke and gap
WIDTH = 3.4  # in, one column of a two-column page
OKABE_ITO = {
    **{"black": "#000000", "orange": "#E69F00", "sky": "#56B4E9", "green": "#009E73"},
    **{"yellow": "#F0E442", "blue": "#0072B2", "vermilion": "#D55E00", "purple": "#CC79A7"},
    "grey": "#999999",
}
RC: dict[Any, Any] = {
    "font.size": 8,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "mathtext.fontset": "dejavusans",
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "legend.handlelength": 2.8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "pdf.fonttype": 42,
    "svg.hashsalt": "decaf-theory",  # else the ids in the file are random
    "svg.fonttype": "path",
}
# no dates and no versions in the files: equal rows give equal bytes
METADATA: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


def line(color: str, marker: str, dash: Dash) -> dict[str, Any]:
    """Return the look of a curve."""
    return {"color": OKABE_ITO[color], "marker": marker, "linestyle": dash}


# a method keeps its colour, marker and dash in every figure
METHODS = {
    "decaf": {**line("blue", "o", "-"), "label": "DeCAF"},
    "decaf_ef": {**line("black", "*", "-"), "label": "DeCAF, error feedback"},
    "dlora": {**line("vermilion", "s", "--"), "label": "DLoRA"},
    "dlora_fa": {**line("green", "^", "-."), "label": "DLoRA-FA"},
    "choco": {**line("purple", "X", ":"), "label": "CHOCO"},
    "dsgd": {**line("orange", "D", (0, (6, 1))), "label": "D-SGD, full matrix"},
    "fedavg": {**line("purple", "v", "--"), "label": "FedAvg"},
    "centralized": {**line("sky", "P", "-."), "label": "centralized"},
    "local": {**line("grey", "x", "-."), "label": "local"},
}

# and so does a topology
TOPOLOGIES = {
    "complete": line("black", "o", "-"),
    "ring": line("orange", "D", "--"),
    "path": line("vermilion", "s", "-."),
    "star": line("purple", "*", "-"),
    "torus": line("green", "P", "--"),
    "hypercube": line("sky", "p", "-."),
    "bipartite": line("blue", "X", "--"),
    "exponential": line("green", "^", "-"),
    "erdos_renyi": line("grey", "v", "-."),
}


def methods(names: Collection[str]) -> list[tuple[str, dict[str, Any]]]:
    """Return the looks of these methods, in the order of METHODS; the others come last, in black.

    A method that has no look of its own yet is drawn and labelled all the same.
    """
    known = [(name, look) for name, look in METHODS.items() if name in names]
    others = sorted(set(names) - METHODS.keys())
    dots = [(0, (1, n)) for n in range(1, len(others) + 1)]
    plain = {"color": "black", "marker": "."}
    return known + [
        (name, {**plain, "linestyle": dash, "label": name})
        for name, dash in zip(others, dots, strict=True)
    ]


BOUND = {"color": OKABE_ITO["black"], "linestyle": ":", "linewidth": 1.0}

# a number to compare with that is not a bound: a goal, a limit, a floor measured on this machine
REFERENCE = {"color": OKABE_ITO["black"], "linestyle": "--", "linewidth": 0.8}


def bound_of(look: dict[str, Any], label: str = "") -> dict[str, Any]:
    """Return the look of the bound on one curve among several: dotted, with its open markers."""
    color = look["color"]
    open_ = {"marker": look["marker"], "markerfacecolor": "none", "markeredgecolor": color}
    return {**BOUND, **open_, "markersize": 3, **({"label": label} if label else {})}


@contextmanager
def look() -> Iterator[None]:
    """Make, fill and save a figure in this context: matplotlib's defaults count, not the user's."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        yield


def empty(height: float, **settings: Any) -> Figure:
    """Return a figure without panels, `height` in."""
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), **settings)


def grid(
    rows: int, columns: int, height: float, *, sharex: Any = True, sharey: Any = True
) -> tuple[Figure, list[Any]]:
    """Return a figure of panels, row by row, each `height` in."""
    figure = empty(rows * height, layout="constrained")
    axes = figure.subplots(rows, columns, sharex=sharex, sharey=sharey, squeeze=False)
    return figure, list(axes.ravel())


def panels(count: int, height: float, **shared: Any) -> tuple[Figure, list[Any]]:
    """Return a figure of `count` panels above each other, each `height` in."""
    return grid(count, 1, height, **shared)


def band(axis: Any, x: Sequence[float], low: Any, mid: Any, high: Any, look: Any) -> None:
    """Draw a median with the band around it."""
    axis.fill_between(x, low, high, color=look["color"], alpha=0.2, linewidth=0)
    axis.plot(x, mid, **look)


def ranks(axis: Any, values: Sequence[int]) -> None:
    """Make the x axis one of ranks, log 2, with one tick per rank."""
    axis.set_xscale("log", base=2)
    axis.set_xticks(list(values), [str(r) for r in values])
    axis.set_xticks([], minor=True)
    axis.set_xlabel("rank $r$")


def labelled(axes: Sequence[Any]) -> dict[str, Any]:
    """Return what has a label, every label once."""
    entries: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    return entries


def legend_over(axis: Any, title: str, columns: int = 1, **more: Any) -> None:
    """Put the legend of one panel above it, under its title."""
    entries = labelled([axis])
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    head = {"title": title, "title_fontsize": 8, "alignment": "left"}
    axis.legend(list(entries.values()), list(entries), **place, **head, ncols=columns, **more)


def legend_above(figure: Figure, axes: Sequence[Any], columns: int = 2, **more: Any) -> None:
    """Put one legend above the panels, with every label once."""
    entries = labelled(axes)
    place: dict[str, Any] = {"loc": "outside upper left", "ncols": columns}
    figure.legend(list(entries.values()), list(entries), **place, **more)


def save(figure: Figure, path: Path, endings: Collection[str] = ()) -> list[Path]:
    """Write files called `path` with these endings, each whole or not at all; return their paths.

    By default SVG, PDF and PNG. The panels are laid out once, for the first file.
    """
    written = {path.with_suffix(f".{ending}"): ending for ending in endings or METADATA}
    for file, ending in written.items():
        drawn = BytesIO()
        figure.savefig(drawn, format=ending, metadata=METADATA[ending], dpi=300)
        figure.set_layout_engine("none")
        write_atomically(file, drawn.getvalue())
    return list(written)
