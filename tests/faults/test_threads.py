"""Threads that call the library at once get the bits that one thread gets."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_four_threads_get_the_bits_of_one():
    pytest.importorskip("torch")
    command = [sys.executable, "-W", "error", "-m", "tests.faults.threads"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_bits_that_differ_are_found():
    pytest.importorskip("torch")
    from tests.faults.threads import bits

    x = np.array([1.0, 2.0])
    assert bits([x, {"a": (x, 3)}]) == bits([x, {"a": (x, 3)}])
    assert bits([x]) != bits([np.nextafter(x, 3)])
