"""What a command takes by name: lists below its help, made of the tables that it asks."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable, Mapping


def entries(title: str, texts: Iterable[str]) -> str:
    """Return a title and a list of texts below it, in lines as long as argparse's."""
    room = shutil.get_terminal_size().columns - 2
    filled = (
        textwrap.fill(text, room, initial_indent="  ", subsequent_indent="    ") for text in texts
    )
    return f"\n{title}:\n" + "\n".join(filled) + "\n"


def names(title: str, known: Iterable[str]) -> str:
    """Return a title and names, whole, below it."""
    room = shutil.get_terminal_size().columns - 4
    filled = textwrap.wrap(", ".join(known), room, break_on_hyphens=False, break_long_words=False)
    return f"\n{title}:\n" + textwrap.indent("\n".join(filled), "  ") + "\n"


def meanings(title: str, known: Mapping[str, str]) -> str:
    """Return a title and names with what each means below it."""
    return entries(title, (f"{name}: {words}" for name, words in known.items()))


def graphs() -> str:
    """Return the graphs on which stored adapters mix."""
    from decaf_theory.topology import TOPOLOGIES

    return names("graphs", TOPOLOGIES)
