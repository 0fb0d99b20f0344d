"""What a worker of a cluster does with an item: once, and only if its code is the submitter's."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from typing import Any, NamedTuple

from decaf_theory.files import to_json, write_atomically
from decaf_theory.sums import seal_bytes, unseal_bytes
from verification.provenance import differences
from verification.store import StoreError, locked
from verification.workers import LOOK_S, Lost

FOLDER = "decaf-items"  # where workers have their files, one folder per item
WORK, RESULT = "work", "result"


class Here(NamedTuple):
    """Where an item is worked on.

    folder: for its files, kept for a second try. stop(): whether it is to end early. threads: those
    of its worker.
    """

    folder: Path
    stop: Callable[[], bool]
    threads: int


class Job(NamedTuple):
    """What workers do with an item; pickled, as items and results are.

    stamp(item): what its result depends on, such as settings, code and libraries. work(item, here):
    its result. kept(result): whether the same stamp would give it again.
    """

    work: Callable[[Any, Here], Any]
    stamp: Callable[[Any], Mapping[str, Any]]
    kept: Callable[[Any], bool]


class Worker(NamedTuple):
    """A worker: its folder is of this one process, its address may be another's later."""

    address: str
    folder: str


class Refused(NamedTuple):
    """Why a worker must not take an item."""

    why: str


def serve(job: Job, item: Any, wanted: Mapping[str, Any], place: Worker) -> Any:
    """Return the result of an item, on a worker: kept from before, or worked out now."""
    from distributed import Status, get_worker

    worker = get_worker()
    if worker.local_directory != place.folder:
        return Lost(f"{place.address} is another worker now")
    try:
        other = differences(job.stamp(item), wanted)
    except Exception as error:
        other = [f"{type(error).__name__}: {error}"]
    if other:
        return Refused(f"it would not compute the same ({'; '.join(other)})")
    task = worker.state.tasks[worker.get_current_task()]

    def stop() -> bool:
        at_work = worker.status in (Status.running, Status.paused)
        return task.state == "cancelled" or not at_work

    folder = _folders(worker) / folder_of(wanted)
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        while not _taken(folder, held):  # by a worker that lost its scheduler: it goes on
            if stop():
                return Lost("its worker was told to end", counted=False)
            time.sleep(LOOK_S)
        if (result := _kept(folder)) is not None:
            return result
        try:
            result = job.work(item, Here(folder / WORK, stop, worker.state.nthreads))
        except MemoryError as error:
            return error
        except Exception as error:
            return Lost(f"it raised {type(error).__name__}: {error}")
        if job.kept(result):
            write_atomically(folder / RESULT, seal_bytes(pickle.dumps(result)))
            rmtree(folder / WORK, ignore_errors=True)
        elif stop():
            return Lost("its worker was told to end", counted=False)
        return result


def folder_of(stamp: Mapping[str, Any]) -> str:
    """Return the name of the folder of what has this stamp."""
    return sha256(to_json(stamp)).hexdigest()[:32]


def _folders(worker: Any) -> Path:
    return Path(worker.local_directory).parent / FOLDER


def forget(folders: Sequence[str], dask_worker: Any) -> None:
    """Remove what a worker keeps of items whose results are stored."""
    for folder in folders:
        rmtree(_folders(dask_worker) / folder, ignore_errors=True)


def _taken(folder: Path, held: ExitStack) -> bool:
    try:
        held.enter_context(locked(folder))
    except StoreError:
        return False
    return True


def _kept(folder: Path) -> Any:
    """Return the result that is kept in a folder, None if there is none or it is damaged."""
    try:
        return pickle.loads(unseal_bytes((folder / RESULT).read_bytes()))
    except (OSError, ValueError):
        return None
