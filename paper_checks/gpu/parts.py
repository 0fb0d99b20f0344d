"""The four parts: tests, the kernel's times, steps of the harness, and the benchmark's goals."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from decaf_theory import bench
from decaf_theory.bench import gpu
from decaf_theory.bench.rows import Row
from paper_checks.gpu import harness

ROOT = Path(__file__).resolve().parents[2]
TESTS = "tests/test_gpu.py"  # all that are marked gpu
DEVICE = "DECAF_GPU"  # the variable that says where these tests run
OUTCOME = re.compile(r"(tests/\S+::.+?) (PASSED|FAILED|ERROR|SKIPPED)\b")


class Setting(NamedTuple):
    """Where the parts run, and whether in tiny sizes."""

    device: str
    small: bool


class Part(NamedTuple):
    """A part: its time limit in seconds, and its rows."""

    limit: float
    rows: Callable[[Setting], Iterator[Row]]


def tests(setting: Setting) -> Iterator[Row]:
    """Yield the outcome of every test that is marked gpu, as it ends."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "--tb=short", "-W", "default"]
    command += ["-p", "no:cacheprovider", TESTS]
    kept = {**os.environ, DEVICE: setting.device, "COLUMNS": "200"}
    with subprocess.Popen(
        command, cwd=ROOT, env=kept, stdout=subprocess.PIPE, text=True
    ) as running:
        for line in running.stdout or ():
            print(line, end="", flush=True)  # to the log
            if found := OUTCOME.match(line):
                name, outcome = found.groups()
                yield {"kind": "test", "name": name.partition("::")[2], "outcome": outcome.lower()}
    if running.returncode not in (0, 1):  # 1: some tests failed, which their rows say
        raise RuntimeError(f"pytest ended with {running.returncode}")


def kernel(setting: Setting) -> Iterator[Row]:
    """Yield a round's time over its byte floor, and against torch's ways."""
    yield from gpu.measured(setting.device, gpu.SMALL if setting.small else gpu.Sizes())


def steps(setting: Setting) -> Iterator[Row]:
    """Yield the speed and memory of steps with random weights of LLaMA-2-7B."""
    yield from harness.measured(setting.device, harness.SMALL if setting.small else harness.LLAMA)


def goals(setting: Setting) -> Iterator[Row]:
    """Yield the rows of `decaf bench --quick`; a goal that fails does not lose the others."""
    settings = bench.settings(quick=True, device=setting.device)
    chosen = bench.chosen(["gpu"] if setting.small else None)
    if not setting.small:
        del chosen["gpu"]  # the part `kernel`
    for name, goal in chosen.items():
        yield from gpu.attempted(name, str(goal.__doc__), goal(settings))


PARTS = {
    "tests": Part(120, tests),
    "kernel": Part(90, kernel),
    "harness": Part(150, steps),
    "goals": Part(110, goals),
}
