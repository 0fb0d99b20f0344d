"""How every program begins and ends, whatever happens: also while it is loaded, or by a defect."""

from __future__ import annotations

# nothing else before `program` is called: until then a signal is a traceback, as it is while
# Python itself starts
import os
import signal

TYPE_CHECKING = False  # typing itself takes long to load
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    Handler = Callable[[int, FrameType | None], object] | int | signal.Handlers | None

LOADING = "interrupted while loading; nothing was begun"


def program(module: str) -> int:
    """Load a module and run its `main`; return the exit code.

    A signal before `main` meets it is one line; a reader that has gone, as `head`, is silence; a
    defect is a traceback and `faults.DEFECT`, which is the code of nothing else. Afterwards SIGINT
    ends the process without a word: all that is left is to shut down.
    """
    heard = signal.getsignal(signal.SIGINT)
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _at_once)
    code = _ended(module, heard)
    if heard != signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # once a KeyboardInterrupt passed through a text that is executed, as where a dataclass is made,
    # CPython ends by SIGINT and not with this code; the next text makes it forget that
    exec("")
    return code


def _at_once(number: int, frame: FrameType | None) -> None:
    """End the process: an exception would be made another one by half of what is loading."""
    try:
        os.write(2, f"{LOADING}\n".encode())
    finally:
        os._exit(128 + number)


def _ended(module: str, heard: Handler) -> int:
    import traceback
    from importlib import import_module

    from decaf_theory.faults import DEFECT, without_traceback
    from decaf_theory.interrupts import in_one_line

    def run() -> int:
        main = import_module(module).main
        return in_one_line(lambda: _code(main, heard), LOADING)

    try:
        return without_traceback(run)
    except Exception:
        traceback.print_exc()
        return DEFECT


def _code(main: Callable[[], int], heard: Handler) -> int:
    """Return main's exit code, also where argparse ends it: its text is still to be flushed."""
    signal.signal(signal.SIGINT, heard)
    try:
        return main()
    except SystemExit as stop:
        if not isinstance(stop.code, int):
            raise
        return stop.code
