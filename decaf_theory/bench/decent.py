"""G7's peer, decent-bench, run through its public interface by a Python interpreter of its own.

It needs Python 3.13 and has another licence, so it stays in its own process. An environment
variable names the interpreter of an environment in which it is installed:

    python3.13 -m venv peer && peer/bin/pip install decent-bench==0.3.0
    DECAF_BENCH_PEER_PYTHON=peer/bin/python decaf bench --only G7
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from decaf_theory.arrays import Host

VARIABLE = "DECAF_BENCH_PEER_PYTHON"
VERSION = "0.3.0"
PROGRAM = Path(__file__).with_name("decent_program.py")


class Absent(ValueError):
    """The peer cannot run here; the message says why."""


class Peer:
    """A process that has the data and runs DGD when it is asked; `seconds` is its CPU time."""

    def __init__(self, data: Mapping[str, Any], environment: Mapping[str, str] = os.environ):
        """Start it; Absent if no interpreter is named, or if it lacks the peer."""
        if VARIABLE not in environment:
            raise Absent(f"{VARIABLE} names no Python with decent-bench {VERSION}")
        self.seconds = 0.0
        python = environment[VARIABLE]
        try:
            self._process = subprocess.Popen(
                [python, str(PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        except OSError as error:
            raise Absent(f"{VARIABLE}: {python} does not start: {error.strerror}") from None
        found = self._ask(data)["version"]
        if found != VERSION:
            self.close()
            raise Absent(f"{VARIABLE}: {python} has decent-bench {found}, not {VERSION}")

    def run(self) -> Host:
        """Run all steps from the start; return the agents' last iterates [N, p]."""
        answer = self._ask({"run": True})
        self.seconds += answer["seconds"]
        return np.array(answer["x"])

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            _, errors = self._process.communicate()
            last = errors.strip().splitlines()[-1:] or ["it ended"]
            raise Absent(f"the Python of {VARIABLE} failed: {last[0]}")
        found: dict[str, Any] = json.loads(answer)
        return found
