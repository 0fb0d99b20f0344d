"""A comparison as a picture: gradients and distances against their bounds, and every tightness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from decaf_theory.compare.lines import HOLDS, VIOLATED, Line
from decaf_theory.compare.rates import GRADIENT, SPREAD, Run, rate_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from decaf_theory.compare.comparing import Comparison

HORIZONS = 24  # at which bounds are drawn
COLORS = {HOLDS: "#0072B2", VIOLATED: "#D55E00"}  # Okabe and Ito's; what is open is grey
DASHES = (":", "--", "-.", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 2)))


def picture(found: Comparison) -> Figure:
    """Return the running mean of |grad|^2, Xi step by step, and a bar for each ratio."""
    from matplotlib.figure import Figure

    bars = [line for line in found.lines if line.ratio is not None]
    panels = 1 if found.run is None else 3
    height = max(2.6, 0.8 + 0.18 * len(bars))
    figure = Figure(figsize=(3.4 * panels, height), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    if found.run is not None:
        _gradients(axes[0], found.run)
        _distances(axes[1], found.run, [x for x in found.lines if x.what == SPREAD])
    _bars(axes[-1], bars)
    return figure


def _gradients(axis: Any, run: Run) -> None:
    steps = np.arange(1, run.T + 1)
    running = np.cumsum(run.path.gradient.mean(axis=1)) / steps
    axis.plot(steps, running, color=COLORS[HOLDS], label="measured")
    horizons = np.unique(np.geomspace(1, run.T, HORIZONS).astype(int))
    curves: dict[str, list[float]] = {}
    for T in horizons.tolist():
        for line in rate_lines(run.until(T)):
            if line.what.startswith(GRADIENT):
                name = f"{line.claim}{line.what.removeprefix(GRADIENT)}"
                curves.setdefault(name, []).append(np.nan if line.bound is None else line.bound)
    drawn = {name: curve for name, curve in curves.items() if not np.isnan(curve).all()}
    for i, (name, curve) in enumerate(drawn.items()):
        axis.plot(horizons, curve, color="black", linestyle=DASHES[i % len(DASHES)], label=name)
    axis.set(xscale="log", yscale="log", xlabel="steps T", ylabel=f"{GRADIENT} over t < T")
    axis.legend(fontsize=5)


def _distances(axis: Any, run: Run, lines: list[Line]) -> None:
    Xi = run.path.Xi.mean(axis=1)
    axis.plot(np.arange(run.T), np.where(Xi > 0, Xi, np.nan), color=COLORS[HOLDS], label="measured")
    for line in lines:
        if line.bound:
            axis.axhline(line.bound, color="black", linestyle=":", label=line.claim)
    axis.set(yscale="log", xlabel="step t", ylabel="consensus distance Xi")
    axis.legend(fontsize=6)


def _bars(axis: Any, lines: list[Line]) -> None:
    names = [f"{line.claim}: {line.what}" for line in lines]
    ratios = [line.ratio or 0.0 for line in lines]
    colors = [COLORS.get(line.verdict, "0.6") for line in lines]
    axis.barh(range(len(lines)), ratios, color=colors)
    axis.axvline(1.0, color="black", linestyle=":")
    axis.set_yticks(range(len(lines)), names, fontsize=6)
    axis.invert_yaxis()
    axis.set(xlabel="measured / bound", xlim=(0, max([1.05, *ratios])))
