"""What works without the packages of the extras, and the one line that names them."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from decaf_theory import extras

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
AGENTS = ("tests/adapters/agent0", "tests/adapters/agent1")
# torch is not found, as if it were not installed
WITHOUT = """
import runpy, sys
from importlib.machinery import PathFinder

class Blind(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name == "torch" else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Blind
"""
DECAF = "from decaf_theory.cli import main; sys.exit(main())"


def without_torch(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    run = DECAF if program == "decaf" else f"runpy.run_module({program!r}, {{}}, '__main__')"
    command = [sys.executable, "-c", WITHOUT + run, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_a_package_that_is_blocked_is_not_installed(monkeypatch):
    class Block:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "gguf":
                raise ModuleNotFoundError(name, name=name)

    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.delitem(sys.modules, "gguf", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Block, *sys.meta_path])
    assert not extras.installed("peft")
    assert not extras.installed("gguf")
    assert extras.installed("numpy")
    assert extras.missing("peft", "gguf").startswith("peft, gguf not installed: pip install")


def test_the_extras_of_the_project_install_what_the_lines_say():
    other_names = {"sklearn": "scikit-learn", "PIL": "pillow", "huggingface_hub": "huggingface-hub"}
    for package, extra in extras.EXTRAS.items():
        lines = PROJECT["optional-dependencies"][extra]
        named = {re.match(r"[\w-]+", line)[0] for line in lines}
        assert other_names.get(package, package) in named
    needs_torch = [
        name
        for name, lines in PROJECT["optional-dependencies"].items()
        if "decaf-theory[torch]" in lines
    ]
    assert needs_torch == ["test", "finetune", "gpu"]
    assert not [line for line in PROJECT["dependencies"] if line.startswith("torch")]


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("decaf", "--help"),
        ("decaf", "methods"),
        ("decaf", "diagnose", *AGENTS),
        ("verification", "--only", "T1", "--out", "{out}"),
        ("verification", "adapters", *AGENTS, "--out", "{out}"),
        ("figures", "--only", "schematic", "--no-report", "--out", "{out}"),
        ("paper_checks", "--help"),
        ("paper_checks", "list"),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_without_torch_it_works(command, tmp_path):
    ran = without_torch(*(word.format(out=tmp_path) for word in command))
    assert (ran.returncode, "Traceback" in ran.stderr) == (0, False), ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ("decaf", "bench", "--quick"),
        ("verification", "attack", "T18", "--out", "{out}"),
        ("verification", "run", "--device", "torch"),
        ("paper_checks", "run", "tiny-bert", "--out", "{out}"),
        ("paper_checks", "sweep", "vit-digits", "--out", "{out}"),
        ("paper_checks", "run", "tiny-bert", "--dry-run"),
        ("paper_checks.speed",),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_without_torch_it_says_in_one_line_what_to_install(command, tmp_path):
    ran = without_torch(*(word.format(out=tmp_path) for word in command))
    last = ran.stderr.splitlines()[-1]
    assert ran.returncode == 2, ran.stderr
    assert last.endswith("torch not installed: pip install -e '.[torch]'"), ran.stderr
    assert ("Traceback" in ran.stderr, ran.stdout) == (False, "")  # no head of a table, either


def test_the_adversary_is_refused_by_the_name_of_its_extra():
    code = WITHOUT + "import decaf_theory.adversary"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError: torch not installed: pip install -e '.[torch]'" in ran.stderr


@pytest.mark.parametrize(
    ("triton", "runs"), [("3.6.0", False), ("3.7.1", True), ("3.10.0+git1a2b", True), ("4.0", True)]
)
def test_from_triton_3_7_on_there_is_an_interpreter(triton, runs, monkeypatch):
    monkeypatch.setattr(extras, "installed", lambda name: True)
    monkeypatch.setattr(
        "importlib.metadata.version", {"triton": triton, "numpy": "2.5.0"}.__getitem__
    )
    line = extras.no_interpreter()
    assert not line if runs else line.startswith(f"triton {triton} interprets a loop by int()")


def test_without_triton_or_with_one_of_another_name_the_line_says_so_or_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    assert extras.no_interpreter() == "triton not installed: pip install -e '.[gpu]'"

    def nameless(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(extras, "installed", lambda name: True)
    monkeypatch.setattr("importlib.metadata.version", nameless)
    assert extras.no_interpreter() == ""


def test_a_package_that_no_extra_installs_stays_an_error():
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        extras.unmet(
            ModuleNotFoundError("No module named 'no_such_package'", name="no_such_package")
        )
    with pytest.raises(ModuleNotFoundError):  # there, and broken inside
        extras.unmet(ModuleNotFoundError(name="hypothesis.missing"))
