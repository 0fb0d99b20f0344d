"""Work on many items on a Dask cluster: each worker takes one at a time, this process stores all.

An item is begun only by a worker that would stamp it as this process does (settings, code,
libraries). Its result is kept next to the worker's own files, in a folder that is named by the
stamp, until this process has it: a scheduler or a worker that is lost costs no result that was
there, and what was begun goes on from its last checkpoint where another worker finds that folder.
"""

from __future__ import annotations

import argparse
import logging
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from typing import Any, NamedTuple
from uuid import uuid4

from decaf_theory import extras
from decaf_theory.files import to_json, write_atomically
from decaf_theory.sums import seal_bytes, unseal_bytes
from verification.provenance import differences
from verification.store import StoreError, locked
from verification.workers import LOG, LOOK_S, Item, Lost, Result, worked_on

PATIENCE_S = 30.0  # how long a scheduler may be away, and all workers may be refused
FETCH_S = 60.0  # how long a result may take to come here
FOLDER = "decaf-items"  # where workers have their files, one folder per item
WORK, RESULT = "work", "result"


class Cluster(NamedTuple):
    """A Dask cluster, by the address of its scheduler or by its scheduler file."""

    scheduler: str


class ClusterError(Exception):
    """A cluster that is not there or cannot be used; the message says what to do."""


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


class Sent(NamedTuple):
    """An item with a worker: what will hold its result, and the name of its folder."""

    future: Any
    folder: str


class Refused(NamedTuple):
    """Why a worker must not take an item."""

    why: str


def add_option(places: Any) -> None:
    """Add --scheduler to a group that has --jobs; its value is `jobs`, too."""
    places.add_argument(
        "--scheduler",
        dest="jobs",
        type=cluster,
        default=argparse.SUPPRESS,
        metavar="ADDRESS",
        help="of a Dask cluster that takes the work: tcp://HOST:PORT, or its scheduler file",
    )


def cluster(text: str) -> Cluster:
    """Return the cluster of that text. ArgumentTypeError: no address and no file, no Dask."""
    if line := extras.missing("distributed"):
        raise argparse.ArgumentTypeError(line)
    if "://" not in text and not Path(text).is_file():
        raise argparse.ArgumentTypeError(
            f"must be tcp://HOST:PORT or the file of a scheduler, got {text!r}"
        )
    return Cluster(text)


def on_cluster(
    where: Cluster,
    job: Job,
    items: Sequence[Item],
    *,
    name: Callable[[Item], str],
    failed: Callable[[Item, str], Result],
    stopping: Callable[[], bool] = lambda: False,
    known: Callable[[Item], Result | None] = lambda item: None,
) -> Iterator[Result]:
    """Yield the result of every item as it comes; failed(item, reason) of one that is lost thrice.

    As `workers.worked_on`, but what runs once stopping() is true is told to end and not waited for.
    ClusterError: for PATIENCE_S there has been no scheduler, or no worker like this process.
    """
    places = _Workers(where, job, name)
    return worked_on(places, items, name=name, failed=failed, stopping=stopping, known=known)


class _Workers:
    """The workers of a cluster, seen from the process that submits."""

    attempts = 3
    waited_for = False

    def __init__(self, where: Cluster, job: Job, name: Callable[[Any], str]) -> None:
        from distributed import Client

        # what it says of a scheduler that is lost is said here, in one line
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
        self.where, self.job, self.name = where, job, name
        self.sent: dict[Worker, Sent] = {}
        self.refused: dict[Worker, str] = {}
        self.delivered: list[str] = []  # folders whose results are stored here
        address = {"address" if "://" in where.scheduler else "scheduler_file": where.scheduler}
        try:
            self.client = Client(**address, timeout=PATIENCE_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ClusterError(
                f"no scheduler at {where.scheduler} ({error}); start one, or use --jobs"
            ) from error
        self.live: list[Worker] = []
        self._look()
        self.usable_at = time.monotonic()
        if not self.live:
            LOG.warning("%s has no workers yet; waiting for them", where.scheduler)

    def _look(self) -> None:
        """Ask the scheduler for its workers; while it is away, they are those that were known."""
        if self.client.status == "running":
            # not scheduler_info, which may return what the client asks for meanwhile: no workers
            with suppress(OSError):
                found = self.client.sync(self.client.scheduler.identity, n_workers=-1)["workers"]
                self.live = [Worker(address, x["local_directory"]) for address, x in found.items()]

    def free(self, busy: Mapping[Worker, Any]) -> Worker | None:
        if self.client.status != "running":
            return None
        usable = [worker for worker in self.live if worker not in self.refused]
        if usable or not self.live:
            self.usable_at = time.monotonic()
        elif time.monotonic() > self.usable_at + PATIENCE_S:
            whys = "; ".join(f"{x.address}: {self.refused[x]}" for x in self.live)
            raise ClusterError(f"no worker of {self.where.scheduler} can be used: {whys}")
        return next((worker for worker in usable if worker not in busy), None)

    def send(self, worker: Worker, item: Any) -> None:
        wanted = dict(self.job.stamp(item))
        key = f"{self.name(item)}-{uuid4()}"
        call = (_serve, self.job, item, wanted, worker)
        future = self.client.submit(*call, key=key, workers=[worker.address])
        self.sent[worker] = Sent(future, folder_of(wanted))

    def answers(self, busy: Mapping[Worker, Any]) -> Iterator[tuple[Worker, Any]]:
        from distributed import CancelledError, wait

        if self.client.status == "closed":
            raise ClusterError(
                f"the scheduler {self.where.scheduler} has been away for {PATIENCE_S:.0f} s; the "
                f"same command resumes from here"
            )
        with suppress(TimeoutError, CancelledError), self.client.as_current():
            if busy:
                wait([self.sent[x].future for x in busy], LOOK_S, "FIRST_COMPLETED")
            else:
                time.sleep(LOOK_S)
        self._look()
        for worker in list(busy):
            answer = self._answer(worker)
            if answer is not None:
                sent = self.sent.pop(worker)
                sent.future.cancel()
                yield worker, answer
                if not isinstance(answer, Lost):
                    self.delivered.append(sent.folder)

    def _answer(self, worker: Worker) -> Any:
        """Return the result of a busy worker or why there is none, None if it is at work."""
        future = self.sent[worker].future
        if future.cancelled():
            return Lost("the scheduler was lost", counted=False)
        if worker not in self.live:
            return Lost(f"its worker {worker.address} is gone")
        if future.status == "error":  # of unpickling: what work raises comes as a result
            error = future.exception()
            answer: Any = Refused(f"{type(error).__name__}: {error}")
        elif future.status == "finished":
            try:
                answer = future.result(timeout=FETCH_S)
            except TimeoutError:
                return None
        else:
            return None
        if isinstance(answer, Refused):
            self.refused[worker] = answer.why
            return Lost(f"the worker {worker.address} is refused: {answer.why}", counted=False)
        return answer

    def close(self) -> None:
        for sent in self.sent.values():
            sent.future.cancel()
        with suppress(OSError):  # a scheduler that is lost just now
            if self.client.status == "running" and self.delivered:
                self.client.run(_forget, self.delivered, on_error="ignore")
        self.client.close()


def _serve(job: Job, item: Any, wanted: Mapping[str, Any], place: Worker) -> Any:
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


def _forget(folders: Sequence[str], dask_worker: Any) -> None:
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
