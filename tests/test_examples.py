"""The examples of the docstrings run, and print what they say."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLAGS = doctest.ELLIPSIS
SOURCES = sorted((ROOT / "decaf_theory").rglob("*.py"))
SHOWN = [path for path in SOURCES if ">>>" in path.read_text()]


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@pytest.mark.parametrize("path", SHOWN, ids=module)
def test_examples_print_what_they_say(path):
    failed, tried = doctest.testmod(import_module(module(path)), optionflags=FLAGS)
    assert (failed, tried > 0) == (0, True)


def test_forty_names_have_an_example():
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [
        example.name
        for path in SHOWN
        for example in finder.find(import_module(module(path)))
        if example.examples
    ]
    assert len(found) >= 40
