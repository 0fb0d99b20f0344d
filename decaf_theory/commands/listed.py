"""What a command takes by name: lists below its help, made of the tables that it asks."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Mapping


def names(title: str, known: Iterable[str]) -> str:
    """Return a title and names, whole, below it."""
    text = textwrap.fill(
        ", ".join(known),
        _room(),
        initial_indent="  ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return f"\n{title}:\n{text}\n"


def meanings(title: str, known: Mapping[str, str]) -> str:
    """Return a title and names with what each means below it."""
    lines = (
        textwrap.fill(f"{name}: {words}", _room(), initial_indent="  ", subsequent_indent="    ")
        for name, words in known.items()
    )
    return f"\n{title}:\n" + "\n".join(lines) + "\n"


def graphs() -> str:
    """Return the graphs on which stored adapters mix."""
    from decaf_theory.topology import TOPOLOGIES

    return names("graphs", TOPOLOGIES)


def _room() -> int:
    """Return how many columns argparse fills, which goes by COLUMNS where there is no terminal."""
    return shutil.get_terminal_size().columns - 2
