"""SIGTERM ends every program like SIGINT, in one line; a killed worker of a sweep is one cell's."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from multiprocessing import active_children
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the harness trains with torch")

from paper_checks import record, sweep
from paper_checks.protocol import Plan
from tests.test_paper_cli import BERT
from verification import store

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow
PROGRAMS = {
    "verification": ["--size", "full", "--out", "out"],
    "figures": ["--results", "none", "--out", "out"],
    "paper_checks": ["run", "tiny-bert", "--set", "train.steps=100000", "--out", "out"],
    # quick: a dense SVD of 4096 x 4096 takes half a minute, in which no signal is seen
    "decaf": ["bench", "--quick", "--json", "bench.jsonl"],
}
# says when the first handler is set, then runs the program
TOLD = """
import runpy, sys
from decaf_theory import interrupts
in_one_line = interrupts.in_one_line
def told(run, line):
    def begun():
        print("begun", flush=True)
        return run()
    return in_one_line(begun, line)
interrupts.in_one_line = told
name = sys.argv.pop(1)
if name == "decaf":
    from decaf_theory.cli import main
    sys.exit(main())
runpy.run_module(name, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    ("name", "delay"),
    # without rows the figures have ended by then
    [
        (name, delay)
        for name in PROGRAMS
        for delay in (0.0, 3.0)
        if (name, delay) != ("figures", 3.0)
    ],
)
def test_sigterm_is_one_line_and_leaves_nothing_torn(tmp_path, name, delay):
    if name == "paper_checks":
        pytest.importorskip("transformers", reason="a tiny BERT needs transformers")
    command = [sys.executable, "-c", TOLD, name, *PROGRAMS[name]]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes) as program:
        assert program.stdout.readline() == "begun\n"
        time.sleep(delay)
        program.terminate()
        _, err = program.communicate(timeout=120)
    assert program.returncode == 128 + signal.SIGTERM, err
    assert "Traceback" not in err
    assert [line for line in err.splitlines() if "interrupted" in line or "stopped" in line], err
    assert not [p for p in tmp_path.rglob(".*") if p.name != ".lock"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:transformers")
def test_a_killed_worker_of_a_sweep_costs_its_cell_a_second_try_and_no_other(tmp_path, caplog):
    pytest.importorskip("transformers", reason="a tiny BERT needs transformers")
    (tmp_path / "bert.toml").write_text(textwrap.dedent(BERT))
    base = sweep.Cell(str(tmp_path / "bert.toml"), {"train.steps": 40}, tmp_path, None, "cpu")
    wanted = sweep.cells(base, Plan(("dlora", "decaf", "local"), ("ring",), ("iid",), (0,)))
    killed = []

    def kill_one():
        while not list(tmp_path.rglob(".lock")):
            time.sleep(0.02)
        killed.append(active_children()[0].pid)
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill_one)
    thread.start()
    outcomes = list(sweep.run_all(wanted, 2, []))
    thread.join()
    assert killed
    assert {o.cell: o.status for o in outcomes} == {cell.read().cell: "finished" for cell in wanted}
    assert "its process ended with exit code -9; trying once more" in caplog.text
    assert any(outcome.cell in caplog.text for outcome in outcomes)
    assert all(record.read(sweep.folder_of(tmp_path, c.read())).finished for c in wanted)


def test_the_workers_of_a_sweep_that_is_killed_end_by_themselves(tmp_path):
    pytest.importorskip("transformers", reason="a tiny BERT needs transformers")
    command = [sys.executable, "-m", "paper_checks", "sweep", "tiny-bert", "--jobs", "2"]
    command += ["--set", "train.steps=100000", "--out", str(tmp_path), "--seeds", "0,1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=ROOT, **quiet) as parent:
        assert soon(lambda: len(list(tmp_path.rglob(".lock"))) == 2)
        parent.kill()
    locks = [path.parent for path in tmp_path.rglob(".lock")]
    assert soon(lambda: all(map(free, locks)))


def soon(condition):
    until = time.monotonic() + 300
    while not condition() and time.monotonic() < until:
        time.sleep(0.1)
    return condition()


def free(folder):
    try:
        with store.locked(folder):
            return True
    except store.StoreError:
        return False


def test_a_cell_killed_twice_is_named_and_says_how_to_go_on(tmp_path):
    (tmp_path / "bert.toml").write_text(textwrap.dedent(BERT))
    cell = sweep.Cell(str(tmp_path / "bert.toml"), {}, tmp_path, None, "cpu")
    found = sweep.killed(cell, "its process ended with exit code -9, 2 times")
    assert (found.cell, found.status) == ("decaf-ring-iid-seed0", "failed")
    assert found.line.endswith("exit code -9, 2 times; the same command resumes it")
