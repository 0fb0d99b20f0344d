"""Too little memory, and what no check foresaw: one line and code 2 from every program."""

import re
import signal
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

from decaf_theory import cli as decaf
from decaf_theory import faults, programs
from decaf_theory.commands import methods
from decaf_theory.files import UnwritableError
from decaf_theory.interrupts import in_one_line
from figures import cli as figures
from paper_checks import cli as harness
from tests import fake_ledger
from verification import cli as verification

ROOT = Path(__file__).resolve().parent.parent


def deep(depth=0):
    return deep(depth + 1)


def raising(error):
    """Return a function that raises an error, whatever it is given."""

    def run(*arguments, **named):
        if error is RecursionError:
            deep()
        raise error

    return run


# program -> its main, a command line, and where its work is called
PROGRAMS = {
    "decaf": (decaf.main, ["methods"], lambda f: (vars(methods), "run", f)),
    "verification": (verification.main, ["list"], lambda f: (verification.ACTIONS, "list", f)),
    "paper_checks": (harness.main, ["list"], lambda f: (harness.COMMANDS, "list", f)),
}
TORCH = "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried"


@pytest.mark.parametrize("program", [*PROGRAMS, "figures"])
@pytest.mark.parametrize(
    ("error", "line"),
    [
        (MemoryError("Unable to allocate 8 TiB"), "not enough memory: Unable to allocate 8 TiB"),
        (MemoryError(), "not enough memory"),
        (RuntimeError(f"{TORCH}\nat line 3"), f"not enough memory: {TORCH}"),
        (OSError(12, "Cannot allocate memory"), "not enough memory: [Errno 12] Cannot allocate"),
        (
            OverflowError("too large"),
            "the input cannot be worked on: OverflowError in test_endings",
        ),
        (RecursionError, "the input cannot be worked on: RecursionError in test_endings.py, line"),
        (
            UnwritableError(28, "no space", "out"),
            "cannot write out: no space; choose another",
        ),
    ],
)
def test_each_program_ends_with_one_line_and_code_2(program, error, line, monkeypatch, capsys):
    if program == "figures":
        monkeypatch.setattr(figures, "draw_all", raising(error))
        code = figures.main([])
    else:
        main, words, place = PROGRAMS[program]
        monkeypatch.setitem(*place(raising(error)))
        code = main(words)
    said = capsys.readouterr().err
    assert code == faults.USAGE
    assert said.removeprefix("decaf: ").startswith(f"error: {line}")
    assert said.count("\n") == 1


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_defect_keeps_its_traceback(program, monkeypatch):
    main, words, place = PROGRAMS[program]
    monkeypatch.setitem(*place(raising(TypeError("a defect"))))
    with pytest.raises(TypeError, match="a defect"):
        main(words)


ALL = {**{name: call[0] for name, call in PROGRAMS.items()}, "figures": figures.main}
MODULES = {name: name for name in ALL} | {"decaf": "decaf_theory"}
# program -> a command line and what an interruption of it says, the rest of a line
INTERRUPTED = [
    ("verification", "run", "; finished claims are kept, and --resume goes on after them"),
    ("verification", "list", ""),
    ("paper_checks", "run", "; the last checkpoint is kept, and the same command resumes from it"),
    (
        "paper_checks",
        "asda",
        "; what had finished is kept, and the same command resumes from there",
    ),
    ("paper_checks", "list", ""),
]


@pytest.mark.parametrize(("program", "command", "said"), INTERRUPTED)
def test_an_interrupted_command_says_what_it_keeps(program, command, said, monkeypatch, capsys):
    table = verification.ACTIONS if program == "verification" else harness.COMMANDS
    monkeypatch.setitem(table, command, raising(KeyboardInterrupt()))
    words = [command, "tiny-bert"] if said.endswith("from it") else [command]
    assert ALL[program](words) == 130
    assert capsys.readouterr().err == f"interrupted{said}\n"


@pytest.fixture(autouse=True)
def handlers():
    """A program's end leaves signals as they are for a process that shuts down."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def loading(monkeypatch, main):
    """Let `program` find this main function in the module that it loads."""
    monkeypatch.setitem(sys.modules, "some_program", SimpleNamespace(main=main))
    return programs.program("some_program")


def test_a_defect_has_a_code_of_its_own_and_its_traceback(monkeypatch, capsys):
    assert loading(monkeypatch, raising(TypeError("a defect"))) == faults.DEFECT
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert said.endswith("TypeError: a defect\n")
    others = {faults.OK, faults.USAGE, verification.DIFFERS, figures.MISSING, harness.FAILED}
    assert faults.DEFECT not in others


@pytest.mark.parametrize("code", [0, 1, 2, 143])
def test_other_codes_are_those_of_the_program_or_of_its_parser(code, monkeypatch):
    assert loading(monkeypatch, lambda: code) == code
    assert loading(monkeypatch, raising(SystemExit(code))) == code


# raises a signal where a module of this name is looked for, before or after the program is loaded
INTERRUPTS = """
import os, runpy, signal, sys

program, at, number, *words = sys.argv[1:]

class Interrupts:
    def find_spec(name, path=None, target=None):
        if name == at:
            sys.meta_path.remove(Interrupts)
            os.kill(os.getpid(), getattr(signal, number))

