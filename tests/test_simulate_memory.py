"""What a run frees in a step it takes again in the next one, and pays no page faults for it."""

import platform
import subprocess
import sys

import pytest

from decaf_theory.simulate.memory import LARGEST, keep_freed

# the faults of a second run, in a process that has freed nothing large yet
PROGRAM = """
import resource
from decaf_theory import PROBLEMS, TOPOLOGIES, Config
from decaf_theory.simulate import simulate

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

problem, ring = PROBLEMS["P2"](N=10, d=32, k=32, rank=4), TOPOLOGIES["ring"](10)
config = Config(
    problem=problem, method="dlora", Pi=ring, rank=4, lr=0.05, steps=50, runs=16, record_every=50
)
simulate(config)
before = faults()
simulate(config)
print(faults() - before)
"""
STEPS, PAGES = 50, 320  # of a run, and of its points: 16 x 10 x 32 x 32 numbers


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the threshold is glibc's")
def test_a_step_takes_the_memory_that_the_last_one_freed():
    found = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) < STEPS * PAGES / 2


@pytest.mark.parametrize("size", [0, 1, LARGEST, 10**15])
def test_no_block_is_too_large_to_ask_for(size):
    keep_freed(size)
