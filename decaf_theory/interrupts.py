"""SIGINT and SIGTERM: one line and an exit code, or a flag that a loop checks between two steps."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

BOTH = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM, met like SIGINT."""


def in_one_line(run: Callable[[], int], line: str) -> int:
    """Return run()'s exit code; if a signal ends it, print the line and return 130 or 143.

    Also where the code that it met made another exception of it, as a module does in loading.
    """
    try:
        with terminable():
            return run()
    except (Exception, KeyboardInterrupt) as error:
        stop = interruption(error)
        if stop is None:
            raise
        print(line, file=sys.stderr)
        return exit_code(stop)


def interruption(error: BaseException | None) -> KeyboardInterrupt | None:
    """Return the signal that an exception is, or was raised from; None if there was none."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error


def exit_code(stop: KeyboardInterrupt) -> int:
    """Return 128 + the number of the signal, as shells do."""
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


@contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM raise `Terminated` inside, as SIGINT raises KeyboardInterrupt."""

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise Terminated

    with handled({signal.SIGTERM: end}):
        yield


@contextmanager
def interruptions(told: str = "") -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM inside instead of ending at once; a second one interrupts.

    told: printed to stderr at the first, where it may take long until the work comes to its end.
    """
    found: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if found:
            raise KeyboardInterrupt
        found.append(number)
        if told:
            print(told, file=sys.stderr, flush=True)

    with handled(dict.fromkeys(BOTH, note)):
        yield found


@contextmanager
def later() -> Iterator[None]:
    """Let both signals wait inside, whichever thread hears them; then they are met as before."""
    found: list[int] = []
    with handled(dict.fromkeys(BOTH, lambda number, frame: found.append(number))):
        yield
    for number in found:
        signal.raise_signal(number)


@contextmanager
def handled(handlers: dict[signal.Signals, Callable[..., object]]) -> Iterator[None]:
    """Set handlers of signals inside; nothing happens outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def blocked() -> Iterator[None]:
    """Block both signals inside, for processes started there for good: their parent ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, BOTH)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
