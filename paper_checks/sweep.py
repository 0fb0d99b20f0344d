"""Many runs of one experiment: methods x graphs x partitions x seeds, each in a folder of its own.

Finished cells are skipped, and an interrupted one resumes where it stopped. Methods that use no
graph are run once for all graphs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from multiprocessing import parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

from paper_checks import config as configs
from paper_checks import stamp
from paper_checks.config import Config
from verification.harness import Stored, read
from verification.provenance import differences
from verification.store import StoreError
from verification.workers import in_processes


class Cell(NamedTuple):
    """One run of a sweep, as plain values that go to another process."""

    config: str
    overrides: dict[str, Any]
    out: Path
    data_dir: str | None
    device: str
    restart: bool = False
    accept_code: bool = False

    def read(self) -> Config:
        """Return the cell's config."""
        return configs.read(self.config, self.overrides, data_dir=self.data_dir)

    @property
    def name(self) -> str:
        """The name under which its run is reported."""
        return self.read().cell


class Named(Protocol):
    """What can be run apart from others, and reported by a name."""

    @property
    def name(self) -> str:
        """The name."""


class Outcome(NamedTuple):
    """How a cell ended: "finished", "skipped", "interrupted" or "failed", and a line about it."""

    cell: str
    status: str
    line: str
    stopped_by: int = 0  # the signal, where one interrupted it
    rows: Sequence[dict[str, Any]] = ()  # where the cell leaves them to its caller
    seconds: float = 0.0


def folder_of(out: Path, config: Config) -> Path:
    """Return the folder of a run."""
    return out / config.name / config.cell


def cells(
    base: Cell,
    methods: Sequence[str],
    graphs: Sequence[str],
    partitions: Sequence[str],
    seeds: Iterable[int],
) -> list[Cell]:
    """Return the runs of a sweep, seed by seed, each run once. ConfigError: a setting is wrong."""
    found: dict[str, Cell] = {}
    for seed in seeds:
        for partition in partitions:
            for graph in graphs:
                for method in methods:
                    chosen = {
                        "mix.method": method,
                        "mix.graph": graph,
                        "data.partition": partition,
                        "train.seed": seed,
                    }
                    cell = base._replace(overrides=base.overrides | chosen)
                    found.setdefault(cell.read().cell, cell)
    return list(found.values())


def finished(
    folder: Path, cell: Cell, config: Config, adapters: Sequence[str | Path] = ()
) -> Stored | None:
    """Return the run stored in a folder if it is sound, finished, and of the same stamp.

    The examples and the model of a finished run are not loaded to compare them: the files that
    they are read from are, and the versions of the packages that they come with.
    """
    try:
        stored = read(folder)
    except StoreError:
        return None
    wanted = stamp.of(config, adapters, cell.device)
    known = {name: stored.settings.get(name) for name in wanted}
    changed = differences(known, wanted, accept_code=cell.accept_code)
    return stored if stored.finished and not changed else None


def run_cell(cell: Cell, stop: Callable[[], bool] = lambda: False) -> Outcome:
    """Run one cell, or find it done; errors become the outcome's line."""
    config = cell.read()
    folder = folder_of(cell.out, config)
    stored = finished(folder, cell, config)
    if stored is not None:
        return Outcome(config.cell, "skipped", summary(stored))
    from paper_checks import finetune  # torch: in the process that trains

    try:
        run = finetune.finetune(
            config,
            folder,
            device=cell.device,
            stop=stop,
            restart=cell.restart,
            accept_code=cell.accept_code,
        )
    except (finetune.TrainingError, StoreError, ValueError) as error:
        return Outcome(config.cell, "failed", str(error))
    except Exception as error:  # no memory, a defect: of this cell, not of the others
        return Outcome(config.cell, "failed", f"{type(error).__name__}: {error}")
    if not run.finished:
        line = f"after step {run.step} of {config.train.steps}"
        return Outcome(config.cell, "interrupted", line, run.stopped_by)
    return Outcome(config.cell, "finished", summary(read(folder)))


def summary(stored: Stored) -> str:
    """Return one line about a stored run: score, seconds, share of mixing, verdicts."""
    last = stored.records[-1] if stored.records else {}
    score = f"score {last['score']:.4f}, " if "score" in last else ""
    seconds = sum(stored.run["seconds"].values())
    verdicts = " ".join(f"{c} {v['outcome']}" for c, v in stored.run["verdicts"].items())
    return (
        f"{score}{seconds:.1f} s, mixing {stored.run['mixing_share']:.1%} of training; {verdicts}"
    )


def run_all(
    wanted: Sequence[Named],
    jobs: int,
    signals: list[int],
    run: Callable[[Any, Callable[[], bool]], Outcome] = run_cell,
) -> Iterator[Outcome]:
    """Yield the outcome of every cell as it ends; once `signals` is not empty no new one starts.

    run(cell, stop): a function that other processes can import; it ends early once stop() is true.
    """
    if jobs == 1:
        for cell in wanted:
            if signals:
                return
            outcome = run(cell, lambda: bool(signals))
            if outcome.stopped_by:
                signals.append(outcome.stopped_by)
            yield outcome
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with TemporaryDirectory() as folder:
        stop = Path(folder) / "stop"  # a file can be handed over with each cell, an event cannot

        def stopping() -> bool:
            if signals:
                stop.touch()
            return bool(signals)

        yield from in_processes(
            partial(_run_in_worker, run=run, stop=stop, threads=threads),
            wanted,
            jobs=min(jobs, len(wanted)),
            name=lambda cell: cell.name,
            failed=killed,
            stopping=stopping,
        )


def killed(cell: Named, died: str) -> Outcome:
    """Return the outcome of a cell whose process was killed as often as it was tried."""
    return Outcome(cell.name, "failed", f"{died}; the same command resumes it")


def _run_in_worker(
    cell: Named, run: Callable[[Any, Callable[[], bool]], Outcome], stop: Path, threads: int
) -> Outcome:
    """Run one cell on its share of the cores; it ends early if the parent does."""
    import torch

    torch.set_num_threads(threads)
    parent = parent_process()
    return run(cell, lambda: stop.exists() or not (parent and parent.is_alive()))
