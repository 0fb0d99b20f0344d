"""Work on many items in several processes: one that is killed costs its item a second try."""

from __future__ import annotations

import logging
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from decaf_theory.interrupts import blocked

ATTEMPTS = 2  # how often an item is tried if its process is killed
LOOK_S = 0.2  # how often `stopping` is asked
LOG = logging.getLogger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")
# spawn: a fork would copy the locks of BLAS and torch threads in whatever state they are
SPAWN = multiprocessing.get_context("spawn")


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
    queue = deque((item, 1) for item in items)
    processes: dict[Connection, Any] = {}
    busy: dict[Connection, tuple[Item, int]] = {}

    def launch() -> Connection:
        ours, theirs = SPAWN.Pipe()
        processes[ours] = SPAWN.Process(target=_serve, args=(theirs, work), daemon=True)
        with blocked():
            processes[ours].start()
        theirs.close()  # so that the death of the process ends our pipe
        return ours

    try:
        while busy or queue:
            if stopping():  # asked while all are busy, too: it may tell them to end
                queue.clear()
            while queue and len(busy) < jobs:
                item, attempt = queue.popleft()
                pipe = next((idle for idle in processes if idle not in busy), None) or launch()
                busy[pipe] = item, attempt
                with suppress(OSError):  # a process that died while idle: seen below
                    pipe.send(item)
            ready = wait(list(busy), LOOK_S)
            for pipe in [pipe for pipe in busy if pipe in ready]:
                item, attempt = busy.pop(pipe)
                try:
                    result = pipe.recv()
                except (EOFError, OSError):
                    processes[pipe].join()
                    died = f"its process ended with exit code {processes.pop(pipe).exitcode}"
                    if attempt < ATTEMPTS and not stopping():
                        LOG.warning("%s: %s; trying once more", name(item), died)
                        queue.appendleft((item, attempt + 1))
                        continue
                    times = f", {attempt} times" if attempt > 1 else ""
                    result = failed(item, f"{died}{times}")
                if isinstance(result, MemoryError):
                    raise result
                yield result
    finally:
        for process in processes.values():
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
