"""What a program loads to print a list or its help: nothing that takes long."""

import subprocess
import sys
from pathlib import Path

import pytest

from decaf_theory import terminal
from figures import cli as figures
from figures.table import FIGURES
from paper_checks import cli as harness

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {
    "torch",
    "transformers",
    "peft",
    "sklearn",
    "matplotlib",
    "networkx",
    "tqdm",
    "safetensors",
}
HEAVY |= {f"scipy.{part}" for part in ("linalg", "optimize", "sparse", "spatial", "stats")}
HEAVY |= {"jinja2", "latex2mathml", "hypothesis"}
LIGHT = {
    "decaf_theory": ["--help"],
    "verification": ["list", "--help", "explain --help"],
    "paper_checks": ["list", "--help", "table --help", "table"],
    "figures": ["--list", "--help"],
}
PROGRAM = """
import importlib, sys
main = importlib.import_module(sys.argv[1] + ".cli").main
for line in sys.argv[2:]:
    try:
        main(line.split())
    except SystemExit:
        pass
    print("loaded", *sys.modules)
"""


@pytest.mark.parametrize("program", LIGHT)
def test_lists_and_help_load_nothing_that_takes_long(program, tmp_path):
    lines = LIGHT[program]
    command = [sys.executable, "-c", PROGRAM, program, *lines]
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=True
    )
    found = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("loaded ")]
    assert len(found) == len(lines)
    for line, modules in zip(lines, found, strict=True):
        assert f"{program}.cli" in modules
        assert not HEAVY & {*modules}, line


def test_every_figure_is_listed_with_what_it_shows(capsys):
    assert figures.main(["--list"]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert [name for name, _ in lines] == list(FIGURES)
    assert all(len(words.split()) > 2 for _, words in lines)


@pytest.mark.parametrize(("main", "word"), [(figures.main, "--list"), (harness.main, "list")])
def test_lists_fit_the_terminal(main, word, capsys, monkeypatch):
    monkeypatch.setattr(terminal, "columns", lambda: 40)
    assert main([word]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 40
    assert any(line.endswith("...") for line in lines)


def test_what_is_no_terminal_has_no_width():
    assert terminal.columns() is None
    assert terminal.fitting("x" * 500) == "x" * 500
