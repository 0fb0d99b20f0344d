"""Programs that are killed at random moments end as if they were not, with nothing left behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the harness trains with torch")

from tests.faults.programs import PROGRAMS

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")


def killed(program, folder, seed, trials):
    """Return how many kills the trials took."""
    command = [sys.executable, "-m", "tests.faults.kills", program, str(folder)]
    done = subprocess.run(
        [*command, str(seed), str(trials)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, last = done.stdout.splitlines()
    assert len(lines) == trials
    assert last == "two writers: equal"
    return sum(int(line.split()[2]) for line in lines)


# the others take 20 to 40 s each
OFTEN = ("verification", "run", "merge", "resumed merge")


@pytest.mark.slow
@pytest.mark.parametrize(
    "program",
    [pytest.param(name, marks=() if name in OFTEN else pytest.mark.night) for name in PROGRAMS],
)
def test_a_program_that_is_killed_anywhere_ends_as_if_it_was_not(program, tmp_path):
    assert killed(program, tmp_path, seed=0, trials=2 if program == "run" else 1)


@pytest.mark.night
@pytest.mark.parametrize("program", PROGRAMS)
def test_many_kills_leave_no_trace(program, tmp_path):
    assert killed(program, tmp_path, seed=1, trials=10) >= 20
