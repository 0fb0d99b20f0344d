"""Many runs of one experiment: methods x graphs x partitions x seeds, each in a folder of its own.

Finished cells are skipped, and an interrupted one resumes where it stopped. Methods that use no
graph are run once for all graphs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import product
from multiprocessing import parent_process
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

from decaf_theory.faults import no_memory
from decaf_theory.files import UnwritableError, from_json, to_json, write_atomically
from paper_checks import config as configs
from paper_checks import dealt, stamp
from paper_checks.config import Config
from paper_checks.protocol import Plan, point_name
from paper_checks.record import share
from paper_checks.rules import ConfigError, settings_of_row
from verification import cluster
from verification.cluster import Cluster
from verification.harness import Stored, read
from verification.provenance import differences
from verification.store import RUN, StoreError, locked
from verification.workers import in_processes

ERROR = "failed.json"  # in a cell's folder
STATES = ("finished", "running", "unfinished", "differing", "failed", "missing")


class Cell(NamedTuple):
    """One run of a sweep, as plain values that go to another process.

    point: the name of its point of a grid.
    """

    config: str
    overrides: dict[str, Any]
    out: Path
    data_dir: str | None
    device: str
    restart: bool = False
    accept_code: bool = False
    point: str = ""

    def read(self) -> Config:
        """Return the cell's config."""
        return configs.read(self.config, self.overrides, data_dir=self.data_dir)

    @property
    def name(self) -> str:
        """The name under which its run is reported."""
        return f"{self.point}/{self.read().cell}".lstrip("/")


class Named(Protocol):
    """What can be run apart from others, and reported by a name."""

    @property
    def name(self) -> str:
        """The name."""


class Outcome(NamedTuple):
    """How a cell ended, and a line about it.

    status: "finished", "skipped", "interrupted", "failed" or "out of memory".
    """

    cell: str
    status: str
    line: str
    stopped_by: int = 0  # the signal, where one interrupted it
    rows: Sequence[dict[str, Any]] = ()  # where the cell leaves them to its caller
    seconds: float = 0.0
    files: Sequence[tuple[str, bytes]] = ()  # by name, where it was trained elsewhere


def add_places(command: Any) -> None:
    """Add the options that say where work is done: --jobs or --scheduler, both as `jobs`."""
    places = command.add_mutually_exclusive_group()
    places.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (default 1)")
    cluster.add_option(places)


def require_jobs(jobs: int | Cluster) -> None:
    """Raise ConfigError unless there is a process, or a cluster, for cells to run in."""
    if isinstance(jobs, int) and jobs < 1:
        raise ConfigError(f"--jobs must be >= 1, got {jobs}")


def folder_of(out: Path, config: Config, point: str = "") -> Path:
    """Return the folder of a run; point: the name of its point of a grid."""
    return out / config.name / point / config.cell


def cells(base: Cell, plan: Plan) -> list[Cell]:
    """Return the runs of a sweep, seed by seed, each run once. ConfigError: a setting is wrong."""
    found: dict[str, Cell] = {}
    points = [dict(zip(plan.grid, values, strict=True)) for values in product(*plan.grid.values())]
    for seed, partition, graph, row, point in product(
        plan.seeds, plan.partitions, plan.graphs, plan.rows, points
    ):
        chosen = settings_of_row(row) | {"mix.graph": graph, "data.partition": partition}
        overrides = base.overrides | point | chosen | {"train.seed": seed}
        cell = base._replace(overrides=overrides, point=point_name(point))
        found.setdefault(cell.name, cell)
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
    return stored if stored.finished and not _changed(stored, cell, config, adapters) else None


def _changed(
    stored: Stored, cell: Cell, config: Config, adapters: Sequence[str | Path] = ()
) -> list[str]:
    wanted = stamp.of(config, adapters, cell.device)
    known = {name: stored.settings.get(name) for name in wanted}
    return differences(known, wanted, accept_code=cell.accept_code)


def changed(folder: Path, cell: Cell) -> list[str]:
    """Return how the stamp of the run stored in a folder differs from the cell's; [] if none is.

    More steps of the same run are no difference.
    """
    try:
        stored = read(folder)
    except StoreError:
        return []
    config = cell.read()
    more = stored.settings[stamp.STEPS] < config.train.steps
    return [
        line
        for line in _changed(stored, cell, config)
        if not (more and line.startswith(f"{stamp.STEPS}:"))
    ]


