"""How pictures of the library look, and their bytes: equal numbers give equal files."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decaf_theory.files import place

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("svg", "png", "pdf")
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


def format_of(file: str | Path, name: str = "file") -> str:
    """Return the format of a picture by the end of its file's name; ValueError: another."""
    form = place(file).suffix.lower().removeprefix(".")
    if form not in FORMATS:
        known = ", ".join(f".{each}" for each in FORMATS)
        raise ValueError(f"{name} must end in one of {known}, got {str(file)!r}; rename it")
    return form


def rendered(make: Callable[[], Figure], kind: str) -> bytes:
    """Return the bytes of the figure that `make` makes, kind one of FORMATS.

    matplotlib's defaults count, not the user's settings.
    """
    import matplotlib

    out = BytesIO()
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        make().savefig(out, format=kind, metadata=METADATA[kind])
    return out.getvalue()
