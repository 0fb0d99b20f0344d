"""Work on many items on a Dask cluster: each worker takes one at a time, this process stores all.

An item is begun only by a worker that would stamp it as this process does (settings, code,
libraries). Its result is kept next to the worker's own files, in a folder that is named by the
stamp, until this process has it: a scheduler or a worker that is lost costs no result that was
there, and what was begun goes on from its last checkpoint where another worker finds that folder.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from decaf_theory import extras
from verification.serving import Job, Refused, Worker, folder_of, forget, serve
from verification.workers import LOG, LOOK_S, Item, Lost, Result, worked_on

PATIENCE_S = 30.0  # how long a scheduler may be away, and all workers may be refused
FETCH_S = 60.0  # how long a result may take to come here


class Cluster(NamedTuple):
    """A Dask cluster, by the address of its scheduler or by its scheduler file."""

    scheduler: str


class ClusterError(Exception):
    """A cluster that is not there or cannot be used; the message says what to do."""


class Sent(NamedTuple):
    """An item with a worker: what will hold its result, and the name of its folder."""

    future: Any
    folder: str


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
        call = (serve, self.job, item, wanted, worker)
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
                self.client.run(forget, self.delivered, on_error="ignore")
        self.client.close()
