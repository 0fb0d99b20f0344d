"""How every program begins and ends, whatever happens: also while it is loaded, or by a defect."""

from __future__ import annotations

from collections.abc import Callable

from decaf_theory.interrupts import in_one_line  # first: until then a signal is a traceback

LOADING = "interrupted while loading; nothing was begun"


def program(module: str) -> int:
    """Load a module and run its `main`; return the exit code.

    A signal before `main` meets it is one line; a reader that has gone, as `head`, is silence; a
    defect is a traceback and `faults.DEFECT`, which is the code of nothing else.
    """
    return in_one_line(lambda: _ended(module), LOADING)


def _ended(module: str) -> int:
    import traceback
    from importlib import import_module

    from decaf_theory.faults import DEFECT, without_traceback

    try:
        return without_traceback(lambda: _code(import_module(module).main))
    except Exception:
        traceback.print_exc()
        return DEFECT


def _code(main: Callable[[], int]) -> int:
    """Return main's exit code, also where argparse ends it: its text is still to be flushed."""
    try:
        return main()
    except SystemExit as stop:
        if not isinstance(stop.code, int):
            raise
        return stop.code
