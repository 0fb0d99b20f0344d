"""Faults that end a program: one line on stderr and an exit code, never a traceback."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable

from decaf_theory import extras
from decaf_theory.files import UnwritableError
from decaf_theory.terminal import printable

OK, USAGE, DEFECT = 0, 2, 3
NO_ROOM = (errno.ENOSPC, errno.EFBIG, errno.EIO)  # of an output that takes nothing
# of torch, which raises plain RuntimeErrors, and of libraries that could not be mapped
FULL = ("can't allocate memory", "cannot allocate memory", "out of memory", "failed to map segment")


def without_traceback(
    run: Callable[[], int],
    *,
    program: str = "",
    known: tuple[type[Exception], ...] = (),
    elsewhere: str = "--out",
) -> int:
    """Return run()'s exit code, or 2 after one line about what the user can mend.

    That is: errors of the `known` kinds, files and packages that are missing, variables of the
    environment that mean nothing, too little memory, an output that takes nothing, as a full disk,
    and numbers or depths that no check foresaw, which are named with their place in the sources.
    Any other error is a defect and is raised.
    `elsewhere`: the options that name another place.
    """
    try:
        code = run()
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        line = line_of(error, known, elsewhere)
        if not line:
            raise
        print(f"{program}error: {printable(line)}", file=sys.stderr)
        return USAGE


def line_of(error: Exception, known: tuple[type[Exception], ...] = (), elsewhere: str = "") -> str:
    """Return what to say of an error; empty if it is a defect, whose traceback is needed."""
    if isinstance(error, ModuleNotFoundError):
        return extras.unmet(error)
    if isinstance(error, UnwritableError):
        return f"{error}; choose another place with {elsewhere}"
    if full := no_memory(error):
        return full
    if isinstance(error, OSError) and error.errno in NO_ROOM and error.filename is None:
        return f"what is printed cannot be written: {error.strerror}"
    if isinstance(error, (OSError, extras.VariableError, *known)):
        return str(error)
    if isinstance(error, (ArithmeticError, RecursionError)):
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.basename(last.filename)}, line {last.lineno}"
        return f"the input cannot be worked on: {type(error).__name__} in {where}: {error}"
    return ""


def no_memory(error: BaseException) -> str:
    """Return "not enough memory: ..." for an error that says so, in its own words; else empty."""
    said = isinstance(error, (RuntimeError, ImportError)) and any(
        words in str(error).lower() for words in FULL
    )
    if said or isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        reason = next(iter(str(error).splitlines()), "")
        return f"not enough memory{reason and f': {reason}'}"
    return ""
