"""Cells and trials on a Dask cluster; what they leave is stored by the process that submits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from decaf_theory.files import place, write_atomically
from paper_checks import record, stamp, sweep
from paper_checks.sweep import Cell, Named, Outcome
from verification.cluster import Cluster, on_cluster
from verification.provenance import software
from verification.serving import Here, Job
from verification.store import RUN, StoreError, locked, require_writable

Run = Callable[[Any, Callable[[], bool]], Outcome]


def run_all(
    wanted: Sequence[Named], cluster: Cluster, signals: list[int], run: Run
) -> Iterator[Outcome]:
    """Yield the outcome of every cell or trial as it ends; see `sweep.run_all`.

    Once `signals` is not empty none is waited for. ClusterError: see `on_cluster`.
    """
    if run is sweep.run_cell:
        return _train_all([cell for cell in wanted if isinstance(cell, Cell)], cluster, signals)
    return on_cluster(
        cluster,
        Job(partial(_run, run=run), partial(_stamp, module=run.__module__), _finished),
        wanted,
        name=_name,
        failed=sweep.killed,
        stopping=lambda: bool(signals),
    )


def _train_all(wanted: Sequence[Cell], cluster: Cluster, signals: list[int]) -> Iterator[Outcome]:
    """Yield the outcome of every cell as it ends, its files written to the cell's folder.

    While a worker has a cell, its folder is locked here: `sweep.state` says that it is running.
    """
    by_name = {cell.name: cell for cell in wanted}
    held: dict[str, ExitStack] = {}
    with ExitStack() as every:

        def known(cell: Cell) -> Outcome | None:
            if cell.name in held:  # it lost its worker
                return None
            held[cell.name] = every.enter_context(ExitStack())
            return _known(cell, held[cell.name])

        for outcome in on_cluster(
            cluster,
            Job(_train, _stamp_of_cell, _finished),
            [_absolute(cell) for cell in wanted],
            name=_name,
            failed=sweep.killed,
            stopping=lambda: bool(signals),
            known=known,
        ):
            if outcome.status != "skipped":
                _store(by_name[outcome.cell], outcome)
            held[outcome.cell].close()
            yield outcome


def _absolute(cell: Cell) -> Cell:
    """Return the cell as workers find its files, whatever folder they run in."""
    config = str(place(cell.config).resolve()) if cell.config.endswith(".toml") else cell.config
    data = cell.data_dir and str(place(cell.data_dir).resolve())
    return cell._replace(config=config, data_dir=data)


def _known(cell: Cell, held: ExitStack) -> Outcome | None:
    """Return the outcome of a cell that is finished or must not be trained; hold it otherwise."""
    config = cell.read()
    folder = sweep.folder_of(cell.out, config, cell.point)
    if (stored := sweep.finished(folder, cell, config)) is not None:
        return Outcome(cell.name, "skipped", sweep.summary(stored))
    try:
        require_writable(folder)
        held.enter_context(locked(folder))
        if not cell.restart:
            _require_nothing(cell, folder)
    except StoreError as error:
        return Outcome(cell.name, "failed", str(error))
    (folder / sweep.ERROR).unlink(missing_ok=True)
    return None


def _require_nothing(cell: Cell, folder: Path) -> None:
    """Raise StoreError if a folder holds a run: of other code, or unfinished."""
    if changed := sweep.changed(folder, cell):
        raise stamp.OtherStampError(
            f"{folder / RUN} was made with other settings, code or data ({'; '.join(changed)}): "
            f"choose another folder with --out, or pass --restart to drop it and train anew"
        )
    if (folder / RUN).is_file() or any(folder.glob("checkpoint/*.ckpt")):
        raise StoreError(
            f"{folder} holds an unfinished run, which workers do not see: finish it without "
            f"--scheduler, or pass --restart to drop it and train anew"
        )


def _store(cell: Cell, outcome: Outcome) -> None:
    """Write what a cell left to its folder, run.json last."""
    folder = sweep.folder_of(cell.out, cell.read(), cell.point)
    if outcome.status != "finished":
        sweep.failed(cell, folder, outcome.line, outcome.status)
        return
    record.remove(folder)
    for name, data in sorted(outcome.files, key=lambda file: file[0] == RUN):
        write_atomically(folder / name, data)


def _name(one: Named) -> str:
    return one.name


# ---------------------------------------------------------------- on a worker


def _train(cell: Cell, here: Here) -> Outcome:
    """Train a cell in a folder of the worker; its outcome holds the files."""
    import torch

    torch.set_num_threads(here.threads)
    cell = cell._replace(out=here.folder)
    outcome = sweep.run_cell(cell, here.stop)
    if outcome.status == "skipped":  # its worker was lost just after its last step
        outcome = outcome._replace(status="finished")
    if outcome.status != "finished":
        return outcome
    folder = sweep.folder_of(cell.out, cell.read(), cell.point)
    files = [path for path in folder.rglob("*") if path.is_file() and path.name[0] != "."]
    held = [(path.relative_to(folder).as_posix(), path.read_bytes()) for path in files]
    return outcome._replace(files=held)


def _run(trial: Named, here: Here, run: Run) -> Outcome:
    return run(trial, here.stop)


def _stamp_of_cell(cell: Cell) -> Mapping[str, Any]:
    return {"cell": cell.name, **stamp.of(cell.read(), (), cell.device)}


def _stamp(trial: Named, module: str) -> Mapping[str, Any]:
    return {"trial": repr(trial), **software(module)}


def _finished(outcome: Outcome) -> bool:
    return outcome.status == "finished"
