"""Printing what may hold anything: names of files, text beyond the terminal's encoding."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, TextIO

from decaf_theory.interrupts import later

WIDTH = 96
INDENT = 6 * " "  # of what does not fit next to the rest of a line
# a line stays a line, and nothing moves the cursor or changes colours
CONTROLS = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"
}


def prepare() -> None:
    """Let stdout and stderr escape what their encoding lacks: no result is lost in printing it.

    One that is closed, which Python has as None, takes everything and shows nothing. A signal
    waits: a stream that it leaves half reconfigured has no encoder, so that nothing could be said.
    """
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")
    with later():
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # not where a test or a notebook put its own
                stream.reconfigure(errors="backslashreplace")


def add_version(p: argparse.ArgumentParser) -> None:
    """Add --version, which prints the version of the package and ends the program."""
    p.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *given: Any) -> None:
        import decaf_theory

        print(f"decaf-theory {decaf_theory.__version__}")
        parser.exit()


def printable(text: object) -> str:
    """Return a text with its control characters, all but ends of lines and tabs, escaped."""
    return str(text).translate(CONTROLS)


def columns(stream: TextIO | None = None) -> int | None:
    """Return the number of columns of the terminal; None if a stream, or stdout, is not one."""
    output = sys.stdout if stream is None else stream
    return shutil.get_terminal_size((WIDTH, 24)).columns if output.isatty() else None


def width() -> int:
    """Return how many columns tables and paragraphs may fill: the terminal's, or WIDTH."""
    return columns() or WIDTH


def shorten(text: str, room: int) -> str:
    """Return at most `room` characters of a text, with an ellipsis if it is cut."""
    return text if len(text) <= room else text[: max(room - 3, 0)].rstrip() + "..."


def fitting(line: str) -> str:
    """Return a line of a list, shortened to the terminal's width; whole where there is none."""
    return shorten(line, columns() or len(line))


def wrapped(line: str, indent: int = 0) -> str:
    """Return a sentence in lines that fit the terminal, all but the first indented.

    Whole where there is none.
    """
    return _filled(line, indent) if columns() else line


def paragraph(text: str) -> str:
    """Return a text in lines that fit, names and paths whole."""
    return _filled(text)


def legend(text: str) -> str:
    """Return a legend that fits: entries of a name, a gap and words, and sentences.

    Further lines of an entry are indented to where its words begin. As it is where all lines fit,
    and where there is no terminal.
    """
    room = columns()
    if room is None or max(map(len, text.splitlines())) <= room:
        return text
    entries: list[str] = []
    for line in text.splitlines():
        goes_on = "  " not in f"{line}{entries[-1]}" if entries else False  # of a sentence
        if entries and (goes_on or line.startswith(" ")):
            entries[-1] += f" {line.strip()}"
        else:
            entries.append(line)
    return "\n".join(_entry(entry) for entry in entries)


def _entry(text: str) -> str:
    name, gap, _ = text.partition("  ")
    return _filled(text, len(text) - len(text[len(name) :].lstrip()) if gap else 0)


def folded(line: str, at: int, full: int) -> str:
    """Return a line of a table of `full` columns, what begins at column `at` below the rest.

    So where the terminal is narrower than the table or the line; in a wider one, or in none, as it
    is. What stands in columns does so below, too.
    """
    room = columns()
    if room is None or room >= max(full, len(line)) or len(line) <= at:
        return line
    below = textwrap.fill(line[at:].rstrip(), room, initial_indent=INDENT, subsequent_indent=INDENT)
    return f"{line[:at].rstrip()}\n{below}"


def _filled(text: str, indent: int = 0) -> str:
    """Return a text in lines that fit, all but the first indented."""
    below = " " * indent
    return textwrap.fill(
        text, width(), subsequent_indent=below, break_long_words=False, break_on_hyphens=False
    )


def groups(widths: Sequence[int], named: int = 1, room: int | None = None) -> list[list[int]]:
    """Return the columns of a table, one list for each part of it that fits, all if they do.

    widths: of the columns, which two spaces divide. Each part begins with the first `named`.
    room: what a line may fill, by default `width`.
    """
    room = width() if room is None else room
    first = list(range(named))
    parts: list[list[int]] = []
    for i in range(named, len(widths)):
        longer = [*(parts[-1] if parts else first), i]
        fits = sum(widths[j] + 2 for j in longer) - 2 <= room
        if parts and fits:
            parts[-1] = longer
        else:
            parts.append([*first, i])
    return parts


def say(lines: Iterable[str], done: str) -> int:
    """Print lines after work that is `done`, in words; return 0, or what `unsaid` returns."""
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough
        raise
    except OSError as error:  # a full disk, or a terminal that has gone
        with suppress(OSError, ValueError):  # or the same fails again when Python ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return unsaid(error, done)
    return 0


def unsaid(error: OSError, done: str) -> int:
    """Say on stderr that all is done but for an output that failed; return 1."""
    with suppress(OSError):
        print(printable(f"decaf: {done}; what follows failed: {error}"), file=sys.stderr)
    return 1
