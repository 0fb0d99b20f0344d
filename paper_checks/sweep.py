"""Many runs of one experiment: methods x graphs x partitions x seeds, each in a folder of its own.

Finished cells are skipped, and an interrupted one resumes where it stopped. Methods that use no
graph are run once for all graphs.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from paper_checks import config as configs
from paper_checks.config import Config
from paper_checks.record import Stored, read, stamp
from verification.store import StoreError


class Cell(NamedTuple):
    """One run of a sweep, as plain values that go to another process."""

    config: str
    overrides: dict[str, Any]
    out: Path
    data_dir: str | None
    device: str

    def read(self) -> Config:
        """Return the cell's config."""
        return configs.read(self.config, self.overrides, data_dir=self.data_dir)


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


def finished(folder: Path, config: Config, adapters: Sequence[str | Path] = ()) -> Stored | None:
    """Return the run stored in a folder if it is sound, finished, and of the same stamp."""
    try:
        stored = read(folder)
    except (StoreError, KeyError, TypeError):
        return None
    wanted = stamp(config, adapters)
    alike = all(stored.run["settings"].get(name) == value for name, value in wanted.items())
    return stored if stored.finished and alike else None


def run_cell(cell: Cell, stop: Callable[[], bool] = lambda: False) -> Outcome:
    """Run one cell, or find it done; errors become the outcome's line."""
    config = cell.read()
    folder = folder_of(cell.out, config)
    stored = finished(folder, config)
    if stored is not None:
        return Outcome(config.cell, "skipped", summary(stored))
    from paper_checks import checkpoint, finetune  # torch: in the process that trains

    try:
        run = finetune.finetune(config, folder, device=cell.device, stop=stop)
    except (finetune.TrainingError, checkpoint.CheckpointError, StoreError, ValueError) as error:
        return Outcome(config.cell, "failed", str(error))
    if run.step < config.train.steps:
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
    wanted: Sequence[Any],
    jobs: int,
    signals: list[int],
    run: Callable[[Any, Callable[[], bool]], Outcome] = run_cell,
) -> Iterator[Outcome]:
    """Yield the outcome of every cell as it ends; once `signals` is not empty no new one starts."""
    if jobs == 1:
        for cell in wanted:
            if signals:
                return
            outcome = run(cell, lambda: bool(signals))
            if outcome.stopped_by:
                signals.append(outcome.stopped_by)
            yield outcome
        return
    context = multiprocessing.get_context("spawn")
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with (
        TemporaryDirectory() as folder,
        ProcessPoolExecutor(jobs, context, _settle, (threads,)) as pool,
    ):
        stop = Path(folder) / "stop"  # a file can be handed over with each cell, an event cannot
        waiting = {pool.submit(run, cell, stop.exists) for cell in wanted}
        while waiting:
            done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
            if signals and not stop.exists():
                stop.touch()
                for future in waiting:
                    future.cancel()
            for future in done:
                if not future.cancelled():
                    yield _result(future)


def _result(future: Future[Outcome]) -> Outcome:
    try:
        return future.result()
    except BrokenProcessPool:
        return Outcome("a run", "failed", "its process was killed; sweep again to resume it")


def _settle(threads: int) -> None:
    """Prepare a worker: only the parent handles interruptions, cores are shared."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
