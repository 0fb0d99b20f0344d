"""F1: one round of DeCAF on a ring, drawn from the mixing matrix and the agents' factors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from decaf_theory.topology import TOPOLOGIES
from figures import style
from figures.rows import Row

NEEDS = ()
CAPTION = r"""One round of DeCAF on a ring of six agents, computed rather than sketched: every
cell is an entry of the matrices ($d = 6$, $k = 5$, rank $r = 2$; blue positive, red negative).
(a) The mixing matrix $\Pi$ says who talks to whom; agent 0 hears itself and two neighbours with
weights 1/3 each. Every agent holds LoRA factors $B$ ($d \times r$) and $A$ ($r \times k$) and has
just taken a gradient step on them. (b) Agent 0 mixes the products, not the factors: the mix $M$ has
up to $3 r$ singular values. (c) TSVD keeps the $r$ largest and gives their square roots to both
factors (balanced: $B' B = A A'$); the rest is the truncation error $E$.
"""
N, D, K, R = 6, 6, 5, 2
HEARD = (5, 0, 1)
SIGNED = (style.OKABE_ITO["vermilion"], "white", style.OKABE_ITO["blue"])


def factors() -> tuple[np.ndarray, np.ndarray]:
    """Return B [N, d, r] and A [N, r, k]: smooth, different for each agent."""
    i, a, b = np.ogrid[:N, :D, :R]
    B = np.cos(1.3 * a * (b + 1) + 0.5 * i) + 0.2 * np.sin(i * (a + 2 * b))
    i, b, c = np.ogrid[:N, :R, :K]
    return B, np.sin(1.1 * c * (b + 1) + 0.4 * i + b) + 0.2 * np.cos(i * (c - b))


def draw(rows: Sequence[Row], path: Path) -> list[Path]:
    """Draw the ring, the mix and its split; return the files."""
    Pi, (B, A) = TOPOLOGIES["ring"](N), factors()
    M = np.einsum("j,jab,jbc->ac", Pi[0], B, A)
    U, S, Vh = np.linalg.svd(M, full_matrices=False)
    sign = np.sign(Vh.sum(axis=1))  # LAPACK's choice differs from one machine to another
    U, Vh = U * sign, sign[:, None] * Vh
    with style.look():
        figure = style.empty(4.55)
        axis = figure.add_axes((0, 0, 1, 1))
        axis.set_axis_off()
        axis.set_xlim(0, 34)
        axis.set_ylim(45.5, 0)
        ring(axis, Pi, B, A)
        mix(axis, Pi, B, A, M)
        split(axis, U, S, Vh)
        return style.save(figure, path)


def field(axis: Any, X: np.ndarray, x: float, y: float, cell: float = 0.55) -> tuple[float, float]:
    """Draw a matrix with its upper left corner at (x, y); return its lower right corner."""
    from matplotlib.colors import LinearSegmentedColormap

    height, width = X.shape
    edges = x + cell * np.arange(width + 1), y + cell * np.arange(height + 1)
    top = float(np.abs(X).max())
    colors = LinearSegmentedColormap.from_list("signed", SIGNED)
    look = {"cmap": colors, "vmin": -top, "vmax": top, "edgecolors": "grey", "linewidth": 0.25}
    axis.pcolormesh(*edges, X, **look)
    return float(edges[0][-1]), float(edges[1][-1])


def named(axis: Any, X: np.ndarray, x: float, y: float, cell: float, name: str) -> float:
    """Draw a matrix with its name below; return where it ends on the right."""
    right, bottom = field(axis, X, x, y, cell)
    write(axis, (x + right) / 2, bottom + 1.1, name, fontsize=7)
    return right


def write(axis: Any, x: float, y: float, text: str, **more: Any) -> None:
    """Write a centred text."""
    axis.text(x, y, text, **{"ha": "center", "va": "center", **more})


def fraction(weight: float) -> str:
    """Return a weight 1/n as a formula."""
    return rf"$\frac{{1}}{{{round(1 / weight)}}}$"


def ring(axis: Any, Pi: np.ndarray, B: np.ndarray, A: np.ndarray) -> None:
    """Draw the agents, an edge where Pi is not zero, and each agent's factors next to it."""
    write(axis, 0.5, 1.2, r"(a) agents on a graph, with factors $B_j$, $A_j$", ha="left")
    angle = 2 * np.pi * np.arange(N) / N
    x, y = 17 + 6.8 * np.sin(angle), 12.3 - 5.0 * np.cos(angle)
    for i, j in zip(*np.nonzero(np.triu(Pi, k=1)), strict=True):
        near = 0 in (i, j)
        color = style.OKABE_ITO["blue" if near else "grey"]
        axis.plot(x[[i, j]], y[[i, j]], color=color, linewidth=1.6 if near else 0.8, zorder=1)
        if near:
            side = 1.2 if x[i] + x[j] > 34 else -1.2
            middle = x[[i, j]].mean() + side, y[[i, j]].mean() - 0.8
            write(axis, *middle, fraction(Pi[i, j]))
    for i in range(N):
        color = style.OKABE_ITO["blue" if i in HEARD else "grey"]
        axis.plot(x[i], y[i], marker="o", markersize=11, color=color, zorder=2)
        write(axis, x[i], y[i], str(i), color="white", zorder=3)
        left, top = beside(x[i] - 17, y[i] - 12.3)
        right, _ = field(axis, B[i], x[i] + left, y[i] + top, 0.5)
        field(axis, A[i], right + 0.5, y[i] + top, 0.5)


