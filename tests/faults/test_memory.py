"""A thousand calls leave no memory behind: less than an empty list and a small matrix a call."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.memory import CALLED, CALLS, MATRIX, OBJECT, STATUS, measured

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not STATUS.exists(), reason="needs /proc/self/status")


def test_one_list_a_call_is_found():
    left, kept = [], bytes(OBJECT)
    assert measured(lambda: left.append([]), 1000).traced >= 1000 * OBJECT
    assert measured(lambda: kept, 1000).traced < 1000 * OBJECT


def test_one_matrix_a_call_is_found_in_the_process():
    left = []
    # of twice as many at least half: what the heap holds free takes the first of them
    assert measured(lambda: left.append(bytearray(MATRIX)), 20_000).resident >= 10_000 * MATRIX


@pytest.mark.night
@pytest.mark.parametrize("name", CALLED)
def test_a_thousand_calls_leave_nothing(name):
    if "torch" in name:
        pytest.importorskip("torch")
    command = [sys.executable, "-m", "tests.faults.memory", name]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    left = json.loads(done.stdout)
    print(f"{name}: {left['traced'] / 1e6:.3f} MB traced, {left['resident'] / 1e6:.2f} MB in all")
    assert left["traced"] < CALLS * OBJECT
    assert left["resident"] < CALLS * MATRIX
