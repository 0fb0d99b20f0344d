"""The page on merging: its commands run, and print what it shows."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from decaf_theory import adapters
from decaf_theory.cli import main
from decaf_theory.commands import merge
from tests.adapter_files import STORED

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8")
SHELL = "".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = re.findall(r"^decaf (.*)$", SHELL, re.MULTILINE)
PYTHON = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in a folder with the adapters of the page."""
    for folder in STORED:
        shutil.copytree(folder, tmp_path / folder.name)
    monkeypatch.chdir(tmp_path)


def test_its_commands_run_and_print_what_it_shows(here, capsys):
    (shown,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
    printed = []
    for command in COMMANDS:
        words = shlex.split(command)
        assert main(words) == 0, command
        printed.append(capsys.readouterr().out)
        if words[0] == "merge" and "--topology" not in words:
            assert adapters.load(words[words.index("--out") + 1]).sites
    assert shown in printed
    assert {path.name for path in Path("mixed").iterdir()} == {f.name for f in STORED}


def test_its_python_runs_and_peft_loads_what_it_merged(here):
    assert main(shlex.split(COMMANDS[1])) == 0
    for code in PYTHON[1:]:
        exec(code, {})
    pytest.importorskip("peft", reason="peft is not installed")
    from torch import nn

    factors = adapters.load("merged").sites
    layers = {site: nn.Linear(*pair.shape[::-1]) for site, pair in factors.items()}
    d, k = adapters.load("merged").others["classifier.weight"].shape
    names = {"base": nn.ModuleDict({**layers, "classifier": nn.Linear(k, d)})}
    exec(PYTHON[0], names)
    assert names["model"].peft_config["default"].r == 4


def test_the_public_example_of_the_package_runs(here):
    code = re.findall(r"^(?:agents|sites|advise|save).*$", adapters.__doc__, re.MULTILINE)
    exec("from decaf_theory.adapters import *\n" + "\n".join(code).replace("run/", ""), {})
    assert len(code) == 4
    assert adapters.load("merged").sites


def test_it_names_every_option_of_the_command():
    import argparse

    p = argparse.ArgumentParser()
    merge.add_arguments(p)
    for action in p._actions:
        for option in action.option_strings[-1:]:
            assert option == "--help" or f"`{option}" in PAGE or f" {option} " in PAGE, option
