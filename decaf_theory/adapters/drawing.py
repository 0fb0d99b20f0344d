"""A diagnosis as a picture: what each layer loses, and how far apart its agents are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from decaf_theory.adapters.advice import FINE
from decaf_theory.adapters.agents import count
from decaf_theory.adapters.diagnosis import Numbers, pool
from decaf_theory.adapters.reasons import share
from decaf_theory.adapters.tables import kept_ranks, percentage, short_name, stem_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Layers = dict[int | str, list[Numbers]]  # the matrices of one kind, by layer or by name
FORMATS = ("svg", "png", "pdf")
COLUMNS = 4  # panels next to each other
PANEL = (2.6, 3.1)  # in, of losses and angles of one kind of matrix
LOSSES = {  # in the colours of Okabe and Ito
    "relative_interference": ("averaging factors", "#D55E00", "o"),
    "relative_aligned": ("averaging aligned factors", "#E69F00", "s"),
    "relative_truncation": ("truncating the mix", "#0072B2", "^"),
}
ANGLES = {
    "angle_A": ("angle of rows of A", "#009E73", "v"),
    "angle_B": ("angle of columns of B", "#CC79A7", "D"),
}
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "savefig.dpi": 200,
    "pdf.fonttype": 42,
    "svg.hashsalt": "decaf-theory",  # else the ids in the file are random
}
METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
    "png": {},
}


def draw(sites: Sequence[Numbers], kind: str, topology: str) -> bytes:
    """Return the bytes of the picture of `diagnose`'s sites, kind one of FORMATS.

    Equal numbers give equal bytes: matplotlib's defaults count, not the user's settings.
    """
    import matplotlib

    out = BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        picture(sites, topology).savefig(out, format=kind, metadata=METADATA[kind])
    return out.getvalue()


def picture(sites: Sequence[Numbers], topology: str) -> Figure:
    """Return one panel of losses, and one of angles, for each kind of matrix, against the layer.

    The layer is the number in the names of the matrices; those without one share a panel.
    """
    from matplotlib.figure import Figure

    panels = kinds(sites)
    across = min(COLUMNS, len(panels))
    down = math.ceil(len(panels) / across)
    size = (max(PANEL[0] * across, 5.0), PANEL[1] * down + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.add_gridspec(2 * down, across, height_ratios=[2.0, 1.0] * down)
    pairs: list[tuple[Any, Any]] = []
    for number, (kind, layers) in enumerate(panels.items()):
        row, column = divmod(number, across)
        first = pairs[0] if pairs else (None, None)
        above = figure.add_subplot(grid[2 * row, column], sharey=first[0])
        below = figure.add_subplot(grid[2 * row + 1, column], sharex=above, sharey=first[1])
        pairs.append((above, below))
        _panel(above, below, kind, layers, pool(sites))
        for axis, words in ((above, "lost, % of |M|"), (below, "angle, degrees")):
            axis.set_ylabel("" if column else words)
            axis.tick_params(labelleft=not column)
    above, below = pairs[0]
    above.set_ylim(0, None)
    below.set(ylim=(0, 90), yticks=[0, 45, 90])
    handles = [*above.get_legend_handles_labels()[0], *below.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=3 if across > 1 else 2)
    figure.suptitle(_title(sites, topology), fontsize=9)
    return figure


def kinds(sites: Sequence[Numbers]) -> dict[str, Layers]:
    """Return the sites by kind, the name without its numbers, and layer, the first of them.

    Those without a number are of the kind "", each by its own name.
    """
    stem = stem_of(sites)
    found: dict[str, Layers] = {}
    for site in sites:
        parts = str(site["site"]).removeprefix(stem).split(".")
        layers = [int(part) for part in parts if part.isdecimal() and len(part) < 10]
        kind = ".".join(part for part in parts if not part.isdecimal()) if layers else ""
        at = layers[0] if layers else short_name(site, stem)
        found.setdefault(kind, {}).setdefault(at, []).append(site)
    return found


def _panel(above: Any, below: Any, kind: str, layers: Layers, total: Numbers) -> None:
    """Draw the losses and, below them, the angles of one kind of matrix."""
    x = [at if isinstance(at, int) else place for place, at in enumerate(layers)]
    together = [pool(of_layer) for of_layer in layers.values()]
    parts = [100 * share(each, total, "interference") for each in together]
    above.bar(x, parts, color="0.85", width=0.8, label="share of what averaging loses")
    line = "-" if kind else ""  # matrices without a number have no order
    _curves(above, x, together, LOSSES, 100, line)
    _curves(below, x, together, ANGLES, 1, line)
    above.axhline(100 * FINE, color="0.5", linewidth=0.7, linestyle=":")
    above.set_title(short_name({"site": kind or "matrices"}), loc="left")
    above.tick_params(labelbottom=False)
    _ticks(below, x, [] if kind else [str(name) for name in layers])


def _curves(
    axis: Any, x: Sequence[int], sites: Sequence[Numbers], looks: Any, unit: int, line: str
) -> None:
    """Draw numbers of the sites against x; what is infinite or not there is left out."""
    for name, (label, color, marker) in looks.items():
        values = [math.nan if site[name] is None else unit * site[name] for site in sites]
        shown = [value if math.isfinite(value) else math.nan for value in values]
        axis.plot(x, shown, color=color, marker=marker, linestyle=line, label=label)


def _ticks(axis: Any, x: Sequence[int], names: Sequence[str]) -> None:
    """Name the matrices of a panel, or number its layers, at integers alone."""
    from matplotlib.ticker import MaxNLocator

    if not names:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axis.set_xlabel("layer")
    else:
        axis.set_xticks(x, names, rotation=45 if len("".join(names)) > 24 else 0)
    axis.set_xlim(min(x) - 0.6, max(x) + 0.6)


def _title(sites: Sequence[Numbers], topology: str) -> str:
    total = pool(sites)
    lost = [f"{percentage(total[name])} %" for name in LOSSES]
    return (
        f"{count(total['agents'])}, {topology} graph. Lost: {lost[0]} by averaging,\n"
        f"{lost[1]} after alignment, {lost[2]} by truncating to {kept_ranks(sites)}"
    )
