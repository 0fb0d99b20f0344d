"""Benchmarks of the kernel: ratios of times measured in one run, compared with its goals.

from decaf_theory import bench
rows = bench.run(bench.chosen(["G1", "G10"]), bench.settings(quick=True), show=print)
bench.failed(rows)                                   # is a goal missed by more than a fifth?

Repeats of all contestants are interleaved in one process on one thread and timed in CPU time (on
CUDA in wall time). Each round gives one ratio, that of the minima over its repeats; the median, the
smallest and the largest of three rounds are reported. BLAS takes its number of threads from the
environment when NumPy is loaded, and `decaf bench` sets it before that.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from decaf_theory.bench.goals import GOALS, Goal
from decaf_theory.bench.race import Settings
from decaf_theory.bench.rows import HEADER, Row, line
from decaf_theory.extras import compiled_asked
from decaf_theory.files import require_writable, write_atomically
from decaf_theory.sums import seal_lines

__all__ = ["GOALS", "HEADER", "Settings", "chosen", "failed", "line", "run", "settings"]

LIBRARIES = ("numpy", "scipy", "torch", "peft", "scikit-learn")


def chosen(only: Sequence[str] | None = None) -> dict[str, Goal]:
    """Return the goals with these names, by default all."""
    unknown = sorted(set(only or ()) - set(GOALS))
    if unknown:
        raise ValueError(f"unknown goal {unknown[0]!r}; known: {', '.join(GOALS)}")
    return {name: goal for name, goal in GOALS.items() if name in (only or GOALS)}


def settings(*, quick: bool = False, device: str = "cpu") -> Settings:
    """Return how to run; ValueError unless device is "cpu", or "cuda" and there is a GPU."""
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu or cuda, got {device!r}")
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ValueError("device cuda was asked for, but torch sees no GPU; use --device cpu")
    return Settings.of(quick, device)


def run(
    goals: Mapping[str, Goal],
    settings: Settings,
    *,
    to: Path | None = None,
    show: Callable[[str], object] = lambda text: None,
    progress: Callable[[str], object] = lambda text: None,
) -> list[Row]:
    """Return the rows of some goals; show verdicts as they come, store all rows at the end.

    `to` is a file of JSON lines, the last their checksum, written whole or not at all; a signal
    ends the benchmark, and what was measured until then is stored. Before anything is timed:
    ValueError, its folder does not exist; UnwritableError.
    """
    import torch

    if to is not None and not to.parent.is_dir():
        raise ValueError(f"{to}: there is no folder {to.parent}; make it first")
    if to is not None:
        require_writable(to.parent)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = [machine(settings)]
    try:
        show(HEADER)
        for name, goal in goals.items():
            progress(f"{name}: {goal.__doc__}")
            for row in goal(settings):
                rows.append(row)
                if row["kind"] == "verdict":
                    show(line(row))
    except KeyboardInterrupt:
        if to is not None:
            write_atomically(to, seal_lines(rows))
        raise
    finally:
        torch.set_num_threads(threads)
    if to is not None:
        write_atomically(to, seal_lines(rows))
    return rows


def failed(rows: Sequence[Row]) -> bool:
    """Return whether a goal that ran is missed by more than a fifth (a count: missed at all)."""
    return any(row.get("fails", False) for row in rows)


def machine(settings: Settings) -> Row:
    """Return the row that says what the other rows were measured on."""
    found = {"kind": "machine", "device": settings.device, "quick": settings.quick}
    found |= {"rounds": settings.rounds, "processor": platform.processor() or platform.machine()}
    asked = ["numba"] if compiled_asked() else []
    return found | {library: version_of(library) for library in (*LIBRARIES, *asked)}


def version_of(library: str) -> str:
    """Return the version of a library, or that it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"