def beside(x: float, y: float) -> tuple[float, float]:
    """Return where an agent's factors begin, outside, from its place about the centre."""
    middle = -2.0, -4.5 if y < 0 else 1.5
    return middle if abs(x) < 1 else (1.6 if x > 0 else -5.9, -1.5)


def mix(axis: Any, Pi: np.ndarray, B: np.ndarray, A: np.ndarray, M: np.ndarray) -> None:
    """Draw the products that agent 0 hears, and their mean."""
    write(
        axis,
        0.5,
        23.6,
        r"(b) agent 0 mixes products: $M = \mathrm{\Sigma}_j\, \pi_{0j} B_j A_j$",
        ha="left",
    )
    x, y = 1.8, 25.4
    for j in HEARD:
        write(axis, x - 0.9, y + 2.0, fraction(Pi[0, j]))
        right = named(axis, B[j] @ A[j], x, y, 0.7, rf"$B_{j} A_{j}$")
        write(axis, right + 1.5, y + 2.0, "=" if j == HEARD[-1] else "+")
        x = right + 4.2
    named(axis, M, x - 1.0, y, 0.7, f"$M$, rank {np.linalg.matrix_rank(M)}")


def split(axis: Any, U: np.ndarray, S: np.ndarray, Vh: np.ndarray) -> None:
    """Draw the singular values, kept and dropped, and the new factors of agent 0."""
    write(axis, 0.5, 33.2, r"(c) and keeps $B^+ A^+ = \mathrm{TSVD}_r(M)$", ha="left")
    foot = 43.0
    for i, value in enumerate(S):
        color = style.OKABE_ITO["blue" if i < R else "grey"]
        axis.bar(2.2 + 1.7 * i, -7.0 * value / S[0], width=1.2, bottom=foot, color=color)
        write(axis, 2.2 + 1.7 * i, foot + 1.0, rf"$\sigma_{i + 1}$", fontsize=7)
    lost = float(np.sqrt(np.sum(S[R:] ** 2) / np.sum(S**2)))
    write(axis, 8.6, 38.2, f"dropped:\n$|E| = {lost:.2f}\\,|M|$", fontsize=7, color="dimgrey")
    axis.annotate("", (17.0, 39.0), (13.5, 39.0), arrowprops={"arrowstyle": "->"})
    root = np.sqrt(S[:R])
    named(axis, U[:, :R] * root, 19.0, 36.3, 0.75, r"$B^+ = U_r \Sigma_r^{1/2}$")
    A = root[:, None] * Vh[:R]
    named(axis, A, 25.5, 37.8, 0.75, r"$A^+ = \Sigma_r^{1/2} V_r^\mathsf{T}$")
