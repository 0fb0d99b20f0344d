"""What a step or a round frees, the next one takes, and pays no page faults for it."""

import platform
import subprocess
import sys

import pytest

from decaf_theory import memory

# a step takes 320 pages: 16 x 10 x 32 x 32 numbers
SIMULATION = """
from decaf_theory import PROBLEMS, TOPOLOGIES, Config
from decaf_theory.simulate import simulate

problem, ring = PROBLEMS["P2"](N=10, d=32, k=32, rank=4), TOPOLOGIES["ring"](10)
config = Config(
    problem=problem, method="dlora", Pi=ring, rank=4, lr=0.05, steps=50, runs=16, record_every=50
)

def work():
    simulate(config)
"""
# a round's outputs take 720 pages: 2 x 12 x 10 x 8 x 384 numbers of four bytes
ROUNDS = """
import numpy as np
from decaf_theory import TOPOLOGIES, Factors, tsvd_of_mix

rng, ring = np.random.default_rng(0), TOPOLOGIES["ring"](10)
B, A = (rng.normal(size=shape).astype("f") for shape in ((12, 10, 384, 8), (12, 10, 8, 384)))

def work():
    for _ in range(10):
        tsvd_of_mix(Factors(B, A), ring, 8)
"""
# the faults of a second run, in a process that has freed nothing large yet
FAULTS = """
import resource

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

work()
before = faults()
work()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the threshold is glibc's")
@pytest.mark.parametrize(("work", "pages"), [(SIMULATION, 50 * 320), (ROUNDS, 10 * 720)])
def test_a_step_takes_the_memory_that_the_last_one_freed(work, pages):
    program = [sys.executable, "-c", work + FAULTS]
    found = subprocess.run(program, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert int(found.stdout) < pages / 2


def test_where_no_block_is_to_be_had_nothing_is_kept(monkeypatch):
    def full(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(memory.np, "empty", full)
    assert memory.keep_freed.__wrapped__() is None