def run_cell(cell: Cell, stop: Callable[[], bool] = lambda: False) -> Outcome:
    """Run one cell, or find it done; errors become the outcome's line."""
    config = cell.read()
    folder = folder_of(cell.out, config, cell.point)
    stored = finished(folder, cell, config)
    if stored is not None:
        return Outcome(cell.name, "skipped", summary(stored))
    from paper_checks import finetune  # torch: in the process that trains

    (folder / ERROR).unlink(missing_ok=True)
    try:
        run = finetune.finetune(
            config,
            folder,
            device=cell.device,
            began=partial(dealt.draw, folder=folder),
            stop=stop,
            restart=cell.restart,
            accept_code=cell.accept_code,
        )
    except (finetune.TrainingError, StoreError, ValueError) as error:
        return failed(cell, folder, str(error))
    except Exception as error:  # no memory, a defect: of this cell, not of the others
        status = "out of memory" if no_memory(error) else "failed"
        return failed(cell, folder, f"{type(error).__name__}: {error}", status)
    if not run.finished:
        line = f"after step {run.step} of {config.train.steps}"
        return Outcome(cell.name, "interrupted", line, run.stopped_by)
    return Outcome(cell.name, "finished", summary(read(folder)))


def failed(cell: Cell, folder: Path, line: str, status: str = "failed") -> Outcome:
    """Return the outcome of a cell that failed; `state` finds it in the cell's folder, too."""
    with suppress(OSError, UnwritableError):  # such a failure has a line already
        write_atomically(folder / ERROR, to_json({"error": line}))
    return Outcome(cell.name, status, line)


def state(cell: Cell) -> tuple[str, str]:
    """Return in which of STATES a cell is, and a line about it."""
    config = cell.read()
    folder = folder_of(cell.out, config, cell.point)
    if finished(folder, cell, config) is not None:
        return "finished", ""
    if not folder.is_dir():
        return "missing", ""
    try:
        with locked(folder):
            pass
    except StoreError:
        return "running", ""
    if (folder / ERROR).is_file():
        return "failed", str(from_json((folder / ERROR).read_bytes())["error"])
    if other := changed(folder, cell):
        return "differing", f"stored with other settings, code or data ({'; '.join(other)})"
    there = (folder / RUN).is_file() or any(folder.glob("checkpoint/*.ckpt"))
    return (
        ("unfinished", "the same command resumes it, or says why not") if there else ("missing", "")
    )


def count_finished(folder: Path) -> int:
    """Return how many runs below the folder of an experiment are finished."""
    found = 0
    for path in folder.rglob(RUN):
        with suppress(StoreError):
            found += read(path.parent).finished
    return found


def summary(stored: Stored) -> str:
    """Return one line about a stored run: score, seconds, shares of training, rounds, verdicts."""
    last = stored.records[-1] if stored.records else {}
    score = f"score {last['score']:.4f}, " if "score" in last else ""
    seconds = sum(stored.run["seconds"].values())
    verdicts = " ".join(f"{c} {v['outcome']}" for c, v in stored.run["verdicts"].items())
    mixing, observing = (share(stored.run["seconds"], what) for what in ("mixing", "observing"))
    seen = len({row.get("step") for row in stored.rows})
    return (
        f"{score}{seconds:.1f} s, mixing {mixing:.1%} and observing {observing:.1%} of training, "
        f"at {seen} of {len(stored.records)} rounds; {verdicts}"
    )


def run_all(
    wanted: Sequence[Named],
    jobs: int | Cluster,
    signals: list[int],
    run: Callable[[Any, Callable[[], bool]], Outcome] = run_cell,
) -> Iterator[Outcome]:
    """Yield the outcome of every cell as it ends; once `signals` is not empty no new one starts.

    jobs: processes, or the cluster that takes them, whose cells are not waited for then. run(cell,
    stop): a function that other processes can import; it ends early once stop() is true.
    """
    if isinstance(jobs, Cluster):
        from paper_checks import submitting

        yield from submitting.run_all(wanted, jobs, signals, run)
        return
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