sys.meta_path.insert(0, Interrupts)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = [program, *words]
runpy.run_module(program, run_name="__main__", alter_sys=True)
"""
WORDS = {
    "decaf_theory": ["methods"],
    "verification": ["--only", "T8"],
    "paper_checks": ["list"],
    "figures": ["--only", "none"],
}
# of the program's own first import, of a library in loading, and of NumPy, if it is not loaded then
AT = ["decaf_theory.programs", "argparse", "numpy"]


@pytest.mark.parametrize("at", AT)
@pytest.mark.parametrize("program", WORDS)
def test_a_signal_at_any_import_is_one_line_and_no_traceback(program, at, tmp_path):
    for name in ("SIGINT", "SIGTERM")[: 1 if at == AT[0] else 2]:
        command = [sys.executable, "-c", INTERRUPTS, program, at, name, *WORDS[program]]
        environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
        )
        lines = done.stderr.splitlines()
        assert done.returncode == {"SIGINT": 130, "SIGTERM": 143}[name], done.stderr
        assert len(lines) == (0 if at == AT[0] else 1), done.stderr
        assert not lines or "interrupted" in lines[0]
        assert not list(tmp_path.iterdir())


# Python itself ends by the signal where one passed through such a text: shells tell no difference
IN_A_TEXT = """
import os, signal, sys
from decaf_theory.programs import program

def main():
    exec("os.kill(os.getpid(), signal.SIGINT)\\nwhile True: pass")

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(program("interrupted_text"))
"""


def test_a_signal_within_a_text_that_is_executed_is_its_code_too(tmp_path):
    (tmp_path / "interrupted_text.py").write_text(IN_A_TEXT)
    done = subprocess.run(
        [sys.executable, "-m", "interrupted_text"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, f"{programs.LOADING}\n")


def test_an_exception_that_loading_makes_of_a_signal_is_still_one(capsys):
    def run():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as stop:
            raise RuntimeError("Error calling __set_name__") from stop

    assert in_one_line(run, "interrupted") == 130
    assert capsys.readouterr().err == "interrupted\n"
    with pytest.raises(RuntimeError, match="a defect"):
        in_one_line(raising(RuntimeError("a defect")), "interrupted")


@pytest.mark.parametrize("program", ALL)
def test_every_program_says_its_version_and_its_codes(program, capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        ALL[program](["--version"])
    assert capsys.readouterr().out == f"decaf-theory {version('decaf-theory')}\n"
    with pytest.raises(SystemExit, match=r"^0$"):
        ALL[program](["methods", "--help"] if program == "decaf" else ["--help"])
    assert re.search(rf"\b{faults.DEFECT}:?\s+a\s+defect", capsys.readouterr().out)


@pytest.mark.parametrize("program", MODULES.values())
def test_a_closed_pipe_is_the_end_and_no_error(program):
    command = [sys.executable, "-m", program, "--help"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == faults.OK


def full(ctx):
    """A claim for which there is too little memory."""
    raise MemoryError("Unable to allocate 8 TiB")


def test_too_little_memory_is_no_verdict_on_a_claim(monkeypatch, tmp_path, capsys):
    ledger = fake_ledger.ledger_in(tmp_path / "ledger")
    words = ["--only", "T1", "--out", str(tmp_path / "out")]
    assert verification.main(words, ledger=ledger) == 0
    before = (tmp_path / "out" / "run.json").read_bytes()
    monkeypatch.setattr(fake_ledger, "CLAIMS", [replace(fake_ledger.TRUE, rows=full)])
    capsys.readouterr()
    assert verification.main(words, ledger=ledger) == faults.USAGE
    line = "error: not enough memory: claim T1: Unable to allocate 8 TiB\n"
    assert capsys.readouterr().err == line
    assert (tmp_path / "out" / "run.json").read_bytes() == before  # what was found is kept


def test_a_cell_of_a_sweep_without_memory_is_named_and_its_code_is_2(monkeypatch, tmp_path, capsys):
    pytest.importorskip("torch", reason="the harness trains with torch")
    from paper_checks import baseline, finetune

    def train(config, folder, **others):
        if config.mix.method == "dlora":
            raise RuntimeError(TORCH)
        raise finetune.TrainingError("the loss is not finite")

    monkeypatch.setattr(finetune, "finetune", train)
    monkeypatch.setattr(baseline, "keep", lambda config, folder: None)
    words = ["sweep", "tiny-bert", "--out", str(tmp_path), "--methods"]
    assert harness.main([*words, "decaf"]) == harness.FAILED
    assert harness.main([*words, "dlora", "decaf"]) == faults.USAGE
    lines = capsys.readouterr().out.splitlines()[-3:-1]
    assert [line.split(": ")[1].split("; ")[0] for line in lines] == ["out of memory", "failed"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("program", WORDS)
def test_a_list_that_cannot_be_printed_is_one_line_and_code_2(program):
    words = {"decaf_theory": "methods", "figures": "--list"}.get(program, "list")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", program, words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            check=False,
        )
    assert done.returncode == faults.USAGE
    said = "error: what is printed cannot be written: No space left on device\n"
    assert done.stderr.removeprefix("decaf: ") == said


def test_what_figures_do_not_take_is_answered_with_what_they_do(capsys):
    assert figures.main(["list"]) == faults.USAGE
    hint = "--list prints the figures, --only NAME draws one"
    assert capsys.readouterr().err == f"error: unrecognized arguments: list; {hint}\n"


def test_an_id_that_replay_does_not_know_is_answered_with_the_nearest(capsys):
    assert verification.main(["replay", "T13-nuclar"]) == faults.USAGE
    assert "unknown claim 'T13-nuclar'; did you mean T13-nuclear" in capsys.readouterr().err
    assert verification.main(["replay", "T13.json"]) == faults.USAGE
    assert "cannot read T13.json" in capsys.readouterr().err
