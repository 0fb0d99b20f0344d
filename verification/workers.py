"""Work on many items in several places: one whose place is lost costs its item another try.

`worked_on` is the loop. Its places are processes here (`in_processes`), or the workers of a cluster
(`verification.cluster`).
"""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple, Protocol, TypeVar

from decaf_theory.interrupts import blocked

LOOK_S = 0.2  # how often `stopping` is asked
LOG = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")
# spawn: a fork would copy the locks of BLAS and torch threads in whatever state they are
SPAWN = multiprocessing.get_context("spawn")


class Lost(NamedTuple):
    """Why an item got no answer; counted: whether the item may be the cause."""

    why: str
    counted: bool = True


class Places(Protocol):
    """Where items are worked on, one at a time in each place.

    attempts: how often an item may lose its place. waited_for: whether items that are being worked
    on are waited for once no more are to be begun.
    """

    attempts: int
    waited_for: bool

    def free(self, busy: Mapping[Any, Any]) -> Hashable | None:
        """Return a place that is not busy, None if there is none."""

    def send(self, place: Any, item: Any) -> None:
        """Let a place begin an item."""

    def answers(self, busy: Mapping[Any, Any]) -> Iterable[tuple[Any, Any]]:
        """Return (place, result or `Lost`) of those that ended; wait up to LOOK_S for one."""

    def close(self) -> None:
        """Let go of all places, whatever they do."""


def worked_on(
    places: Places,
    items: Sequence[Item],
    *,
    name: Callable[[Item], str],
    failed: Callable[[Item, str], Result],
    stopping: Callable[[], bool] = lambda: False,
    known: Callable[[Item], Result | None] = lambda item: None,
) -> Iterator[Result]:
    """Yield the result of every item as it comes; failed(item, reason) of one lost too often.

    known(item): its result if no place needs to work on it; asked when a place could begin it. Once
    stopping() is true no item is begun or tried again. A MemoryError that comes as a result is
    raised.
    """
    queue = deque((item, 1) for item in items)
    busy: dict[Hashable, tuple[Item, int]] = {}
    try:
        while busy or queue:
            if stopping():  # asked while all are busy, too: it may tell them to end
                queue.clear()
                if not places.waited_for:
                    return
            while queue and (place := places.free(busy)) is not None:
                item, attempt = queue.popleft()
                if (result := known(item)) is not None:
                    yield result
                    continue
                busy[place] = item, attempt
                places.send(place, item)
            for place, answer in places.answers(busy):
                item, attempt = busy.pop(place)
                if isinstance(answer, Lost):
                    again = attempt < places.attempts or not answer.counted
                    if again and not stopping():
                        LOG.warning("%s: %s; trying once more", name(item), answer.why)
                        queue.appendleft((item, attempt + answer.counted))
                        continue
                    times = f", {attempt} times" if attempt > 1 else ""
                    answer = failed(item, f"{answer.why}{times}")
                if isinstance(answer, MemoryError):
                    raise answer
                yield answer
    finally:
        places.close()


def in_processes(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    jobs: int,
    name: Callable[[Item], str],
    failed: Callable[[Item, str], Result],
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[Result]:
    """Yield work(item) as it comes from `jobs` processes; failed(item, reason) of one killed twice.

    `work` and the items are pickled; of what `work` raises, a MemoryError is raised here, and
    anything else ends its process. Once stopping() is true no item is begun or tried again, and
    those that are being worked on are waited for.
    """
    places = _Processes(work, jobs)
    return worked_on(places, items, name=name, failed=failed, stopping=stopping)


class _Processes:
    """Up to `jobs` processes, launched when they are needed, each named by its pipe."""

    attempts = 2
    waited_for = True

    def __init__(self, work: Callable[[Any], Any], jobs: int) -> None:
        self.work, self.jobs = work, jobs
        self.processes: dict[Connection, Any] = {}

    def free(self, busy: Mapping[Any, Any]) -> Connection | None:
        if len(busy) >= self.jobs:
            return None
        return next((idle for idle in self.processes if idle not in busy), None) or self._launch()

    def _launch(self) -> Connection:
        ours, theirs = SPAWN.Pipe()
        process = SPAWN.Process(target=_serve, args=(theirs, self.work), daemon=True)
        self.processes[ours] = process
        with blocked():
            process.start()
        theirs.close()  # so that the death of the process ends our pipe
        return ours

    def send(self, pipe: Connection, item: Any) -> None:
        with suppress(OSError):  # a process that died while idle: seen below
            pipe.send(item)

    def answers(self, busy: Mapping[Any, Any]) -> Iterator[tuple[Connection, Any]]:
        for pipe in wait(list(busy), LOOK_S):
            assert isinstance(pipe, Connection)  # what was waited for
            try:
                yield pipe, pipe.recv()
            except (EOFError, OSError):
                self.processes[pipe].join()
                code = self.processes.pop(pipe).exitcode
                yield pipe, Lost(f"its process ended with exit code {code}")

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()  # it does not hear SIGTERM


def _serve(pipe: Connection, work: Callable[[Any], Any]) -> None:
    """Answer items with results until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    with suppress(EOFError, BrokenPipeError):
        while True:
            item = pipe.recv()
            try:
                result = work(item)
            except MemoryError as error:
                result = error
            pipe.send(result)
